"""How far from the best kernel the choices of rules, tuner and learner are (fairway bench selection)."""

from measuring.base import fairway
from measuring.markup import table

CHOICES = {"heuristic": "rules, nothing measured", "tuned": "tuned table, one bit mix tuned for all",
           "online": "learner, after 20 calls from nothing"}
BARS = {"heuristic": {"mean": 0.10}, "tuned": {"mean": 0.02, "max": 0.10}, "online": {"mean": 0.05}}


def measure(settings):
    short = ["--geometry", "demo", "--mix", "uniform 3", "--batch", "1,16", "--tune-seconds", 1, "--pool-mib", 16]
    return fairway("bench", "selection", "--rounds", max(4, settings.rounds), *(short if settings.is_trial else []))


def judged(value, bar):
    return f"{100 * value:.2f} %" if bar is None else f"{100 * value:.2f} % {'≤' if value <= bar else '>'} {100 * bar:g} %"


def regret_rows(content):
    rows = []
    for choice, words in CHOICES.items():
        regret = content["regret"][choice]
        rows.append([words, *[judged(regret[key], BARS[choice].get(key)) for key in ("mean", "max")], regret["worst"]])
    return rows


def spans(content, geometry):
    """(first and last tokens, kernel, mean regret) of neighbouring token counts with the same recommendation."""
    found = []
    for entry in (r for r in content["recommendations"] if r["geometry"] == geometry):
        if found and found[-1][2] == entry["kernel"]:
            found[-1][1] = entry["tokens"]
            found[-1][3].append(entry["mean_regret"])
        else:
            found.append([entry["tokens"], entry["tokens"], entry["kernel"], [entry["mean_regret"]]])
    return found


def figures(content):
    """The tables of a result file."""
    cells, decision, steady = content["results"], content["decision_ns"], content["regret"]["online_steady"]
    lines = [f"{len(cells)} kinds of calls: {len({c['geometry'] for c in cells})} geometries, {len({c['mix'] for c in cells})} bit "
             f"mixes, {len({c['tokens'] for c in cells})} token counts; {content['options']['threads']} threads, "
             f"{content['options']['rounds']} rounds. Regret of", "",
             *table(["choice", "mean", "worst", "where"], regret_rows(content)), "",
             f"While it goes on learning, with exploration, the learner takes {100 * steady['mean']:+.2f} % of the default's time on "
             f"average and {100 * steady['max']:+.2f} % at worst ({steady['worst']}; bar +3 %). A decision takes "
             f"{decision['p50']:.0f} ns (median) and {decision['p99']:.0f} ns (99 %); bars 100 ns and 1 us.", ""]
    rows = [[t["geometry"], t["mix"], f"{t['seconds']:.1f}", str(t["samples"])] for t in content["tuning"]]
    if rows:
        lines += ["Tuning:", "", *table(["geometry", "bit mix", "seconds", "samples"], rows), ""]
    rows = [[geometry, f"{first}" if first == last else f"{first} to {last}", f"`{kernel}`", f"{100 * max(regret):.1f} %"]
            for geometry in dict.fromkeys(c["geometry"] for c in cells) for first, last, kernel, regret in spans(content, geometry)]
    return lines + ["Recommended for each token count: the kernel that loses least over all bit mixes, and its mean regret (the "
                    "largest of the range).", "", *table(["geometry", "tokens", "kernel", "regret"], rows)]
