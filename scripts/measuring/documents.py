"""The parts of pages in docs/ that come from result files: text between <!-- NAME:begin --> and <!-- NAME:end -->."""

import json
import re

from measuring import cuda, cuda_decode, cuda_selection, peer, quantization, selection
from measuring.base import REPO, RESULTS
from measuring.layer_tables import by_cell
from measuring.markup import judged, number, percent, table, token_columns

DOCS = REPO / "docs"
SHOWN = ["2", "3", "4", "6", "6,2,3", "6,3,4", "28 tuples of mean 3"]


def result(kind):
    """(path, content) of the first machine's file of a kind, or None."""
    paths = sorted(RESULTS.glob(f"{kind}_cpu_*.json"))
    return (paths[0], json.loads(paths[0].read_text(encoding="utf-8"))) if paths else None


def source(path, content):
    return f"From `results/{path.name}`, {content['machine']['cpu']}, revision `{content['revision'][:12]}`."


def layer():
    """Two threads, mul1: time, shares of the ceilings, and the peer's times in ours."""
    path, content = result("moe")
    records = [r for r in content["records"] if r["threads"] == 2 and r.get("codebook", "mul1") == "mul1"]
    tokens = sorted({r["tokens"] for r in records})
    cells = {(bits, backend): row for (bits, _, backend, _), row in by_cell(records).items() if bits in SHOWN}

    def value(record):
        int8 = record.get("share_of_int8_ceiling")
        return f"{record['ms']:.3g}, {percent(record['share_of_ceiling'])}" + (f", {percent(int8)}" if int8 is not None else "")

    rows = [[bits, backend, *[value(row[t]) for t in tokens]] for (bits, backend), row in cells.items()]
    lines = [source(path, content) + " Two threads: milliseconds of the expert block of one layer of GLM-4.7-Flash, share of the "
             "memory ceiling, share of the int8 ceiling.", "", *table(["bits", "backend", *token_columns(tokens)], rows)]
    other = peer.load("peer_in_turn", path.stem) or peer.load("peer", path.stem)
    if other is None:
        return lines
    rows = [[bits, backend, kind, *ratios]
            for bits, backend, _, kind, *ratios in peer.ratio_rows(other, peer.times_of(other), records)]
    return lines + ["", f"The time of {other['program'].split(' (')[0]} divided by ours at equal bits, and the bar where there is "
                    f"one (`results/peer_in_turn_{path.name}` says how and when it was measured; `results/README.md` what the rows "
                    "mean):", "", *table(["bits", "backend", "its type", *token_columns(tokens)], rows)]


def ratios():
    """Codebooks and mixed layers beside uniform mul1 ones."""
    path, content = result("moe")
    if "ratios" not in content:
        return ["No result file has these ratios yet."]
    own = [r for r in content["ratios"] if r["threads"] == 2]
    tokens = sorted({r["tokens"] for r in own})
    cells = {}
    for r in own:
        cells.setdefault((r["name"], r["backend"]), {})[r["tokens"]] = judged(r["ratio"]["median"], r["bar"], at_most=True)
    return [source(path, content) + " Two threads; the most that a ratio may be stands beside it.", "",
            *table(["time of", "backend", *token_columns(tokens)], [[*cell, *[row[t] for t in tokens]] for cell, row in cells.items()])]


def token():
    """Parts of a token's time, and the estimate for a whole model."""
    lines = []
    for kind, name in (("decode", "the bundled model"), ("slice", "seven layers of GLM-4.7-Flash at 3 bits")):
        found = result(kind)
        records = [r for r in found[1].get("records", found[1].get("results", [])) if "profile_per_token" in r] if found else []
        if records:
            parts = list(records[0]["profile_per_token"])
            lines += [source(*found) + f" Milliseconds of one token of {name}:", "",
                      *table(["threads", *[part.removesuffix("_ms").replace("_", " ") for part in parts]],
                             [[str(r["threads"]), *[number(r["profile_per_token"][part]) for part in parts]] for r in records]), ""]
    found = result("slice")
    if found:
        rows = [[r["measurement"], str(r["threads"]), number(r["per_moe_layer_ms"]), number(r["fixed_ms"]),
                 f"{r['estimate_tokens_per_second']:.3g}"] for r in found[1]["records"]]
        lines += [source(*found) + " What follows for all 47 layers:", "",
                  *table(["measurement", "threads", "ms per expert layer", "fixed ms", "tokens/s, estimated"], rows), ""]
    found = result("neighbour")
    if found:
        rows = [[r["measurement"], number(r["slowdown"]), judged(r["slowdown"]["median"], r["bar"], at_most=True)]
                for r in found[1]["records"]]
        lines += [source(*found) + " Two threads beside an endless loop on one of the two processors:", "",
                  *table(["measurement", "slower by", "bar"], rows), ""]
    return lines[:-1] or ["No result file has a token's parts yet."]


def choice():
    """Regret of the choices of kernels."""
    found = result("selection")
    return [source(*found), "", *selection.figures(found[1])] if found else ["No result file has these figures yet."]


def quality():
    """Divergence by rule and bits, the reference quantizer's file, and what shared input scales cost."""
    files = {path.stem.rsplit("_", 1)[1]: (path, json.loads(path.read_text(encoding="utf-8")))
             for path in sorted(RESULTS.glob("quantization_*.json"))}
    if not files:
        return ["No result file has these figures yet."]
    return quantization.quality_page(files)


def stages():
    """Where a quantization's time goes."""
    found = result("quantize")
    return [source(*found), "", *quantization.time_tables(None, found[1])] if found else ["No result file has these figures yet."]


PAGES = {"cpu-performance.md": {"layer": layer, "ratios": ratios, "token": token},
         "cuda-performance.md": {"cuda-layer": cuda.page_layer, "cuda-widths": cuda.page_widths, "cuda-profile": cuda.page_profile,
                                 "cuda-decode": cuda_decode.page_decode, "cuda-step": cuda_decode.page_step,
                                 "cuda-agreement": cuda_decode.page_agreement, "cuda-load": cuda_decode.page_load,
                                 "cuda-selection": cuda_selection.page},
         "selection.md": {"choice": choice},
         "quantization.md": {"quality": quality, "stages": stages}}


def page(path, blocks):
    text = path.read_text(encoding="utf-8")
    for name, lines in blocks.items():
        block = re.compile(rf"(<!-- {name}:begin[^>]*-->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        if not block.search(text):
            raise SystemExit(f"{path.relative_to(REPO)}: the marks of the block '{name}' are missing")
        body = "\n".join(lines()) + "\n"
        text = block.sub(lambda marks: marks.group(1) + body + marks.group(2), text)
    return text


def pages():
    """{path: the page as it should be}"""
    return {DOCS / name: page(DOCS / name, blocks) for name, blocks in PAGES.items()}
