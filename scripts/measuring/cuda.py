"""The expert layer on a CUDA GPU: times beside the reference implementation's, floors and bars; outcomes of the tests."""

import json

from measuring.base import RESULTS
from measuring.markup import table

# What one call has to do at least, of the layer geometries measured: weights an expert has, routed experts, slots of a token.
GEOMETRY = {"glm-4.7-flash": (3 * 2048 * 1536, 64, 4, 1), "qwen3-30b-a3b": (3 * 2048 * 768, 128, 8, 0)}
# Microseconds that one layer of GLM-4.7-Flash may take at 3 bits: the bar and the aim.
BARS = {1: (20, 12), 32: (200, 140), 1024: (450, 300)}


def reference(path):
    """(model, bits) -> tokens -> microseconds of the reference implementation on the same kind of GPU, and the whole file."""
    content = json.loads((RESULTS / f"peer_{path.stem}.json").read_text(encoding="utf-8"))
    times = {}
    for r in content["records"]:
        times.setdefault((r["model"], r["bits"]), {})[r["tokens"]] = r["us_per_layer"]
    return times, content


def default_times(content, model, bits, common_suh=True):
    """tokens -> record of the path that is the default"""
    return {r["tokens"]: r for r in content["records"]
            if (r["model"], r["bits"], r["common_suh"], r["default"]) == (model, bits, common_suh, True)}


def best_times(content, model, bits):
    """tokens -> record of the fastest path"""
    best = {}
    for r in content["records"]:
        if (r["model"], r["bits"], r["common_suh"]) == (model, bits, True):
            best[r["tokens"]] = min(best.get(r["tokens"], r), r, key=lambda one: one["median"])
    return best


def read_us(read_bytes, ceilings):
    """Cold reads of few megabytes as measured, between them along a line; more at the streaming rate, after what the largest of
    them takes on top of it."""
    points = sorted((float(mb), us) for mb, us in ceilings["cold_read_us_by_megabytes"].items())
    mb, rate = read_bytes * 1e-6, ceilings["read_bytes_per_second"] * 1e-12
    for (low, low_us), (high, high_us) in zip(points, points[1:]):
        if mb <= high:
            return low_us + (mb - low) * (high_us - low_us) / (high - low)
    return points[-1][1] + (mb - points[-1][0]) / rate


def floor(model, bits, tokens, ceilings):
    """(decode, read, multiply) in microseconds: every expert that uniform routing hits on average, decoded and read once; the
    decode of up to 8 tokens by the byte path, of more by the path to half precision; matrix work at the assumed rate."""
    weights, routed, top_k, shared = GEOMETRY[model]
    hit = routed * (1 - (1 - top_k / routed) ** tokens) + shared
    rate = ceilings["mul1_int8_weights_per_second" if tokens <= 8 else "mul1_half_weights_per_second"]
    mean_bits = sum(map(int, bits.split(","))) / 3
    return (hit * weights / rate * 1e6, read_us(hit * weights * mean_bits / 8, ceilings),
            2 * weights * (top_k + shared) * tokens / ceilings["half_matrix_flops_per_second_assumed"] * 1e6)


def spread(record):
    samples = record["samples"]
    return f"{record['median']:.1f} ({samples[0]:.1f}–{samples[-1]:.1f})"


def beside(content, peer_times, ceilings, model, bits):
    """One row a number of tokens: default path, fastest path, the reference, ratio, floors."""
    theirs, best = peer_times[model, bits], best_times(content, model, bits)
    rows = []
    for tokens, own in sorted(default_times(content, model, bits).items()):
        fastest = best[tokens]
        other = "the same" if fastest is own else f"`{fastest['path']}` {fastest['median']:.1f}"
        peer_us = theirs.get(tokens)
        bar = BARS.get(tokens) if model == "glm-4.7-flash" else None
        rows.append([str(tokens), f"`{own['path']}`", spread(own), other,
                     f"{peer_us:g}" if peer_us else "–", f"{peer_us / own['median']:.2f}" if peer_us else "–",
                     " / ".join(f"{part:.3g}" for part in floor(model, bits, tokens, ceilings)),
                     f"{own['median']:.1f} {'≤' if own['median'] <= bar[0] else '>'} {bar[0]} ({bar[1]})" if bar else "–"])
    header = ["tokens", "default path", "us per layer", "fastest path", "reference, us", "reference / ours",
              "floor: decode / read / multiply, us", "bar (aim), us"]
    return table(header, rows)


def main_tables(path, content):
    times, peer = reference(path)
    lines = []
    for model, bits in (("glm-4.7-flash", "3,3,3"), ("qwen3-30b-a3b", "4,4,4")):
        lines += [f"{model}, {bits.split(',')[0]} bits, mul1, gate and up of a layer with common input scales; the reference is "
                  f"{peer['program']}, {peer['date']}:", "",
                  *beside(content, times, peer["ceilings"], model, bits), ""]
    return lines[:-1]


