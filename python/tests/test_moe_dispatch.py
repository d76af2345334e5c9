"""MoE layers: the sum of their experts, named kernels, hints, grouping, threads, errors."""

import threading
import unittest

import numpy as np

import fairway
from fairway.trellis.kernel_selection import available_kernels
from fairway.trellis.loader import TrellisModelLoader
from fairway.trellis.moe_dispatch import (
    dispatch_moe_trellis_swiglu,
    dispatch_moe_trellis_swiglu_grouped_fairway,
    prepare_fairway_grouped_inputs,
)
from tests.support import BOOKS_MOE, synthetic_model

# Of an output, relative to its norm. Exact rows differ by the order of fp32 sums; the others read
# int8 activations and byte codes, three products one after another.
EXACT, CHEAP = 1e-5, 0.05


def hidden_states(m, columns=384, seed=1):
    return np.random.default_rng(seed).standard_normal((m, columns), dtype=np.float32)


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def by_hand(loader, x, ids, probs):
    """The layer as a sum over single matrices, by the scalar reference of another op."""

    def linear(name, rows):
        layer = loader.load_weight(f"layers.1.mlp.{name}_proj")
        return layer.forward(rows, "cpu_ref/trellis_linear")

    def expert(prefix, rows):
        gate = linear(prefix + "gate", rows)
        return linear(prefix + "down", gate / (1 + np.exp(-gate)) * linear(prefix + "up", rows))

    y = expert("shared_experts.", x).astype(np.float64)
    for token, (chosen, weights) in enumerate(zip(ids, probs)):
        for e, weight in zip(chosen, weights):
            y[token] += weight * expert(f"experts.{e}.", x[token : token + 1])[0]
    return y


