"""What every picture needs: matplotlib without a display, the result files, the folder of the pictures."""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update({"svg.hashsalt": "fairway", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
                            "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 130})
from matplotlib import ticker  # noqa: E402  (the back end is chosen above)

REPO = pathlib.Path(__file__).resolve().parents[2]
RESULTS = REPO / "results"
IMAGES = REPO / "docs" / "images"
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
GRAY = "#555555"


def load(kind, machine):
    path = RESULTS / f"{kind}_cpu_{machine}.json"
    if not path.exists():
        sys.exit(f"scripts/plot-performance: {path.relative_to(REPO)} does not exist; scripts/measure writes it")
    return json.loads(path.read_text(encoding="utf-8"))


def plain_ticks(axis):
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def times_by_tokens(axes, title, tokens):
    """A panel of times against these numbers of tokens, its lines drawn already."""
    axes.set(xscale="log", yscale="log", title=title, xlabel="tokens")
    axes.set_xticks(tokens)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.5)
    plain_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.legend(loc="upper left", frameon=False, fontsize=8)


def write(figure, svg, png=None):
    """To these paths; the SVG without a date, and with element ids from the salt above."""
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    if png:
        figure.savefig(png, format="png")


def save(figure, name, png):
    IMAGES.mkdir(exist_ok=True)
    write(figure, IMAGES / f"{name}.svg", pathlib.Path(png) / f"{name}.png" if png else None)
    print(f"==> wrote docs/images/{name}.svg")
