"""Whole models: speed of the bundled one, of a slice of GLM-4.7-Flash, memory, and what a busy neighbour costs."""

import contextlib
import os
import statistics
import subprocess
import sys

from measuring.base import DEMO, THREADS, bench, comma, document, fairway, progress, revision, spread, synth
from measuring.layer import MEAN_3, MIXED, one_round

SLICE_LAYERS = (7, 4)  # each with one dense layer; the difference is three expert layers
FULL_LAYERS = 47       # of GLM-4.7-Flash: one dense, 46 with experts
NEIGHBOUR_BAR = 3.0
FORMULA = ("per_moe_layer_ms = (ms(7 layers) - ms(4 layers)) / 3; fixed_ms = ms(7 layers) - 6 * per_moe_layer_ms; "
           "estimate_ms = fixed_ms + 46 * per_moe_layer_ms; each from the two runs of one round")


def bundled(settings, kind):
    """The bundled model as users run it, all rounds in one process."""
    extra = (["--prompt-len", 32, "--decode-tokens", 128, "--profile"] if kind == "decode"
             else ["--prompt-len", settings.prompt])
    result = bench(settings, kind, DEMO, "--threads", comma(THREADS), "--warmup", 2, "--runs", settings.rounds, *extra)
    if not settings.is_trial and result["revision"] != revision(settings):
        sys.exit("scripts/measure: the tree changed while it was measured")
    return result


def once(settings, kind, model, threads, *more):
    lengths = (["--prompt-len", 32, "--decode-tokens", settings.decode] if kind == "decode"
               else ["--prompt-len", settings.prompt])
    return bench(settings, kind, model, "--threads", comma(threads), "--warmup", 1, "--runs", 1, *lengths, *more)["results"]


def pass_ms(row, kind):
    """Milliseconds of one forward pass: of a token in decode, of the whole prompt in prefill."""
    return row["ms_per_token"]["median"] * (1 if kind == "decode" else row["tokens"])


def slice_record(kind, threads, by_layers):
    whole, short = by_layers[SLICE_LAYERS[0]], by_layers[SLICE_LAYERS[1]]
    layers = SLICE_LAYERS[0] - SLICE_LAYERS[1]
    per_layer = [(pass_ms(a, kind) - pass_ms(b, kind)) / layers for a, b in zip(whole, short)]
    fixed = [pass_ms(a, kind) - (SLICE_LAYERS[0] - 1) * each for a, each in zip(whole, per_layer)]
    full = [first + (FULL_LAYERS - 1) * each for first, each in zip(fixed, per_layer)]
    tokens = 1 if kind == "decode" else whole[0]["tokens"]
    record = {"measurement": kind, "threads": threads, "tokens_per_pass": tokens,
              "tokens_per_second": spread([row["tokens_per_second"]["median"] for row in whole]),
              "ms": {str(n): spread([pass_ms(row, kind) for row in rows]) for n, rows in by_layers.items()},
              "share_of_ceiling": statistics.median(row["share_of_ceiling"] for row in whole),
              "ceiling_gb_per_second": statistics.median(row["ceiling_gb_per_second"]["median"] for row in whole),
              "per_moe_layer_ms": spread(per_layer), "fixed_ms": spread(fixed), "estimate_ms": spread(full),
              "estimate_tokens_per_second": 1e3 * tokens / statistics.median(full)}
    if kind == "decode":
        parts = whole[0]["profile_per_token"]
        record["profile_per_token"] = {part: statistics.median(row["profile_per_token"][part] for row in whole)
                                       for part in parts}
    return record


def slices(settings):
    """Decode and prefill of the first layers of GLM-4.7-Flash at 3 bits, and from two lengths the time of all layers."""
    found = {}
    for number in range(settings.rounds):
        for layers in SLICE_LAYERS:
            model = synth(settings, "3", "3", layers=layers)
            for kind, more in (("decode", ["--profile"]), ("prefill", [])):
                progress(f"slice round {number + 1}/{settings.rounds}: {kind}, {layers} layers")
                for row in once(settings, kind, model, THREADS, *more):
                    found.setdefault((kind, row["threads"]), {}).setdefault(layers, []).append(row)
    records = [slice_record(kind, threads, by_layers) for (kind, threads), by_layers in found.items()]
    command = (f"fairway bench decode --prompt-len 32 --decode-tokens {settings.decode} --profile, and bench prefill "
               f"--prompt-len {settings.prompt}, --threads {comma(THREADS)} --warmup 1 --runs 1, on slices of "
               f"{' and '.join(map(str, SLICE_LAYERS))} layers in turn, repeated")
    return document(settings, "slice", command, geometry=settings.geometry(), formula=FORMULA, records=records)


