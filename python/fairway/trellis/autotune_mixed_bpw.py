"""Measures kernels for the layers of a model and keeps the fastest.

On the command line, for the MoE layers of a model or for layers with random weights:

    python -m fairway.trellis.autotune_mixed_bpw --quick --output configs/autotune.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

import fairway
from fairway import _fairway
from fairway.trellis.loader import TrellisLinear, TrellisModelLoader, TrellisMoELayer

__all__ = [
    "BenchmarkResult",
    "KernelConfig",
    "MixedBPWAutoTuner",
    "SyntheticMoELayers",
    "TunerStatistics",
]

_LINEAR_ENTRIES = "linear_entries"  # key of the exported JSON; the rest is the C++ tuner's


class SyntheticMoELayers:
    """Layers with random weights and the sizes of a known model: "demo", "glm47", "qwen3-30b".

    mix: the widths of their experts, such as "(6,2,3)" or "uniform 3"; an unknown one is a
    FairwayValueError that lists all. pool_bytes: coded weights in all; the layers are called in
    turn, so that a pool larger than the caches is read from memory.
    """

    def __init__(self, geometry: str, mix: str, pool_bytes: int = 256 << 20) -> None:
        self.name = f"{geometry}, {mix}"
        self._layers = _fairway.SyntheticLayers(geometry, mix, pool_bytes)


#: What can be measured: a single matrix, the experts of a layer, or experts without a model.
Layer = Union[TrellisLinear, TrellisMoELayer, SyntheticMoELayers]


@dataclass
class KernelConfig:
    """A kernel row with its tile. All sizes 0: the row's own tile."""

    kernel_name: str  # id of a kernel row, "cpu_avx512/moe_trellis_swiglu_decode"
    tile_size_m: int  # rows of x that share one decode
    tile_size_n: int  # columns of a panel
    simdgroups: int  # workers per tile
    use_fp32_acc: bool = False
    kernel_variant: str = "base"  # "decode", "prefill", "base", "large_batch", "grouped"


@dataclass
class BenchmarkResult:
    """What measuring one configuration gave."""

    config: KernelConfig
    latency_ms: float  # median of a call
    throughput_gbps: float  # coded weights read per second, 1e9 bytes
    memory_footprint_mb: float  # coded weights of the layer, 1e6 bytes
    timestamp: float  # seconds since 1970
    samples_ms: List[float] = field(default_factory=list)


@dataclass
class TunerStatistics:
    """What a tuner knows."""

    entries: int  # kinds of MoE calls that were measured
    kernels_timed: int
    latencies_recorded: int
    mean_gain: float  # of the chosen kernels over the defaults, as fractions of the defaults' time
    best_gain: float
    chosen: Dict[str, int]  # kernel -> entries
    linear_entries: int  # kinds of calls of single matrices that were measured


