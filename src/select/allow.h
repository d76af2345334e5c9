// What a policy lets a row do, shared by the check of wishes and the selection of rows.
#pragma once

#include <string>
#include <string_view>

#include "select/select.h"

namespace fairway::select {

bool machine_and_wish_allow(const Policy& policy, const kernels::KernelRow& row);
bool activations_allow(ActivationMode mode, kernels::Activations activations);
bool is_named(const kernels::KernelRow& row, std::string_view name);  // by id or family
std::string describe(const Policy& policy);                           // for messages

}  // namespace fairway::select
