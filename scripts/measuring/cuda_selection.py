"""How far from the fastest path of a CUDA kernel the choices of rules and tuner are (fairway bench selection --device cuda)."""

from measuring.cuda_decode import one, page_of, section_of
from measuring.markup import table
from measuring.selection import judged

SCHEMA = "fairway-cuda-selection-1"
KEYS = {"revision", "date", "gpu", "options", "models", "regret", "results"}
CHOICES = {"rules": "rules, nothing measured", "tuned": "table tuned for the model"}
# Those of the CPU.
BARS = {"rules": {"mean": 0.10}, "tuned": {"mean": 0.02, "max": 0.10}}
SHOWN_FROM = 0.05  # regret of the rules from which on a call is listed


def regret_rows(content):
    rows = []
    for choice, words in CHOICES.items():
        regret = content["regret"][choice]
        rows.append([words, "all", str(regret["calls"]), *[judged(regret[key], BARS[choice].get(key)) for key in ("mean", "max")], regret["worst"]])
        for part in ("experts", "linears"):
            rows.append([words, part, str(regret[part]["calls"]), *[judged(regret[part][key], None) for key in ("mean", "max")], regret[part]["worst"]])
    return rows


def model_rows(content):
    rows = []
    for m in content["models"]:
        shares = [c["table_us"] / c["rules_us"] - 1 for c in m["chains"]]
        best = min(range(len(shares)), key=shares.__getitem__)
        rows.append([m["model"], m["expert_bits"], f"{m['seconds']:.1f}", f"{100 * sum(shares) / len(shares):+.1f} %",
                     f"{100 * shares[best]:+.1f} % at {m['chains'][best]['rows']} rows"])
    return rows


def figures(content):
    cells = content["results"]
    lines = [f"{content['gpu']}, revision `{content['revision'][:12]}`, {content['date'][:10]}. {len(cells)} kinds of calls: "
             f"{len({c['model'] for c in cells})} geometries, {len({c['expert_bits'] for c in cells})} bit mixes, "
             f"{len({c['rows'] for c in cells})} numbers of rows, expert layers and linears; {content['options']['rounds']} rounds that choose and as many "
             "that judge. Regret of", "",
             *table(["choice", "calls", "number", "mean", "worst", "where"], regret_rows(content)), "",
             "Chains of layers with the table beside the same ones by the rules, and what choosing and judging took:", "",
             *table(["geometry", "bits of experts", "seconds", "mean time", "least time"], model_rows(content))]
    worst = sorted((c for c in cells if c["rules_regret"] >= SHOWN_FROM), key=lambda c: -c["rules_regret"])
    if worst:
        lines += ["", f"Calls where the rules lose {100 * SHOWN_FROM:g} % or more:", "",
                  *table(["geometry", "bits", "rows", "call", "rules", "fastest", "us of the fastest", "regret"],
                         [[c["model"], c["expert_bits"], str(c["rows"]), c["shape"], f"`{c['rules']}`", f"`{c['best']}`", f"{c['best_us']:.1f}",
                           f"{100 * c['rules_regret']:.1f} %"] for c in worst])]
    return lines


def found():
    return one("cuda_selection_*.json", SCHEMA, KEYS)


def page():
    return page_of(found(), figures)


def sections():
    """For results/README.md."""
    return section_of(found(), figures)
