// The bodies that the registry rows of attention_gqa name.
#pragma once

#include "kernels/attention_gqa/attention_gqa.h"
#include "kernels/common/attend.h"

namespace fairway::kernels {

void gqa_ref(const GqaArgs& args, KernelContext& context);
void gqa(const GqaArgs& args, const AttendOps& ops, KernelContext& context);

}  // namespace fairway::kernels
