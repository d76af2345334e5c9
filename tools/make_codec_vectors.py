#!/usr/bin/env python3
# Converts the shared EXL3 test vectors (NumPy archive) into the small binary file that the codec tests read.
"""
usage: make_codec_vectors.py EXL3_VECTORS.npz OUT.bin

OUT.bin: 8 bytes "FWVEC01\n", then one record per array until the end of the file:
  name, zero-padded to 24 bytes; u32 type (0: 16-bit pattern, 1: float32); u32 number of elements; the elements.
All little-endian. Half-precision arrays are stored as their bit patterns.
"""
import struct
import sys

import numpy as np

CODEBOOKS = ("3inst", "mcg", "mul1")


def wanted_names():
    for bits in range(1, 9):
        yield f"K{bits}_trellis"
        yield f"K{bits}_states"
        for codebook in CODEBOOKS:
            yield f"K{bits}_{codebook}_inner"
    for bits in (2, 3, 4, 6):
        for part in ("trellis", "suh", "svh", "x"):
            yield f"lin_K{bits}_{part}"
        for codebook in CODEBOOKS:
            yield f"lin_K{bits}_{codebook}_y"


def record(name, array):
    array = np.ascontiguousarray(array).reshape(-1)
    if array.dtype == np.float16:
        array = array.view(np.uint16)
    kinds = {np.dtype(np.uint16): 0, np.dtype(np.float32): 1}
    if array.dtype not in kinds:
        raise SystemExit(f"{name}: unexpected element type {array.dtype}")
    encoded = name.encode("ascii")
    if len(encoded) >= 24:
        raise SystemExit(f"{name}: name too long")
    header = encoded.ljust(24, b"\0") + struct.pack("<II", kinds[array.dtype], array.size)
    return header + array.astype(array.dtype.newbyteorder("<")).tobytes()


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    vectors = np.load(sys.argv[1])
    with open(sys.argv[2], "wb") as out:
        out.write(b"FWVEC01\n")
        for name in wanted_names():
            out.write(record(name, vectors[name]))


if __name__ == "__main__":
    main()
