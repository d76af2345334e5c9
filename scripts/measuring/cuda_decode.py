"""Whole models on a CUDA GPU: decode and prefill beside the reference implementation, bars and aims; agreement with the CPU."""

import json
import pathlib
import re

from measuring import cuda, cuda_load, step_profile, step_work
from measuring.base import RESULTS
from measuring.markup import table

# Tokens per second that are the bar and the aim: (model, kind, batch or prompt tokens).
BARS = {("glm-4.7-flash", "decode", 1): (600, 1000), ("glm-4.7-flash", "decode", 32): (3000, 4500),
        ("glm-4.7-flash", "prefill", 2048): (20000, 40000), ("qwen3-30b-a3b", "decode", 1): (600, 1000),
        ("qwen3-30b-a3b", "decode", 32): (3000, 4500), ("qwen3-30b-a3b", "prefill", 2048): (30000, 50000)}
# Share of the speed of an empty context that may be lost at this one, by type of cache.
CONTEXT_BAR_AT = 16384
CONTEXT_BARS = {"f16": 0.25, "fp8": 0.15}
BENCH_KEYS = {"revision", "date", "command", "device", "model", "load_seconds", "results"}
AGREEMENT_KEYS = {"revision", "date", "machine", "caches", "prompts", "bars", "same_prompts", "differences_are_near_ties"}
PEER_KEYS = {"program", "date", "method", "records"}
NOTHING = ["No result file has these figures yet."]


def read(path, schema, keys):
    """The file, if it is one of this schema with these keys; SystemExit that names it otherwise."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("schema") != schema:
        raise SystemExit(f"{path}: schema is {content.get('schema')!r}, expected {schema!r}")
    missing = sorted(keys - content.keys())
    if missing:
        raise SystemExit(f"{path}: {', '.join(missing)} missing")
    return content


def one(pattern, schema, keys):
    """(path, content) of the first file, or None."""
    paths = sorted(RESULTS.glob(pattern))
    return (paths[0], read(paths[0], schema, keys)) if paths else None


def page_of(found, tables):
    """A block of a page; found: of one()."""
    return [f"From `results/{found[0].name}`.", "", *tables(found[1])] if found else NOTHING


def section_of(found, tables):
    """A section of results/README.md; found: of one()."""
    return [f"## {found[0].name}", "", *tables(found[1]), ""] if found else []


def bench(kind):
    return one(f"cuda_{kind}_*.json", "fairway-device-bench-1", BENCH_KEYS)


def model_of(content):
    return pathlib.Path(content["model"].get("config", content["model"].get("directory"))).stem


def bits_of(content):
    return content["model"].get("expert_bits", "as in the files")


def peer_rates(path, content):
    """(kind, batch or prompt tokens, context) -> tokens per second of the reference at the same geometry and bits, and its file."""
    peer_path = RESULTS / re.sub(r"cuda_decode[^_]*_", "peer_cuda_decode_", path.name)
    if not peer_path.exists():
        return {}, None
    peer = read(peer_path, "fairway-peer_cuda_decode-1", PEER_KEYS)
    rates = {key(r): r["tokens_per_second"] for r in peer["records"]
             if (r["model"], r["bits"]) == (model_of(content), bits_of(content))}
    return rates, (peer_path, peer)


def key(record):
    """What a result is of: (kind, batch or prompt tokens, context)."""
    return (record["kind"], record["batch"], record["context"]) if record["kind"] == "decode" else ("prefill", record["prompt_tokens"], 0)


def rates(content):
    return {key(r): r for r in content["results"]} if content else {}


def grouped(value):
    """Three digits at least, and thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(record):
    rate = record["rate"]
    return f"{grouped(rate['median'])} ({grouped(rate['min'])}–{grouped(rate['max'])})"


def judged(value, bar):
    if bar is None:
        return "–"
    return f"{grouped(value)} {'≥' if value >= bar[0] else '<'} {grouped(bar[0])} ({grouped(bar[1])})"


def name_of(kind, count):
    if kind == "prefill":
        return f"prefill, {count} tokens"
    return f"decode, {count} sequence{'s' if count > 1 else ''}"


def source(path, content):
    return (f"`results/{path.name}`, {content['device']['name']}, cache of {content['device']['kv_cache']}, revision "
            f"`{content['revision'][:12]}`, {content['date'][:10]}")


