"""Kernel names by rule: the documented results for the M4 Max, and those of this machine."""

import unittest

import fairway
from fairway.trellis import kernel_selection
from fairway.trellis.kernel_selection import (
    M4_MAX_THRESHOLDS,
    SPECIALIZED_DECODE_KERNELS,
    TILE_SIZES,
    get_kernel_for_batch_size,
    recommend_kernel,
)
from fairway.trellis.moe_dispatch import get_moe_kernel, select_moe_kernel

M4 = "M4 Max"
BASE = "moe_trellis_swiglu"


class DocumentedRules(unittest.TestCase):
    def test_thresholds(self):
        self.assertEqual(
            {name: rule.batch_max for name, rule in M4_MAX_THRESHOLDS.items()},
            {"decode": 1, "prefill4": 16, "base": 32, "large_batch": None},
        )
        self.assertEqual(
            TILE_SIZES, {"decode": 64, "prefill4": 64, "base": 64, "large_batch": 128}
        )
        self.assertEqual(
            SPECIALIZED_DECODE_KERNELS,
            {
                (6, 2, 3): f"{BASE}_decode_6_2_3",
                (6, 3, 4): f"{BASE}_decode_6_3_4",
                (6, 2, 4): f"{BASE}_decode_6_2_4",
            },
        )

    def test_every_bucket_edge(self):
        expected = {
            1: (f"{BASE}_decode", 64),
            2: (f"{BASE}_prefill4", 64),
            16: (f"{BASE}_prefill4", 64),
            17: (BASE, 64),
            32: (BASE, 64),
            33: (f"{BASE}_large_batch", 128),
            4096: (f"{BASE}_large_batch", 128),
        }
        for batch_size, kernel in expected.items():
            with self.subTest(batch_size=batch_size):
                self.assertEqual(get_kernel_for_batch_size(batch_size, device=M4), kernel)
                everything = {kernel[0], BASE}
                self.assertEqual(
                    select_moe_kernel(batch_size, available_kernels=everything, device=M4), kernel
                )

    def test_specialised_decode_needs_three_widths_one_token_and_availability(self):
        def name(batch_size, gate, up, down, **more):
            return select_moe_kernel(batch_size, False, gate, up, down, device=M4, **more)[0]

        special = f"{BASE}_decode_6_2_3"
        self.assertEqual(name(1, 6, 2, 3), special)
        self.assertEqual(name(1, 6, 2, None), f"{BASE}_decode")
        self.assertEqual(name(1, 6, 2, 5), f"{BASE}_decode")
        self.assertEqual(name(2, 6, 2, 3), f"{BASE}_prefill4")
        without = {f"{BASE}_decode", BASE}
        self.assertEqual(name(1, 6, 2, 3, available_kernels=without), f"{BASE}_decode")

    def test_unavailable_names_give_way(self):
        self.assertEqual(select_moe_kernel(8, available_kernels={BASE}, device=M4), (BASE, 64))
        self.assertEqual(
            get_moe_kernel(8, available_kernels=["mixed_bpw_kernel"], device=M4), "mixed_bpw_kernel"
        )
        with self.assertRaises(fairway.FairwayError):
            select_moe_kernel(8, available_kernels=set(), device=M4)

    def test_fp32_accumulation(self):
        self.assertEqual(
            select_moe_kernel(1, use_fp32_acc=True, device=M4), (f"{BASE}_decode_fp32acc", 64)
        )
        self.assertTrue(recommend_kernel(8, 1024, device=M4).use_fp32_acc)
        below = recommend_kernel(8, 1023, device=M4)
        self.assertFalse(below.use_fp32_acc)
        self.assertEqual(below.kernel_name, f"{BASE}_prefill4")
        self.assertIn("1024", recommend_kernel(8, 2048, device=M4).reason)


class ThisMachine(unittest.TestCase):
    def test_every_answer_is_available(self):
        available = kernel_selection.available_kernels()
        for batch_size in (1, 2, 16, 17, 32, 33, 1000):
            self.assertIn(select_moe_kernel(batch_size)[0], available)
            self.assertIn(recommend_kernel(batch_size, 2048).kernel_name, available)

    def test_aliases_lead_to_available_families(self):
        aliases = kernel_selection.kernel_aliases()
        self.assertEqual(aliases["fast_2bit_kernel"], f"{BASE}_grouped")
        available = kernel_selection.available_kernels()
        for name, family in aliases.items():
            self.assertEqual(name in available, family in available)

    def test_device_by_its_own_name(self):
        name = fairway.this_device_name()
        self.assertEqual(select_moe_kernel(8, device=name), select_moe_kernel(8))

    def test_errors_name_the_value(self):
        with self.assertRaisesRegex(fairway.FairwayError, "batch size 0") as raised:
            select_moe_kernel(0)
        self.assertIsInstance(raised.exception, ValueError)
        self.assertEqual(raised.exception.kind, "usage")
        with self.assertRaisesRegex(ValueError, "9 bits"):
            select_moe_kernel(1, gate_bits=9)
        with self.assertRaisesRegex(ValueError, "PDP-11"):
            select_moe_kernel(1, device="PDP-11")


if __name__ == "__main__":
    unittest.main()
