#!/usr/bin/env python3
"""How near a CUDA device comes to the fp32 path of the CPU on the bundled model, into a result file:

  scripts/measuring/agreement.py FAIRWAY OUT.json [--device cuda] [--text FILE] [--window N] [--windows N]

Log-probabilities of windows of a text with either type of cache, all of them and those of tokens at which no router of the CPU is near
a tie (--routing-margins in docs/commands.md), since rounding decides those; and greedy continuations of four prompts: where one
differs, how much likelier the first of the two likeliest tokens is there, on both sides, and the routing margin of the place. Needs
nothing but Python 3 and the program.
"""

import argparse
import datetime
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

REPO = pathlib.Path(__file__).resolve().parents[2]
MODEL = "models/books-moe"
# Those of the reference outputs that the bundled model is tested with.
PROMPTS = ["It was a dark and stormy night, and", "\"My dear Watson,\" said Holmes,",
           "The captain looked out over the sea, and saw that the year 1851 wasn't 12,345 days old;\n\nCHAPTER II\n",
           "Ünïcode — “quotes”, tabs\t and   spaces 東京 🙂"]
NEW_TOKENS = 32
CPU = ["--activations", "fp32"]
# Bars: a window's mean log-probability, prompts with the same text. Texts part at a near-tie where the likeliest token is so little
# ahead (natural logarithms), or where the routing margin is less than the errors of routers' inputs with this type of cache.
WINDOW_BAR, PROMPTS_BAR, NEAR_TIE = 0.01, 3, 0.05
ROUTING_NEAR_TIE = {"f16": 0.005, "fp8": 0.05}


