"""Kernel selection for experts of mixed widths, with feedback from measured latencies.

The functions of this module share one selector per device family; without `device` it is that of
this machine. Latencies are milliseconds, memory pressure is a share from 0 to 1, and `batch_size`
counts the tokens of a call. Errors are FairwayValueError and name the value.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from fairway import _fairway

__all__ = [
    "ExpertActivationPattern",
    "KernelTimingRecord",
    "MixedKernelSelector",
    "SelectionAccuracyMetrics",
    "adapt_exploration_rate",
    "analyze_activation_pattern",
    "analyze_kernel_performance",
    "get_mixed_kernel",
    "get_selection_stats",
    "record_kernel_latency",
    "reset_selection_stats",
    "set_available_kernels",
]


@dataclass
class ExpertActivationPattern:
    """What the experts of one call have in common."""

    active_expert_bits: List[int]  # a width per active expert, 1 to 8
    expert_sparsity: float  # active experts / all experts; 1 if their number is unknown
    bit_distribution: Dict[int, int]  # width -> number of experts
    activation_entropy: float  # of the widths, in bits; 0 if all are equal


@dataclass
class KernelTimingRecord:
    """One latency that was recorded."""

    kernel_name: str
    batch_size: int
    bucket: str
    latency_ms: float
    selected_by: str


@dataclass
class SelectionAccuracyMetrics:
    """What a selector has done so far."""

    total_selections: int
    correct_selections: int  # recorded calls whose kernel had the lowest mean of its bucket
    recorded: int
    switches: int  # changes of the best kernel of a bucket
    by_reason: Dict[str, int]
    by_kernel: Dict[str, int]
    exploration_rate: float
    accuracy: float  # correct_selections / recorded


def analyze_activation_pattern(
    active_expert_bits: List[int], total_experts: int = 0
) -> ExpertActivationPattern:
    """The pattern of a call. `total_experts` 0: unknown. Needs at least one width, each 1 to 8."""
    return ExpertActivationPattern(
        **_fairway.analyze_activation(list(active_expert_bits), total_experts)
    )


class MixedKernelSelector:
    """Chooses kernels by rule, learns from latencies, and explores a small share of the calls.

    `initial_exploration_rate` 0 makes it deterministic. Thread-safe.
    """

    def __init__(
        self,
        history_len: int = 100,
        initial_exploration_rate: float = 0.05,
        min_exploration_rate: float = 0.01,
        confidence_threshold: float = 0.95,
        *,
        device: Optional[str] = None,
        seed: int = 1,
    ) -> None:
        self._selector = _fairway.MixedKernelSelector(
            history_len,
            initial_exploration_rate,
            min_exploration_rate,
            confidence_threshold,
            device,
            seed,
        )

    @classmethod
    def _of(cls, selector: _fairway.MixedKernelSelector) -> MixedKernelSelector:
        made = cls.__new__(cls)
        made._selector = selector
        return made

    @property
    def device_family(self) -> str:
        """The family whose rules apply, such as "cpu_avx512" or "M4"."""
        return self._selector.device_family()

    @property
    def records(self) -> List[KernelTimingRecord]:
        """The latest `history_len` latencies of all kernels, oldest first."""
        return [KernelTimingRecord(*record) for record in self._selector.records()]

    @property
    def timings(self) -> Dict[str, Dict[str, deque]]:
        """The latencies of `records`: kernel -> bucket -> milliseconds."""
        timings: Dict[str, Dict[str, deque]] = {}
        for record in self.records:
            buckets = timings.setdefault(record.kernel_name, {})
            buckets.setdefault(record.bucket, deque()).append(record.latency_ms)
        return timings

    @property
    def metrics(self) -> SelectionAccuracyMetrics:
        return SelectionAccuracyMetrics(**self._selector.stats())

    @property
    def exploration_rate(self) -> float:
        """The mean over the buckets in use."""
        return self._selector.exploration_rate()

    def get_mixed_kernel(
        self,
        batch_size: int,
        active_expert_bits: List[int],
        gpu_memory_pressure: Optional[float] = 0.0,
        available_kernels: Optional[Iterable[str]] = None,
        *,
        total_experts: int = 0,
    ) -> Tuple[str, dict]:
        """(kernel name, metadata) for a call; see the function of the same name."""
        names = None if available_kernels is None else set(available_kernels)
        kernel, info = self._selector.select(
            batch_size, list(active_expert_bits), gpu_memory_pressure, names, total_experts
        )
        info["pattern"] = ExpertActivationPattern(**info["pattern"])
        return kernel, info

    def record_kernel_latency(
        self,
        kernel_name: str,
        batch_size: int,
        latency_ms: float,
        selected_by: str = "unknown",
    ) -> None:
        self._selector.record(kernel_name, batch_size, latency_ms, selected_by)

    def set_available_kernels(self, available_kernels: Iterable[str]) -> None:
        self._selector.set_available_kernels(set(available_kernels))

    def get_selection_stats(self) -> Dict[str, Any]:
        return self._selector.stats()

    def analyze_kernel_performance(
        self, kernel_name: str, batch_size: int, confidence: float = 0.95
    ) -> Dict[str, Any]:
        return self._selector.analyze(kernel_name, batch_size, confidence)

    def adapt_exploration_rate(self, performance_stability: float) -> None:
        """Lowers the rate towards its least: stability 1 halves it, 0 leaves it."""
        self._selector.adapt_exploration_rate(performance_stability)

    def reset_selection_stats(self) -> None:
        self._selector.reset()


_selectors: Dict[str, MixedKernelSelector] = {}


def _selector(device: Optional[str]) -> MixedKernelSelector:
    here = _fairway.device_profile()["family"]
    family = here if device is None else _fairway.device_profile(device)["family"]
    if family not in _selectors:
        made = (
            MixedKernelSelector._of(_fairway.default_selector())
            if family == here
            else MixedKernelSelector(device=family)
        )
        _selectors.setdefault(family, made)
    return _selectors[family]


def get_mixed_kernel(
    batch_size: int,
    active_expert_bits: List[int],
    gpu_memory_pressure: float | None = 0.0,
    available_kernels: Set[str] | None = None,
    *,
    total_experts: int = 0,
    device: str | None = None,
) -> Tuple[str, dict]:
    """(kernel name, metadata) for a call of `batch_size` tokens.

    active_expert_bits: a width per active expert, at least one, each 1 to 8.
    gpu_memory_pressure: 0 to 1; above 0.9 the standard kernel is taken. None reads the pressure of
        this machine's memory.
    available_kernels: what may be chosen; None: set_available_kernels, else what runs here.

    Metadata: "reason" ("heuristic", "history", "exploration", "memory_pressure", "availability"),
    "bucket", "heuristic" (what the rules alone would take), "tile_n", "memory_pressure",
    "exploration_rate" and "pattern" (ExpertActivationPattern).
    """
    return _selector(device).get_mixed_kernel(
        batch_size,
        active_expert_bits,
        gpu_memory_pressure,
        available_kernels,
        total_experts=total_experts,
    )


def record_kernel_latency(
    kernel_name: str,
    batch_size: int,
    latency_ms: float,
    selected_by: str = "unknown",
    *,
    device: str | None = None,
) -> None:
    """Tells the selector how long a call took. `latency_ms` must be positive and finite."""
    _selector(device).record_kernel_latency(kernel_name, batch_size, latency_ms, selected_by)


def get_selection_stats(*, device: str | None = None) -> Dict[str, Any]:
    """The fields of SelectionAccuracyMetrics by name."""
    return _selector(device).get_selection_stats()


def reset_selection_stats(*, device: str | None = None) -> None:
    """Forgets all latencies, selections and counts."""
    _selector(device).reset_selection_stats()


def set_available_kernels(available_kernels: Set[str], *, device: str | None = None) -> None:
    """The kernels that may be chosen from now on: at least one, all of them existing names."""
    _selector(device).set_available_kernels(available_kernels)


def analyze_kernel_performance(
    kernel_name: str,
    batch_size: int,
    confidence: float = 0.95,
    *,
    device: str | None = None,
) -> Dict[str, Any]:
    """Latencies of a kernel in the bucket of a batch size.

    Keys: "kernel", "bucket", "samples", "mean_ms", "median_ms", "min_ms", "max_ms", "std_ms" and
    "confidence_interval", the bounds of the mean in ms, or (None, None) for fewer than two samples.
    """
    return _selector(device).analyze_kernel_performance(kernel_name, batch_size, confidence)


def adapt_exploration_rate(performance_stability: float, *, device: str | None = None) -> None:
    """Lowers the exploration rate towards its least: stability 1 halves it, 0 leaves it."""
    _selector(device).adapt_exploration_rate(performance_stability)


def _apply_heuristics(
    pattern: ExpertActivationPattern, batch_size: int = 1, device: str | None = None
) -> Tuple[str, str]:
    """(kernel name, "heuristic"): what the rules alone take, without looking at availability."""
    selector = MixedKernelSelector(initial_exploration_rate=0, device=device)
    everything = _fairway.known_families()
    _, info = selector.get_mixed_kernel(batch_size, pattern.active_expert_bits, 0.0, everything)
    return info["heuristic"], "heuristic"


def _compute_confidence_interval(
    latencies: Iterable[float], confidence: float = 0.95
) -> Tuple[float | None, float | None]:
    """Bounds of the mean by Student's t; (None, None) for fewer than two samples."""
    return _fairway.confidence_interval(list(latencies), confidence)
