"""The founding documents' Python, with the package's name replaced.

Every block runs, or is compared with the real interface as the signature that it is, or stands in
NOT_RUN with the reason.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import typing
import unittest
from types import SimpleNamespace
from unittest import mock

import numpy as np

from fairway.trellis import autotune_mixed_bpw, kernel_selection_mixed, moe_dispatch
from fairway.trellis.autotune_mixed_bpw import BenchmarkResult, KernelConfig, MixedBPWAutoTuner
from fairway.trellis.kernel_selection import available_kernels
from fairway.trellis.loader import TrellisModelLoader
from fairway.trellis.moe_dispatch import dispatch_moe_trellis_swiglu
from tests import documents
from tests.support import synthetic_model

M4 = "M4 Max"

RUN = {
    ("000", 1): "the rule of the heuristics, compared with ours for all mixtures",
    ("000", 6): "basic usage",
    ("000", 7): "feedback loop",
    ("001", 2): "specialised decode kernel, as the body of a function",
    ("001", 3): "fp32 accumulation",
    ("002", 1): "running the tuner",
    ("002", 2): "loading a configuration",
    ("002", 3): "online adaptation",
    ("002", 14): "a configuration by device family",
    ("002", 15): "tuner and selector together",
    ("002", 16): "the path of imports",
}
SIGNATURES = {
    ("000", 2): "ExpertActivationPattern",
    ("000", 3): "_compute_confidence_interval",
    ("000", 4): "MixedKernelSelector",
    ("000", 5): "module functions",
    ("001", 1): "select_moe_kernel",
    ("002", 4): "MixedBPWAutoTuner",
    ("002", 5): "benchmark_layer",
    ("002", 6): "benchmark_all",
    ("002", 7): "select_kernel",
    ("002", 8): "record_latency",
    ("002", 9): "adapt_selection",
    ("002", 10): "export_config",
    ("002", 11): "load_config",
    ("002", 12): "KernelConfig",
    ("002", 13): "BenchmarkResult",
}
NOT_RUN = {
    ("000", 8): "edit to a file of another project: mixed_bpw_dispatch.py",
    ("000", 9): "edit to a file of another project: its Metal dispatch",
    ("000", 10): "edit to a file of another project: moe.py",
}


def block(document: str, number: int) -> str:
    (found,) = [b.text for b in documents.blocks("python") if b.key == (document, number)]
    return found


def run(text: str, names: dict) -> str:
    """Runs a block in `names`; what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "block", "exec"), names)
    return printed.getvalue()


class Workplace(unittest.TestCase):
    """A layer to run, and selectors that nobody used before."""

    @classmethod
    def setUpClass(cls):
        cls.layer = TrellisModelLoader(synthetic_model()).load_moe_layer(1)

    def setUp(self):
        for device in (None, M4):
            kernel_selection_mixed.reset_selection_stats(device=device)
            self.addCleanup(kernel_selection_mixed.reset_selection_stats, device=device)
            self.addCleanup(
                kernel_selection_mixed.set_available_kernels, available_kernels(), device=device
            )

    def run_layer(self, kernel: str, tokens: int):
        x = np.random.default_rng(tokens).standard_normal((tokens, self.layer.hidden_size))
        return dispatch_moe_trellis_swiglu(self.layer, x, kernel_name_override=kernel)

    def milliseconds(self, kernel: str, tokens: int) -> float:
        start = time.perf_counter()
        self.run_layer(kernel, tokens)
        return 1e3 * (time.perf_counter() - start)


class Completeness(unittest.TestCase):
    def test_every_block_is_accounted_for(self):
        found = [b.key for b in documents.blocks("python")]
        known = list(RUN) + list(SIGNATURES) + list(NOT_RUN)
        self.assertEqual(sorted(known), sorted(found))
        for name in ("test_run", "test_signature"):
            expected = RUN if name == "test_run" else SIGNATURES
            methods = {
                tuple(m[len(name) + 1 :].split("_")[:2])
                for case in (SelectionDocument, ThresholdDocument, TunerDocument)
                for m in dir(case)
                if m.startswith(name)
            }
            self.assertEqual({(d, int(n)) for d, n in methods}, set(expected), name)

    def test_what_the_edits_add_exists_here(self):
        for key in NOT_RUN:
            self.assertIn("kernel_hint", block(*key))
        parameters = inspect.signature(dispatch_moe_trellis_swiglu).parameters
        self.assertIsNone(parameters["kernel_hint"].default)
        self.assertIsNone(parameters["kernel_name_override"].default)
        self.assertIn("kernel_name_override", documents.text_of("004"))
        grouped = "dispatch_moe_trellis_swiglu_grouped_fairway"
        for name in ("prepare_fairway_grouped_inputs", grouped):
            self.assertIn(name, documents.text_of("004"))
            self.assertTrue(callable(getattr(moe_dispatch, name)))


