"""results/README.md: the tables of all result files; and the pages of docs/ that quote them."""

import json

from measuring import cuda, cuda_decode, cuda_selection, documents, layer_tables, quantization, selection
from measuring.base import REPO, RESULTS, progress
from measuring.markup import judged, number, percent, table


def speed_tables(_, content):
    rows = [[str(r["threads"]), number(r["tokens_per_second"]), number(r["ms_per_token"]),
             number(r["weight_gb_per_second"]), number(r["ceiling_gb_per_second"]["median"]),
             percent(r["share_of_ceiling"])] for r in content["results"]]
    options = content["options"]
    what = (f"{options['decode_tokens']} tokens after a prompt of {options['prompt_len']}" if content["kind"] == "decode"
            else f"a prompt of {options['prompt_len']} tokens")
    lines = [f"Bundled model, {what}.", "",
             *table(["threads", "tokens/s", "ms/token", "weights, GB/s", "memory ceiling, GB/s", "share"], rows)]
    return lines + profile_table(content["results"])


def profile_table(records):
    """Where a token's time goes, of the records that have it."""
    records = [r for r in records if "profile_per_token" in r]
    if not records:
        return []
    parts = list(records[0]["profile_per_token"])
    rows = [[str(r["threads"]), *[number(r["profile_per_token"][part]) for part in parts]] for r in records]
    return ["", "Milliseconds of one token by part:", "",
            *table(["threads", *[part.removesuffix("_ms").replace("_", " ") for part in parts]], rows)]


def slice_tables(_, content):
    lengths = sorted(content["records"][0]["ms"], key=int, reverse=True)
    rows = [[r["measurement"], str(r["threads"]), str(r["tokens_per_pass"]), number(r["tokens_per_second"]),
             percent(r["share_of_ceiling"]), *[number(r["ms"][n]) for n in lengths], number(r["per_moe_layer_ms"]),
             number(r["fixed_ms"]), number(r["estimate_ms"]), f"{r['estimate_tokens_per_second']:.3g}"]
            for r in content["records"]]
    header = ["measurement", "threads", "tokens per pass", f"tokens/s, {lengths[0]} layers", "share of the memory ceiling",
              *[f"ms, {n} layers" for n in lengths], "ms per expert layer", "fixed ms", "estimate for 47 layers, ms",
              "estimate, tokens/s"]
    return ["A slice of GLM-4.7-Flash with random codes of 3 bits: the dense layer, expert layers, embedding and the whole "
            "output head.", "", f"`{content['formula']}`", "", *table(header, rows),
            *profile_table([r for r in content["records"] if r["measurement"] == "decode"])]


def mixed_tables(_, content):
    rows = [[str(r["threads"]), number(r["tokens_per_second"]), percent(r["share_of_ceiling"]), str(r["layers_x_passes"]),
             str(r["grouped_calls"]), str(r["bit_tuples"]), str(r["fallback_calls"])] for r in content["records"]]
    return [f"Decode of {content['layers']} layers of GLM-4.7-Flash with experts of {content['bits']}: one grouped call for each "
            "layer and pass. (The dense layer is one, too: its MLP is an expert that every token uses.)", "",
            *table(["threads", "tokens/s", "share of the memory ceiling", "layers x passes", "grouped calls",
                    "bit tuples in them", "fallbacks"], rows)]


def neighbour_tables(_, content):
    rows = [[r["measurement"], str(r["threads"]), number(r["alone_ms"]), number(r["beside_a_loop_ms"]), number(r["slowdown"]),
             judged(r["slowdown"]["median"], r["bar"], at_most=True)] for r in content["records"]]
    return ["Two threads on two processors, without and with an endless loop of another process on one of them.", "",
            *table(["measurement", "threads", "alone, ms", "beside the loop, ms", "slower by", "bar"], rows)]


def memory_tables(_, content):
    mega = 1e-6
    rows = [[r["model"], str(r["tokens"]), number(r["file_bytes"], mega), number(r["cache_bytes"], mega),
             number(r["file_plus_cache_plus_15_percent_bytes"], mega), number(r["peak_memory_bytes"], mega),
             number(r["program_memory_bytes"], mega),
             number((r["peak_memory_bytes"]["median"] - r["program_memory_bytes"]["median"]), mega),
             number(r["load_seconds"], 1e3)] for r in content["records"]]
    return ["Resident memory in MB. \"Program\" is what the process holds before it opens a model: code and libraries.", "",
            *table(["model", "tokens", "files", "cache", "files + cache + 15 %", "peak of the process", "program",
                    "peak without program", "load, ms"], rows)]


def compare_tables(_, content):
    rows = [[r["measurement"], str(r["threads"]), str(r["tokens"]), number(r["before_ms"]), number(r["after_ms"]),
             f"{r['ratio']:.2f}"] for r in content["records"]]
    return [f"Milliseconds of revision `{content['base'][:12]}` (before) and of this one (after), run in turn: per layer for "
            "the expert block at 3 bits, per token for the bundled model. A ratio above 1 is a gain.", "",
            *table(["measurement", "threads", "tokens", "before", "after", "ratio"], rows)]


TABLES = {"moe": layer_tables.moe_tables, "rows": layer_tables.rows_tables, "decode": speed_tables, "prefill": speed_tables,
          "slice": slice_tables, "mixed": mixed_tables, "neighbour": neighbour_tables, "memory": memory_tables,
          "selection": lambda _, content: selection.figures(content), "compare": compare_tables,
          "quantize": quantization.time_tables, "equal_bytes": quantization.decode_tables}


def described(path, content):
    machine_of_name = f" ({path.stem.split('_cpu_', 1)[1]})" if "_cpu_" in path.stem else ""
    return [f"## {path.name}", "",
            f"{content['machine']['cpu']}{machine_of_name}, revision `{content['revision'][:12]}`, "
            f"{content['date'][:10]}. Median, and smallest to largest sample in brackets.", ""]


def readme(results):
    lines = ["# Results", "",
             "Written by `scripts/measure` from the files beside it; those of GPUs come from the programs that `scripts/build-cuda` "
             "builds. Each file holds the revision, the machine, the command and the raw samples. Absolute times belong to their machine; these machines share their processor with others, so "
             "compare within one file.", ""]
    for kind, tables in TABLES.items():
        for path in sorted(results.glob(f"{kind}_cpu_*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            lines += described(path, content) + tables(path.stem, content) + [""]
    for path in sorted(results.glob("quantization_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        lines += described(path, content) + quantization.quality_tables(path.stem, content) + [""]
    if results == RESULTS:  # what was measured on a GPU is not of this machine
        lines += cuda.sections() + cuda_decode.sections() + cuda_selection.sections()
    return "\n".join(lines).rstrip("\n") + "\n"


def write_tables(results, check):
    """results/README.md and, for the committed results, the pages that quote them."""
    texts = {results / "README.md": readme(results)}
    if results == RESULTS:
        texts |= documents.pages()
    different = 0
    for path, text in texts.items():
        same = path.exists() and path.read_text(encoding="utf-8") == text
        different += not same
        if check:
            progress(f"{path.relative_to(REPO)} {'is' if same else 'is not'} what scripts/measure --tables writes")
        elif not same:
            path.write_text(text, encoding="utf-8")
            progress(f"wrote {path.relative_to(REPO)}")
    return 1 if check and different else 0
