// The bodies that the registry rows of attention_mla name.
#pragma once

#include "kernels/attention_mla/attention_mla.h"
#include "kernels/common/attend.h"

namespace fairway::kernels {

void mla_absorbed_ref(const MlaArgs& args, KernelContext& context);
void mla_expanded_ref(const MlaArgs& args, KernelContext& context);
void mla_absorbed(const MlaArgs& args, const AttendOps& ops, KernelContext& context);
void mla_expanded(const MlaArgs& args, const AttendOps& ops, KernelContext& context);

}  // namespace fairway::kernels
