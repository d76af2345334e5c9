"""The selector with feedback: documented heuristics, learning, statistics, errors."""

import math
import unittest

import fairway
from fairway.trellis import kernel_selection_mixed as mixed
from fairway.trellis.kernel_selection import available_kernels
from fairway.trellis.kernel_selection_mixed import MixedKernelSelector, get_mixed_kernel

M4 = "M4 Max"


class DocumentedHeuristics(unittest.TestCase):
    def choose(self, bits, pressure=0.0, batch_size=8):
        selector = MixedKernelSelector(initial_exploration_rate=0, device=M4)
        kernel, info = selector.get_mixed_kernel(batch_size, bits, pressure)
        return kernel, info["reason"]

    def test_module_function_with_the_m4_profile(self):
        mixed.reset_selection_stats(device=M4)
        self.addCleanup(mixed.reset_selection_stats, device=M4)
        kernel, info = get_mixed_kernel(8, [2, 4, 2, 4], device=M4)
        self.assertEqual((kernel, info["reason"]), ("mixed_bpw_kernel", "heuristic"))
        self.assertEqual(info["bucket"], "prefill4")
        self.assertEqual(info["pattern"].bit_distribution, {2: 2, 4: 2})

    def test_widths(self):
        for bits, kernel in [
            ([2, 4, 2, 4], "mixed_bpw_kernel"),  # exactly half is not more than half
            ([2, 3, 3], "mixed_bpw_kernel"),
            ([2, 2, 4], "fast_2bit_kernel"),
            ([2, 2, 2, 2], "fast_2bit_kernel"),
            ([4, 4, 4, 4], "moe_trellis_swiglu"),
            ([3, 4], "moe_trellis_swiglu"),
            ([2, 8], "moe_trellis_swiglu"),  # 2 bits, but neither 3 nor 4
        ]:
            with self.subTest(bits=bits):
                self.assertEqual(self.choose(bits), (kernel, "heuristic"))

    def test_memory_pressure_above_nine_tenths(self):
        self.assertEqual(self.choose([2, 2, 4], 0.9), ("fast_2bit_kernel", "heuristic"))
        self.assertEqual(self.choose([2, 2, 4], 0.91), ("moe_trellis_swiglu", "memory_pressure"))

    def test_unavailable_kernels_are_not_chosen(self):
        selector = MixedKernelSelector(initial_exploration_rate=0, device=M4)
        kernel, info = selector.get_mixed_kernel(8, [2, 2, 4], 0.0, {"moe_trellis_swiglu"})
        self.assertEqual((kernel, info["reason"]), ("moe_trellis_swiglu", "availability"))
        self.assertEqual(info["heuristic"], "fast_2bit_kernel")


class Pattern(unittest.TestCase):
    def test_entropy_and_sparsity(self):
        pattern = mixed.analyze_activation_pattern([2, 3, 4, 6], total_experts=16)
        self.assertAlmostEqual(pattern.activation_entropy, 2)
        self.assertAlmostEqual(pattern.expert_sparsity, 0.25)
        self.assertEqual(pattern.bit_distribution, {2: 1, 3: 1, 4: 1, 6: 1})
        one = mixed.analyze_activation_pattern([4, 4])
        self.assertEqual((one.activation_entropy, one.expert_sparsity), (0, 1))
        skewed = mixed.analyze_activation_pattern([2, 2, 2, 4])
        self.assertAlmostEqual(
            skewed.activation_entropy, -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
        )

    def test_what_makes_no_sense(self):
        for bits, total in [([], 0), ([0], 0), ([9], 0), ([2, 2], 1)]:
            with self.subTest(bits=bits), self.assertRaises(fairway.FairwayValueError):
                mixed.analyze_activation_pattern(bits, total)