def main_table(path, content, by_rules):
    """Decode from an empty context and prefill; `by_rules`: a file without a table of measured paths, or None."""
    theirs, peer = peer_rates(path, content)
    untuned = rates(by_rules)
    rows = []
    for what, own in rates(content).items():
        kind, count, context = what
        if context != 0:
            continue
        rate = own["rate"]["median"]
        row = [name_of(kind, count), spread(own)]
        if by_rules:
            row.append(grouped(untuned[what]["rate"]["median"]) if what in untuned else "–")
        row += [grouped(own["wall_us"]["median"]), grouped(own["device_us"]["median"])]
        row += [grouped(theirs[what]), f"{rate / theirs[what]:.1f}"] if what in theirs else ["–", "–"]
        rows.append([*row, judged(rate, BARS.get((model_of(content), kind, count)))])
    header = ["what", "tokens/s", *(["by rules, tokens/s"] if by_rules else []), "us by the clock", "us on the device",
              "reference, tokens/s", "ours / reference", "bar (aim), tokens/s"]
    lines = [f"{model_of(content)}, experts of {bits_of(content)} bits, random weights; {source(path, content)}.", "",
             *table(header, rows)]
    facts = [f"model ready after {content['load_seconds']:.2f} s"]
    if "first_token_seconds" in content:
        facts.append(f"first token {content['first_token_seconds']:.2f} s after the start of the program")
    if "memory" in content:
        facts.append(f"{content['memory']['beyond_weights_and_cache_bytes'] * 1e-9:.2f} GB in use beyond weights "
                     f"({content['device']['weight_bytes'] * 1e-9:.2f} GB) and cache ({content['device']['cache_bytes'] * 1e-9:.3g} GB)")
    return lines + ["", f"In the same run: {'; '.join(facts)}."], peer


def context_table(files):
    """One sequence by the positions before it, a row for each type of cache."""
    rows, positions = [], sorted({k[2] for _, content in files for k in rates(content)})
    for path, content in files:
        own = {k[2]: r["rate"]["median"] for k, r in rates(content).items() if k[:2] == ("decode", 1)}
        cache = content["device"]["kv_cache"]
        lost, bar = 1 - own[CONTEXT_BAR_AT] / own[0] if CONTEXT_BAR_AT in own else None, CONTEXT_BARS[cache]
        rows.append([cache, *[grouped(own[p]) if p in own else "–" for p in positions],
                     "–" if lost is None else f"{lost:.1%} {'≤' if lost <= bar else '>'} {bar:.0%}"])
    theirs, peer = peer_rates(*files[0])
    if any(("decode", 1, p) in theirs for p in positions):
        own = {p: theirs.get(("decode", 1, p)) for p in positions}
        lost = f"{1 - own[CONTEXT_BAR_AT] / own[0]:.1%}" if own.get(CONTEXT_BAR_AT) and own.get(0) else "–"
        rows.append([peer[1]["program"], *[grouped(own[p]) if own[p] else "–" for p in positions], lost])
    names = " and ".join(f"`results/{path.name}`" for path, _ in files)
    return [f"{model_of(files[0][1])}, tokens per second of one sequence by the positions before it; {names}.", "",
            *table(["cache", *[f"{p:,} positions" for p in positions], f"lost at {CONTEXT_BAR_AT:,}, and the bar"], rows)]


def beside_table(path, content, plain, what, own_name, plain_name):
    """Decode beside the same with something left out: `what` says what it is, and there is a column for either."""
    even = rates(plain) if plain else {}
    rows = []
    for key, own in rates(content).items():
        rate = own["rate"]["median"]
        beside = even[key]["rate"]["median"] if key in even else None
        rows.append([name_of(*key[:2]), spread(own), grouped(beside) if beside else "–", f"{rate / beside:.2f}" if beside else "–"])
    return [f"{model_of(content)}, {what}; {source(path, content)}.", "",
            *table(["what", "tokens/s", f"{plain_name}, tokens/s", f"{own_name} / {plain_name.split()[0]}"], rows)]


def mixed_table(path, content, uniform):
    return beside_table(path, content, uniform, f"experts that take the widths {bits_of(content)} of gate, up and down in turn", "mixed",
                        f"uniform {bits_of(uniform)} bits" if uniform else "uniform")


def sampled_table(path, content, greedy):
    how = content["sampling"]
    return beside_table(path, content, greedy, f"experts of {bits_of(content)} bits, tokens drawn on the device at temperature {how['temperature']:.2g}, "
                        f"of the {how['top_k']} likeliest, up to a probability of {how['top_p']:.2g}", "drawn", "greedy")


