"""What each call of a forward pass has to do at least, by the model's sizes: bytes, weights decoded, operations, and the time that takes.

A call is one of the kernels of DevicePass (src/model/cuda/device_pass.cc), which may be several launches. Weights are read and decoded once
a pass, activations read and written once, and keys of the cache read once for each sequence."""

import collections

# Bytes read and written, weights decoded, operations of matrix products (two each).
Work = collections.namedtuple("Work", "bytes decoded flops")
# Microseconds of each at its ceiling; they can overlap, so the largest is the floor.
Floor = collections.namedtuple("Floor", "decode move multiply")
FEW_ROWS = 8  # up to these the byte path decodes, above them the path to half precision
CACHE_BYTES = {"f16": 2, "fp8": 1}
PADDED = 128

# Names of calls.
EMBED, NORM, Q_NORM, FIRST, Q_B, PREPARE, ABSORB, ATTEND, UNFOLD, O, ROUTER, EXPERTS, DENSE, HEAD, CHOOSE = (
    "embedding", "norm before a block", "norm of q_a", "first projections", "q_b_proj", "rotation, cache", "mla_absorb", "attention over the cache",
    "mla_unfold", "o_proj", "norm, router", "experts", "dense layer", "head", "choice of a token")
# Calls of which one launch does several.
TO_ABSORB, MLA, GQA = "rotation and mla_absorb", "rotation to mla_unfold", "rotation and attention"
TOGETHER = {TO_ABSORB: (PREPARE, ABSORB), MLA: (PREPARE, ABSORB, ATTEND, UNFOLD), GQA: (PREPARE, ATTEND)}
# The same with the linear layer of the query inside.
Q_TO_ABSORB = "q_b_proj to mla_absorb"
TOGETHER[Q_TO_ABSORB] = (Q_B, *TOGETHER[TO_ABSORB])


def is_mla(config):
    return "kv_lora_rank" in config


def linears_of(config):
    """Names of the calls of linear layers in a layer, in order."""
    return [FIRST, Q_B, O] if config.get("q_lora_rank") else [FIRST, O]


def padded(n):
    return -(-n // PADDED) * PADDED


def work_of(config, *, rows, context, prefill, bits, attention_bits=3, dense_bits=3, head_bits=6, cache="f16"):
    """name of a call -> Work of one call. rows: of the pass; context: positions before the first of them; prefill: they are of one sequence."""
    c, h, r = config, config["hidden_size"], rows
    heads, cell = c["num_attention_heads"], CACHE_BYTES[cache]
    works = {}

    def linear(name, outs, n, width, rows_of=r, add=False):
        weights = sum(n * padded(out) for out in outs)
        moved = rows_of * (2 * n + (8 if add else 4) * sum(outs))
        works[name] = Work(weights * width / 8 + moved, weights, 2 * rows_of * weights)

    def plain(name, moved, weights=0, weight_bytes=0):
        works[name] = Work(moved + weights * weight_bytes, 0, 2 * r * weights)

    # Positions that queries of the pass see together, and pairs of both.
    seen = context + r if prefill else r * (context + 1)
    pairs = r * context + r * (r + 1) // 2 if prefill else seen
    plain(EMBED, r * h * (2 + 4))
    plain(NORM, r * h * (4 + 4 + 4 + 2))  # residual stream and what a block left; the sum, and its norm in halves
    if is_mla(c):
        latent, rope, nope, value = c["kv_lora_rank"], c["qk_rope_head_dim"], c["qk_nope_head_dim"], c["v_head_dim"]
        key, rank = latent + rope, c.get("q_lora_rank") or 0
        q = heads * (nope + rope)
        if rank:
            linear(FIRST, [rank, key], h, attention_bits)
            plain(Q_NORM, r * rank * (4 + 2))
            linear(Q_B, [q], rank, attention_bits)
        else:
            linear(FIRST, [q, key], h, attention_bits)
        plain(PREPARE, r * (4 * (q + key) + 2 * q + cell * key))
        plain(ABSORB, 2 * r * heads * (nope + latent), heads * nope * latent, 2)
        works[ATTEND] = Work(cell * seen * key + 2 * r * heads * (key + latent), 0, 2 * pairs * heads * (key + latent))
        plain(UNFOLD, 2 * r * heads * (latent + value), heads * value * latent, 2)
        linear(O, [h], heads * value, attention_bits, add=True)
    else:
        dim, kv = c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        linear(FIRST, [heads * dim, kv, kv], h, attention_bits)
        plain(PREPARE, r * (4 * (heads * dim + 2 * kv) + 2 * heads * dim + 2 * cell * kv))
        works[ATTEND] = Work(2 * cell * seen * kv + 2 * r * heads * 2 * dim, 0, 4 * pairs * heads * dim)
        linear(O, [h], heads * dim, attention_bits, add=True)
    routed, top_k = c.get("n_routed_experts") or c["num_experts"], c["num_experts_per_tok"]
    shared = c.get("n_shared_experts") or 0
    plain(ROUTER, r * h * (4 + 2) + 8 * r * top_k, routed * h, 2)
    expert = 3 * h * c["moe_intermediate_size"]
    hit = routed * (1 - (1 - top_k / routed) ** r) + shared
    mean_bits = sum(map(int, bits.split(","))) / len(bits.split(","))
    works[EXPERTS] = Work(hit * expert * mean_bits / 8 + 6 * r * h, hit * expert, 2 * r * (top_k + shared) * expert)
    dense = 3 * h * c["intermediate_size"]
    works[DENSE] = Work(dense * dense_bits / 8 + 6 * r * h, dense, 2 * r * dense)
    wanted = 1 if prefill else r
    linear(HEAD, [c["vocab_size"]], h, head_bits, rows_of=wanted)
    plain(CHOOSE, 4 * wanted * c["vocab_size"])
    for name, parts in TOGETHER.items():
        if all(part in works for part in parts):
            works[name] = Work(*map(sum, zip(*(works[part] for part in parts))))
    return works


def floor_of(work, rows, ceilings, copy_rate):
    """ceilings: of results/peer_cuda_moe_*.json; copy_rate: bytes read and written per second."""
    rate = ceilings["mul1_int8_weights_per_second" if rows <= FEW_ROWS else "mul1_half_weights_per_second"]
    return Floor(work.decoded / rate * 1e6, work.bytes / copy_rate * 1e6,
                 work.flops / ceilings["half_matrix_flops_per_second_assumed"] * 1e6)
