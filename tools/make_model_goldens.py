#!/usr/bin/env python3
"""Writes the two tiny EXL3 models of tests/model/data and their logits, with Hugging Face transformers as the oracle.

    python3 tools/make_model_goldens.py --reference PATH/exl3_reference.py [--out tests/model/data]

Needs numpy, torch, safetensors and transformers (the committed files were made with the versions that golden.json
names). --reference is the NumPy description of the EXL3 format; only its decoder is used, so the weights that the
oracle multiplies with come from code that shares nothing with the engine.

A model is random: the trellis words are uniform random bits (every bit pattern is a legal tile), the scale vectors have
random signs and magnitudes around 1/sqrt(in). Its sizes are chosen to be awkward rather than realistic: hidden sizes,
head sizes and intermediate sizes that are no multiple of 128, every expert with another (gate, up, down) tuple of
widths, all three codebooks, legacy sign words, biases, noise in every padded column.

What Hugging Face does and a reader might not expect (transformers 5.23):
  * q_a_layernorm and kv_a_layernorm of MLA use eps 1e-6 whatever config.rms_norm_eps says;
  * rope_interleave defaults to true for Glm4MoeLite: pairs (2i, 2i+1), result written de-interleaved for q and k alike;
  * the sigmoid router adds e_score_correction_bias for the choice only, divides by sum + 1e-20, then scales; the
    softmax router takes the softmax over all experts before the choice and divides by the plain sum;
  * norms, rotary angles and routers work in fp32 even when the model is float64, so the oracle itself is good to about
    1e-6 (golden.json records the distance between its float64 and its float32 run).
"""

import argparse
import hashlib
import importlib.util
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded

import numpy as np
import safetensors.torch
import torch
import transformers

PAD = 128                # both sides of a quantized matrix are padded to this
VOCAB = 280              # 256 bytes, one special token, the rest unused by the tokenizer; the head is padded to 384
END_OF_TEXT = 256
SEQUENCES, LENGTH, GREEDY = 2, 24, 8
MIN_ROUTING_GAP = 1e-3   # between the last chosen and the first refused selection score; fp32 noise is about 1e-6
MIN_GREEDY_GAP = 2e-2    # between the two largest logits of a greedy step; the test allows errors of at most 1e-3
SMALL = 0.01             # of embeddings and MLA latents: small enough that the epsilon of the next norm matters
CODEBOOK_FLAGS = {"mul1": 0x83DCD12D, "mcg": 0xCBAC1FED}  # 3inst is the absence of both

QWEN3_CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "attention_bias": True,
    "bos_token_id": None,
    "decoder_sparse_step": 1,
    "eos_token_id": END_OF_TEXT,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 128,
    "intermediate_size": 256,
    "max_position_embeddings": 128,
    "mlp_only_layers": [],
    "moe_intermediate_size": 96,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
}

GLM_CONFIG = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "attention_bias": False,
    "bos_token_id": None,
    "eos_token_id": END_OF_TEXT,
    "hidden_act": "silu",
    "hidden_size": 192,
    "intermediate_size": 160,
    "kv_lora_rank": 64,
    "max_position_embeddings": 128,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "moe_intermediate_size": 128,
    "n_group": 1,
    "n_routed_experts": 6,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "q_lora_rank": 128,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_interleave": True,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "routed_scaling_factor": 1.8,
    "tie_word_embeddings": False,
    "topk_group": 1,
    "v_head_dim": 24,
    "vocab_size": VOCAB,
}


