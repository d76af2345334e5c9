"""Tables of the expert block: times, shares of the ceilings, ratios to the peer and between kernel rows."""

import json

from measuring import peer
from measuring.base import GLM, REPO
from measuring.markup import judged, number, percent, table, token_columns


def what_was_measured(content):
    geometry = content["geometry"]
    return (f"Milliseconds for the expert block of one layer: hidden size {geometry['hidden_size']}, "
            f"{geometry['n_routed_experts']} experts of {geometry['moe_intermediate_size']}, "
            f"{geometry['num_experts_per_tok']} per token and 1 shared; weights come from memory.")


def by_cell(records):
    """(bits, codebook, backend, threads) -> tokens -> record."""
    cells = {}
    for r in records:
        cells.setdefault((r["bits"], r.get("codebook", "mul1"), r["backend"], r["threads"]), {})[r["tokens"]] = r
    return cells


def shares(record):
    int8 = record.get("share_of_int8_ceiling")
    return (f"{record['weight_gb_per_second']:.3g} / {record['gmac_per_second']:.3g} / {percent(record['share_of_ceiling'])}"
            + (f" / {percent(int8)}" if int8 is not None else ""))


def ceilings_line(records):
    """The ceilings of the run as ranges over its records."""
    parts = []
    for threads in sorted({r["threads"] for r in records}):
        own = [r for r in records if r["threads"] == threads]
        ranges = [(f"{min(r[key] for r in own):.3g} to {max(r[key] for r in own):.3g} {unit}") for key, unit in
                  (("ceiling_gb_per_second", "GB/s"), ("ceiling_gmac_per_second", "GMAC/s"), ("core_ghz", "GHz")) if key in own[0]]
        parts.append(f"{threads} thread{'s' if threads > 1 else ''}: {', '.join(ranges)}")
    return "Ceilings of the machine during the run, medians of the cells. " + "; ".join(parts) + "."


def moe_tables(name, content):
    records = content["records"]
    tokens = sorted({r["tokens"] for r in records})
    header = ["bits", "codebook", "backend", "threads", *token_columns(tokens)]
    cells = by_cell(records)

    def rows_with(value):
        return [[*map(str, cell), *[value(row[t]) for t in tokens]] for cell, row in cells.items()]

    lines = [what_was_measured(content), "", *table(header, rows_with(lambda r: number(r["ms_spread"]))), "",
             "Weights in GB/s (each touched expert once) / GMAC/s / share of the memory ceiling / share of the int8 ceiling "
             "of the same round:", "", *table(header, rows_with(shares)), "", ceilings_line(records)]
    lines += ratio_table(content.get("ratios", []))
    if content["geometry"] == json.loads((REPO / GLM).read_text(encoding="utf-8")):
        lines += peer.tables(name, records)
    return lines


def ratio_table(ratios):
    """Ratios of two cells of one round, with the bars they are held to."""
    if not ratios:
        return []
    tokens = sorted({r["tokens"] for r in ratios})
    cells = {}
    for r in ratios:
        cells.setdefault((r["name"], r["backend"], r["threads"]), {})[r["tokens"]] = r
    rows = [[name, backend, str(threads), *[judged(row[t]["ratio"]["median"], row[t]["bar"], at_most=True) for t in tokens]]
            for (name, backend, threads), row in cells.items()]
    return ["", "Ratios of times in one round, medians, and the most that they may be:", "",
            *table(["time of", "backend", "threads", *token_columns(tokens)], rows)]


def rows_tables(_, content):
    tokens = sorted({r["tokens"] for r in content["records"]})
    cells = {}
    for r in content["records"]:
        cells.setdefault((r["bits"], r["row"], r["activations"]), {})[r["tokens"]] = r

    def value(record):
        if record is None:
            return ""
        ratio = record.get("generic_to_this")
        return number(record["ms_spread"]) + (f", {ratio['median']:.2f}" if ratio else "")

    rows = [[*cell, *[value(row.get(t)) for t in tokens]] for cell, row in cells.items()]
    threads = content["records"][0]["threads"]
    return [what_was_measured(content) + f" Each row of the registry was forced in turn, with {threads} threads. After the "
            "comma: time of `mixed_bpw_kernel` divided by the time of this row, median of the rounds.", "",
            *table(["bits", "row", "activations", *token_columns(tokens)], rows)]
