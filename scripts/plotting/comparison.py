"""Curves of `fairway compare`: error by layer, and divergence against size with a line for each series of models."""

import fnmatch

from matplotlib import pyplot, ticker

from plotting.base import COLOURS, plain_ticks

MARKERS = "osD^vP"
SIZES = {"bytes": ("size of the files, MB", lambda size: size["file_bytes"] / 1e6),
         "bits": ("bits per weight of the coded matrices, scale vectors included",
                  lambda size: size["coded"]["bits_per_weight_with_sides"] if size["coded"] else None)}


def style(index):
    """Colour and marker; both repeat, but not together."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[(index // len(COLOURS) + index) % len(MARKERS)]}


def candidates_of(results):
    return [candidate for content in results.values() for candidate in content["candidates"]]


def series_of(results, patterns):
    """Name -> models. With patterns (name -> globs of model names, joined by |) across all files, else a series for each file."""
    if not patterns:
        return {name: content["candidates"] for name, content in results.items()}
    return {name: [c for c in candidates_of(results) if any(fnmatch.fnmatchcase(c["name"], glob) for glob in globs.split("|"))]
            for name, globs in patterns.items()}


def layer_error(results):
    """Relative error of the hidden state after each layer, a curve for each model; None if no file has any."""
    models = [c for c in candidates_of(results) if c["layer_error"]]
    if not models:
        return None
    figure, axes = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    for index, model in enumerate(models):
        axes.plot(range(len(model["layer_error"])), model["layer_error"], markersize=3.5, linewidth=1.2, label=model["name"],
                  **style(index))
    axes.set(xlabel="layer", ylabel="RMS of the difference / RMS of the reference", ylim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(True, color="#dddddd", linewidth=0.5)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def divergence(results, patterns, against):
    """Mean divergence against size, with the standard error; None if no model of any series has both."""
    label, size_of = SIZES[against]
    figure, axes = pyplot.subplots(figsize=(6.5, 4.2), layout="constrained")
    drawn = []
    for index, (name, models) in enumerate(series_of(results, patterns).items()):
        points = sorted((size_of(m["size"]), m["divergence"]["mean"], m["divergence"]["standard_error"] or 0)
                        for m in models if m["divergence"] and size_of(m["size"]) is not None)
        if not points:
            continue
        x, y, error = zip(*points)
        drawn += y
        axes.errorbar(x, y, yerr=error, markersize=4.5, linewidth=1.2, capsize=2, label=name, **style(index))
    if not drawn:
        pyplot.close(figure)
        return None
    axes.set(xlabel=label, ylabel="KL divergence from the reference, nats per token")
    low, high = min(drawn), max(drawn)
    if low > 0 and high > 2 * low:  # over less than that a logarithmic axis has hardly a number on it
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
        plain_ticks(axes.yaxis)
    axes.grid(True, color="#dddddd", linewidth=0.5)
    axes.legend(frameon=False, fontsize=8)
    return figure
