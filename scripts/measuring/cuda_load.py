#!/usr/bin/env python3
"""How long a large model takes from disk to a CUDA device:

  scripts/measuring/cuda_load.py FAIRWAY FOLDER OUT.json [--rounds N] [--config FILE] [--bits N]

Makes a model of the configuration with `fairway synth --device cuda` in FOLDER, which must have room for it and is emptied of it afterwards.
Then `fairway bench device --model` loads it with its files out of the page cache, where the system lets them be put out, and again with
them in it. OUT.json has every sample."""

import argparse
import concurrent.futures
import ctypes
import datetime
import json
import mmap
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from measuring.markup import table  # noqa: E402

SCHEMA = "fairway-cuda_load-1"
KEYS = {"revision", "date", "machine", "model", "bytes", "synth", "disk_read_bytes_per_second", "runs"}
REPO = pathlib.Path(__file__).resolve().parents[2]
PAGE = mmap.PAGESIZE
READ_BYTES, READERS = 8 << 20, 8
OUT_OF_CACHE = 0.02  # share of pages that may still be there


def weights(folder):
    return sorted(folder.glob("*.safetensors"))


def resident(path):
    """Share of the file's pages that are in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE) as mapped:
        pages = (len(mapped) + PAGE - 1) // PAGE
        flags = (ctypes.c_ubyte * pages)()
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), flags) != 0:
            return None
        return sum(flag & 1 for flag in bytes(flags)) / pages


def drop(folder):
    """Puts the files out of the page cache; the largest share of a file that stayed, None if nobody knows."""
    for path in weights(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    shares = [resident(path) for path in weights(folder)]
    return None if None in shares else max(shares)


def read_all(folder):
    """Bytes per second that some threads read the files with, whatever of them is in memory."""
    pieces = [(path, begin) for path in weights(folder) for begin in range(0, path.stat().st_size, READ_BYTES)]

    def read(piece):
        with open(piece[0], "rb", buffering=0) as file:
            file.seek(piece[1])
            return len(file.read(READ_BYTES))

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        done = sum(pool.map(read, pieces))
    return done / (time.monotonic() - begin)


def fairway(program, *arguments):
    done = subprocess.run([program, *map(str, arguments), "--json"], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"fairway {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def load(program, folder, cache, stayed):
    begin = time.monotonic()
    bench = fairway(program, "bench", "device", "--model", folder, "--batch", 1, "--steps", 1, "--runs", 1, "--warmup", 0)
    return {"cache": cache, "share_in_memory_before": stayed, "load_seconds": bench["load_seconds"],
            "first_token_seconds": bench["first_token_seconds"], "process_seconds": time.monotonic() - begin}


def revision():
    if "FAIRWAY_REVISION" in os.environ:
        return os.environ["FAIRWAY_REVISION"]
    done = subprocess.run(["git", "-C", REPO, "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def measure(options, folder):
    program = str(pathlib.Path(options.program).resolve())
    machine = fairway(program, "kernels")["machine"]
    synth = fairway(program, "synth", "--config", options.config, "--bits", options.bits, "--out", folder, "--device", "cuda", "--force")
    size = sum(path.stat().st_size for path in weights(folder))
    drop(folder)
    disk = read_all(folder)
    runs = []
    for _ in range(options.rounds):
        runs.append(load(program, folder, "cold", drop(folder)))
        runs.append(load(program, folder, "warm", None))
    return {"schema": SCHEMA, "revision": revision(), "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "machine": machine, "model": pathlib.Path(options.config).stem, "bits": options.bits, "bytes": size,
            "synth": {"seconds": synth["seconds"], "device": synth["device"]}, "disk_read_bytes_per_second": disk, "runs": runs}


def load_tables(content):
    size = content["bytes"]
    device = content["machine"]["cuda"]["devices"][0]["name"]
    rows = []
    for cache in ("cold", "warm"):
        runs = [run for run in content["runs"] if run["cache"] == cache]
        stayed = [run["share_in_memory_before"] for run in runs]
        if cache == "cold" and any(share is None or share > OUT_OF_CACHE for share in stayed):
            cache = "asked for cold, not so"
        seconds = sorted(run["load_seconds"] for run in runs)
        first = sorted(run["first_token_seconds"] for run in runs)
        rows.append([cache, str(len(runs)), f"{statistics.median(seconds):.2f} ({seconds[0]:.2f}–{seconds[-1]:.2f})",
                     f"{size / statistics.median(seconds) * 1e-9:.1f}", f"{statistics.median(first):.2f} ({first[0]:.2f}–{first[-1]:.2f})"])
    return [f"{device}, revision `{content['revision'][:12]}`, {content['date'][:10]}; {content['model']}, {content['bits']} bits, {size * 1e-9:.2f} GB, "
            f"written by `fairway synth --device {content['synth']['device']}` in {content['synth']['seconds']:.1f} s. {READERS} threads that do nothing "
            f"else read the files out of the page cache at {content['disk_read_bytes_per_second'] * 1e-9:.1f} GB/s.", "",
            *table(["page cache", "runs", "load, s", "GB/s", "start of the program to the first token, s"], rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", metavar="FAIRWAY")
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path)
    parser.add_argument("out", metavar="OUT.json", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", default=str(REPO / "bench" / "configs" / "glm-4.7-flash.json"))
    parser.add_argument("--bits", default="3")
    options = parser.parse_args()
    folder = options.folder / "cuda-load-model"
    try:
        content = measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n".join(load_tables(content)))


if __name__ == "__main__":
    main()