class Comparing(unittest.TestCase):
    def assert_signature(self, definition: ast.FunctionDef, function) -> None:
        self.assertEqual(documents.signature_problems(definition, function), [])

    def assert_dataclass(self, text: str, real: type) -> None:
        """The documented fields stand first, in order; ours may have more with defaults."""
        names: dict = {"dataclass": dataclasses.dataclass, "List": typing.List, "Dict": typing.Dict}
        names["KernelConfig"] = KernelConfig
        run(text, names)
        documented = dataclasses.fields(names[real.__name__])
        ours = dataclasses.fields(real)
        self.assertEqual(
            [(f.name, f.default) for f in documented],
            [(f.name, f.default) for f in ours[: len(documented)]],
        )
        for field in ours[len(documented) :]:
            defaults = {field.default, field.default_factory} - {dataclasses.MISSING}
            self.assertTrue(defaults, field.name)


class SelectionDocument(Workplace, Comparing):
    def test_run_000_1_heuristics(self):
        text = documents.without_ellipses(block("000", 1))
        for twos in range(5):
            for threes in range(5):
                for fours in range(5):
                    bits = [2] * twos + [3] * threes + [4] * fours
                    if not bits:
                        continue
                    counts = {f"count_{w}bit": bits.count(w) for w in (2, 3, 4)}
                    names = {**counts, "total": len(bits), "Tuple": typing.Tuple}
                    pattern_type = kernel_selection_mixed.ExpertActivationPattern
                    names[pattern_type.__name__] = pattern_type
                    run(text, names)
                    pattern = kernel_selection_mixed.analyze_activation_pattern(bits)
                    self.assertEqual(
                        kernel_selection_mixed._apply_heuristics(pattern, device=M4),
                        names["_apply_heuristics"](pattern),
                        bits,
                    )

    def test_signature_000_2_pattern(self):
        self.assert_dataclass(block("000", 2), kernel_selection_mixed.ExpertActivationPattern)

    def test_signature_000_3_confidence_interval(self):
        (definition,) = ast.parse(documents.without_ellipses(block("000", 3)) + "    pass\n").body
        self.assertEqual(definition.name, "_compute_confidence_interval")
        function = kernel_selection_mixed._compute_confidence_interval
        self.assertEqual(inspect.signature(function).parameters["confidence"].default, 0.95)
        self.assertEqual(function([5.0]), (None, None))
        self.assertEqual([type(bound) for bound in function([1.0, 2.0])], [float, float])

    def test_signature_000_4_selector(self):
        (definition,) = ast.parse(block("000", 4)).body
        (initializer,) = definition.body
        real = getattr(kernel_selection_mixed, definition.name)
        self.assert_signature(initializer, real.__init__)
        attributes = [node.target.attr for node in initializer.body]
        self.assertEqual(attributes, ["timings", "records", "metrics"])
        selector = real()
        selector.record_kernel_latency("moe_trellis_swiglu", 1, 1.0)
        self.assertEqual(list(selector.timings), ["moe_trellis_swiglu"])
        self.assertIsInstance(selector.records[0], kernel_selection_mixed.KernelTimingRecord)
        self.assertIsInstance(selector.metrics, kernel_selection_mixed.SelectionAccuracyMetrics)

    def test_signature_000_5_functions(self):
        found = documents.prototypes(block("000", 5))
        self.assertEqual(
            sorted(found),
            [
                "analyze_kernel_performance",
                "get_mixed_kernel",
                "get_selection_stats",
                "record_kernel_latency",
                "reset_selection_stats",
                "set_available_kernels",
            ],
        )
        for name, definition in found.items():
            self.assert_signature(definition, getattr(kernel_selection_mixed, name))

    # Stated prelude: `time`, and dispatch_moe_kernel, which runs 8 tokens through an MoE layer.
    def test_run_000_6_basic_usage(self):
        ran = []

        def dispatch_moe_kernel(kernel, *_):
            ran.append(kernel)
            return self.run_layer(kernel, 8)

        text = block("000", 6)
        printed = run(text, {"time": time, "dispatch_moe_kernel": dispatch_moe_kernel})
        self.assertEqual(len(ran), 1)
        self.assertIn(ran[0], available_kernels())
        self.assertRegex(printed, rf"^Selected: {ran[0]}\nReason: (heuristic|exploration)\n$")
        stats = kernel_selection_mixed.get_selection_stats()
        self.assertEqual((stats["total_selections"], stats["recorded"]), (1, 1))

        # With the documented device the documented output, to the letter.
        comments = re.findall(r"# Output: (\w+)", text)
        with self.for_device(M4):
            printed = run(text, {"time": time, "dispatch_moe_kernel": dispatch_moe_kernel})
        self.assertEqual(printed, f"Selected: {comments[0]}\nReason: {comments[1]}\n")
        self.assertEqual(ran[1], "mixed_bpw_kernel")

    @contextlib.contextmanager
    def for_device(self, device):
        with contextlib.ExitStack() as stack:
            for name in ("get_mixed_kernel", "record_kernel_latency"):
                function = functools.partial(getattr(kernel_selection_mixed, name), device=device)
                stack.enter_context(mock.patch.object(kernel_selection_mixed, name, function))
            yield

    # Stated prelude: the functions of the module; workload, 60 batches; execute_kernel, which runs
    # a layer.
    def test_run_000_7_feedback_loop(self):
        def execute_kernel(kernel, batch):
            return SimpleNamespace(latency=self.milliseconds(kernel, batch.size))

        kinds = [(1, [2, 2, 4]), (8, [2, 4, 2, 4]), (20, [4, 4])]
        workload = [SimpleNamespace(size=s, expert_bits=b) for s, b in kinds * 20]
        names = dict(vars(kernel_selection_mixed), workload=workload, execute_kernel=execute_kernel)
        printed = run(block("000", 7), names)
        stats = kernel_selection_mixed.get_selection_stats()
        self.assertEqual((stats["total_selections"], stats["recorded"]), (60, 60))
        # Only the three kernels that the block makes available were chosen.
        allowed = {"fast_2bit_kernel", "mixed_bpw_kernel", "moe_trellis_swiglu"}
        self.assertLessEqual(set(stats["by_kernel"]), allowed)
        accuracy = stats["correct_selections"] / 60
        self.assertEqual(printed, f"Total selections: 60\nSelection accuracy: {accuracy}\n")

    def test_imports_of_the_quick_start(self):
        (text,) = [b.text for b in documents.blocks("bash") if "from fairway" in b.text]
        run(text[text.index("from fairway") :], {})


