"""How much the choices of kernels lose, cell by cell, and where one kernel overtakes another."""

import math

import numpy
from matplotlib import colors, pyplot

from plotting.base import COLOURS, GRAY, plain_ticks

NAMES = {"demo": "bundled model", "glm47": "GLM-4.7-Flash", "qwen3-30b": "Qwen3-30B-A3B"}
CHOICES = {"heuristic_regret": "rules", "tuned_regret": "tuned table", "online_regret": "learner after 20 calls"}
MOST = 10  # per cent: the darkest colour
LEAST_SAMPLES = 2  # of a kernel that is drawn
LINES = {"moe_trellis_swiglu_decode": "one token at a time", "moe_trellis_swiglu_prefill4": "prefill4",
         "moe_trellis_swiglu": "base", "moe_trellis_swiglu_large_batch": "large_batch",
         "moe_trellis_swiglu_grouped": "grouped", "mixed_bpw_kernel": "widths at run time"}


def axis_values(content, key):
    return list(dict.fromkeys(cell[key] for cell in content["results"]))


def regret_map(content):
    """A panel per geometry and choice; a square per bit mix and token count, regret in per cent."""
    geometries, mixes, tokens = (axis_values(content, key) for key in ("geometry", "mix", "tokens"))
    cells = {(c["geometry"], c["mix"], c["tokens"]): c for c in content["results"]}
    figure, panels = pyplot.subplots(len(geometries), len(CHOICES), figsize=(13, 2.7 * len(geometries)), sharex=True, sharey=True,
                                     squeeze=False, layout="constrained")
    for row, geometry in zip(panels, geometries):
        for axes, (key, words) in zip(row, CHOICES.items()):
            values = numpy.array([[100 * cells[geometry, mix, t][key] for t in tokens] for mix in mixes])
            image = axes.imshow(values, cmap="Blues", norm=colors.Normalize(0, MOST), aspect="auto")
            for (y, x), value in numpy.ndenumerate(values):
                if value >= 0.5:
                    axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=6.5,
                              color="white" if value > 0.6 * MOST else "black")
            axes.set_title(f"{NAMES.get(geometry, geometry)}: {words}, mean {values.mean():.1f} %", fontsize=9)
            axes.set_xticks(range(len(tokens)), tokens, fontsize=7)
            axes.set_yticks(range(len(mixes)), mixes, fontsize=7.5)
            axes.tick_params(length=0)
    for axes in panels[-1]:
        axes.set_xlabel("tokens")
    figure.colorbar(image, ax=panels, shrink=0.4, label="time lost against the best kernel, %", extend="max")
    return figure


def family_of(kernel):
    return kernel.split("/")[1]


def crossover(content, mix):
    """Per geometry: the best time of each family, over the best of all, by tokens."""
    geometries = axis_values(content, "geometry")
    figure, panels = pyplot.subplots(1, len(geometries), figsize=(4.2 * len(geometries), 3.7), sharey=True, squeeze=False,
                                     layout="constrained")
    for axes, geometry in zip(panels[0], geometries):
        curves = {}
        for cell in content["results"]:
            if (cell["geometry"], cell["mix"]) != (geometry, mix):
                continue
            best = {}
            for kernel in cell["measured"]:
                if len(kernel["samples_ms"]) < LEAST_SAMPLES:
                    continue
                family = family_of(kernel["kernel"])
                best[family] = min(best.get(family, math.inf), kernel["median_ms"])
            for family, time in best.items():
                curves.setdefault(family, []).append((cell["tokens"], time / cell["oracle_ms"]))
        for (family, label), colour in zip(LINES.items(), COLOURS):
            if family in curves:
                axes.plot(*zip(*curves[family]), "o-", color=colour, markersize=3.5, linewidth=1.2, label=label)
        axes.axhline(1, color=GRAY, linewidth=0.6)
        axes.set(xscale="log", ylim=(0.95, 3), title=f"{NAMES.get(geometry, geometry)}, {mix}", xlabel="tokens")
        axes.set_xticks([1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
        axes.grid(True, which="major", color="#dddddd", linewidth=0.5)
        plain_ticks(axes.xaxis)
    panels[0][0].set_ylabel("time / time of the best kernel")
    panels[0][0].legend(loc="upper left", frameon=False, fontsize=8)
    return figure
