// The loops of core_ceiling.h by instruction set; call one only where cpu_info().features has it.
#pragma once

#include "backend/cpu/core_ceiling.h"

namespace fairway::backend {

const Int8Loop& int8_loop_avx2();     // kCpuAvx2
const Int8Loop& int8_loop_avxvnni();  // kCpuAvxVnni
const Int8Loop& int8_loop_avx512();   // kCpuAvx512Vnni

}  // namespace fairway::backend
