"""Models for the tests, and where things are."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

SOURCE_DIR = pathlib.Path(os.environ["FAIRWAY_SOURCE_DIR"])  # the checkout
BOOKS_MOE = SOURCE_DIR / "models" / "books-moe"

# Two layers, the second with 8 experts of four kinds.
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "attention_bias": False,
    "hidden_size": 384,
    "intermediate_size": 640,
    "moe_intermediate_size": 128,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 128,
    "kv_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "v_head_dim": 64,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 512,
}
BITS = "2,2,2;4,4,4;6,2,3;3,3,3"  # experts take these in turn


@functools.lru_cache(maxsize=None)
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="fairway-test-")  # removed when the process ends


def synthetic_model(codebook: str = "mul1") -> pathlib.Path:
    """A model with random weights, written by `fairway synth` once."""
    folder = pathlib.Path(_folder().name)
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    out = folder / f"model-{codebook}"
    if out.exists():
        return out
    command = [sys.executable, "-m", "fairway", "synth", "--config", str(config), "--bits", BITS]
    command += ["--codebook", codebook, "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out
