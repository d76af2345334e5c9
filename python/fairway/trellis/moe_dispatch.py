"""Running MoE layers, with a kernel that selection chose or that the caller names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, Literal, Optional, Tuple, Union, overload

import numpy as np
import numpy.typing as npt

from fairway import _fairway
from fairway.trellis.kernel_selection import _as_set
from fairway.trellis.loader import TrellisMoELayer

__all__ = [
    "DispatchInfo",
    "FairwayGroups",
    "dispatch_moe_trellis_swiglu",
    "dispatch_moe_trellis_swiglu_grouped_fairway",
    "get_moe_kernel",
    "prepare_fairway_grouped_inputs",
    "select_moe_kernel",
]

_GROUPED_KERNEL = "moe_trellis_swiglu_grouped"

Output = npt.NDArray[np.float32]


@dataclass
class DispatchInfo:
    """What one call of a layer did."""

    expert_ids: npt.NDArray[np.int32]  # [M, top_k]
    expert_probs: npt.NDArray[np.float32]  # [M, top_k], weights of the experts' outputs
    kernels: Dict[str, int]  # row id -> calls, the router's among them
    grouped_calls: int  # calls of expert kernels
    expert_groups: int  # experts with tokens
    bit_tuples: int  # distinct (gate, up, down) bits among them
    fallback_calls: int


@dataclass
class FairwayGroups:
    """The assignments of tokens to experts, sorted by expert; within an expert by token."""

    offsets: npt.NDArray[np.int32]  # [experts + 1]: expert e has slots offsets[e] to offsets[e + 1]
    tokens: npt.NDArray[np.int32]  # [M * top_k]: the token of each slot
    slot_of: npt.NDArray[np.int32]  # [M, top_k]: the slot of each assignment


def select_moe_kernel(
    batch_size: int,
    use_fp32_acc: bool = False,
    gate_bits: Optional[int] = None,
    up_bits: Optional[int] = None,
    down_bits: Optional[int] = None,
    available_kernels: Optional[Iterable[str]] = None,
    device: Optional[str] = None,
) -> Tuple[str, int]:
    """(kernel name, tile_n) for a call of `batch_size` tokens, by the rules of the device family.

    A name that is not available (None: does not run on this machine) gives way to the base kernel,
    then to any available one. Raises FairwayValueError for a batch below 1, a width outside 1 to 8,
    an unknown device, or if nothing is available.
    """
    return _fairway.select_moe_kernel(
        batch_size, use_fp32_acc, gate_bits, up_bits, down_bits, _as_set(available_kernels), device
    )


def get_moe_kernel(
    batch_size: int,
    use_fp32_acc: bool = False,
    gate_bits: Optional[int] = None,
    up_bits: Optional[int] = None,
    down_bits: Optional[int] = None,
    available_kernels: Optional[Iterable[str]] = None,
    device: Optional[str] = None,
) -> str:
    """The name that select_moe_kernel chooses."""
    return _fairway.get_moe_kernel(
        batch_size, use_fp32_acc, gate_bits, up_bits, down_bits, _as_set(available_kernels), device
    )


@overload
def dispatch_moe_trellis_swiglu(
    layer: TrellisMoELayer,
    hidden_states: npt.ArrayLike,
    expert_ids: Optional[npt.ArrayLike] = None,
    expert_probs: Optional[npt.ArrayLike] = None,
    kernel_name_override: Optional[str] = None,
    kernel_hint: Optional[str] = None,
    return_info: Literal[False] = False,
) -> Output: ...


@overload
def dispatch_moe_trellis_swiglu(
    layer: TrellisMoELayer,
    hidden_states: npt.ArrayLike,
    expert_ids: Optional[npt.ArrayLike] = None,
    expert_probs: Optional[npt.ArrayLike] = None,
    kernel_name_override: Optional[str] = None,
    kernel_hint: Optional[str] = None,
    *,
    return_info: Literal[True],
) -> Tuple[Output, DispatchInfo]: ...


def dispatch_moe_trellis_swiglu(
    layer: TrellisMoELayer,
    hidden_states: npt.ArrayLike,
    expert_ids: Optional[npt.ArrayLike] = None,
    expert_probs: Optional[npt.ArrayLike] = None,
    kernel_name_override: Optional[str] = None,
    kernel_hint: Optional[str] = None,
    return_info: bool = False,
) -> Union[Output, Tuple[Output, DispatchInfo]]:
    """The layer's output [M, hidden], float32: routed experts, weighted, plus shared experts.

    hidden_states: [M, hidden], float32 (other types are converted).
    expert_ids, expert_probs: [M, top_k], the experts of every token (distinct) and the weights of
        their outputs. Neither: the layer's router decides.
    kernel_name_override: a kernel family, alias or row id that must run all trellis-coded experts.
        One that does not exist or cannot run here is a FairwayValueError.
    kernel_hint: the same as a preference: a known kernel without a row on this machine leaves the
        choice to selection. An override goes before a hint.
    return_info: also return a DispatchInfo, which says what ran.
    """
    output, ids, probs, counters = layer._handle.dispatch(
        hidden_states, expert_ids, expert_probs, kernel_name_override or "", kernel_hint or ""
    )
    return (output, DispatchInfo(ids, probs, **counters)) if return_info else output


def dispatch_moe_trellis_swiglu_grouped_fairway(
    layer: TrellisMoELayer,
    hidden_states: npt.ArrayLike,
    expert_ids: Optional[npt.ArrayLike] = None,
    expert_probs: Optional[npt.ArrayLike] = None,
    return_info: bool = False,
) -> Union[Output, Tuple[Output, DispatchInfo]]:
    """As dispatch_moe_trellis_swiglu, with all experts in one call of the grouped kernel.

    The tokens are sorted by expert and the experts by their bits, as
    prepare_fairway_grouped_inputs shows; each expert is computed for its own number of tokens.
    """
    output, info = dispatch_moe_trellis_swiglu(
        layer,
        hidden_states,
        expert_ids,
        expert_probs,
        kernel_name_override=_GROUPED_KERNEL,
        return_info=True,
    )
    return (output, info) if return_info else output


def prepare_fairway_grouped_inputs(expert_ids: npt.ArrayLike, num_experts: int) -> FairwayGroups:
    """Sorts assignments [M, top_k] by expert, stable in token order.

    Raises FairwayValueError for an expert outside 0 to num_experts - 1, or twice for a token.
    """
    return FairwayGroups(*_fairway.group_tokens(expert_ids, num_experts))
