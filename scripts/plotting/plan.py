"""Widths of a bit plan as maps of layers and experts."""

from matplotlib import pyplot
from matplotlib.colors import BoundaryNorm, ListedColormap

SCHEMA = "fairway-bit-plan-1"
PROJECTIONS = ["gate_proj", "up_proj", "down_proj"]
# One sequential scale for all eight widths, so that pictures of different plans can be compared: light is narrow.
SCALE = ListedColormap([pyplot.get_cmap("YlGnBu")(0.04 + 0.94 * i / 7) for i in range(8)])
NORM = BoundaryNorm([0.5 + i for i in range(9)], 8)
DARK_FROM = 5  # bits from which figures are written in white


class BadPlan(Exception):
    """The file is no plan; the text says why."""


def read_linears(document):
    """The matrices, with every field that is used checked."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BadPlan(f"'schema' is not {SCHEMA}; a plan as JSON is expected, not as YAML")
    linears = document.get("linears")
    if not isinstance(linears, list) or not linears:
        raise BadPlan("'linears' is no list of matrices")
    for index, linear in enumerate(linears):
        for key, kind in (("layer", int), ("expert", int), ("bits", int), ("module", str), ("name", str)):
            if not isinstance(linear, dict) or not isinstance(linear.get(key), kind):
                raise BadPlan(f"linears[{index}].{key} is not of type {kind.__name__}")
        if not 1 <= linear["bits"] <= 8:
            raise BadPlan(f"linears[{index}].bits is {linear['bits']}, expected 1 to 8")
    return linears


def short(module, name):
    """'shared gate' of mlp.shared_experts and gate_proj."""
    stem = {"self_attn": "", "mlp": "dense ", "mlp.shared_experts": "shared "}.get(module, f"{module} ")
    return stem + name.replace("_proj", "")


def draw_map(axes, cells, layers, columns, title, figures):
    """`cells`: (layer, column) -> bits, by position. Empty cells stay white."""
    grid = [[cells.get((layer, column), float("nan")) for column in range(columns)] for layer in range(len(layers))]
    image = axes.imshow(grid, cmap=SCALE, norm=NORM, aspect="auto", interpolation="nearest")
    axes.set_title(title)
    step = max(1, len(layers) // 16)
    axes.set_yticks(range(0, len(layers), step), layers[::step])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if figures:
        for (layer, column), bits in cells.items():
            axes.text(column, layer, bits, ha="center", va="center", fontsize=7, color="white" if bits >= DARK_FROM else "black")
    return image


def other_panel(axes, linears, layers):
    """One column per matrix name that is no routed expert's, by layer."""
    names = list(dict.fromkeys(short(linear["module"], linear["name"]) for linear in linears))
    cells = {(layers.index(linear["layer"]), names.index(short(linear["module"], linear["name"]))): linear["bits"]
             for linear in linears}
    image = draw_map(axes, cells, layers, len(names), "attention and always-on MLPs", len(layers) <= 16)
    axes.set_xticks(range(len(names)), names, rotation=90)
    return image


def expert_panel(axes, linears, layers, projection, experts):
    cells = {(layers.index(linear["layer"]), linear["expert"]): linear["bits"] for linear in linears
             if linear["name"] == projection}
    image = draw_map(axes, cells, layers, experts, f"experts: {projection.replace('_proj', '')}", False)
    axes.set_xlabel("expert")
    return image


def title_of(document, linears):
    outside = [f"{linear['name']} {linear['bits']}" for linear in linears if linear["layer"] < 0]
    budget = document.get("budget")
    mean = budget.get("mean_bits", 0) if isinstance(budget, dict) else 0
    parts = [str(document.get("model", "")), str(document.get("method", ""))]
    parts += [f"{mean:.3f} bits per weight"] if isinstance(mean, (int, float)) and mean > 0 else []
    return ", ".join(part for part in parts + outside if part)


def widths(document):
    """The figure; BadPlan if the document is none."""
    linears = read_linears(document)
    inside = [linear for linear in linears if linear["layer"] >= 0]
    if not inside:
        raise BadPlan("no matrix of any layer")
    layers = sorted({linear["layer"] for linear in inside})
    routed = [linear for linear in inside if linear["expert"] >= 0]
    others = [linear for linear in inside if linear["expert"] < 0]
    experts = max((linear["expert"] for linear in routed), default=-1) + 1
    panels = [p for p in PROJECTIONS if any(linear["name"] == p for linear in routed)]
    ratios = ([1] if others else []) + [1] * len(panels)
    figure, axes = pyplot.subplots(1, len(ratios), figsize=(3.2 * len(ratios), max(2.6, 1.3 + 0.14 * len(layers))),
                                   sharey=True, squeeze=False, layout="constrained")
    row = list(axes[0])
    image = other_panel(row.pop(0), others, layers) if others else None
    for axis, projection in zip(row, panels):
        image = expert_panel(axis, routed, layers, projection, experts)
    axes[0][0].set_ylabel("layer")
    bar = figure.colorbar(image, ax=list(axes[0]), ticks=range(1, 9), pad=0.01)
    bar.set_label("bits per weight")
    figure.suptitle(title_of(document, linears))
    return figure