class MixedBPWAutoTuner:
    """Times kernels in rounds and remembers the fastest for every kind of call.

    Every round calls each candidate once; medians are compared, and the default keeps its place
    unless another candidate is faster beyond the noise. Answers hold for the number of threads that
    was measured (fairway.set_threads).

    device_name: such as "M4 Max"; None: this machine. The measurements are always of this machine.
    config_path: read now if it exists and fits this machine, and where export_config writes.
    """

    def __init__(
        self,
        device_name: Optional[str] = None,
        config_path: Optional[str | Path] = None,
    ) -> None:
        self._config_path = None if config_path is None else Path(config_path)
        self._tuner = _fairway.AutoTuner(device_name or "", str(self._config_path or ""))
        self._linear = _fairway.LinearTuner()
        if self._config_path is not None:
            usable, why_not = _fairway.table_is_usable(self._config_path)
            if usable:
                self._read_linear_entries(self._config_path)
            elif why_not:
                warnings.warn(why_not, stacklevel=2)

    @property
    def device_name(self) -> str:
        return self._tuner.device_name

    @property
    def device_family(self) -> str:
        return self._tuner.device_family

    def benchmark_layer(
        self,
        layer: Layer,
        batch_size: int,
        configs: Optional[List[KernelConfig]] = None,
        num_warmup: int = 5,
        num_iter: int = 20,
    ) -> List[BenchmarkResult]:
        """Times a layer with `batch_size` tokens, fastest first, and remembers the winner.

        configs: what to time besides the default; None: every candidate that is worth it.
        num_warmup, num_iter: calls of each that are thrown away, and that count.
        Raises FairwayValueError for numbers that make no sense and for a configuration that does
        not exist or cannot serve the layer. Ctrl-C ends the measurement.
        """
        wanted = [asdict(config) for config in configs or []]
        numbers = (batch_size, wanted, num_warmup, num_iter, None)
        if isinstance(layer, TrellisMoELayer):
            raw = self._tuner.benchmark_layer(layer._handle, *numbers)
        elif isinstance(layer, SyntheticMoELayers):
            raw = self._tuner.benchmark_synthetic(layer._layers, *numbers)
        else:
            raw = self._linear.benchmark(layer._handle, *numbers)
        return [
            BenchmarkResult(**{**result, "config": KernelConfig(**result["config"])})
            for result in raw
        ]

    def benchmark_all(
        self,
        layers: Dict[str, Layer] | List[Layer],
        batch_sizes: List[int],
        num_warmup: int = 5,
        num_iter: int = 20,
        verbose: bool = True,
    ) -> Dict[str, Dict[int, List[BenchmarkResult]]]:
        """benchmark_layer for every layer and batch size: name -> batch size -> results.

        The layers of a list get their own names. verbose: a line for each result on stdout.
        """
        named = layers if isinstance(layers, dict) else {_name_of(one): one for one in layers}
        results: Dict[str, Dict[int, List[BenchmarkResult]]] = {}
        for name, layer in named.items():
            for batch_size in batch_sizes:
                measured = self.benchmark_layer(layer, batch_size, None, num_warmup, num_iter)
                results.setdefault(name, {})[batch_size] = measured
                if verbose and measured:
                    print(_line(name, batch_size, measured), flush=True)
        return results

    def select_kernel(
        self,
        batch_size: int,
        hidden_dim: int,
        bit_widths: List[int],
        use_decode: bool = False,
        fallback_to_default: bool = True,
    ) -> Optional[KernelConfig]:
        """The kernel for the experts of a layer, from what was measured.

        The exact call, else the nearest batch size, else the nearest hidden size with these widths,
        else (if asked for) the default of the device family. bit_widths: any order; equal ones
        count once. use_decode: prefer a decode kernel for one token where nothing was measured.
        """
        return _config(
            self._tuner.select_kernel(
                batch_size, hidden_dim, list(bit_widths), use_decode, fallback_to_default
            )
        )

    def select_linear_kernel(self, layer: TrellisLinear, batch_size: int) -> Optional[KernelConfig]:
        """The kernel for a single matrix: of the nearest batch size (at most a factor of 2) that
        was measured for its sizes, bits and codebook with this number of threads."""
        return _config(self._linear.find(layer._handle, batch_size))

    def record_latency(
        self,
        kernel_name: str,
        batch_size: int,
        latency_ms: float,
        hidden_dim: Optional[int] = None,
        bit_widths: Optional[List[int]] = None,
    ) -> None:
        """A latency of a kernel that the caller ran, for adapt_selection."""
        self._tuner.record_latency(
            kernel_name, batch_size, latency_ms, hidden_dim or 0, list(bit_widths or [])
        )

    def adapt_selection(
        self,
        batch_size: int,
        hidden_dim: int,
        bit_widths: List[int],
        top_k: int = 3,
    ) -> Optional[KernelConfig]:
        """The fastest of the `top_k` most recorded kernels of a call, once it has 5 samples and is
        faster beyond doubt; else None."""
        return _config(
            self._tuner.adapt_selection(batch_size, hidden_dim, list(bit_widths), top_k)
        )

    def clear_adaptation_history(self) -> None:
        """Forgets the recorded latencies; measurements stay."""
        self._tuner.clear_adaptation_history()

    def statistics(self) -> TunerStatistics:
        return TunerStatistics(**self._tuner.statistics(), linear_entries=self._linear.entries())

    def export_config(self, path: Optional[str | Path] = None) -> str:
        """The measurements and choices as JSON, which is also written to `path`, or else to
        config_path if there is one. Folders are made; the file is replaced in one step."""
        target = self._config_path if path is None else Path(path)
        document = json.loads(self._tuner.to_json())
        document[_LINEAR_ENTRIES] = json.loads(self._linear.to_json())
        text = json.dumps(document, indent=2, ensure_ascii=False)
        if target is not None:
            _replace(target, text + "\n")
        return text

    @classmethod
    def load_config(cls, path: str | Path) -> MixedBPWAutoTuner:
        """A tuner with the content of an exported file, whatever machine made it.

        Raises FairwayRuntimeError if it cannot be read, FairwayValueError if it is malformed.
        """
        made = cls.__new__(cls)
        made._config_path = Path(path)
        made._tuner = _fairway.AutoTuner.load_config(made._config_path)
        made._linear = _fairway.LinearTuner()
        made._read_linear_entries(made._config_path)
        return made

    def _read_linear_entries(self, path: Path) -> None:
        entries = json.loads(path.read_text(encoding="utf-8")).get(_LINEAR_ENTRIES, [])
        self._linear.add_json(json.dumps(entries), str(path))