class ThresholdDocument(Comparing):
    def test_signature_001_1_select_moe_kernel(self):
        (definition,) = ast.parse(block("001", 1)).body
        self.assert_signature(definition, moe_dispatch.select_moe_kernel)

    def test_documented_ranges(self):
        row = re.compile(r"^\| ([\d+-]+) \| (\w+) \| (\d+) \|", re.MULTILINE)
        rows = row.findall(documents.text_of("001"))
        self.assertEqual(len(rows), 4)
        for sizes, kind, tile_n in rows:
            name = "moe_trellis_swiglu" + ("" if kind == "base" else f"_{kind}")
            for size in re.findall(r"\d+", sizes):
                self.assertEqual(
                    moe_dispatch.select_moe_kernel(int(size), available_kernels={name}, device=M4),
                    (name, int(tile_n)),
                )

    # The block ends in `return`: it is run as the body of a function of the three widths.
    def test_run_001_2_specialised_decode(self):
        body = "".join(f"    {line}\n" for line in block("001", 2).splitlines())
        names: dict = {}
        run(f"def documented(gate_bits, up_bits, down_bits):\n{body}", names)
        for bits in [(6, 2, 3), (4, 4, 4), (6, 2, 4)]:
            expected = names["documented"](*bits)
            ours = moe_dispatch.select_moe_kernel(1, False, *bits, device=M4)
            self.assertEqual(ours == ("moe_trellis_swiglu_decode_6_2_3", 64), expected is not None)
            if expected is not None:
                self.assertEqual(ours, expected)

    # Stated prelude: select_moe_kernel and batch_size.
    def test_run_001_3_fp32_accumulation(self):
        (statement,) = ast.parse(block("001", 3)).body
        for batch_size in (1, 8, 20, 100):
            names = {"select_moe_kernel": moe_dispatch.select_moe_kernel, "batch_size": batch_size}
            name, _ = eval(compile(ast.Expression(statement.value), "block", "eval"), names)
            self.assertTrue(name.endswith("_fp32acc"), name)
            self.assertIn(name, available_kernels())


