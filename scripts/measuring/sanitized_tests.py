#!/usr/bin/env python3
"""The GPU tests under a tool of compute-sanitizer, a process for each suite:

  scripts/measuring/sanitized_tests.py CUDA_TESTS OUT.json --tool racecheck [--jobs N] [--seconds S]

Kernels of several processes take turns on the GPU, so N processes at a time only hide what each does on the CPU. A test has passed if the tool has
said nothing while it ran, neither errors nor warnings. After a test that ends the process the rest of its suite gets another one. With S, nothing is
started after S seconds and what still runs then is ended. OUT.json says of every test how it ended; a run that finds the file there from the same
program goes on with the tests that have not passed in it, so that several short runs can cover all. Logs of suites that have not passed are left
beside it. The exit status is 0 if every test has passed."""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

SCHEMA = "fairway-sanitized_tests-2"
OPTIONS = {"memcheck": ["--report-api-errors", "no"]}  # tests make some on purpose
# Those count allocations, or make CUDA refuse them; Full ones take too long.
LEFT_OUT = "-Gpu*Full.*:GpuArena.*:GpuDevice.MemoryPressure*"
# These begin first, so that none is left alone at the end.
LONG_SUITES = ("GpuDeviceModel", "GpuLinear", "GpuMoe", "GpuMlaDecode", "GpuPathTable", "GpuMoeEarly", "GpuGqaDecode", "GpuRoute", "GpuMoeStream")


def names(program):
    listed = subprocess.run([program, "--gtest_list_tests", f"--gtest_filter={LEFT_OUT}"], check=True, capture_output=True, text=True).stdout
    suite, found = "", []
    for line in listed.splitlines():
        if line.startswith("  "):
            found.append(suite + line.split("#")[0].strip())
        elif line.rstrip().endswith("."):
            suite = line.strip()
    return found


def suite_of(test):
    """Tests without kernels are one suite, whatever they are called."""
    return test.split(".")[0] if test.startswith("Gpu") else "others"


def read_log(text):
    """{test: outcome and seconds} of the tests that a process has begun, and how often the tool complained beside them."""
    outcomes, running, complaints, beside = {}, "", 0, 0
    for line in text.splitlines():
        begun, ended = re.match(r"\[ RUN      \] (\S+)", line), re.match(r"\[ *(OK|FAILED) *\] (\S+) \((\d+) ms\)", line)
        if begun:
            running, complaints = begun.group(1), 0
            outcomes[running] = {"outcome": "failed", "seconds": 0.0}
        elif ended and running:
            passed = ended.group(1) == "OK" and complaints == 0
            outcomes[running] = {"outcome": "passed" if passed else "failed", "seconds": int(ended.group(3)) / 1000}
            running = ""
        elif re.match(r"========= +\S", line) and not re.match(r"========= (COMPUTE-SANITIZER|(ERROR|RACECHECK) SUMMARY)", line):
            complaints += 1
            beside += not running
    return outcomes, beside


def run_process(arguments, tests, log, deadline):
    """Outcomes of the tests of one process. What it has not come to is not among them, but for those of an unclean end."""
    left = deadline - time.monotonic()
    if left <= 2:
        return {}
    command = ["compute-sanitizer", "--tool", arguments.tool, *OPTIONS.get(arguments.tool, []), "--error-exitcode", "1", str(arguments.program),
               "--require-gpu", "--gtest_filter=" + ":".join(tests)]
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout=left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            code = None
    outcomes, beside = read_log(log.read_text(encoding="utf-8", errors="replace"))
    if code is None:
        if outcomes and (last := list(outcomes.values())[-1])["seconds"] == 0.0 and last["outcome"] == "failed":
            last["outcome"] = "ended early"
    elif beside or (code != 0 and all(how["outcome"] == "passed" for how in outcomes.values())):
        outcomes = {test: {"outcome": "failed", "seconds": 0.0} for test in tests}  # whichever it was
    return outcomes


def run_suite(arguments, suite, tests, deadline):
    outcomes, waiting, part = {}, list(tests), 0
    while waiting:
        log = arguments.out.with_name(f"{arguments.tool}-{suite}-{part}.log")
        found = run_process(arguments, waiting, log, deadline)
        outcomes.update(found)
        if found and all(how["outcome"] == "passed" for how in found.values()):
            log.unlink()
        waiting = [test for test in waiting if test not in found]
        part += 1
        if not found or any(how["outcome"] == "ended early" for how in found.values()):
            break
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tool", required=True, choices=["memcheck", "racecheck", "synccheck", "initcheck"])
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    arguments.program = arguments.program.resolve()
    began = time.monotonic()
    deadline = began + arguments.seconds
    program = hashlib.sha256(arguments.program.read_bytes()).hexdigest()
    tests = {test: {"outcome": "not begun", "seconds": 0.0} for test in names(arguments.program)}
    if arguments.out.exists():
        before = json.loads(arguments.out.read_text(encoding="utf-8"))
        if (before["schema"], before["program_sha256"], before["tool"]) == (SCHEMA, program, arguments.tool):
            tests.update({test: how for test, how in before["tests"].items() if test in tests})
    suites = {}
    for test, how in tests.items():
        if how["outcome"] != "passed":
            suites.setdefault(suite_of(test), []).append(test)
    order = sorted(suites, key=lambda suite: LONG_SUITES.index(suite) if suite in LONG_SUITES else len(LONG_SUITES))
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for ended in concurrent.futures.as_completed([pool.submit(run_suite, arguments, suite, suites[suite], deadline) for suite in order]):
            tests.update(ended.result())
            result = {"schema": SCHEMA, "tool": arguments.tool, "program_sha256": program, "tests": tests}
            arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    counts = {}
    for how in tests.values():
        counts[how["outcome"]] = counts.get(how["outcome"], 0) + 1
    print(f"{arguments.tool}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) +
          f", {time.monotonic() - began:.0f} s")
    for test, how in tests.items():
        if how["outcome"] == "failed":
            print(f"failed: {test}")
    return 0 if set(counts) == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main())
