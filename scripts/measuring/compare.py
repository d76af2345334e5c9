"""This revision and another one, in turn."""

import statistics
import subprocess

from measuring.base import DEMO, PROGRAM, REPO, THREADS, bench, comma, document, git, progress, spread, synth
from measuring.layer import MEAN_3, MIXED

MIXED_TOKENS = (1, 4, 16)


def built(commit):
    """The program of another revision, built in a worktree of its own."""
    tree = REPO / "build" / "measure" / f"revision-{commit[:12]}"
    if not tree.exists():
        git("worktree", "add", "--detach", tree, commit)
    subprocess.run(["cmake", "-S", tree, "--preset", "release", "-DFAIRWAY_TESTS=OFF"], check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", tree / "build" / "release", "--target", "fairway"], check=True,
                   stdout=subprocess.DEVNULL)
    return tree / "build" / "release" / "fairway"


def run_all(settings, program):
    """One round of every measurement with one program."""
    common = ["--threads", comma(THREADS), "--warmup", 1]
    return {"moe": bench(settings, "moe", synth(settings, "3", "3"), *common, "--runs", 1, "--batch", comma(settings.tokens),
                         program=program),
            "moe mixed": bench(settings, "moe", synth(settings, MIXED, MEAN_3), *common, "--runs", 1, "--batch", comma(MIXED_TOKENS),
                               program=program),
            "decode": bench(settings, "decode", DEMO, *common, "--runs", 3, "--decode-tokens", 128, program=program),
            "prefill": bench(settings, "prefill", DEMO, *common, "--runs", 3, program=program)}


def against(settings, base):
    """The expert block at 3 bits and of mixed widths, and the bundled model, with the program of `base` and ours in turn."""
    programs = {"before": built(base), "after": PROGRAM}
    samples = {}
    for number in range(settings.rounds):
        for side, program in programs.items():
            progress(f"round {number + 1}/{settings.rounds}: {side}")
            for kind, result in run_all(settings, program).items():
                for row in result["results"]:
                    expert_block = kind.startswith("moe")
                    key = (kind, row["threads"], row["batch" if expert_block else "tokens"])
                    time = row["ms_per_layer" if expert_block else "ms_per_token"]["median"]
                    samples.setdefault(key, {}).setdefault(side, []).append(time)
    records = [{"measurement": kind, "threads": threads, "tokens": tokens, "before_ms": spread(sides["before"]),
                "after_ms": spread(sides["after"]),
                "ratio": statistics.median(sides["before"]) / statistics.median(sides["after"])}
               for (kind, threads, tokens), sides in samples.items()]
    return document(settings, "compare", "fairway bench moe, decode and prefill of both revisions in turn", base=base,
                    records=records)