def other_widths(content):
    """The default path on layers of other widths, and without common input scales."""
    kinds = []
    for r in content["records"]:
        kind = (r["model"], r["bits"], r["common_suh"])
        if kind not in kinds:
            kinds.append(kind)
    tokens = sorted({r["tokens"] for r in content["records"] if r["model"] == "glm-4.7-flash" and r["bits"] == "6,2,3"})
    rows = []
    for kind in kinds:
        own = default_times(content, *kind)
        rows.append([kind[0], kind[1], "common" if kind[2] else "of each expert", *[f"{own[t]['median']:.1f}" for t in tokens]])
    return table(["model", "bits of gate, up, down", "input scales", *[f"{t} tokens, us" if t > 1 else "1 token, us" for t in tokens]],
                 rows)


def all_paths(content, model, bits):
    own = [r for r in content["records"] if (r["model"], r["bits"], r["common_suh"]) == (model, bits, True)]
    paths = list(dict.fromkeys(r["path"] for r in own))
    cells = {(r["tokens"], r["path"]): r["median"] for r in own}
    return table(["tokens", *[f"`{p}`" for p in paths]],
                 [[str(t), *[f"{cells[t, p]:.1f}" if (t, p) in cells else "" for p in paths]]
                  for t in sorted({r["tokens"] for r in own})])


def machine_line(content):
    m = content["machine"]
    return f"{m['gpu']}, driver {m['driver']}, CUDA {m['cuda']}"


def results_tables(path, content):
    return [f"{machine_line(content)}, revision `{content['revision'][:12]}`, {content['date']}. Microseconds per layer of "
            f"{content['layers']} layers in turn, one recorded graph; median, and smallest to largest sample in brackets. Copy rate in "
            f"the same run: {content['copy_bytes_per_second'] * 1e-12:.2f} TB/s read and written.", "", *main_tables(path, content), "",
            "Other widths, default path:", "", *other_widths(content), "", "Every path, glm-4.7-flash at 3 bits:", "",
            *all_paths(content, "glm-4.7-flash", "3,3,3"), "", "Every path, qwen3-30b-a3b at 4 bits:", "",
            *all_paths(content, "qwen3-30b-a3b", "4,4,4")]


def tests_tables(content):
    rows = [[run["what"], f"`{run['revision'][:12]}`", f"`{run['command']}`",
             f"{run['passed']} passed, {run['failed']} failed" if "passed" in run else f"{run['errors']} errors"]
            for run in content["runs"]]
    return [f"{machine_line(content)}, {content['date']}. {content['note']}", "",
            *table(["what ran", "revision", "command", "outcome"], rows)]


def sections():
    """For results/README.md: every file of a GPU."""
    lines = []
    for path in sorted(RESULTS.glob("cuda_moe_*.json")):
        lines += [f"## {path.name}", "", *results_tables(path, json.loads(path.read_text(encoding="utf-8"))), ""]
    for path in sorted(RESULTS.glob("cuda_profile_*.json")):
        lines += [f"## {path.name}", "", *profile_tables(json.loads(path.read_text(encoding="utf-8"))), ""]
    for path in sorted(RESULTS.glob("cuda_tests_*.json")):
        lines += [f"## {path.name}", "", *tests_tables(json.loads(path.read_text(encoding="utf-8"))), ""]
    return lines


def newest():
    path = sorted(RESULTS.glob("cuda_moe_*.json"))[0]
    return path, json.loads(path.read_text(encoding="utf-8"))


def page_source(path, content):
    return f"From `results/{path.name}` and `results/peer_{path.name}`; {machine_line(content)}, revision `{content['revision'][:12]}`."


def page_layer():
    path, content = newest()
    return [page_source(path, content), "", *main_tables(path, content)]


def page_widths():
    path, content = newest()
    return [f"From `results/{path.name}`, default paths.", "", *other_widths(content)]


def profile_tables(content):
    rows = [[str(r["tokens"]), f"`{r['path']}`", r["phase"], f"{r['duration_us']:.1f}", f"{r['memory_gb_per_second']:.0f}",
             f"{r['dram_percent_of_peak']:.0f}%", f"{r['issue_slots_busy_percent']:.0f}%",
             f"{r['cycles_without_eligible_warp_percent']:.0f}%", f"{r['active_warps_per_sm']:.1f}", str(r["registers_per_thread"])]
            for r in content["records"]]
    compiled = [[f"`{k['kernel']}`", str(k["registers"]), str(k["spill_store_bytes"]), str(k["spill_load_bytes"])]
                for k in content["compiled"]["kernels"]]
    return [f"{machine_line(content)}, revision `{content['revision'][:12]}`, {content['date']}. {content['method']}", "",
            *table(["tokens", "path", "launch", "us", "memory, GB/s", "of its peak", "issue slots busy", "cycles without a ready warp",
                    "warps on an SM", "registers"], rows), "",
            f"{content['compiled']['method']}:", "",
            *table(["kernel", "registers", "stored", "loaded"], compiled)]


def page_profile():
    path = sorted(RESULTS.glob("cuda_profile_*.json"))[0]
    return [f"From `results/{path.name}`.", "", *profile_tables(json.loads(path.read_text(encoding="utf-8")))]
