#!/usr/bin/env python3
"""Where the time of a forward pass goes on a CUDA GPU, from a profile of its kernels:

  scripts/measuring/step_profile.py NCU.csv OUT --gpu NAME --config FILE --bits N --passes decode:1,decode:32,prefill:2048 [...]

NCU.csv: what `ncu --clock-control none --csv --metrics LIST` prints of `fairway bench device --profile`, with the metrics that --metrics
of this program prints. --passes: what was profiled, in this order: sequences of a decode step, tokens of a prompt. The profiled model may have
fewer layers than --config says: its layers with experts stand for the others in turn. For each pass OUT gets a file with its kernels, their
launches and times, the calls of the model that they belong to and the parts that these make up. Kernels are profiled one after the other and
with empty caches, which they are not in a graph: their sum is more than a step takes.
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from measuring import step_work  # noqa: E402

SCHEMA = "fairway-cuda_step_profile-2"
KEYS = {"revision", "date", "machine", "model", "bits", "kind", "rows", "context", "complete", "launches", "sum_us", "parts", "calls", "kernels",
        "profiled_launches"}
TIME, REGISTERS = "gpu__time_duration.sum", "launch__registers_per_thread"
# Key in the file -> metric of ncu. Each is of a launch.
METRICS = {"read_bytes": "dram__bytes_read.sum", "written_bytes": "dram__bytes_write.sum",
           "issue_percent": "sm__inst_issued.avg.pct_of_peak_sustained_active",
           "local_loads": "smsp__sass_inst_executed_op_local_ld.sum", "local_stores": "smsp__sass_inst_executed_op_local_st.sum"}
UNITS = {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3,
         "byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
FIRST, LAST = r"^embed", r"greedy|sample|argmax"
OTHER = "other"
# What a kernel belongs to by its name, the first that fits. A linear layer is known by its place.
LINEAR = "linear"
GATE = "gate of a dense layer"  # whose matrices are linear layers around it
KINDS = ((step_work.EMBED, FIRST), (step_work.CHOOSE, LAST), (step_work.MLA, r"mla_decode"), (step_work.GQA, r"gqa_decode|gqa_cluster"),
         (step_work.Q_TO_ABSORB, r"query_absorb"), (step_work.TO_ABSORB, r"prepare_absorb"), (GATE, r"^swiglu"),
         (step_work.EXPERTS, r"band_kernel|moe|stream_(one_)?kernel|group|slots|expert|wide_inputs_kernel|^prepare_kernel"),
         (step_work.ROUTER, r"route"), (step_work.UNFOLD, r"unfold|project_many<(0|false)[,>]"), (step_work.ABSORB, r"absorb|project_many"),
         (step_work.ATTEND, r"attend|combine_splits"), (LINEAR, r"linear|rows_few|rows_many|trellis|dense_(few|many)"),
         (step_work.PREPARE, r"prepare|rope"), (step_work.NORM, r"norm"))
BEFORE_LINEAR = r"inputs"  # a launch that belongs to the linear layer after it
# Calls -> part of the model.
PARTS = {step_work.EMBED: "embedding and choice of a token", step_work.CHOOSE: "embedding and choice of a token", step_work.HEAD: "output head",
         step_work.EXPERTS: "experts", step_work.DENSE: "experts", step_work.ROUTER: "router", step_work.ATTEND: "attention over the cache",
         step_work.MLA: "attention over the cache", step_work.GQA: "attention over the cache",
         step_work.TO_ABSORB: "kv_b_proj", step_work.Q_TO_ABSORB: "kv_b_proj",
         step_work.ABSORB: "kv_b_proj", step_work.UNFOLD: "kv_b_proj", step_work.NORM: "norms and rotation",
         step_work.Q_NORM: "norms and rotation", step_work.PREPARE: "norms and rotation"}
LINEARS = "attention's linear layers"


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


def passes_of(launches):
    """Launches of each pass: from one embedding to the next."""
    passes = []
    for launch in launches:
        if re.search(FIRST, launch["name"]):
            passes.append([])
        if passes:
            passes[-1].append(launch)
    return passes


def kind_of(launch):
    return next((kind for kind, pattern in KINDS if re.search(pattern, launch["name"])), OTHER)


def calls_of(launches, config):
    """[(call, its launches)] in order. The names of the linear layers of a layer are known if there are as many as the model has."""
    calls = []
    for launch in launches:
        kind = kind_of(launch)
        waiting = calls and calls[-1][0] == LINEAR and re.search(BEFORE_LINEAR, calls[-1][1][-1]["name"])
        if calls and calls[-1][0] == kind and (kind != LINEAR or waiting):
            calls[-1][1].append(launch)
        else:
            calls.append((kind, [launch]))
    for gate in [i for i, (kind, _) in enumerate(calls) if kind == GATE][::-1]:
        calls[gate - 1:gate + 2] = [(step_work.DENSE, [launch for _, own in calls[gate - 1:gate + 2] for launch in own])]
    dense_layers = config.get("first_k_dense_replace") or 0
    names, begin, layer = [kind for kind, _ in calls], 0, 0
    for at, kind in enumerate(names):
        if kind not in (step_work.EXPERTS, step_work.DENSE):
            continue
        linears = [i for i in range(begin, at) if names[i] == LINEAR]
        inside = {part for name in names[begin:at] for part in step_work.TOGETHER.get(name, ())}
        expected = [name for name in step_work.linears_of(config) if name not in inside]
        for i, place in enumerate(linears):
            names[place] = expected[i] if len(linears) == len(expected) else LINEAR
        norms = [i for i in range(begin, at) if names[i] == step_work.NORM]
        for place in norms:
            if linears and place > linears[0] and place < linears[-1]:
                names[place] = step_work.Q_NORM
        if layer < dense_layers:
            names[at] = step_work.DENSE
        begin, layer = at + 1, layer + 1
    last = [i for i in range(begin, len(names)) if names[i] == LINEAR]
    if len(last) == 1:
        names[last[0]] = step_work.HEAD
    return [(name, own) for name, (_, own) in zip(names, calls)]


def of_all_layers(calls, layers):
    """The calls of a model of so many layers, from those of one with fewer: its layers with experts stand for the others in turn."""
    ends = [i for i, (call, _) in enumerate(calls) if call in (step_work.EXPERTS, step_work.DENSE)]
    if not ends or len(ends) >= layers:
        return calls
    begin = 1 if calls[0][0] == step_work.EMBED else 0
    own = [calls[first:end + 1] for first, end in zip([begin, *[end + 1 for end in ends[:-1]]], ends)]
    dense = [layer for layer in own if layer[-1][0] == step_work.DENSE]
    routed = [layer for layer in own if layer[-1][0] == step_work.EXPERTS]
    whole = dense + [routed[i % len(routed)] for i in range(layers - len(dense))] if routed else own
    return calls[:begin] + [call for layer in whole for call in layer] + calls[ends[-1] + 1:]


def part_of(call):
    return PARTS.get(call, LINEARS if call == LINEAR or call in (step_work.FIRST, step_work.Q_B, step_work.O) else OTHER)


def kernels_of(calls):
    """[{call, kernel, grid, block, launches, median_us, sum_us, ...}], the longest sum first; metrics are medians of a launch."""
    kinds = {}
    for call, launches in calls:
        for launch in launches:
            kinds.setdefault((call, launch["name"], launch["grid"], launch["block"]), []).append(launch)
    kernels = []
    for (call, name, grid, block), own in kinds.items():
        record = {"part": part_of(call), "call": call, "kernel": name, "grid": grid, "block": block, "launches": len(own),
                  "median_us": statistics.median(k[TIME] for k in own), "sum_us": sum(k[TIME] for k in own)}
        for key, metric in METRICS.items():
            values = [k[metric] for k in own if metric in k]
            if values:
                record[key] = statistics.median(values)
        if REGISTERS in own[0]:
            record["registers"] = int(own[0][REGISTERS])
        kernels.append(record)
    return sorted(kernels, key=lambda k: -k["sum_us"])


def times_of(calls):
    """[{call, calls, launches, median_us, sum_us}] in the order of the model."""
    times = {}
    for call, launches in calls:
        times.setdefault(call, []).append([k[TIME] for k in launches])
    return [{"call": call, "calls": len(own), "launches": sum(map(len, own)), "median_us": statistics.median(map(sum, own)),
             "sum_us": sum(map(sum, own))} for call, own in times.items()]


def parts_of(kernels):
    parts = {}
    for kernel in kernels:
        part = parts.setdefault(kernel["part"], {"part": kernel["part"], "launches": 0, "sum_us": 0.0})
        part["launches"] += kernel["launches"]
        part["sum_us"] += kernel["sum_us"]
    return sorted(parts.values(), key=lambda p: -p["sum_us"])


def profile(launches, kind, rows, config, options):
    profiled = calls_of(launches, config)
    calls = of_all_layers(profiled, config["num_hidden_layers"])
    complete = calls[-1][0] == (step_work.HEAD if kind == "prefill" else step_work.CHOOSE)
    kernels = kernels_of(calls)
    return {"schema": SCHEMA, "revision": options.revision, "date": options.date, "machine": {"gpu": options.gpu},
            "model": options.config.stem, "bits": options.bits, "kind": kind, "rows": rows, "context": options.context, "complete": complete,
            "profiled_launches": len(launches), "launches": sum(len(own) for _, own in calls), "sum_us": sum(k["sum_us"] for k in kernels), "parts": parts_of(kernels), "calls": times_of(calls),
            "kernels": kernels}


def file_name(kind, rows, gpu):
    """cuda_step_profile_GPU.json for one sequence; others have their size in it."""
    size = "" if (kind, rows) == ("decode", 1) else f"-{rows}" if kind == "decode" else f"-{kind}-{rows}"
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return f"cuda_step_profile{size}_{slug}.json"


def report(content):
    print(f"{content['kind']} {content['rows']}: {content['launches']} launches, {content['sum_us']:.0f} us")
    for part in content["parts"]:
        print(f"{part['sum_us']:10.1f} us  {part['sum_us'] / content['sum_us']:6.1%}  {part['launches']:4d} launches  {part['part']}")
    if not content["complete"]:
        print("the pass has no end in the profile: these are the kernels that it has")


def main():
    if sys.argv[1:] == ["--metrics"]:
        print(",".join([TIME, REGISTERS, *METRICS.values()]))
        return
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", metavar="NCU.csv")
    parser.add_argument("out", metavar="OUT", type=pathlib.Path)
    for name in ("gpu", "bits", "passes"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--config", required=True, type=pathlib.Path)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--date", default=today)
    parser.add_argument("--revision", default=os.environ.get("FAIRWAY_REVISION", "unknown"))
    options = parser.parse_args()
    config = json.loads(options.config.read_text(encoding="utf-8"))
    wanted = [(kind, int(rows)) for kind, rows in (text.split(":") for text in options.passes.split(","))]
    passes = passes_of(launches_of(options.csv))
    if len(passes) != len(wanted):
        print(f"{options.csv}: {len(passes)} passes in it, expected {len(wanted)}", file=sys.stderr)
    for launches, (kind, rows) in zip(passes, wanted):
        content = profile(launches, kind, rows, config, options)
        path = options.out / file_name(kind, rows, options.gpu)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        report(content)
    if len(passes) != len(wanted):
        sys.exit(1)


if __name__ == "__main__":
    main()
