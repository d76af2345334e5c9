"""Types of the extension module. Its functions are described where the package wraps them."""

import os
from typing import Any, Callable, Optional, Union

import numpy as np
import numpy.typing as npt

version: str

class FairwayError(Exception):
    kind: str

class FairwayValueError(FairwayError, ValueError): ...
class FairwayRuntimeError(FairwayError, RuntimeError): ...

def set_threads(threads: int) -> None: ...
def threads() -> int: ...
def memory_pressure() -> float: ...
def cpu_features() -> str: ...
def run_command(arguments: list[str]) -> int: ...
def this_device_name() -> str: ...
def device_profile(device: Optional[str] = None) -> dict[str, Any]: ...
def known_families() -> list[str]: ...
def kernel_aliases() -> dict[str, str]: ...
def available_families() -> set[str]: ...
def is_available(name: str) -> bool: ...
def check_kernel_name(name: str) -> None: ...
def get_kernel_for_batch_size(
    batch_size: int,
    use_fp32_acc: bool = False,
    gate_bits: Optional[int] = None,
    up_bits: Optional[int] = None,
    down_bits: Optional[int] = None,
    available_kernels: Optional[set[str]] = None,
    device: Optional[str] = None,
) -> tuple[str, int]: ...
def select_moe_kernel(
    batch_size: int,
    use_fp32_acc: bool = False,
    gate_bits: Optional[int] = None,
    up_bits: Optional[int] = None,
    down_bits: Optional[int] = None,
    available_kernels: Optional[set[str]] = None,
    device: Optional[str] = None,
) -> tuple[str, int]: ...
def get_moe_kernel(
    batch_size: int,
    use_fp32_acc: bool = False,
    gate_bits: Optional[int] = None,
    up_bits: Optional[int] = None,
    down_bits: Optional[int] = None,
    available_kernels: Optional[set[str]] = None,
    device: Optional[str] = None,
) -> str: ...
def recommend_kernel(
    batch_size: int,
    hidden_dim: int,
    use_fp32_acc: bool = False,
    gate_bits: Optional[int] = None,
    up_bits: Optional[int] = None,
    down_bits: Optional[int] = None,
    available_kernels: Optional[set[str]] = None,
    device: Optional[str] = None,
) -> tuple[str, int, bool, str]: ...
def analyze_activation(
    active_expert_bits: list[int], total_experts: int = 0
) -> dict[str, Any]: ...
def confidence_interval(
    samples: list[float], confidence: float
) -> tuple[Optional[float], Optional[float]]: ...
def default_selector() -> MixedKernelSelector: ...
def group_tokens(
    expert_ids: npt.ArrayLike, experts: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]: ...
def linear_candidates(linear: Linear, batch_size: int) -> list[dict[str, Any]]: ...

def known_geometries() -> list[str]: ...
def known_mixes() -> list[str]: ...
def table_is_usable(path: Union[str, os.PathLike[str]]) -> tuple[bool, str]: ...

class MixedKernelSelector:
    def __init__(
        self,
        history_len: int,
        initial_exploration_rate: float,
        min_exploration_rate: float,
        confidence_threshold: float,
        device: Optional[str],
        seed: int,
    ) -> None: ...
    def select(
        self,
        batch_size: int,
        active_expert_bits: list[int],
        memory_pressure: Optional[float],
        available: Optional[set[str]],
        total_experts: int,
    ) -> tuple[str, dict[str, Any]]: ...
    def record(
        self, kernel: str, batch_size: int, latency_ms: float, selected_by: str
    ) -> None: ...
    def set_available_kernels(self, available: set[str]) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def records(self) -> list[tuple[str, int, str, float, str]]: ...
    def analyze(self, kernel: str, batch_size: int, confidence: float) -> dict[str, Any]: ...
    def exploration_rate(self) -> float: ...
    def adapt_exploration_rate(self, performance_stability: float) -> None: ...
    def reset(self) -> None: ...
    def device_family(self) -> str: ...

class Linear:
    name: str
    file: str
    in_features: int
    out_features: int
    bits: int
    codebook: str
    nbytes: int
    def apply(
        self, x: npt.ArrayLike, kernel: str, tile_m: int, tile_n: int, simdgroups: int
    ) -> npt.NDArray[np.float32]: ...

class Loader:
    directory: str
    def __init__(self, directory: str) -> None: ...
    def linear(self, name: str) -> Linear: ...
    def linears(self) -> list[str]: ...

class Model:
    hidden_size: int
    architecture: str
    def __init__(self, directory: str) -> None: ...
    def moe_layers(self) -> list[int]: ...
    def moe_layer(self, layer: int) -> MoeLayer: ...

class MoeLayer:
    layer: int
    hidden_size: int
    num_experts: int
    top_k: int
    expert_bits: list[tuple[int, int, int]]
    def dispatch(
        self,
        hidden_states: npt.ArrayLike,
        expert_ids: Optional[npt.ArrayLike],
        expert_probs: Optional[npt.ArrayLike],
        kernel_name_override: str,
        kernel_hint: str,
    ) -> tuple[
        npt.NDArray[np.float32], npt.NDArray[np.int32], npt.NDArray[np.float32], dict[str, Any]
    ]: ...

class LinearTuner:
    def benchmark(
        self,
        linear: Linear,
        batch_size: int,
        configs: list[dict[str, Any]],
        warmup: int,
        iterations: int,
        progress: Optional[Callable[[int, int, str], None]],
    ) -> list[dict[str, Any]]: ...
    def find(self, linear: Linear, batch_size: int) -> Optional[dict[str, Any]]: ...
    def entries(self) -> int: ...
    def to_json(self) -> str: ...
    def add_json(self, text: str, source: str) -> None: ...

class SyntheticLayers:
    def __init__(self, geometry: str, mix: str, pool_bytes: int) -> None: ...

class AutoTuner:
    device_name: str
    device_family: str
    def __init__(self, device_name: str, config_path: Union[str, os.PathLike[str]]) -> None: ...
    def benchmark_layer(
        self,
        layer: MoeLayer,
        batch_size: int,
        configs: list[dict[str, Any]],
        warmup: int,
        iterations: int,
        progress: Optional[Callable[[int, int, str], None]],
    ) -> list[dict[str, Any]]: ...
    def benchmark_synthetic(
        self,
        layers: SyntheticLayers,
        batch_size: int,
        configs: list[dict[str, Any]],
        warmup: int,
        iterations: int,
        progress: Optional[Callable[[int, int, str], None]],
    ) -> list[dict[str, Any]]: ...
    def select_kernel(
        self,
        batch_size: int,
        hidden_dim: int,
        bit_widths: list[int],
        use_decode: bool,
        fallback_to_default: bool,
    ) -> Optional[dict[str, Any]]: ...
    def record_latency(
        self,
        kernel_name: str,
        batch_size: int,
        latency_ms: float,
        hidden_dim: int,
        bit_widths: list[int],
    ) -> None: ...
    def adapt_selection(
        self, batch_size: int, hidden_dim: int, bit_widths: list[int], top_k: int
    ) -> Optional[dict[str, Any]]: ...
    def clear_adaptation_history(self) -> None: ...
    def statistics(self) -> dict[str, Any]: ...
    def to_json(self) -> str: ...
    @staticmethod
    def load_config(path: Union[str, os.PathLike[str]]) -> AutoTuner: ...