def decode_sections():
    """[(paths, lines)] of the tables there are files for, each with its heading line first."""
    sections, peers = [], {}
    glm, rules, qwen = bench("decode"), bench("decode-rules"), bench("decode-qwen")
    for found, by_rules in ((glm or rules, rules if glm else None), (qwen, None)):
        if found is None:
            continue
        lines, peer = main_table(*found, by_rules[1] if by_rules else None)
        if peer:
            peers[peer[0].name] = peer
        sections.append(([found[0]], lines))
    contexts = [f for f in (bench("decode-context"), bench("decode-context-fp8")) if f]
    if contexts:
        sections.append(([path for path, _ in contexts], context_table(contexts)))
    mixed = bench("decode-mixed")
    if mixed:
        sections.append(([mixed[0]], mixed_table(*mixed, glm[1] if glm else None)))
    sampled = bench("decode-sampled")
    if sampled:
        sections.append(([sampled[0]], sampled_table(*sampled, glm[1] if glm else None)))
    for path, peer in peers.values():
        sections.append(([path], [f"The reference is {peer['program']}, {peer['date']} (`results/{path.name}`). {peer['method']}"]))
    return sections


def page_decode():
    return [line for _, lines in decode_sections() for line in (*lines, "")][:-1] or NOTHING


def decode_readme():
    return [line for paths, lines in decode_sections()
            for line in (f"## {', '.join(path.name for path in paths)}", "", *lines, "")]


def agreement_tables(content):
    bars = content["bars"]
    rows = []
    for c in content["caches"]:
        mean_bar = f"{max(map(abs, c['window_means'])):.5f} {'≤' if c['within_bar'] else '>'} {bars['window_mean']}"
        for name, part, bar in (("all", c, mean_bar), (f"routing margin of {c['routing_near_tie']} or more", c["far_from_ties"], "–")):
            rows.append([c["kv_cache"], name, str(part["tokens"]), f"{part['mean']:.4f}", f"{part['median']:.4f}",
                         f"{part['percentile_99']:.3f}", f"{part['largest']:.3f}", bar])
    largest = [f"{w['difference']:.3f} at a routing margin of {w['routing_margin'] or 0:.2g}"
               for w in content["caches"][0]["largest_at"][:3]]

    def at(side):
        return "–" if side is None else f"{side['margin']:.4f}"

    def prompt_row(p):
        d = p["first_difference"]
        if d is None:
            return [f"`{p['prompt'].strip()[:40]}`".replace("\n", " "), "the same", "–", "–", "–", "–"]
        return [f"`{p['prompt'].strip()[:40]}`".replace("\n", " "), f"differs at new token {d['token']}", at(d["cpu"]), at(d["device"]),
                f"{d['routing_margin']:.4f}", "yes" if d["near_tie"] else "no"]

    device = content["machine"]["cuda"]["devices"][0]["name"]
    same = f"{content['same_prompts']} {'≥' if content['same_prompts'] >= bars['same_prompts'] else '<'} {bars['same_prompts']}"
    return [f"{device}, revision `{content['revision'][:12]}`, {content['date'][:10]}; {content['model']}, {content['windows']} windows of "
            f"{content['window']} tokens of `{content['text']}`. Differences of log-probabilities (natural logarithms) to the fp32 path of "
            "the CPU:", "",
            *table(["cache", "which", "tokens", "mean", "median", "99 of 100 below", "largest", "largest of a window's mean, and the bar"],
                   rows), "",
            f"The largest with a cache of {content['caches'][0]['kv_cache']}: {'; '.join(largest)}. A token's routing margin is the relative error "
            "of a router's input at which its choice is a standard deviation from another one, the least of all layers.", "",
            f"Greedy continuations of {content['new_tokens']} tokens: {same} are the same. Where one parts, by how much the likeliest token "
            f"is ahead of the second on either side, and the routing margin. A near-tie is up to {bars['near_tie']} between both texts' tokens, "
            f"or a routing margin up to {bars['routing_near_tie']}:", "",
            *table(["prompt", "text", "ahead on the CPU", "ahead on the device", "routing margin", "near-tie"], [prompt_row(p) for p in content["prompts"]])]


def agreement():
    return one("cuda_agreement_*.json", "fairway-cuda_agreement-1", AGREEMENT_KEYS)


def page_agreement():
    return page_of(agreement(), agreement_tables)


def ceilings():
    """(ceilings of the GPU, bytes per second of a copy there) from the files of the expert layer."""
    path, own = cuda.newest()
    return cuda.reference(path)[1]["ceilings"], own["copy_bytes_per_second"]


def step_name(content):
    return f"prefill of {content['rows']:,} tokens" if content["kind"] == "prefill" else \
        f"decode, {content['rows']} sequence{'s' if content['rows'] > 1 else ''}"


