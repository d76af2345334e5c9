"""Fairway: trellis-coded mixture-of-experts models on the CPU, and the choice of their kernels.

The subpackage `fairway.trellis` has the functions; this module has what concerns the process.
"""

from __future__ import annotations

from fairway._fairway import (
    FairwayError,
    FairwayRuntimeError,
    FairwayValueError,
    cpu_features,
    memory_pressure,
    set_threads,
    this_device_name,
    threads,
    version as __version__,
)

__all__ = [
    "FairwayError",
    "FairwayRuntimeError",
    "FairwayValueError",
    "__version__",
    "cpu_features",
    "memory_pressure",
    "set_threads",
    "this_device_name",
    "threads",
]
