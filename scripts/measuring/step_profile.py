#!/usr/bin/env python3
"""Where the time of one decode step goes on a CUDA GPU, from a profile of its kernels:

  scripts/measuring/step_profile.py NCU.csv OUT.json --gpu NAME --model NAME --bits N [--batch N] [--context N] [--revision HASH]

NCU.csv: what `ncu --clock-control none --csv --metrics gpu__time_duration.sum,dram__bytes_read.sum` prints of a `fairway bench device`
that decodes, of more than one step. The file has the kernels of one step with their launches and times, and the parts of the model
that they belong to. Kernels are profiled one after the other, which they are not in a graph: their sum is more than a step takes.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import re
import statistics
import sys

SCHEMA = "fairway-cuda_step_profile-1"
KEYS = {"revision", "date", "machine", "model", "bits", "batch", "context", "complete", "launches", "sum_us", "parts", "kernels"}
TIME, READ, REGISTERS = "gpu__time_duration.sum", "dram__bytes_read.sum", "launch__registers_per_thread"
UNITS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3,
         "byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
FIRST, LAST = r"embed", r"greedy|sample|argmax"
HEAD, OTHER = "output head", "other"
# By name, the first that fits; the head is the linear kernel before the choice of a token.
PARTS = (("experts", r"band_kernel|moe|stream|group|slots|expert|swiglu"), ("router", r"route"),
         ("attention over the cache", r"attend"), ("kv_b_proj", r"absorb|unfold|project_many"),
         ("attention's linear layers", r"linear|rows_few|rows_many|trellis"), ("norms and rotation", r"norm|prepare|rope"),
         ("embedding and choice of a token", rf"{FIRST}|{LAST}"))


def short_name(kernel):
    """Without return type, namespaces and arguments."""
    name = re.sub(r"fairway::|kernels::|cuda::|\(anonymous namespace\)::|<unnamed>::|unnamed>::|^void\s+", "", kernel)
    return name.split("(")[0].strip()


def launches_of(path):
    """[{name, grid, block, us, ...}] in order; launches without a time, where the profiler failed, are left out."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        rows = list(csv.reader(line for line in lines if line.startswith('"')))
    if not rows:
        sys.exit(f"{path}: no table in it")
    columns = {name: i for i, name in enumerate(rows[0])}
    launches = {}
    for row in rows[1:]:
        if len(row) != len(rows[0]):
            continue
        launch = launches.setdefault(row[columns["ID"]], {"name": short_name(row[columns["Kernel Name"]]),
                                                          "grid": row[columns["Grid Size"]].replace(" ", ""),
                                                          "block": row[columns["Block Size"]].replace(" ", "")})
        try:
            value = float(row[columns["Metric Value"]].replace(",", ""))
        except ValueError:
            continue
        if value == value:
            launch[row[columns["Metric Name"]]] = value * UNITS.get(row[columns["Metric Unit"]], 1)
    return [launch for launch in launches.values() if TIME in launch]


def one_step(launches):
    """(launches of a step, whether they are all): from the first kernel of one to the last, or what there is."""
    starts = [i for i, launch in enumerate(launches) if re.search(FIRST, launch["name"])]
    ends = [i for i, launch in enumerate(launches) if re.search(LAST, launch["name"])]
    for start in starts:
        end = next((e for e in ends if e > start), None)
        if end is not None:
            return launches[start:end + 1], True
    return launches, False


def part_of(launches, at):
    name = launches[at]["name"]
    if at + 1 < len(launches) and re.search(LAST, launches[at + 1]["name"]) and re.search("linear|rows_", name):
        return HEAD
    return next((part for part, pattern in PARTS if re.search(pattern, name)), OTHER)


def summed(launches):
    """[{part, name, grid, block, launches, median_us, sum_us, ...}], the longest sum first."""
    kinds = {}
    for at, launch in enumerate(launches):
        kinds.setdefault((part_of(launches, at), launch["name"], launch["grid"], launch["block"]), []).append(launch)
    kernels = []
    for (part, name, grid, block), own in kinds.items():
        record = {"part": part, "kernel": name, "grid": grid, "block": block, "launches": len(own),
                  "median_us": statistics.median(k[TIME] for k in own), "sum_us": sum(k[TIME] for k in own)}
        if all(READ in k for k in own):
            record["read_bytes"] = sum(k[READ] for k in own)
        if REGISTERS in own[0]:
            record["registers"] = int(own[0][REGISTERS])
        kernels.append(record)
    return sorted(kernels, key=lambda k: -k["sum_us"])


def parts_of(kernels):
    parts = {}
    for kernel in kernels:
        part = parts.setdefault(kernel["part"], {"part": kernel["part"], "launches": 0, "sum_us": 0.0})
        part["launches"] += kernel["launches"]
        part["sum_us"] += kernel["sum_us"]
    return sorted(parts.values(), key=lambda p: -p["sum_us"])


def profile(options):
    launches, complete = one_step(launches_of(options.csv))
    kernels = summed(launches)
    return {"schema": SCHEMA, "revision": options.revision, "date": options.date, "machine": {"gpu": options.gpu},
            "model": options.model, "bits": options.bits, "batch": options.batch, "context": options.context, "complete": complete,
            "launches": len(launches), "sum_us": sum(k["sum_us"] for k in kernels), "parts": parts_of(kernels), "kernels": kernels}


def main():
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", metavar="NCU.csv")
    parser.add_argument("out", metavar="OUT.json", type=pathlib.Path)
    for name in ("gpu", "model", "bits"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--date", default=today)
    parser.add_argument("--revision", default=os.environ.get("FAIRWAY_REVISION", "unknown"))
    options = parser.parse_args()
    content = profile(options)
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for part in content["parts"]:
        print(f"{part['sum_us']:10.1f} us  {part['sum_us'] / content['sum_us']:6.1%}  {part['launches']:4d} launches  {part['part']}")
    if not content["complete"]:
        print("no whole step is in the profile: these are the kernels that are")


if __name__ == "__main__":
    main()