class TunerDocument(Workplace, Comparing):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        shutil.copytree(synthetic_model(), "model_dir")

    # Stated prelude of all blocks: "model_dir" in the working directory is a model written by
    # `fairway synth`.
    def run_tuner(self) -> dict:
        names: dict = {}
        self.printed = run(block("002", 1), names)
        return names

    def test_run_002_1_tuning(self):
        names = self.run_tuner()
        batch_sizes = [1, 4, 8, 16, 32, 64]
        self.assertEqual(sorted(names["results"]), ["mlp_down", "mlp_gate", "mlp_up"])
        for name, layer in names["layers_to_benchmark"].items():
            self.assertEqual(list(names["results"][name]), batch_sizes)
            for results in names["results"][name].values():
                self.assertGreater(len(results), 1)
                for result in results:
                    self.assertEqual(len(result.samples_ms), 20)
                    self.assertGreater(result.latency_ms, 0)
                latencies = [result.latency_ms for result in results]
                self.assertEqual(latencies, sorted(latencies))
            self.assertIsNotNone(names["autotuner"].select_linear_kernel(layer, 8))
        self.assertEqual(len(self.printed.splitlines()), 18)
        with open("configs/autotune_mixed_bpw_m4max.json", encoding="utf-8") as file:
            exported = json.load(file)
        (example,) = [json.loads(b.text) for b in documents.blocks("json")]
        self.assertLessEqual(set(example), set(exported))
        for key, value in example.items():
            self.assertIs(type(exported[key]), type(value), key)
        for key in ("device_name", "device_family", "adaptation_enabled", "adaptation_history_len"):
            self.assertEqual(exported[key], example[key], key)

    def test_documented_file(self):
        (text,) = [b.text for b in documents.blocks("json")]
        with open("documented.json", "w", encoding="utf-8") as file:
            file.write(text)
        tuner = MixedBPWAutoTuner.load_config("documented.json")
        self.assertEqual((tuner.device_name, tuner.device_family), ("M4 Max", "M4"))
        documented = json.loads(text)["lookup_table"]["4"]["4096"]["(2, 4)"]
        self.assertEqual(tuner.select_kernel(4, 4096, [4, 2]), KernelConfig(**documented))
        self.assertLessEqual(set(json.loads(text)), set(json.loads(tuner.export_config())))

    # Of the block before: the exported file.
    def test_run_002_2_loading(self):
        self.run_tuner()
        names: dict = {}
        run(block("002", 2), names)
        self.assertEqual(names["autotuner"].device_family, "M4")
        config = names["kernel_config"]
        self.assertIsInstance(config, KernelConfig)
        # Nothing was measured for experts, so this is the default of the M4 for 4 tokens.
        self.assertEqual(config.kernel_name, "moe_trellis_swiglu_prefill4")

    # Of the blocks before: autotuner, kernel_config. Stated prelude: the numbers of the call, and
    # measure_kernel_execution_time, which runs a layer.
    def test_run_002_3_adaptation(self):
        autotuner = MixedBPWAutoTuner()
        kernel_config = autotuner.select_kernel(8, 384, [2, 4], use_decode=True)
        names = {
            "autotuner": autotuner,
            "kernel_config": kernel_config,
            "kernel": kernel_config.kernel_name,
            "measure_kernel_execution_time": lambda kernel: self.milliseconds(kernel, 8),
            "batch_size": 8,
            "hidden_dim": 384,
            "layer_bit_widths": [2, 4],
            "current_batch_size": 8,
            "current_hidden_dim": 384,
            "current_bit_widths": [4, 2],
        }
        for time_of_call in range(1, 6):
            run(block("002", 3), names)
            # "KernelConfig if confidence is high (>=5 samples), else None"
            self.assertEqual(names["adapted_config"] is not None, time_of_call >= 5, time_of_call)
        self.assertEqual(names["kernel_config"].kernel_name, kernel_config.kernel_name)
        self.assertEqual(autotuner.statistics().latencies_recorded, 5)

    def test_signature_002_4_constructor(self):
        found = documents.prototypes(block("002", 4))
        self.assert_signature(found["MixedBPWAutoTuner"], MixedBPWAutoTuner.__init__)

    def check_method(self, number: int, name: str) -> None:
        found = documents.prototypes(block("002", number))
        self.assertEqual(list(found), [name])
        self.assert_signature(found[name], getattr(MixedBPWAutoTuner, name))

    def test_signature_002_5_benchmark_layer(self):
        self.check_method(5, "benchmark_layer")

    def test_signature_002_6_benchmark_all(self):
        self.check_method(6, "benchmark_all")

    def test_signature_002_7_select_kernel(self):
        self.check_method(7, "select_kernel")

    def test_signature_002_8_record_latency(self):
        self.check_method(8, "record_latency")

    def test_signature_002_9_adapt_selection(self):
        self.check_method(9, "adapt_selection")

    def test_signature_002_10_export_config(self):
        self.check_method(10, "export_config")

    def test_signature_002_11_load_config(self):
        self.check_method(11, "load_config")
        self.assertIsInstance(inspect.getattr_static(MixedBPWAutoTuner, "load_config"), classmethod)

    def test_signature_002_12_kernel_config(self):
        self.assert_dataclass(block("002", 12), KernelConfig)

    def test_signature_002_13_benchmark_result(self):
        self.assert_dataclass(block("002", 13), BenchmarkResult)

    # Stated prelude: an autotuner whose configuration lies under the name of its device family.
    def test_run_002_14_by_family(self):
        autotuner = MixedBPWAutoTuner(device_name=M4)
        autotuner.export_config("configs/autotune_mixed_bpw_m4.json")
        names = {"MixedBPWAutoTuner": MixedBPWAutoTuner, "autotuner": autotuner}
        run(block("002", 14), names)
        self.assertIsNot(names["autotuner"], autotuner)
        self.assertEqual(names["autotuner"].device_name, M4)

    # Of the first block: the exported file. Stated prelude: the numbers of the call.
    def test_run_002_15_both(self):
        self.run_tuner()
        names = {"batch_size": 20, "hidden_dim": 384, "active_expert_bits": [2, 4, 4]}
        run(block("002", 15), names)
        self.assertEqual(names["kernel"], names["baseline_config"].kernel_name)
        self.assertEqual(names["kernel"], "moe_trellis_swiglu")
        self.run_layer(names["kernel"], 20)

    def test_run_002_16_path(self):
        self.addCleanup(setattr, sys, "path", list(sys.path))
        before = list(sys.path)
        run(block("002", 16), {})
        self.assertEqual(sys.path[1:], before)

    def commands(self) -> list[list[str]]:
        lines = "".join(b.text for b in documents.blocks("bash") if b.document == "002")
        joined = lines.replace("\\\n", " ").splitlines()
        return [shlex.split(line) for line in joined if "fairway.trellis" in line]

    def test_commands(self):
        quick, explicit = self.commands()
        self.assertEqual(quick[:4], ["uv", "run", "python", "-m"])
        command = [sys.executable, "-m", *quick[4:]]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        self.assertIn("tokens:", done.stdout)
        tuner = MixedBPWAutoTuner.load_config("configs/autotune_mixed_bpw.json")
        self.assertEqual(tuner.statistics().entries, 3)

        options = autotune_mixed_bpw._parse(explicit[5:])
        self.assertEqual(options.batch_sizes, [1, 4, 8, 16, 32, 64])
        self.assertEqual((options.iterations, options.warmup), (20, 5))
        # On the small model: with the default one it takes minutes.
        arguments = [sys.executable, "-m", *explicit[4:], "--model", "model_dir"]
        subprocess.run(arguments, check=True, capture_output=True)
        tuner = MixedBPWAutoTuner.load_config("configs/autotune_mixed_bpw_m4max.json")
        self.assertEqual(tuner.statistics().entries, 6)


def load_tests(loader, tests, pattern):
    """Without the documents there is nothing to test; scripts/test-python says so."""
    if not documents.SEEDS:
        return unittest.TestSuite()
    bases = (Workplace, Comparing)
    return unittest.TestSuite(t for t in tests if not any(type(case) in bases for case in t))


if __name__ == "__main__":
    unittest.main()
