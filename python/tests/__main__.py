"""Runs all tests of this folder; the last line is the count."""

import pathlib
import sys
import unittest


def main() -> int:
    folder = pathlib.Path(__file__).resolve().parent
    suite = unittest.defaultTestLoader.discover(str(folder), "test_*.py", str(folder.parent))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    bad = len({test.id().split(" ")[0] for test, _ in result.failures + result.errors})
    bad += len(result.unexpectedSuccesses)
    print(f"{result.testsRun - bad} passed, {bad} failed", flush=True)
    return 0 if result.testsRun and not bad and not result.skipped else 1


if __name__ == "__main__":
    sys.exit(main())