class Learning(unittest.TestCase):
    SLOW, FAST = "moe_trellis_swiglu_grouped", "mixed_bpw_kernel"

    def test_a_clearly_faster_kernel_takes_over(self):
        selector = MixedKernelSelector(initial_exploration_rate=0, device="cpu_ref")
        first, info = selector.get_mixed_kernel(8, [2, 4], available_kernels={self.SLOW, self.FAST})
        self.assertEqual((first, info["reason"]), (self.SLOW, "heuristic"))
        for i in range(10):
            selector.record_kernel_latency(self.SLOW, 8, 2 + 0.01 * (i % 3), "heuristic")
            selector.record_kernel_latency(self.FAST, 8, 1 + 0.01 * (i % 3), "exploration")
        learned, info = selector.get_mixed_kernel(
            8, [2, 4], available_kernels={self.SLOW, self.FAST}
        )
        self.assertEqual((learned, info["reason"]), (self.FAST, "history"))
        stats = selector.get_selection_stats()
        self.assertEqual((stats["total_selections"], stats["recorded"]), (2, 20))
        self.assertEqual(stats["switches"], 1)
        self.assertEqual(stats["by_reason"], {"heuristic": 1, "history": 1})

    def test_exploration_share(self):
        selector = MixedKernelSelector(initial_exploration_rate=0.5, device="cpu_ref")
        reasons = [selector.get_mixed_kernel(8, [4])[1]["reason"] for _ in range(400)]
        self.assertTrue(140 <= reasons.count("exploration") <= 260, reasons.count("exploration"))

    def test_adapt_exploration_rate(self):
        selector = MixedKernelSelector(
            initial_exploration_rate=0.08, min_exploration_rate=0.03, device=M4
        )
        selector.get_mixed_kernel(8, [4])
        self.assertAlmostEqual(selector.exploration_rate, 0.08, places=6)
        selector.adapt_exploration_rate(0.0)
        self.assertAlmostEqual(selector.exploration_rate, 0.08, places=6)
        selector.adapt_exploration_rate(1.0)
        self.assertAlmostEqual(selector.exploration_rate, 0.04, places=6)
        selector.adapt_exploration_rate(1.0)
        self.assertAlmostEqual(selector.exploration_rate, 0.03, places=6)
        with self.assertRaises(ValueError):
            selector.adapt_exploration_rate(1.5)

    def test_records_and_timings(self):
        selector = MixedKernelSelector(history_len=10, device=M4)
        for i in range(12):
            selector.record_kernel_latency("moe_trellis_swiglu", 20, 1.0 + i, "test")
        self.assertEqual([r.latency_ms for r in selector.records], [3.0 + i for i in range(10)])
        last = selector.records[-1]
        self.assertEqual(
            (last.kernel_name, last.batch_size, last.bucket, last.selected_by),
            ("moe_trellis_swiglu", 20, "base", "test"),
        )
        self.assertEqual(list(selector.timings["moe_trellis_swiglu"]["base"])[0], 3.0)
        self.assertEqual(selector.metrics.recorded, 12)
        selector.reset_selection_stats()
        self.assertEqual((selector.records, selector.metrics.recorded), ([], 0))

    def test_analysis(self):
        selector = MixedKernelSelector(device=M4)
        for ms in (1.0, 2.0, 3.0, 4.0):
            selector.record_kernel_latency("moe_trellis_swiglu", 17, ms)
        analysis = selector.analyze_kernel_performance("moe_trellis_swiglu", 32)
        self.assertEqual((analysis["samples"], analysis["bucket"]), (4, "base"))
        self.assertEqual((analysis["mean_ms"], analysis["median_ms"]), (2.5, 2.5))
        self.assertAlmostEqual(analysis["std_ms"], math.sqrt(5 / 3))
        # t(0.975; 3) = 3.182446, from tables of Student's t
        half = 3.182446 * math.sqrt(5 / 3) / 2
        low, high = analysis["confidence_interval"]
        self.assertAlmostEqual(low, 2.5 - half, places=5)
        self.assertAlmostEqual(high, 2.5 + half, places=5)
        self.assertEqual(mixed._compute_confidence_interval([1.0]), (None, None))
        self.assertEqual(
            mixed._compute_confidence_interval([1.0, 2.0, 3.0, 4.0]), (low, high)
        )

    def test_wrong_use(self):
        selector = MixedKernelSelector(device=M4)
        for call in (
            lambda: selector.record_kernel_latency("no_such_kernel", 1, 1.0),
            lambda: selector.record_kernel_latency("moe_trellis_swiglu", 1, math.nan),
            lambda: selector.record_kernel_latency("moe_trellis_swiglu", 1, -1.0),
            lambda: selector.record_kernel_latency("moe_trellis_swiglu", 0, 1.0),
            lambda: selector.set_available_kernels({"no_such_kernel"}),
            lambda: selector.set_available_kernels(set()),
            lambda: selector.get_mixed_kernel(1, [4], 1.5),
            lambda: MixedKernelSelector(confidence_threshold=1),
            lambda: MixedKernelSelector(history_len=1),
        ):
            with self.assertRaises(fairway.FairwayValueError):
                call()


class DefaultSelector(unittest.TestCase):
    def setUp(self):
        mixed.reset_selection_stats()
        self.addCleanup(mixed.reset_selection_stats)

    def test_devices_do_not_share_statistics(self):
        before = mixed.get_selection_stats(device=M4)["total_selections"]
        kernel, info = get_mixed_kernel(8, [4, 4])
        self.assertIn(kernel, available_kernels())
        mixed.record_kernel_latency(kernel, 8, 1.5, info["reason"])
        stats = mixed.get_selection_stats()
        self.assertEqual((stats["total_selections"], stats["recorded"]), (1, 1))
        self.assertEqual(stats["correct_selections"], 1)
        self.assertEqual(mixed.analyze_kernel_performance(kernel, 8)["samples"], 1)
        self.assertEqual(mixed.get_selection_stats(device=M4)["total_selections"], before)

    def test_pressure_of_this_machine(self):
        _, info = get_mixed_kernel(8, [4, 4], None)
        self.assertTrue(0 < info["memory_pressure"] <= 1)
        self.assertTrue(0 < fairway.memory_pressure() <= 1)


if __name__ == "__main__":
    unittest.main()