def fairway(program, *arguments):
    done = subprocess.run([program, *map(str, arguments), "--json"], cwd=REPO, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"fairway {' '.join(map(str, arguments))}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def windows_of(program, options, *more):
    """A list of windows with `logprobs` and, if asked for, `routing_margins`, of each token."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "logprobs.json"
        fairway(program, "eval", "--model", MODEL, "--text", options.text, "--window", options.window, "--windows",
                options.windows, "--logprobs", path, *more)
        content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, list) else [content]


def spread(apart):
    ordered = sorted(apart)
    return {"tokens": len(apart), "mean": statistics.fmean(apart), "median": statistics.median(apart),
            "percentile_99": ordered[len(ordered) * 99 // 100], "largest": ordered[-1]}


def compare_windows(cpu, device, near_tie):
    apart, margins = [], []
    for ours, theirs in zip(cpu, device):
        apart += [abs(a - b) for a, b in zip(ours["logprobs"], theirs["logprobs"])]
        margins += [float("inf") if margin is None else margin for margin in ours["routing_margins"]]
    means = [statistics.fmean(theirs["logprobs"]) - statistics.fmean(ours["logprobs"]) for ours, theirs in zip(cpu, device)]
    order = sorted(range(len(apart)), key=lambda i: -apart[i])
    length = len(cpu[0]["logprobs"])
    return {**spread(apart), "window_means": means, "within_bar": max(map(abs, means)) <= WINDOW_BAR,
            "routing_near_tie": near_tie, "far_from_ties": spread([a for a, m in zip(apart, margins) if m >= near_tie]),
            "largest_at": [{"window": i // length, "token": i % length, "difference": apart[i],
                            "routing_margin": margins[i] if margins[i] < float("inf") else None}
                           for i in order[:5]]}


def continued(program, prompt, *more):
    return fairway(program, "run", "--model", MODEL, "--prompt", prompt, "--max-tokens", NEW_TOKENS, "--ignore-eos", *more)


def side(run, at):
    """The two likeliest tokens at a place."""
    (first, first_logprob), (second, second_logprob) = run["top_logprobs"][at]
    return {"likeliest": [first, second], "margin": first_logprob - second_logprob}


def compare_prompt(program, prompt, device):
    """The device's own greedy choice, and what its logits say at the place where it parts from the CPU's."""
    ours = continued(program, prompt, *CPU, "--top-logprobs", 2, "--routing-margins")
    theirs = continued(program, prompt, *device)
    result = {"prompt": prompt, "same": ours["ids"] == theirs["ids"], "text": ours["text"], "first_difference": None}
    if not result["same"]:
        at = next(i for i, (a, b) in enumerate(zip(ours["ids"], theirs["ids"])) if a != b)
        logits = continued(program, prompt, *device, "--top-logprobs", 2)
        difference = {"token": at, "chosen": [ours["ids"][at], theirs["ids"][at]], "cpu": side(ours, at)}
        # The logits of another call: they may part from the CPU's at an earlier or a later place.
        difference["device"] = side(logits, at) if logits["ids"][:at] == ours["ids"][:at] else None
        difference["routing_margin"] = ours["routing_margins"][at]
        difference["near_tie"] = difference["routing_margin"] <= ROUTING_NEAR_TIE["f16"] or (
            difference["cpu"]["margin"] <= NEAR_TIE and set(difference["chosen"]) == set(difference["cpu"]["likeliest"]))
        result |= {"device_text": theirs["text"], "first_difference": difference}
    return result


def revision():
    if "FAIRWAY_REVISION" in os.environ:
        return os.environ["FAIRWAY_REVISION"]
    done = subprocess.run(["git", "-C", REPO, "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def named(path):
    """Within this tree, or of a file elsewhere its name."""
    path = pathlib.Path(path)
    return str(path.relative_to(REPO)) if path.is_relative_to(REPO) else path.name


def measure(options):
    program = str(pathlib.Path(options.program).resolve())
    machine = fairway(program, "kernels")["machine"]
    device = ["--device", options.device]
    cpu = windows_of(program, options, *CPU, "--routing-margins")
    caches = [{"kv_cache": cache, **compare_windows(cpu, windows_of(program, options, *device, "--kv-cache", cache), near_tie)}
              for cache, near_tie in ROUTING_NEAR_TIE.items()]
    prompts = [compare_prompt(program, prompt, device) for prompt in PROMPTS]
    near = all(p["same"] or p["first_difference"]["near_tie"] for p in prompts)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"schema": "fairway-cuda_agreement-1", "revision": revision(), "date": now,
            "command": "scripts/measuring/agreement.py", "machine": machine, "model": MODEL,
            "text": named(options.text), "window": options.window, "windows": options.windows,
            "bars": {"window_mean": WINDOW_BAR, "same_prompts": PROMPTS_BAR, "near_tie": NEAR_TIE, "routing_near_tie": ROUTING_NEAR_TIE["f16"]},
            "caches": caches, "new_tokens": NEW_TOKENS, "prompts": prompts,
            "same_prompts": sum(p["same"] for p in prompts), "differences_are_near_ties": near}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", metavar="FAIRWAY")
    parser.add_argument("out", metavar="OUT.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--text", default=str(REPO / "docs" / "sample.txt"), type=os.path.abspath)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--windows", type=int, default=4)
    options = parser.parse_args()
    content = measure(options)
    pathlib.Path(options.out).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for cache in content["caches"]:
        far = cache["far_from_ties"]
        print(f"{cache['kv_cache']}: log-probabilities differ by {cache['mean']:.4f} on average, {cache['largest']:.3f} at most; "
              f"{far['largest']:.3f} at most for the {far['tokens'] / cache['tokens']:.0%} of tokens where no router is near a tie; "
              f"window means by {max(map(abs, cache['window_means'])):.5f} at most")
    print(f"{content['same_prompts']} of {len(PROMPTS)} prompts continue alike"
          + ("" if content["same_prompts"] == len(PROMPTS) else
             ", the others part at near-ties" if content["differences_are_near_ties"] else ", and not all others part at near-ties"))


if __name__ == "__main__":
    main()
