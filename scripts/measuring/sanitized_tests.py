#!/usr/bin/env python3
"""The GPU tests under a tool of compute-sanitizer, each in a process of its own:

  scripts/measuring/sanitized_tests.py CUDA_TESTS OUT.json --tool racecheck [--jobs N] [--seconds S]

With S, nothing is started after S seconds and what still runs then is ended. OUT.json says of every test how it ended; a run that finds the file
there from the same program begins with the tests that have not passed in it, so that several short runs can cover all. Logs of tests that did not
pass are left beside it. The exit status is 0 if every test has passed."""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import time

SCHEMA = "fairway-sanitized_tests-1"
OPTIONS = {"memcheck": ["--report-api-errors", "no"]}  # tests make some on purpose
# Those count allocations, or make CUDA refuse them; Full ones take too long.
LEFT_OUT = "-Gpu*Full.*:GpuArena.*:GpuDevice.MemoryPressure*"


def names(program):
    listed = subprocess.run([program, "--gtest_list_tests", f"--gtest_filter={LEFT_OUT}"], check=True, capture_output=True, text=True).stdout
    suite, found = "", []
    for line in listed.splitlines():
        if line.startswith("  "):
            found.append(suite + line.split("#")[0].strip())
        elif line.rstrip().endswith("."):
            suite = line.strip()
    return found


def run_one(arguments, test, deadline):
    """(outcome, seconds) of a test: passed, failed, or ended when the time was over."""
    left = deadline - time.monotonic()
    if left <= 1:
        return "not begun", 0.0
    command = ["compute-sanitizer", "--tool", arguments.tool, *OPTIONS.get(arguments.tool, []), "--error-exitcode", "1", str(arguments.program),
               "--require-gpu", f"--gtest_filter={test}"]
    log = arguments.out.with_name(f"{arguments.tool}-{test}.log")
    began = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            outcome = "passed" if process.wait(timeout=left) == 0 else "failed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            outcome = "ended early"
    seconds = round(time.monotonic() - began, 1)
    if outcome == "passed" and "[  PASSED  ] 1 test." not in log.read_text(encoding="utf-8", errors="replace"):
        outcome = "failed"
    if outcome == "passed":
        log.unlink()
    return outcome, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tool", required=True, choices=["memcheck", "racecheck", "synccheck", "initcheck"])
    parser.add_argument("--jobs", type=int, default=14)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    program = hashlib.sha256(arguments.program.read_bytes()).hexdigest()
    tests = {test: {"outcome": "not begun", "seconds": 0.0} for test in names(arguments.program)}
    if arguments.out.exists():
        before = json.loads(arguments.out.read_text(encoding="utf-8"))
        if (before["program_sha256"], before["tool"]) == (program, arguments.tool):
            tests.update({test: how for test, how in before["tests"].items() if test in tests})
    # The longest that are known first; nobody knows of the others.
    waiting = sorted((test for test in tests if tests[test]["outcome"] != "passed"), key=lambda test: -tests[test]["seconds"])
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for test, (outcome, seconds) in zip(waiting, pool.map(lambda test: run_one(arguments, test, deadline), waiting)):
            tests[test] = {"outcome": outcome, "seconds": seconds}
    result = {"schema": SCHEMA, "tool": arguments.tool, "program_sha256": program, "tests": tests}
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    counts = {}
    for how in tests.values():
        counts[how["outcome"]] = counts.get(how["outcome"], 0) + 1
    print(f"{arguments.tool}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    for test, how in tests.items():
        if how["outcome"] == "failed":
            print(f"failed: {test}")
    return 0 if set(counts) == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main())
