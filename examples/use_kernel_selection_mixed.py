#!/usr/bin/env python3
"""Runs MoE layers with kernels that the selector chooses, and prints what it learned.

    python3 examples/use_kernel_selection_mixed.py [MODEL_DIR]

Every call is timed; the selector is told the time and may take another kernel from then on.
"""

import argparse
import pathlib
import time

import numpy as np

from fairway.trellis.kernel_selection import available_kernels, kernel_aliases
from fairway.trellis.kernel_selection_mixed import (
    analyze_kernel_performance,
    get_mixed_kernel,
    get_selection_stats,
    record_kernel_latency,
    set_available_kernels,
)
from fairway.trellis.loader import TrellisModelLoader
from fairway.trellis.moe_dispatch import dispatch_moe_trellis_swiglu

BUNDLED = pathlib.Path(__file__).resolve().parent.parent / "models" / "books-moe"
BATCH_SIZES = (1, 8, 24, 64)  # one of each bucket


def run_workload(layers, calls):
    """Batches of all sizes in turn, through all layers in turn."""
    random = np.random.default_rng(1)
    hidden = layers[0].hidden_size
    batches = {m: random.standard_normal((m, hidden), np.float32) for m in BATCH_SIZES}
    widths = [layer.expert_bits for layer in layers]
    for layer in layers:  # the first call of a layer reads its weights from the file
        for hidden_states in batches.values():
            dispatch_moe_trellis_swiglu(layer, hidden_states)
    for call in range(calls):
        for batch_size, hidden_states in batches.items():
            at = call % len(layers)
            kernel, info = get_mixed_kernel(batch_size, widths[at])
            start = time.perf_counter()
            dispatch_moe_trellis_swiglu(layers[at], hidden_states, kernel_name_override=kernel)
            latency_ms = 1e3 * (time.perf_counter() - start)
            record_kernel_latency(kernel, batch_size, latency_ms, info["reason"])


def print_table(kernels):
    print(f"{'tokens':>6}  {'kernel':32} {'times':>5} {'mean ms':>8} {'95 % interval':>17}")
    for batch_size in BATCH_SIZES:
        known = [analyze_kernel_performance(kernel, batch_size) for kernel in sorted(kernels)]
        known = sorted((k for k in known if k["samples"]), key=lambda k: k["mean_ms"])
        for analysis in known:
            low, high = analysis["confidence_interval"]
            interval = "" if low is None else f"{low:.3f} .. {high:.3f}"
            print(
                f"{batch_size:6}  {analysis['kernel']:32} {analysis['samples']:5} "
                f"{analysis['mean_ms']:8.3f} {interval:>17}"
            )


def main():
    parser = argparse.ArgumentParser(description="Select MoE kernels by measured speed.")
    parser.add_argument("model", nargs="?", type=pathlib.Path, default=BUNDLED)
    parser.add_argument("--calls", type=int, default=400, help="of each batch size")
    options = parser.parse_args()

    loader = TrellisModelLoader(options.model)
    layers = [loader.load_moe_layer(number) for number in loader.moe_layers()]
    # fp32 activations are for exactness, not for speed; an alias is no other kernel.
    kernels = {name for name in available_kernels() if not name.endswith("_fp32acc")}
    kernels -= set(kernel_aliases())
    set_available_kernels(kernels)

    run_workload(layers, options.calls)
    stats = get_selection_stats()
    print(f"{options.model.name}: {len(layers)} layers, {stats['total_selections']} calls")
    print_table(kernels)
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(stats["by_reason"].items()))
    print(f"Reasons: {reasons}. Changes of the best kernel: {stats['switches']}.")
    print(
        f"The fastest known kernel ran in {100 * stats['accuracy']:.0f} % of the calls; "
        f"exploration is down to {100 * stats['exploration_rate']:.1f} %."
    )
    expected = options.calls * len(BATCH_SIZES)
    if stats["recorded"] != expected:
        raise SystemExit(f"{stats['recorded']} latencies recorded, expected {expected}")


if __name__ == "__main__":
    main()
