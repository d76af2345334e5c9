"""The expert block beside the peer's tables at equal bits: its trellis type and its fastest type of any kind."""

import json
import re

from measuring.base import RESULTS
from measuring.markup import judged, percent, table, token_columns

TRELLIS = {"2": "IQ2_KT", "3": "IQ3_KT", "4": "IQ4_KT"}
SHOWN = ["IQ2_KT", "IQ2_K", "IQ3_KT", "IQ3_KS", "IQ4_KT", "Q4_K_R4", "IQ4_KS"]
WEIGHTS_PER_EXPERT = 3 * 2048 * 1536
EXPERTS_PER_TOKEN = 5  # four routed and the shared one


def trellis_bar(backend, tokens):
    """What the time of the peer's trellis type must be, at least, in times of ours."""
    if backend == "cpu_avx2":
        return 1.0
    return 2.0 if tokens == 1 else None


def fastest_bar(backend, tokens):
    if backend == "cpu_avx2":
        return None
    return 1.0 if tokens == 1 else 1.2 if tokens <= 64 else 1.8


def load(kind, name):
    path = RESULTS / f"{kind}_{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def times_of(content):
    """(type, bits per weight, threads) -> tokens -> ms"""
    times = {}
    for r in content["records"]:
        times.setdefault((r["type"], r["bits_per_weight"], r["threads"]), {})[r["tokens"]] = r["ms"]
    return times


def fastest(times, bits, threads, tokens):
    """(ms, type, bits per weight) of the fastest type whose name has this width."""
    own = [(row[tokens], kind, width) for (kind, width, n), row in times.items()
           if n == threads and tokens in row and re.match(rf"I?Q{bits}_", kind)]
    return min(own)


def middle(content, key, threads):
    low, high = content["ceilings"][key][str(threads)]
    return (low + high) / 2


def ratio_rows(content, times, records):
    """One row per width, back end, thread count and opponent: its time divided by ours."""
    tokens = sorted({r["tokens"] for r in records})
    cells = {}
    for r in records:
        if r["bits"] in TRELLIS and r.get("codebook", "mul1") == "mul1":
            cells.setdefault((r["bits"], r["backend"], r["threads"]), {})[r["tokens"]] = r
    for (bits, backend, threads), ours in cells.items():
        trellis = next(row for (kind, _, n), row in times.items() if kind == TRELLIS[bits] and n == threads)
        yield [bits, backend, str(threads), TRELLIS[bits],
               *[judged(trellis[t] / ours[t]["ms"], trellis_bar(backend, t)) for t in tokens]]
        best = {t: fastest(times, bits, threads, t) for t in tokens}
        yield [bits, backend, str(threads), "its fastest",
               *[f"{judged(best[t][0] / ours[t]['ms'], fastest_bar(backend, t))} ({best[t][1]})" for t in tokens]]
        if "ceiling_gmac_per_second" in ours[tokens[0]] and "ceilings" in content:
            ceiling = middle(content, "int8_gmac_per_second", threads)
            yield [bits, backend, str(threads), "its fastest, scaled",
                   *[f"{best[t][0] / ours[t]['ms'] * ceiling / ours[t]['ceiling_gmac_per_second']:.2f}" for t in tokens]]


def shares(content, times, records):
    """Shares of the memory and int8 ceilings of the own run: ours, then those of the peer's fastest type."""
    for r in records:
        if r["bits"] not in TRELLIS or r["backend"] != "auto" or r.get("codebook") != "mul1":
            continue
        ms, kind, width = fastest(times, r["bits"], r["threads"], r["tokens"])
        giga_weights_per_second = WEIGHTS_PER_EXPERT / ms / 1e6
        read = (r["experts_touched"] * giga_weights_per_second * width / 8
                / middle(content, "memory_read_gb_per_second", r["threads"]))
        multiplied = (r["tokens"] * EXPERTS_PER_TOKEN * giga_weights_per_second
                      / middle(content, "int8_gmac_per_second", r["threads"]))
        yield (r["bits"], r["threads"], r["tokens"],
               f"{percent(r['share_of_ceiling'])}, {percent(r['share_of_int8_ceiling'])}; "
               f"{kind} {percent(read)}, {percent(multiplied)}")


def share_table(content, times, records):
    cells = {}
    for bits, threads, tokens, text in shares(content, times, records):
        cells.setdefault((bits, threads), {})[tokens] = text
    if not cells:
        return []
    tokens = sorted({t for row in cells.values() for t in row})
    rows = [[bits, str(threads), *[row[t] for t in tokens]] for (bits, threads), row in cells.items()]
    return ["", "Shares of the memory and of the int8 ceiling, each of its own run: ours; those of the peer's fastest type.", "",
            *table(["bits", "threads", *token_columns(tokens)], rows)]


def tables_of(content, records):
    times = times_of(content)
    tokens = sorted({r["tokens"] for r in records})
    header = token_columns(tokens)
    shown = [[f"{kind} ({bits} bits)", str(threads), *[f"{row[t]:.3g}" if t in row else "" for t in tokens]]
             for (kind, bits, threads), row in times.items() if kind in SHOWN]
    scaled = (" \"Scaled\" multiplies by the int8 ceiling of the peer's run and divides by ours, because a multiply rate follows "
              "the clock of the day." if "ceilings" in content else "")
    lines = ["", f"For comparison, {content['program']}, milliseconds. {content['machine']}; {content['method']}", "",
             *table(["type", "threads", *header], shown), "",
             "Its time divided by ours at equal bits (above 1: ours is faster), and the bar where there is one. \"Its fastest\" is "
             f"the fastest of all its types of that width, trellis or not, at that number of tokens.{scaled}", "",
             *table(["bits", "backend", "threads", "type", *header], ratio_rows(content, times, records))]
    return lines + (share_table(content, times, records) if "ceilings" in content else [])


def tables(name, records):
    """Beside the peer on another day (`peer_NAME`), and in turn with our rounds (`peer_in_turn_NAME`)."""
    contents = [load(kind, name) for kind in ("peer_in_turn", "peer")]
    return [line for content in contents if content is not None for line in tables_of(content, records)]
