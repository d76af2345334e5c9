"""Time of the expert layer on a GPU by number of tokens, beside the reference implementation; where a decode step's time goes."""

import json

from matplotlib import pyplot

from plotting.base import COLOURS, GRAY, RESULTS, times_by_tokens

PANELS = (("glm-4.7-flash", "3,3,3", "GLM-4.7-Flash, 3 bits"), ("qwen3-30b-a3b", "4,4,4", "Qwen3-30B-A3B, 4 bits"))


def layer_time():
    path = sorted(RESULTS.glob("cuda_moe_*.json"))[0]
    own, peer = (json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in (path.name, f"peer_{path.name}"))
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(9.0, 3.6), sharey=True)
    for axes, (model, bits, title) in zip(panels, PANELS):
        theirs = sorted((r["tokens"], r["us_per_layer"]) for r in peer["records"] if (r["model"], r["bits"]) == (model, bits))
        axes.plot(*zip(*theirs), "s:", color=GRAY, markersize=4, linewidth=1, markerfacecolor="white", label=peer["program"])
        records = [r for r in own["records"] if (r["model"], r["bits"], r["common_suh"]) == (model, bits, True)]
        chosen = sorted((r["tokens"], r["median"]) for r in records if r["default"])
        axes.plot(*zip(*chosen), "o-", color=COLOURS[0], markersize=4, linewidth=1.5, label="Fairway, default path")
        others = [(r["tokens"], r["median"]) for r in records if not r["default"]]
        axes.plot(*zip(*others), ".", color=COLOURS[1], markersize=3, label="Fairway, other paths")
        times_by_tokens(axes, f"{title}, {own['machine']['gpu']}", [tokens for tokens, _ in chosen])
    panels[0].set_ylabel("us per layer")
    figure.tight_layout()
    return figure


def step():
    """A bar for each part of the model, the longest on top."""
    paths = sorted(RESULTS.glob("cuda_step_profile_*.json"))
    if not paths:
        return None
    content = json.loads(paths[0].read_text(encoding="utf-8"))
    parts = content["parts"][::-1]
    figure, axes = pyplot.subplots(figsize=(7.5, 0.6 + 0.32 * len(parts)), layout="constrained")
    bars = axes.barh([p["part"] for p in parts], [p["sum_us"] for p in parts], color=COLOURS[0], height=0.7)
    axes.bar_label(bars, [f"{p['sum_us']:.0f} us, {p['sum_us'] / content['sum_us']:.0%}, {p['launches']} kernel{'s' if p['launches'] > 1 else ''}" for p in parts],
                   padding=4, fontsize=8, color=GRAY)
    axes.set(xlabel="us of a step, each kernel by itself", xlim=(0, 1.45 * parts[-1]["sum_us"]),
             title=f"{content['model']}, {content['bits']} bits, batch {content['rows']}, {content['machine']['gpu']}")
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure
