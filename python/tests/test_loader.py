"""Single matrices of a model: names, facts, products, errors."""

import pathlib
import shutil
import tempfile
import unittest

import numpy as np

import fairway
from fairway.trellis.loader import TrellisModelLoader
from tests.support import BOOKS_MOE, synthetic_model


class Loading(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.loader = TrellisModelLoader(synthetic_model())

    def test_three_ways_to_name_a_layer(self):
        for name in (
            "layers.0.mlp.gate_proj",
            "model.layers.0.mlp.gate_proj",
            "model.layers.0.mlp.gate_proj.trellis",
        ):
            layer = self.loader.load_weight(name)
            self.assertEqual(layer.name, "model.layers.0.mlp.gate_proj")
            self.assertEqual((layer.in_features, layer.out_features), (384, 640))
        self.assertEqual(layer.codebook, "mul1")
        self.assertTrue(1 <= layer.bits <= 8)
        self.assertEqual(layer.nbytes, 384 * 640 * layer.bits // 8)
        self.assertTrue(pathlib.Path(layer.file).is_file())

    def test_widths_of_experts(self):
        expert = [
            self.loader.load_weight(f"layers.1.mlp.experts.2.{part}_proj").bits
            for part in ("gate", "up", "down")
        ]
        self.assertEqual(expert, [6, 2, 3])
        self.assertEqual(
            self.loader.load_moe_layer(1).expert_bit_tuples,
            [(2, 2, 2), (4, 4, 4), (6, 2, 3), (3, 3, 3)] * 2,
        )
        self.assertEqual(self.loader.load_moe_layer(1).expert_bits, [2, 4, 4, 3] * 2)

    def test_every_name_loads(self):
        names = self.loader.weight_names()
        self.assertIn("model.layers.1.mlp.experts.7.down_proj", names)
        for name in names:
            self.assertEqual(self.loader.load_weight(name).name, name)

    def test_product_is_that_of_the_reference(self):
        x = np.random.default_rng(1).standard_normal((5, 384), dtype=np.float32)
        for codebook in ("mul1", "3inst", "mcg"):
            loader = TrellisModelLoader(synthetic_model(codebook))
            layer = loader.load_weight("layers.0.mlp.up_proj")
            expected = layer.forward(x, "cpu_ref/trellis_linear")
            error = np.linalg.norm(layer(x) - expected) / np.linalg.norm(expected)
            # int8 activations: a step is 1/127 of a row's largest value, and codes add up to 0.5 %
            self.assertLess(error, 0.02, codebook)
            self.assertEqual(layer(x).dtype, np.float32)
            wide = layer(np.asfortranarray(x.astype(np.float64)))
            np.testing.assert_array_equal(wide, layer(x))

    def test_one_row_differs_from_another(self):
        x = np.eye(2, 384, dtype=np.float32)
        y = self.loader.load_weight("layers.0.mlp.up_proj")(x)
        self.assertGreater(np.abs(y[0] - y[1]).max(), 0)

    def test_layer_outlives_its_loader(self):
        layer = TrellisModelLoader(synthetic_model()).load_weight("layers.0.mlp.up_proj")
        self.assertTrue(np.isfinite(layer(np.ones((1, 384)))).all())

    def test_errors_name_file_and_tensor(self):
        missing = r"config\.json: tensor \"layers\.7\.mlp\.up_proj\""
        with self.assertRaisesRegex(ValueError, missing):
            self.loader.load_weight("layers.7.mlp.up_proj")
        plain = r"model\.safetensors.*mlp\.gate\.weight.*plain"
        with self.assertRaisesRegex(RuntimeError, plain) as raised:
            self.loader.load_weight("layers.1.mlp.gate")
        self.assertIsInstance(raised.exception, fairway.FairwayError)
        self.assertEqual(raised.exception.kind, "unsupported")
        layer = self.loader.load_weight("layers.0.mlp.up_proj")
        with self.assertRaisesRegex(ValueError, r"x has shape \[3, 5\], expected \[M, 384\]"):
            layer(np.zeros((3, 5)))
        with self.assertRaisesRegex(ValueError, "no_such_row"):
            layer.forward(np.zeros((1, 384)), "no_such_row")
        with self.assertRaisesRegex(ValueError, "layer 0 is none with routed experts"):
            self.loader.load_moe_layer(0)

    def test_damaged_and_missing_models(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(fairway.FairwayError, "config.json"):
                TrellisModelLoader(folder)
            broken = pathlib.Path(folder) / "broken"
            shutil.copytree(synthetic_model(), broken)
            weights = broken / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1000])
            with self.assertRaisesRegex(ValueError, r"model\.safetensors"):
                TrellisModelLoader(broken)

    def test_bundled_model(self):
        loader = TrellisModelLoader(BOOKS_MOE)
        self.assertEqual(loader.moe_layers(), list(range(1, 8)))
        self.assertEqual(loader.load_weight("layers.0.mlp.gate_proj").out_features, 1024)


if __name__ == "__main__":
    unittest.main()