def load_reference(path):
    spec = importlib.util.spec_from_file_location("exl3_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def padded(n):
    return -(-n // PAD) * PAD


class ModelWriter:
    """Draws random tensors; keeps what goes into the EXL3 file and, beside it, what the oracle multiplies with."""

    def __init__(self, seed, reference):
        self.rng = np.random.default_rng(seed)
        self.reference = reference
        self.file = {}      # name -> torch tensor, as stored
        self.weights = {}   # name -> float64 array, exact values for the oracle ([out, in] for matrices)
        self.bits = {}      # module key -> (weights, bits), for the average
        self.tuples = []    # (gate, up, down) widths of every expert so far

    def vector(self, name, n, dtype, mean, std):
        values = torch.from_numpy(mean + std * self.rng.standard_normal(n)).to(dtype)
        self.file[name] = values
        self.weights[name] = values.double().numpy()

    def dense(self, name, out, in_, dtype, gain):
        values = torch.from_numpy(gain / np.sqrt(in_) * self.rng.standard_normal((out, in_))).to(dtype)
        self.file[name] = values
        self.weights[name] = values.double().numpy()

    def scales(self, n, magnitude):
        sign = self.rng.choice([-1.0, 1.0], n)
        return (sign * magnitude * np.exp(0.2 * self.rng.standard_normal(n))).astype(np.float16)

    def trellis(self, key, in_, out, bits, codebook="mul1", gain=1.0, bias=False, legacy=()):
        """One quantized linear; outputs have a standard deviation of about `gain` (a number or one per padded column).
        `legacy` names the sides ("in", "out") stored as sign words instead of scales: the outputs are then sqrt(in)
        times (or 1/gain times) larger, which suits only a linear whose output is normalised."""
        rng, ref = self.rng, self.reference
        pin, pout = padded(in_), padded(out)
        words = rng.integers(0, 1 << 16, (pin // 16, pout // 16, 16 * bits)).astype(np.uint16)
        self.file[key + ".trellis"] = torch.from_numpy(words.view(np.int16))
        if codebook != "3inst":
            flag = np.uint32(CODEBOOK_FLAGS[codebook]).view(np.int32)
            self.file["%s.%s" % (key, codebook)] = torch.tensor(int(flag), dtype=torch.int32)
        sides = {}
        for side, size, magnitude, scale, signs in (
                ("in", pin, 1.0 / np.sqrt(in_), ".suh", ".su"), ("out", pout, gain, ".svh", ".sv")):
            sides[side] = self.scales(size, magnitude)
            if side in legacy:
                packed = ref.bits_from_signs(sides[side])
                sides[side] = ref.signs_from_bits(packed)
                self.file[key + signs] = torch.from_numpy(packed)
            else:
                self.file[key + scale] = torch.from_numpy(sides[side])
        w = ref.dequantize_linear(words, sides["in"], sides["out"], codebook, dtype=np.float64)
        self.weights[key + ".weight"] = np.ascontiguousarray(w[:in_, :out].T)
        self.bits[key] = (pin * pout, bits)
        if bias:
            values = (0.3 * rng.standard_normal(pout)).astype(np.float16)
            self.file[key + ".bias"] = torch.from_numpy(values)
            self.weights[key + ".bias"] = values[:out].astype(np.float64)

    def swiglu(self, key, hidden, intermediate, bits, codebooks=("mul1",) * 3):
        for name, k, codebook in zip(("gate_proj", "up_proj", "down_proj"), bits, codebooks):
            down = name == "down_proj"
            self.trellis("%s.%s" % (key, name), intermediate if down else hidden, hidden if down else intermediate, k,
                         codebook, gain=1.6 if down else 1.1)

    def experts(self, key, count, hidden, intermediate, codebooks):
        """Every expert of the model gets its own tuple of widths; over a layer all eight widths occur."""
        for e in range(count):
            while True:
                bits = tuple(int(b) for b in self.rng.integers(1, 9, 3))
                bits = (e % 8 + 1,) + bits[1:]
                if bits not in self.tuples:
                    break
            self.tuples.append(bits)
            self.swiglu("%s.%d" % (key, e), hidden, intermediate, bits, codebooks[e % len(codebooks)])

    def frame(self, hidden, layers, norm_dtype):
        self.dense("model.embed_tokens.weight", VOCAB, hidden, torch.bfloat16, SMALL * np.sqrt(hidden))
        for i in range(layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                self.vector("model.layers.%d.%s.weight" % (i, norm), hidden, norm_dtype, 1.0, 0.15)
        self.vector("model.norm.weight", hidden, norm_dtype, 1.0, 0.15)
        self.trellis("lm_head", hidden, VOCAB, 6, gain=2.0)

    def average_bits(self):
        counted = [v for key, v in self.bits.items() if key != "lm_head"]
        return round(sum(n * b for n, b in counted) / sum(n for n, _ in counted), 2)


def build_qwen3(config, writer):
    hidden, dim = config["hidden_size"], config["head_dim"]
    q_out, kv_out = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    writer.frame(hidden, config["num_hidden_layers"], torch.bfloat16)
    for i in range(config["num_hidden_layers"]):
        attn, mlp = "model.layers.%d.self_attn" % i, "model.layers.%d.mlp" % i
        writer.trellis(attn + ".q_proj", hidden, q_out, 4 + i, bias=True)
        writer.trellis(attn + ".k_proj", hidden, kv_out, 5 - i, bias=True)
        writer.trellis(attn + ".v_proj", hidden, kv_out, 8 - 5 * i, ("mul1", "mcg")[i], bias=True)
        writer.trellis(attn + ".o_proj", q_out, hidden, 2 + 5 * i, gain=1.5, bias=True)
        writer.vector(attn + ".q_norm.weight", dim, torch.bfloat16, 1.3, 0.2)
        writer.vector(attn + ".k_norm.weight", dim, torch.bfloat16, 1.3, 0.2)
        writer.dense(mlp + ".gate.weight", config["num_experts"], hidden, torch.float16, 1.5)
        writer.experts(mlp + ".experts", config["num_experts"], hidden, config["moe_intermediate_size"],
                       [("mul1",) * 3])


def build_glm(config, writer):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope, v = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    q_rank, kv_rank = config["q_lora_rank"], config["kv_lora_rank"]
    legacy = [(), ("in", "out"), ("in",)]
    codebooks = [("mul1",) * 3, ("mcg",) * 3, ("mul1",) * 3, ("3inst",) * 3, ("mul1", "3inst", "mcg"), ("mul1",) * 3]
    writer.frame(hidden, config["num_hidden_layers"], torch.bfloat16)
    for i, kind in enumerate(config["mlp_layer_types"]):
        attn, mlp = "model.layers.%d.self_attn" % i, "model.layers.%d.mlp" % i
        writer.trellis(attn + ".q_a_proj", hidden, q_rank, 3 + i, ("mul1", "mul1", "3inst")[i], gain=SMALL,
                       legacy=legacy[i])
        writer.vector(attn + ".q_a_layernorm.weight", q_rank, torch.bfloat16, 1.0, 0.15)
        writer.trellis(attn + ".q_b_proj", q_rank, heads * (nope + rope), 6 - i, gain=1.5)
        kv_gain = np.full(padded(kv_rank + rope), 1.5)
        kv_gain[:kv_rank] = SMALL
        writer.trellis(attn + ".kv_a_proj_with_mqa", hidden, kv_rank + rope, 8 - 2 * i, ("mul1", "mcg", "mul1")[i],
                       gain=kv_gain)
        writer.vector(attn + ".kv_a_layernorm.weight", kv_rank, torch.bfloat16, 1.0, 0.15)
        writer.dense(attn + ".kv_b_proj.weight", heads * (nope + v), kv_rank, torch.float16, 1.2)
        writer.trellis(attn + ".o_proj", heads * v, hidden, 2 + i, gain=1.5)
        if kind == "dense":
            writer.swiglu(mlp, hidden, config["intermediate_size"], (3, 5, 4))
            continue
        writer.dense(mlp + ".gate.weight", config["n_routed_experts"], hidden, torch.float16, 1.5)
        writer.vector(mlp + ".gate.e_score_correction_bias", config["n_routed_experts"], torch.float16, 0.0, 0.15)
        writer.experts(mlp + ".experts", config["n_routed_experts"], hidden, config["moe_intermediate_size"], codebooks)
        writer.swiglu(mlp + ".shared_experts", hidden, config["moe_intermediate_size"] * config["n_shared_experts"],
                      (4 + i, 7 - i, 2 * i))


def oracle_model(config, writer, dtype):
    """The Hugging Face model with the dequantized weights; its fused expert parameters are stacked here."""
    cls = getattr(transformers, config["architectures"][0])
    hf_config = cls.config_class.from_dict(dict(config))
    hf_config._attn_implementation = "sdpa"
    hf_config._experts_implementation = "eager"
    state = dict(writer.weights)
    experts = config.get("num_experts", config.get("n_routed_experts"))
    for i in range(config["num_hidden_layers"]):
        key = "model.layers.%d.mlp.experts." % i
        if key + "0.gate_proj.weight" not in state:
            continue
        gate, up, down = ([state.pop("%s%d.%s.weight" % (key, e, p)) for e in range(experts)]
                          for p in ("gate_proj", "up_proj", "down_proj"))
        state[key + "gate_up_proj"] = np.stack([np.concatenate(pair) for pair in zip(gate, up)])
        state[key + "down_proj"] = np.stack(down)
    model = cls(hf_config).to(dtype).eval()
    model.load_state_dict({k: torch.from_numpy(v).to(dtype) for k, v in state.items()}, strict=True)
    return model


def watch_routers(model, top_k):
    """Hooks every router; returns the list that gets (smallest selection gap, {(router, expert)}) of each call."""
    calls = []

    def hook(module, _, output):
        logits = output[0].double()
        bias = getattr(module, "e_score_correction_bias", None)
        scores = torch.softmax(logits, -1) if bias is None else torch.sigmoid(logits) + bias
        ranked = scores.sort(-1, descending=True).values
        gap = float((ranked[:, top_k - 1] - ranked[:, top_k]).min())
        calls.append((gap, {(id(module), e) for e in output[2].flatten().tolist()}))

    for module in model.modules():
        if type(module).__name__.lower().endswith("topkrouter"):
            module.register_forward_hook(hook)
    return calls


def greedy_continuation(model, ids):
    """GREEDY tokens and the smallest gap between the two largest logits on the way."""
    greedy, smallest = [], np.inf
    for _ in range(GREEDY):
        top = model(torch.tensor([ids + greedy]), use_cache=False).logits[0, -1].topk(2)
        smallest = min(smallest, float(top.values[0] - top.values[1]))
        greedy.append(int(top.indices[0]))
    return greedy, smallest


@torch.no_grad()
def run_oracle(config, writer):
    """Sequences with the logits of every position and a greedy continuation. A sequence in which a choice of experts or
    of a token is close to a tie is drawn again: there, rounding alone would make the result jump."""
    model = oracle_model(config, writer, torch.float64)
    single = oracle_model(config, writer, torch.float32)
    calls = watch_routers(model, config["num_experts_per_tok"])
    sequences, routing_gaps, greedy_gaps, differences, chosen, rejected = [], [], [], [], set(), 0
    while len(sequences) < SEQUENCES:
        ids = [int(t) for t in writer.rng.integers(0, VOCAB, LENGTH)]
        calls.clear()
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
        greedy, greedy_gap = greedy_continuation(model, ids)
        routing_gap = min(gap for gap, _ in calls)
        if routing_gap < MIN_ROUTING_GAP or greedy_gap < MIN_GREEDY_GAP:
            rejected += 1
            continue
        chosen.update(*(pairs for _, pairs in calls))
        routing_gaps.append(routing_gap)
        greedy_gaps.append(greedy_gap)
        differences.append(float((single(torch.tensor([ids]), use_cache=False).logits[0] - logits).abs().max()))
        sequences.append({"ids": ids, "greedy": greedy, "logits": logits.numpy()})
    if len(chosen) != len(writer.tuples):
        raise SystemExit("%d of %d experts are never chosen; try another --seed"
                         % (len(writer.tuples) - len(chosen), len(writer.tuples)))
    values = np.stack([s["logits"] for s in sequences])
    return sequences, {"sequences_rejected": rejected, "smallest_routing_gap": min(routing_gaps),
                       "smallest_greedy_gap": min(greedy_gaps), "float32_oracle_max_difference": max(differences),
                       "logits_std": float(values.std()), "logits_max": float(np.abs(values).max())}


def byte_symbols():
    """The printable stand-ins of byte-level BPE: printable bytes are themselves, the others follow from U+0100 on."""
    keep = [b for r in ((0x21, 0x7E), (0xA1, 0xAC), (0xAE, 0xFF)) for b in range(r[0], r[1] + 1)]
    rest = [b for b in range(256) if b not in keep]
    table = {b: chr(b) for b in keep}
    table.update({b: chr(256 + n) for n, b in enumerate(rest)})
    return [table[b] for b in range(256)]


def tokenizer_json():
    """Byte-level BPE without merges: one token per byte, and one special token."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": END_OF_TEXT, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {s: b for b, s in enumerate(byte_symbols())}, "merges": []},
    }


def golden_text(seed, sequences, facts):
    """JSON with one line per row of logits, six decimals: half a unit in the last place is below fp32 noise here."""
    lines = ["{"]
    about = {"seed": seed, "transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
             "numpy": np.__version__, **{k: float("%.4g" % v) for k, v in facts.items()}}
    lines.append('"about": %s,' % json.dumps(about))
    lines.append('"sequences": [')
    for s, seq in enumerate(sequences):
        lines.append('{"ids": %s,\n"greedy": %s,\n"logits": [' % (json.dumps(seq["ids"]), json.dumps(seq["greedy"])))
        rows = ["[%s]" % ",".join("%.6f" % x for x in row) for row in seq["logits"]]
        lines.append(",\n".join(rows))
        lines.append("]}" + ("," if s + 1 < len(sequences) else ""))
    lines.append("]\n}")
    return "\n".join(lines) + "\n"


def write_model(folder, config, build, reference, seed):
    writer = ModelWriter(seed, reference)
    build(config, writer)
    result = run_oracle(config, writer)
    folder.mkdir(parents=True, exist_ok=True)
    quantization = {"quant_method": "exl3", "version": "1.4.1", "bits": writer.average_bits(), "head_bits": 6,
                    "out_scales": "always", "codebook": "mul1"}
    # Converted models with tied embeddings keep the flag although the head has tensors of its own; those must win.
    stored = {**config, "tie_word_embeddings": "Qwen3" in config["architectures"][0]}
    with open(folder / "config.json", "w") as f:
        json.dump({**stored, "quantization_config": quantization}, f, indent=2)
        f.write("\n")
    with open(folder / "tokenizer.json", "w") as f:
        json.dump(tokenizer_json(), f, separators=(",", ":"))
        f.write("\n")
    (folder / "golden.json").write_text(golden_text(seed, *result))
    tensors = {name: writer.file[name].contiguous() for name in sorted(writer.file)}
    data = safetensors.torch.save(tensors, metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()[:16]
    print("%s: seed %d, model sha256 %s..., %d bytes in all, %s" % (
        folder.name, seed, digest, sum(f.stat().st_size for f in folder.iterdir()),
        ", ".join("%s %.3g" % item for item in result[1].items())))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--reference", required=True, type=Path, help="exl3_reference.py, the NumPy format reference")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/model/data",
                        help="folder that receives one folder per model (default: tests/model/data)")
    parser.add_argument("--seed", type=int, default=1, help="default 1, which the committed files use")
    args = parser.parse_args()
    reference = load_reference(args.reference)
    torch.set_num_threads(1)  # the order of sums, and with it the last digit, does not depend on the machine
    write_model(args.out / "qwen3_moe_tiny", QWEN3_CONFIG, build_qwen3, reference, args.seed)
    write_model(args.out / "glm4_moe_lite_tiny", GLM_CONFIG, build_glm, reference, args.seed)


if __name__ == "__main__":
    main()