def _config(found: Optional[Dict[str, Any]]) -> Optional[KernelConfig]:
    return None if found is None else KernelConfig(**found)


def _name_of(layer: Layer) -> str:
    return f"layers.{layer.index}.mlp" if isinstance(layer, TrellisMoELayer) else layer.name


def _line(name: str, batch_size: int, results: List[BenchmarkResult]) -> str:
    best = results[0]
    return (
        f"{name}, {batch_size} tokens: {best.config.kernel_name} {best.latency_ms:.3f} ms, "
        f"{best.throughput_gbps:.1f} GB/s, {len(results)} configurations"
    )


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _layers(options: argparse.Namespace) -> Dict[str, Layer]:
    """What the command line measures."""
    if options.model is None:
        return {
            f"{options.geometry}, {mix}": SyntheticMoELayers(options.geometry, mix)
            for mix in options.mix
        }
    loader = TrellisModelLoader(options.model)
    numbers = loader.moe_layers()
    if not numbers:
        raise ValueError(f"{options.model}: the model has no layers with experts")
    return {f"layers.{numbers[0]}.mlp": loader.load_moe_layer(numbers[0])}


def _batch_sizes(text: str) -> List[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of positive numbers such as 1,4,8")
    return sizes


def _parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m fairway.trellis.autotune_mixed_bpw",
        description="Measure the kernels for MoE layers on this machine and write the choices.",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON to write")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="measure the first MoE layer of this model (default: layers with random weights)",
    )
    parser.add_argument(
        "--geometry",
        choices=_fairway.known_geometries(),
        help="sizes of the layers with random weights (default: glm47; with --quick: demo)",
    )
    parser.add_argument(
        "--mix",
        action="append",
        choices=_fairway.known_mixes(),
        help="widths of their experts; may be repeated (default: (6,2,3))",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small layers, batch sizes 1,8,32, 5 iterations"
    )
    parser.add_argument("--batch-sizes", type=_batch_sizes, metavar="1,4,8")
    parser.add_argument("--iterations", type=int, metavar="N", help="calls that count")
    parser.add_argument("--warmup", type=int, metavar="N", help="calls that are thrown away")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="0: one per processor")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.geometry = options.geometry or ("demo" if quick else "glm47")
    options.mix = options.mix or ["(6,2,3)"]
    if options.batch_sizes is None:
        options.batch_sizes = [1, 8, 32] if quick else [1, 4, 8, 16, 32, 64]
    if options.iterations is None:
        options.iterations = 5 if quick else 20
    if options.warmup is None:
        options.warmup = 1 if quick else 5
    return options


def main(arguments: Optional[List[str]] = None) -> int:
    """The command line; returns its exit code: 0, or 2 for an error that it prints."""
    options = _parse(arguments)
    try:
        fairway.set_threads(options.threads)
        tuner = MixedBPWAutoTuner(config_path=options.output)
        layers = _layers(options)
        tuner.benchmark_all(layers, options.batch_sizes, options.warmup, options.iterations)
        tuner.export_config()
    except (ValueError, RuntimeError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    known = tuner.statistics()
    print(
        f"{options.output}: {known.entries} kinds of calls, mean gain over the default "
        f"{100 * known.mean_gain:.1f} %"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