def mixed(settings):
    """Decode of a slice whose neighbouring experts never have the same widths, with the counters that say which path ran."""
    prompt = 8
    cells = bench(settings, "decode", synth(settings, MIXED, MEAN_3), "--threads", comma(THREADS), "--warmup", 1, "--runs",
                  settings.rounds, "--prompt-len", prompt, "--decode-tokens", settings.decode)["results"]
    passes = 1 + settings.decode  # the prompt is one
    records = [{"threads": cell["threads"], "tokens_per_second": cell["tokens_per_second"],
                "share_of_ceiling": cell["share_of_ceiling"], "layers_x_passes": settings.layers * passes, **cell["counters"], "kernels": cell["kernels"]} for cell in cells]
    command = (f"fairway bench decode --model-path MODEL --threads {comma(THREADS)} --warmup 1 --runs {settings.rounds} "
               f"--prompt-len {prompt} --decode-tokens {settings.decode}")
    return document(settings, "mixed", command, geometry=settings.geometry(), layers=settings.layers, bits=MIXED, records=records)


@contextlib.contextmanager
def two_processors():
    """Keeps this process and those it starts on two processors meanwhile."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        sys.exit("scripts/measure: neighbour needs two processors, this process may use one")
    pair = sorted(before)[:2]
    os.sched_setaffinity(0, pair)
    try:
        yield pair
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def busy_processor(processor):
    """A process that takes this processor as far as the scheduler gives it: an endless loop of ordinary priority."""
    loop = subprocess.Popen(["taskset", "-c", str(processor), sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def neighbour(settings):
    """Two threads on two processors, alone and while an endless loop is pinned to the second one."""
    glm = synth(settings, "3", "3")
    cases = {"bundled model, decode": lambda: pass_ms(once(settings, "decode", DEMO, [2])[0], "decode"),
             "slice of 7 layers, decode": lambda: pass_ms(once(settings, "decode", glm, [2])[0], "decode"),
             "expert block, 1 token": lambda: one_round(settings, glm, [1], [2])[0]["ms_per_layer"]["median"]}
    alone, beside = {name: [] for name in cases}, {name: [] for name in cases}
    with two_processors() as (_, second):
        for number in range(settings.rounds):
            for name, measure in cases.items():
                progress(f"neighbour round {number + 1}/{settings.rounds}: {name}")
                alone[name].append(measure())
                with busy_processor(second):
                    beside[name].append(measure())
    records = [{"measurement": name, "threads": 2, "alone_ms": spread(alone[name]), "beside_a_loop_ms": spread(beside[name]),
                "slowdown": spread([b / a for a, b in zip(alone[name], beside[name])]), "bar": NEIGHBOUR_BAR}
               for name in cases]
    return document(settings, "neighbour", "fairway bench decode and bench moe --threads 2, in turn without and beside "
                    f"`taskset -c {second} python3 -c 'while True: pass'`", records=records)


def memory(settings):
    """Peak memory and load time of whole runs, and of a process that opens no model."""
    records = []
    cases = [(DEMO, 120), (DEMO, 1000), (synth(settings, "3", "3"), 32)]
    for directory, tokens in cases:
        facts = fairway("inspect", "--model", directory)["memory"]
        runs = [fairway("run", "--model", directory, "--prompt", "It was a dark and stormy night, and", "--max-tokens",
                        tokens, "--ignore-eos") for _ in range(settings.rounds)]
        length = runs[0]["prompt_tokens"] + tokens
        cache = facts["kv_cache_bytes_per_1000_tokens"] * length / 1000
        allowed = (facts["file_bytes"] + cache) * 1.15
        name = f"{DEMO}" if directory == DEMO else f"{settings.name()}, {settings.layers} layers, 3 bits"
        records.append({"model": name, "tokens": length, "file_bytes": facts["file_bytes"], "cache_bytes": cache,
                        "file_plus_cache_plus_15_percent_bytes": allowed,
                        "peak_memory_bytes": spread([run["peak_memory_bytes"] for run in runs]),
                        "program_memory_bytes": spread([run["program_memory_bytes"] for run in runs]),
                        "load_seconds": spread([run["load_seconds"] for run in runs])})
    return document(settings, "memory", "fairway run --model MODEL --max-tokens N --ignore-eos --json, repeated",
                    records=records)