class Dispatch(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.loader = TrellisModelLoader(synthetic_model())
        cls.layer = cls.loader.load_moe_layer(1)

    def test_output_is_the_sum_of_the_experts(self):
        x = hidden_states(6)
        y, info = dispatch_moe_trellis_swiglu(
            self.layer, x, kernel_name_override="cpu_ref/mixed_bpw_kernel", return_info=True
        )
        self.assertEqual((y.shape, y.dtype), ((6, 384), np.float32))
        expected = by_hand(self.loader, x, info.expert_ids, info.expert_probs)
        self.assertLess(distance(y, expected), EXACT)
        self.assertEqual(info.kernels["cpu_ref/mixed_bpw_kernel"], info.grouped_calls)
        # The experts that are met, and the shared one.
        self.assertEqual(info.expert_groups, len(np.unique(info.expert_ids)) + 1)

    def test_every_kernel_of_this_machine_agrees(self):
        for m in (1, 7, 40):
            x = hidden_states(m)
            expected = dispatch_moe_trellis_swiglu(
                self.layer, x, kernel_name_override="cpu_ref/mixed_bpw_kernel"
            )
            for name in sorted(available_kernels()):
                y = dispatch_moe_trellis_swiglu(self.layer, x, kernel_name_override=name)
                bound = EXACT if name.endswith("_fp32acc") else CHEAP
                self.assertLess(distance(y, expected), bound, f"{name}, {m} tokens")
            self.assertLess(distance(dispatch_moe_trellis_swiglu(self.layer, x), expected), CHEAP)

    def test_given_experts_are_used(self):
        x = hidden_states(3)
        ids, probs = [[0, 5], [7, 2], [1, 4]], [[0.5, 0.25], [1.0, 2.0], [0.0, 1.0]]
        y, info = dispatch_moe_trellis_swiglu(self.layer, x, ids, probs, return_info=True)
        np.testing.assert_array_equal(info.expert_ids, ids)
        np.testing.assert_allclose(info.expert_probs, probs)
        self.assertLess(distance(y, by_hand(self.loader, x, ids, probs)), CHEAP)

    def test_the_routers_choice_given_back_gives_the_same_bits(self):
        x = hidden_states(9)
        y, info = dispatch_moe_trellis_swiglu(self.layer, x, return_info=True)
        again = dispatch_moe_trellis_swiglu(self.layer, x, info.expert_ids, info.expert_probs)
        np.testing.assert_array_equal(y, again)

    def test_threads_do_not_change_the_bits(self):
        x = hidden_states(33)
        self.addCleanup(fairway.set_threads, 0)
        fairway.set_threads(1)
        self.assertEqual(fairway.threads(), 1)
        one = dispatch_moe_trellis_swiglu(self.layer, x)
        fairway.set_threads(2)
        np.testing.assert_array_equal(dispatch_moe_trellis_swiglu(self.layer, x), one)

    def test_grouped_fairway(self):
        x = hidden_states(12)
        y, info = dispatch_moe_trellis_swiglu_grouped_fairway(self.layer, x, return_info=True)
        experts = {name: n for name, n in info.kernels.items() if "swiglu" in name}
        self.assertEqual([n for n in experts.values()], [1])
        self.assertIn("moe_trellis_swiglu_grouped", next(iter(experts)))
        self.assertEqual((info.grouped_calls, info.fallback_calls), (1, 0))
        expected = dispatch_moe_trellis_swiglu(
            self.layer, x, kernel_name_override="cpu_ref/mixed_bpw_kernel"
        )
        self.assertLess(distance(y, expected), CHEAP)

    def test_override_and_hint(self):
        x = hidden_states(4)

        def ran(**names):
            _, info = dispatch_moe_trellis_swiglu(self.layer, x, return_info=True, **names)
            return {name.split("/")[1] for name in info.kernels} - {"dense_linear"}

        chosen = "moe_trellis_swiglu_large_batch"
        self.assertEqual(ran(kernel_name_override=chosen), {chosen})
        self.assertEqual(ran(kernel_hint=chosen), {chosen})
        self.assertEqual(ran(kernel_hint="fast_2bit_kernel"), {"moe_trellis_swiglu_grouped"})
        self.assertEqual(ran(kernel_name_override=chosen, kernel_hint="mixed_bpw_kernel"), {chosen})
        for names in ({"kernel_hint": "no_such"}, {"kernel_name_override": "no_such"}):
            with self.assertRaisesRegex(fairway.FairwayValueError, "no_such"):
                ran(**names)

    def test_calls_from_several_threads(self):
        x = hidden_states(5)
        expected = dispatch_moe_trellis_swiglu(self.layer, x)
        results = [None] * 4

        def work(i):
            for _ in range(20):
                results[i] = dispatch_moe_trellis_swiglu(self.layer, x)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for result in results:
            np.testing.assert_array_equal(result, expected)

    def test_wrong_arguments(self):
        x = hidden_states(2)
        for arguments in (
            (hidden_states(2, 100),),
            (np.zeros(384),),
            (np.zeros((0, 384)),),
            (x, [[0, 1], [2, 3]]),
            (x, [[0, 1]], [[1, 1]]),
            (x, [[0, 0], [1, 2]], [[1, 1], [1, 1]]),
            (x, [[0, 8], [1, 2]], [[1, 1], [1, 1]]),
            (x, [[0, -1], [1, 2]], [[1, 1], [1, 1]]),
            (x, [[0, 1, 2], [1, 2, 3]], [[1, 1, 1], [1, 1, 1]]),
        ):
            with self.assertRaises(fairway.FairwayValueError):
                dispatch_moe_trellis_swiglu(self.layer, *arguments)

    def test_bundled_model_with_every_batch_bucket(self):
        layer = TrellisModelLoader(BOOKS_MOE).load_moe_layer(3)
        for m in (1, 2, 16, 17, 33, 200):
            x = hidden_states(m)
            cheap = dispatch_moe_trellis_swiglu(layer, x)
            exact = dispatch_moe_trellis_swiglu(
                layer, x, kernel_name_override="cpu_ref/mixed_bpw_kernel"
            )
            self.assertLess(distance(cheap, exact), CHEAP, m)


class Grouping(unittest.TestCase):
    def test_slots(self):
        ids = np.array([[3, 1], [0, 3], [1, 0]], dtype=np.int32)
        groups = prepare_fairway_grouped_inputs(ids, 5)
        self.assertEqual(groups.offsets.tolist(), [0, 2, 4, 4, 6, 6])
        self.assertEqual(groups.tokens.tolist(), [1, 2, 0, 2, 0, 1])
        for token in range(3):
            for k in range(2):
                slot = groups.slot_of[token, k]
                self.assertEqual(groups.tokens[slot], token)
                expert = ids[token, k]
                self.assertTrue(groups.offsets[expert] <= slot < groups.offsets[expert + 1])

    def test_wrong_assignments(self):
        for ids, experts in (([[0, 5]], 5), ([[1, 1]], 5), ([0, 1], 5), ([[0]], 0)):
            with self.assertRaises(fairway.FairwayValueError):
                prepare_fairway_grouped_inputs(ids, experts)


if __name__ == "__main__":
    unittest.main()
