"""Kernel names by the rules of a device family, before anything was measured.

Every function acts for this machine unless `device` names another family or a device of it, such as
"M4 Max", whose rules are the documented ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Iterable, Optional

from fairway import _fairway

__all__ = [
    "M4_MAX_THRESHOLDS",
    "SPECIALIZED_DECODE_KERNELS",
    "TILE_SIZES",
    "BatchThreshold",
    "KernelRecommendation",
    "available_kernels",
    "get_kernel_for_batch_size",
    "kernel_aliases",
    "recommend_kernel",
    "thresholds",
]


@dataclass(frozen=True)
class BatchThreshold:
    """Calls of up to `batch_max` tokens (None: no limit) take `kernel` with `tile_n` columns."""

    batch_max: Optional[int]
    kernel: str
    tile_n: int


@dataclass(frozen=True)
class KernelRecommendation:
    """A kernel name, the columns of its tile, whether sums are fp32, and one sentence on why."""

    kernel_name: str
    tile_n: int
    use_fp32_acc: bool
    reason: str


def thresholds(device: Optional[str] = None) -> dict[str, BatchThreshold]:
    """The buckets of a device family by name, in ascending order of the batch size.

    Raises FairwayValueError if the device belongs to no known family.
    """
    return {
        rule["bucket"]: BatchThreshold(rule["batch_max"], rule["kernel"], rule["tile_n"])
        for rule in _fairway.device_profile(device)["rules"]
    }


def _specialized_decode_kernels() -> dict[tuple[int, int, int], str]:
    kernels = {}
    for name in _fairway.known_families():
        if match := re.search(r"_decode_(\d)_(\d)_(\d)$", name):
            gate, up, down = (int(digit) for digit in match.groups())
            kernels[gate, up, down] = name
    return kernels


#: Bucket name -> threshold of the Apple M4 Max.
M4_MAX_THRESHOLDS: dict[str, BatchThreshold] = thresholds("M4 Max")

#: (gate, up, down) bits -> decode kernel made for them.
SPECIALIZED_DECODE_KERNELS: dict[tuple[int, int, int], str] = _specialized_decode_kernels()

#: Bucket name -> columns of a tile on the Apple M4 Max.
TILE_SIZES: dict[str, int] = {name: rule.tile_n for name, rule in M4_MAX_THRESHOLDS.items()}


def available_kernels() -> set[str]:
    """Kernel families that run on this machine, aliases of such families among them."""
    return _fairway.available_families()


def kernel_aliases() -> dict[str, str]:
    """Names that stand for another family: asking for one runs the other."""
    return _fairway.kernel_aliases()


def get_kernel_for_batch_size(
    batch_size: int,
    use_fp32_acc: bool = False,
    gate_bits: Optional[int] = None,
    up_bits: Optional[int] = None,
    down_bits: Optional[int] = None,
    available_kernels: Optional[Iterable[str]] = None,
    device: Optional[str] = None,
) -> tuple[str, int]:
    """(kernel name, tile_n) for a call of `batch_size` tokens.

    Of the kernels only the specialised decode kernels are tested for availability: they are taken
    for one token whose three widths match, if `available_kernels` (None: what runs on this machine)
    has them. Raises FairwayValueError for a batch below 1 or a width outside 1 to 8.
    """
    return _fairway.get_kernel_for_batch_size(
        batch_size, use_fp32_acc, gate_bits, up_bits, down_bits, _as_set(available_kernels), device
    )


def recommend_kernel(
    batch_size: int,
    hidden_dim: int,
    use_fp32_acc: bool = False,
    gate_bits: Optional[int] = None,
    up_bits: Optional[int] = None,
    down_bits: Optional[int] = None,
    available_kernels: Optional[Iterable[str]] = None,
    device: Optional[str] = None,
) -> KernelRecommendation:
    """An available kernel for a layer of `hidden_dim` elements, and why.

    Decides on fp32 accumulation where the device family asks for it from a hidden size on. Raises
    FairwayValueError for sizes below 1, or if no kernel is available.
    """
    return KernelRecommendation(
        *_fairway.recommend_kernel(
            batch_size,
            hidden_dim,
            use_fp32_acc,
            gate_bits,
            up_bits,
            down_bits,
            _as_set(available_kernels),
            device,
        )
    )


def _as_set(names: Optional[Iterable[str]]) -> Optional[set[str]]:
    return None if names is None else set(names)
