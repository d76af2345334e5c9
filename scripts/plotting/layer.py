"""Roofline and time of the expert block of one layer."""

import math
import statistics

from matplotlib import pyplot

from plotting.base import COLOURS, GRAY, plain_ticks, times_by_tokens

WIDTHS = dict(zip(("2", "3", "4", "6"), COLOURS))
PEER_TYPES = {"2": ["IQ2_KT", "IQ2_K"], "3": ["IQ3_KT", "IQ3_KS"], "4": ["IQ4_KT", "IQ4_KS", "Q4_K_R4"]}


def series(records, bits, threads, backend="auto"):
    """The records of one width by token count; mul1 only."""
    chosen = [r for r in records if (r["bits"], r["threads"], r["backend"]) == (bits, threads, backend)
              and r.get("codebook", "mul1") == "mul1"]
    return sorted(chosen, key=lambda r: r["tokens"])


def middle(records, threads, key):
    values = [r[key] for r in records if r["threads"] == threads and key in r]
    return statistics.median(values) if values else None


def draw_ceilings(axes, records, threads, low, high):
    memory, int8 = (middle(records, threads, key) for key in ("ceiling_gb_per_second", "ceiling_gmac_per_second"))
    knee = int8 / memory if int8 else high
    axes.plot([low, min(high, knee)], [memory * low, memory * min(high, knee)], color=GRAY, linewidth=1.2)
    if int8:
        axes.plot([knee, high], [int8, int8], color=GRAY, linewidth=1.2)
        axes.annotate(f"int8 products, {int8:.3g} GMAC/s", (high, int8), xytext=(0, 4), textcoords="offset points", color=GRAY,
                      ha="right")


def label_slope(axes, records, threads, low):
    """Along the memory ceiling; the slope on paper is known when the figure has its layout."""
    memory = middle(records, threads, "ceiling_gb_per_second")
    (x0, y0), (x1, y1) = axes.transData.transform([(low, memory * low), (10 * low, memory * 10 * low)])
    axes.annotate(f"memory, {memory:.3g} GB/s", (1.3 * low, memory * 1.3 * low), xytext=(-3, 5), textcoords="offset points",
                  color=GRAY, rotation=math.degrees(math.atan2(y1 - y0, x1 - x0)), rotation_mode="anchor")


def roofline(content):
    records = content["records"]
    threads = sorted({r["threads"] for r in records})
    figure, panels = pyplot.subplots(1, len(threads), figsize=(4.9 * len(threads), 4.2), sharey=True, squeeze=False)
    intensity = {id(r): r["gmac_per_second"] / r["weight_gb_per_second"] for r in records}
    low, high = 1.0, 2 * max(intensity.values())
    for axes, n in zip(panels[0], threads):
        draw_ceilings(axes, records, n, low, high)
        for bits, colour in WIDTHS.items():
            own = series(records, bits, n)
            if own:
                axes.plot([intensity[id(r)] for r in own], [r["gmac_per_second"] for r in own], "o-", color=colour, markersize=4,
                          linewidth=0.8, label=f"{bits} bits")
        for r in series(records, "3", n):
            axes.annotate(f"{r['tokens']}", (intensity[id(r)], r["gmac_per_second"]), xytext=(4, -10),
                          textcoords="offset points", color=WIDTHS["3"], fontsize=8)
        axes.set(xscale="log", yscale="log", xlim=(low, high), title=f"{n} thread{'s' if n > 1 else ''}",
                 xlabel="multiply-adds per byte of weights")
        axes.grid(True, which="major", color="#dddddd", linewidth=0.5)
        plain_ticks(axes.xaxis)
        plain_ticks(axes.yaxis)
    panels[0][0].set_ylabel("GMAC/s")
    panels[0][-1].legend(loc="lower right", frameon=False, title="numbers: tokens, 3 bits")
    figure.tight_layout()
    for axes, n in zip(panels[0], threads):
        label_slope(axes, records, n, low)
    return figure


def layer_time(content, peer):
    records = content["records"]
    threads = max(r["threads"] for r in records)
    figure, panels = pyplot.subplots(1, len(PEER_TYPES), figsize=(10.5, 4.0), sharey=True)
    for axes, (bits, types) in zip(panels, PEER_TYPES.items()):
        for style, kind in zip(("s:", "^:", "v:"), types):
            row = sorted((r["tokens"], r["ms"]) for r in peer["records"] if (r["type"], r["threads"]) == (kind, threads))
            axes.plot(*zip(*row), style, color=GRAY if kind.endswith("_KT") else "black", markersize=4, linewidth=1,
                      markerfacecolor="white", label=kind)
        for backend, line, label in (("auto", "o-", "Fairway"), ("cpu_avx2", "o--", "Fairway, AVX2 only")):
            own = series(records, bits, threads, backend)
            if own:
                axes.plot([r["tokens"] for r in own], [r["ms"] for r in own], line, color=WIDTHS[bits], markersize=4,
                          linewidth=1.5 if backend == "auto" else 1, label=label)
        times_by_tokens(axes, f"{bits} bits, {threads} threads", sorted({r["tokens"] for r in records}))
    panels[0].set_ylabel("ms per expert block")
    figure.tight_layout()
    return figure
