"""The package as installed: errors, the program, types, and what docs/python.md shows."""

import contextlib
import io
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import unittest

import fairway
from fairway import _fairway
from tests.support import SOURCE_DIR

GUIDE = (SOURCE_DIR / "docs" / "python.md").read_text(encoding="utf-8")


class Package(unittest.TestCase):
    def test_what_is_tested_is_what_was_installed(self):
        self.assertNotIn(SOURCE_DIR / "python", pathlib.Path(fairway.__file__).parents)
        installed = pathlib.Path(fairway.__file__).parent
        for name in ("py.typed", "_fairway.pyi", "trellis/loader.py"):
            self.assertTrue((installed / name).is_file(), name)

    def test_version_is_that_of_the_program(self):
        command = [sys.executable, "-m", "fairway", "--version"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self.assertIn(fairway.__version__, done.stdout)
        from importlib.metadata import version

        self.assertEqual(version("fairway"), fairway.__version__)

    def test_the_programs_exit_codes(self):
        command = [sys.executable, "-m", "fairway", "inspect", "--model", "no-such-folder"]
        done = subprocess.run(command, capture_output=True)
        self.assertEqual(done.returncode, 2)

    def test_error_classes(self):
        self.assertTrue(issubclass(fairway.FairwayValueError, (fairway.FairwayError, ValueError)))
        self.assertTrue(issubclass(fairway.FairwayRuntimeError, fairway.FairwayError))
        self.assertTrue(issubclass(fairway.FairwayRuntimeError, RuntimeError))
        self.assertFalse(issubclass(fairway.FairwayRuntimeError, ValueError))
        with self.assertRaises(fairway.FairwayValueError):
            fairway.set_threads(-1)

    def test_stub_names_what_the_module_has(self):
        stub = pathlib.Path(fairway.__file__).with_name("_fairway.pyi").read_text(encoding="utf-8")
        stubbed = set(re.findall(r"^(?:def|class) (\w+)", stub, re.MULTILINE)) | {"version"}
        real = {name for name in vars(_fairway) if not name.startswith("_")}
        self.assertEqual(real, stubbed)
        classes = re.findall(r"^class (\w+):\n((?:(?: .*)?\n)+)", stub, re.MULTILINE)
        self.assertEqual(len(classes), 8)
        for name, body in classes:
            members = set(re.findall(r"^    (?:def )?(\w+)[:(]", body, re.MULTILINE))
            ours = {m for m in vars(getattr(_fairway, name)) if not m.startswith("_")}
            self.assertEqual(ours, members - {"__init__"}, name)


class Guide(unittest.TestCase):
    def setUp(self):
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(SOURCE_DIR)

    def test_python_blocks(self):
        texts = re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
        self.assertEqual(len(texts), 1)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(texts[0], "docs/python.md", "exec"), {})
        self.assertIn("moe_", printed.getvalue())

    def test_tuner_commands(self):
        commands = re.findall(r"^build/venv/bin/python (-m fairway\.\S+ .*)$", GUIDE, re.MULTILINE)
        self.assertEqual(len(commands), 2)
        with tempfile.TemporaryDirectory() as folder:
            for command in commands:
                arguments = shlex.split(command.replace("build/tuned.json", f"{folder}/tuned.json"))
                subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
                self.assertEqual(os.listdir(folder), ["tuned.json"])


if __name__ == "__main__":
    unittest.main()