def floors_table(content):
    """(rows of the calls' table, sum of the floors)"""
    config = json.loads((RESULTS.parent / "bench" / "configs" / f"{content['model']}.json").read_text(encoding="utf-8"))
    works = step_work.work_of(config, rows=content["rows"], context=content["context"], prefill=content["kind"] == "prefill", bits=content["bits"])
    limits, copy_rate = ceilings()
    rows, whole = [], 0.0
    for call in content["calls"]:
        cells = [call["call"], str(call["calls"])]
        if call["call"] in works:
            work = works[call["call"]]
            floor = step_work.floor_of(work, content["rows"], limits, copy_rate)
            whole += max(floor) * call["calls"]
            cells += [f"{work.bytes * 1e-6:.3g}", f"{work.decoded * 1e-6:.3g}", f"{work.flops * 1e-9:.3g}",
                      " / ".join(f"{us:.3g}" for us in floor), f"{call['median_us']:.1f}", f"{call['median_us'] / max(floor):.3g}"]
        else:
            cells += ["–", "–", "–", "–", f"{call['median_us']:.1f}", "–"]
        rows.append([*cells, f"{call['sum_us']:.0f}"])
    return rows, whole


def kernel_row(k):
    def scaled(key, scale, form):
        return f"{k[key] * scale:{form}}" if key in k else "–"

    moved = k.get("read_bytes", 0) + k.get("written_bytes", 0)
    local = f"{k['local_loads']:.0f}, {k['local_stores']:.0f}" if "local_loads" in k and "local_stores" in k else "–"
    return [f"`{k['kernel']}`", k["call"], f"`{k['grid']}` `{k['block']}`", str(k["launches"]), f"{k['median_us']:.1f}", f"{k['sum_us']:.0f}",
            scaled("read_bytes", 1e-6, ".2f"), scaled("written_bytes", 1e-6, ".2f"), f"{moved / k['median_us'] * 1e-3:.0f}",
            scaled("issue_percent", 1, ".0f") + ("%" if "issue_percent" in k else ""), str(k.get("registers", "–")), local]


def step_tables(content):
    whole = content["sum_us"]
    parts = [[p["part"], str(p["launches"]), f"{p['sum_us']:.0f}", f"{p['sum_us'] / whole:.0%}"] for p in content["parts"]]
    cut = "" if content["complete"] else " The profile has no whole pass; these are the kernels that it has."
    few = f" ({content['profiled_launches']} were profiled, of fewer layers)" if content["profiled_launches"] < content["launches"] else ""
    calls, floor = floors_table(content)
    return [f"**{step_name(content)[0].upper()}{step_name(content)[1:]}**, {content['model']}, {content['bits']} bits, {content['context']} positions before; "
            f"{content['machine']['gpu']}, revision `{content['revision'][:12]}`, {content['date'][:10]}. {content['launches']} kernels, {whole:.0f} us when each "
            f"runs by itself{few}; the floors of all calls add up to {floor:.0f} us.{cut}", "",
            *table(["part", "launches", "us", "share"], parts), "",
            *table(["call", "calls", "moves, MB", "decodes, M weights", "GFLOP", "floor: decode / move / multiply, us", "measured, us", "measured / floor",
                    "of the pass, us"], calls), "",
            *table(["kernel", "of", "CTAs and threads", "launches", "median, us", "sum, us", "read, MB", "written, MB", "GB/s", "issue slots busy",
                    "registers", "local loads, stores"], [kernel_row(k) for k in content["kernels"]])]


STEP_METHOD = ("Floors: weights decoded at the rate of a register-only loop (the byte path up to 8 rows, the path to half precision above), bytes at the "
               "copy rate, products at 700 TFLOP/s; the largest counts. Bytes are the call's weights, read once, and its inputs and outputs; experts are those "
               "that uniform routing hits on average. The profiler runs kernels one after the other with empty caches, so a small launch takes longer there "
               "than in a step. Kernels: medians of a launch; GB/s of memory traffic; local loads and stores are instructions of warps, those of spilled "
               "registers among them.")


def step():
    """[(path, content)] of one sequence, of more, of prompts."""
    found = [(path, read(path, step_profile.SCHEMA, step_profile.KEYS)) for path in RESULTS.glob("cuda_step_profile*.json")]
    return sorted(found, key=lambda one_of: (one_of[1]["kind"], one_of[1]["rows"]))


def page_step():
    found = step()
    if not found:
        return NOTHING
    blocks = [line for _, content in found for line in ("", *step_tables(content))]
    return [f"From {', '.join(f'`results/{path.name}`' for path, _ in found)}. {STEP_METHOD}", *blocks]


def step_readme():
    return [line for found in step() for line in section_of(found, step_tables)]


def load():
    return one("cuda_load_*.json", cuda_load.SCHEMA, cuda_load.KEYS)


def page_load():
    return page_of(load(), cuda_load.load_tables)


def sections():
    """For results/README.md."""
    return [*decode_readme(), *section_of(load(), cuda_load.load_tables), *step_readme(), *section_of(agreement(), agreement_tables)]
