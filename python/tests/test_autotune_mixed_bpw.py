"""The tuner: measuring, choosing, adapting, files, and the command line."""

import contextlib
import io
import json
import os
import pathlib
import signal
import tempfile
import unittest
import warnings

import fairway
from fairway.trellis import autotune_mixed_bpw
from fairway.trellis.autotune_mixed_bpw import (
    BenchmarkResult,
    KernelConfig,
    MixedBPWAutoTuner,
    SyntheticMoELayers,
)
from fairway.trellis.kernel_selection import available_kernels
from fairway.trellis.loader import TrellisModelLoader
from tests.support import synthetic_model

ROW = KernelConfig("cpu_ref/trellis_linear", 0, 0, 0)


class Measuring(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        loader = TrellisModelLoader(synthetic_model())
        cls.linear = loader.load_weight("layers.0.mlp.gate_proj")
        cls.down = loader.load_weight("layers.0.mlp.down_proj")
        cls.moe = loader.load_moe_layer(1)

    def test_single_matrix(self):
        tuner = MixedBPWAutoTuner()
        results = tuner.benchmark_layer(self.linear, 4, num_warmup=1, num_iter=4)
        self.assertEqual([len(r.samples_ms) for r in results], [4] * len(results))
        self.assertEqual(len({str(r.config) for r in results}), len(results))
        for result in results:
            self.assertIsInstance(result, BenchmarkResult)
            self.assertAlmostEqual(result.memory_footprint_mb, self.linear.nbytes / 1e6)
            self.assertAlmostEqual(
                result.throughput_gbps, self.linear.nbytes / result.latency_ms / 1e6
            )
            # The measured configuration can be run as it stands.
            config = result.config
            tile = (config.tile_size_m, config.tile_size_n, config.simdgroups)
            y = self.linear.forward([[1.0] * 384], config.kernel_name, tile)
            self.assertEqual(y.shape, (1, 640))
        chosen = tuner.select_linear_kernel(self.linear, 4)
        self.assertIn(chosen, [result.config for result in results])
        self.assertEqual(tuner.select_linear_kernel(self.linear, 8), chosen)
        self.assertIsNone(tuner.select_linear_kernel(self.linear, 9))
        self.assertIsNone(tuner.select_linear_kernel(self.down, 4))
        self.assertEqual(tuner.statistics().linear_entries, 1)

    def test_the_default_is_always_measured_and_a_slow_row_never_wins(self):
        tuner = MixedBPWAutoTuner()
        results = tuner.benchmark_layer(self.linear, 8, [ROW], num_warmup=0, num_iter=5)
        self.assertEqual(len(results), 2)
        self.assertEqual(results[-1].config.kernel_name, "cpu_ref/trellis_linear")
        self.assertEqual(tuner.select_linear_kernel(self.linear, 8), results[0].config)

    def test_experts(self):
        tuner = MixedBPWAutoTuner()
        results = tuner.benchmark_layer(self.moe, 8, num_warmup=1, num_iter=4)
        self.assertGreaterEqual(len(results), 1)
        for result in results:
            self.assertIn("moe_trellis_swiglu", result.config.kernel_name)
            self.assertGreater(result.throughput_gbps, 0)
        self.assertEqual(tuner.statistics().entries, 1)
        chosen = tuner.select_kernel(8, 384, [4, 6, 3, 2, 2], fallback_to_default=False)
        self.assertIn(chosen, [result.config for result in results])
        self.assertIsNone(tuner.select_kernel(8, 384, [5], fallback_to_default=False))
        default = tuner.select_kernel(8, 384, [5])
        self.assertIn(default.kernel_name.split("/")[1], available_kernels())

    def test_lists_get_their_names(self):
        tuner = MixedBPWAutoTuner()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            results = tuner.benchmark_all(
                [self.linear, self.moe], [1, 2], num_warmup=0, num_iter=1, verbose=False
            )
        self.assertEqual(list(results), ["model.layers.0.mlp.gate_proj", "layers.1.mlp"])
        self.assertEqual([list(sizes) for sizes in results.values()], [[1, 2], [1, 2]])
        self.assertEqual(printed.getvalue(), "")

    def test_layers_without_a_model(self):
        tuner = MixedBPWAutoTuner()
        layers = SyntheticMoELayers("demo", "half 2, half 4", pool_bytes=1 << 20)
        tuner.benchmark_layer(layers, 2, num_warmup=0, num_iter=3)
        self.assertIsNotNone(tuner.select_kernel(2, 384, [2, 4], fallback_to_default=False))
        with self.assertRaisesRegex(ValueError, "half 2, half 4"):
            SyntheticMoELayers("demo", "half 5")

    def test_a_signal_ends_a_measurement(self):
        class Stop(Exception):
            pass

        def stop(*_):
            raise Stop

        self.addCleanup(signal.signal, signal.SIGALRM, signal.signal(signal.SIGALRM, stop))
        tuner = MixedBPWAutoTuner()
        for layer in (self.linear, self.moe):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with self.assertRaises(Stop):
                tuner.benchmark_layer(layer, 1, num_iter=1_000_000)

    def test_wrong_use(self):
        tuner = MixedBPWAutoTuner()
        no_row = KernelConfig("cpu_ref/no_such", 0, 0, 0)
        no_tile = KernelConfig("cpu_ref/trellis_linear", 16, 64, 1)
        for layer in (self.linear, self.moe):
            for arguments in ((0,), (4, [no_row])):
                with self.assertRaises(fairway.FairwayValueError):
                    tuner.benchmark_layer(layer, *arguments)
            with self.assertRaisesRegex(ValueError, "0 iterations"):
                tuner.benchmark_layer(layer, 4, num_iter=0)
        with self.assertRaisesRegex(ValueError, "takes no tile 16x64/1"):
            tuner.benchmark_layer(self.linear, 4, [no_tile])
        self.assertEqual(tuner.statistics().linear_entries, 0)
        with self.assertRaises(fairway.FairwayValueError):
            MixedBPWAutoTuner(device_name="PDP-11")


class Adapting(unittest.TestCase):
    FAST, SLOW = "moe_trellis_swiglu_grouped", "mixed_bpw_kernel"

    def test_needs_five_samples_and_a_clear_lead(self):
        tuner = MixedBPWAutoTuner()
        for i in range(5):
            self.assertIsNone(tuner.adapt_selection(8, 384, [2, 4]))
            tuner.record_latency(self.FAST, 8, 1 + 0.01 * i, 384, [4, 2])
            tuner.record_latency(self.SLOW, 8, 2 + 0.01 * i, 384, [2, 4])
        adapted = tuner.adapt_selection(8, 384, [2, 4])
        self.assertIn(self.FAST, adapted.kernel_name)
        self.assertIsNone(tuner.adapt_selection(9, 384, [2, 4]))
        tuner.clear_adaptation_history()
        self.assertIsNone(tuner.adapt_selection(8, 384, [2, 4]))

    def test_no_lead_no_change(self):
        tuner = MixedBPWAutoTuner()
        for i in range(10):
            tuner.record_latency(self.FAST, 8, 1.0 + i % 2, 384, [4])
            tuner.record_latency(self.SLOW, 8, 1.1 + i % 2, 384, [4])
        self.assertIsNone(tuner.adapt_selection(8, 384, [4]))

    def test_wrong_latencies(self):
        tuner = MixedBPWAutoTuner()
        for arguments in (("no_such_kernel", 1, 1.0), (self.FAST, 1, -1.0), (self.FAST, 0, 1.0)):
            with self.assertRaises(fairway.FairwayValueError):
                tuner.record_latency(*arguments)


class Files(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        loader = TrellisModelLoader(synthetic_model())
        self.linear = loader.load_weight("layers.0.mlp.gate_proj")
        self.moe = loader.load_moe_layer(1)

    def measured(self, path=None):
        tuner = MixedBPWAutoTuner(config_path=path)
        tuner.benchmark_layer(self.linear, 4, num_warmup=0, num_iter=3)
        tuner.benchmark_layer(self.moe, 4, num_warmup=0, num_iter=3)
        return tuner

    def test_round_trip(self):
        path = self.folder / "new" / "folder" / "tuned.json"
        tuner = self.measured(path)
        text = tuner.export_config()
        self.assertEqual(path.read_text(encoding="utf-8"), text + "\n")
        self.assertEqual(os.listdir(path.parent), ["tuned.json"])  # no draft is left
        for again in (MixedBPWAutoTuner.load_config(path), MixedBPWAutoTuner(config_path=path)):
            self.assertEqual(json.loads(again.export_config()), json.loads(text))
            self.assertEqual(
                again.select_linear_kernel(self.linear, 4),
                tuner.select_linear_kernel(self.linear, 4),
            )
            self.assertEqual(
                again.select_kernel(4, 384, [2, 3, 4, 6]), tuner.select_kernel(4, 384, [2, 3, 4, 6])
            )

    def test_export_without_a_path_writes_nothing(self):
        before = sorted(os.listdir())
        document = json.loads(self.measured().export_config())
        self.assertEqual(len(document["linear_entries"]), 1)
        self.assertEqual(sorted(os.listdir()), before)

    def test_another_machines_file_is_not_used_and_said_so(self):
        path = self.folder / "tuned.json"
        document = json.loads(self.measured().export_config(path))
        document["device_name"] = "Another Processor"
        path.write_text(json.dumps(document))
        with self.assertWarnsRegex(UserWarning, "Another Processor"):
            tuner = MixedBPWAutoTuner(config_path=path)
        self.assertEqual(tuner.statistics().entries + tuner.statistics().linear_entries, 0)
        asked_for = MixedBPWAutoTuner.load_config(path)
        self.assertEqual(asked_for.device_name, "Another Processor")
        self.assertEqual(asked_for.statistics().entries, 1)

    def test_a_missing_file_is_no_problem(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            MixedBPWAutoTuner(config_path=self.folder / "none.json")
        with self.assertRaisesRegex(RuntimeError, "none.json"):
            MixedBPWAutoTuner.load_config(self.folder / "none.json")

    def test_damaged_files(self):
        path = self.folder / "tuned.json"
        text = self.measured().export_config(path)
        path.write_text(text[:-100])
        with self.assertRaisesRegex(ValueError, "tuned.json"):
            MixedBPWAutoTuner.load_config(path)
        for damage in (
            lambda entry: entry.pop("tokens"),
            lambda entry: entry.update(tokens=0),
            lambda entry: entry["best"].update(kernel_name="cpu_ref/no_such"),
            lambda entry: entry["measured"][0].update(samples_ms="fast"),
        ):
            document = json.loads(text)
            damage(document["linear_entries"][0])
            path.write_text(json.dumps(document))
            with self.assertRaisesRegex(ValueError, r"tuned\.json: entries of single layers"):
                MixedBPWAutoTuner.load_config(path)


class CommandLine(unittest.TestCase):
    def call(self, *arguments):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            with contextlib.redirect_stdout(io.StringIO()):
                try:
                    code = autotune_mixed_bpw.main(list(arguments))
                except SystemExit as stop:
                    code = stop.code
        return code, errors.getvalue()

    def test_wrong_arguments(self):
        with tempfile.TemporaryDirectory() as folder:
            output = f"--output={folder}/tuned.json"
            for arguments, message in [
                ((), "--output"),
                ((output, "--batch-sizes", "1,x"), "1,x"),
                ((output, "--batch-sizes", "0"), "'0'"),
                ((output, "--quick", "--iterations", "0"), "0"),
                ((output, f"--model={folder}"), "config.json"),
            ]:
                code, errors = self.call(*arguments)
                self.assertEqual(code, 2, arguments)
                self.assertIn(message, errors)
            self.assertEqual(os.listdir(folder), [])


if __name__ == "__main__":
    unittest.main()
