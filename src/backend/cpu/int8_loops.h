// The loops of core_ceiling.h by instruction set; call one only where cpu_info().features has it.
#pragma once

#include "backend/cpu/core_ceiling.h"

namespace fairway::backend {

const Int8Loop& int8_loop_avx2();     // kCpuAvx2
const Int8Loop& int8_loop_avxvnni();  // kCpuAvxVnni
const Int8Loop& int8_loop_avx512();   // kCpuAvx512Vnni

// The sum of values[0..count) modulo 2^32: the loops keep one sum per lane.
std::uint32_t sum_of_lanes(const std::uint32_t* values, int count);

}  // namespace fairway::backend
