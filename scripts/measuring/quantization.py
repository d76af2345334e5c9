"""Quality for bytes of the quantizer's models, what shared input scales cost, and where its time goes."""

import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time as clock

from measuring.base import DEMO, PROGRAM, REPO, THREADS, fairway, git, machine_name, progress, spread
from measuring.markup import number, table

RULES = ["uniform", "reference", "optimal"]
BITS = [1.5, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0]
WINDOW = 1024
SEEDS = [1, 2]
INPUT_BITS = 3.0
TIME_BITS = 2.5
TIME_THREADS = 2
CODER_TILES = 48
BUNDLED_BYTES = 20_700_000  # the budget of models/books-moe
DECODE_ROUNDS = 15


@dataclasses.dataclass
class Setting:
    shared: pathlib.Path
    work: pathlib.Path
    program: pathlib.Path
    results: pathlib.Path
    bits: list
    windows: int

    @staticmethod
    def of(options, shared, work, program):
        """Builds the program unless another one is named."""
        if program is None:
            if not options.trial and git("status", "--porcelain"):
                sys.exit("scripts/measure-quantization: commit first; the result file names its revision")
            subprocess.run([REPO / "scripts" / "demo", "--max-tokens", "1"], check=True, stdout=subprocess.DEVNULL)
            program = PROGRAM.relative_to(REPO)
        elif not os.environ.get("FAIRWAY_REVISION"):
            sys.exit("scripts/measure-quantization: --program needs FAIRWAY_REVISION, what the program was built from")
        revision = os.environ.get("FAIRWAY_REVISION") or git("rev-parse", "HEAD")
        work = work or pathlib.Path("build/measure/quantization") / revision[:12]  # another revision may code differently
        work.mkdir(parents=True, exist_ok=True)
        return Setting(shared, work, program, work if options.trial else pathlib.Path("results"),
                       [2.0, 3.0] if options.trial else options.bits, 2 if options.trial else options.windows)

    @property
    def source(self):
        return self.shared / "models" / "books-moe-47m"

    @property
    def calibration(self):
        return ["--calibration", self.shared / "data" / "books-cal.txt"]

    def run(self, *arguments):
        progress(f"fairway {' '.join(str(a) for a in arguments)}")
        began = clock.monotonic()
        subprocess.run([self.program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
        progress(f"    {clock.monotonic() - began:.0f} s")

    def sensitivity(self):
        losses = self.work / "sensitivity.json"
        if not losses.exists():
            self.run("quantize", self.source, "-b", 3, "--plan-only", "--save-sensitivity", losses, *self.calibration)
        return losses

    def quantize(self, name, *options):
        out = self.work / name
        if not out.exists():
            self.run("quantize", self.source, "--sensitivity", self.sensitivity(), "--library", self.work / "parts", "-o", out,
                     "--resume", *self.calibration, *options)
        return out

    def write(self, name, content):
        (self.results / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        progress(f"wrote {self.results / name}")

    def compare(self, models, result, tokens=None):
        """On the text, or on the token ids of a file."""
        what = ["--ids", tokens] if tokens else ["--text", self.shared / "data" / "books-val.txt", "--windows", self.windows]
        self.run("compare", self.source, *models, *what, "--window", WINDOW, "--activations", "fp32", "-o", self.results / result)
        progress(f"wrote {self.results / result}")


def digest(model):
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def curve(setting):
    """The reference quantizer's model, the bundled one, and every rule at every number of bits. Where two rules give the same
    bytes, as those of groups do at whole numbers of bits, one of them is measured."""
    models, seen = [], set()
    for rule in RULES:
        for bits in setting.bits:
            model = setting.quantize(f"{rule}-{bits:.2f}", "-b", bits, "--allocation", rule)
            weights = digest(model)
            if weights not in seen:
                models.append(model)
            seen.add(weights)
    setting.compare([setting.shared / "models" / "books-moe-47m-exl3-3.00", "models/books-moe", *models],
                    "quantization_books-moe-47m_curve.json")


def window(setting):
    """The one window that the reference quantizer's own perplexity is published for."""
    models = [setting.quantize(f"{rule}-3.00", "-b", 3, "--allocation", rule) for rule in ("uniform", "optimal")]
    setting.compare([setting.shared / "models" / "books-moe-47m-exl3-3.00", *models], "quantization_books-moe-47m_window.json",
                    setting.source / "golden_window.json")


def tensor_bytes(model):
    """Of all tensors, without the file's header."""
    path = model / "model.safetensors"
    with open(path, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
    return path.stat().st_size - 8 - header


def head(setting):
    """As many bytes as the uniform models of the curve have, with the head's width part of the budget."""
    models = []
    for bits in setting.bits:
        size = tensor_bytes(setting.quantize(f"uniform-{bits:.2f}", "-b", bits, "--allocation", "uniform"))
        models.append(setting.quantize(f"head-{bits:.2f}", "--size", size, "--head-bits", 0))
    setting.compare(models, "quantization_books-moe-47m_head.json")


def inputs(setting):
    models = []
    for seed in SEEDS:
        for kind, option in (("shared", []), ("separate", ["--separate-inputs"])):
            models.append(setting.quantize(f"{kind}-seed-{seed}", "-b", INPUT_BITS, "--allocation", "uniform", "--seed", seed, *option))
    setting.compare(models, "quantization_books-moe-47m_inputs.json")


def decode(setting):
    """Tokens per second of the bundled model and of uniform ones of as many bytes, in turn."""
    uniform = ["--size", BUNDLED_BYTES, "--allocation", "uniform"]
    models = {"bundled": pathlib.Path(DEMO), "uniform, head 6": setting.quantize("bundled-uniform-head-6", *uniform),
              "uniform, head too": setting.quantize("bundled-uniform", *uniform, "--head-bits", 0)}
    records = []
    for threads in THREADS:
        runs = {name: [] for name in models}
        for turn in range(DECODE_ROUNDS):
            for name in list(models)[:: 1 if turn % 2 == 0 else -1]:
                runs[name].append(fairway("bench", "decode", "--model-path", models[name], "--threads", threads, "--prompt-len", 32,
                                          "--decode-tokens", 192, "--warmup", 1, "--runs", 2, program=setting.program))
        speeds = {name: [run["results"][0]["tokens_per_second"]["median"] for run in of] for name, of in runs.items()}
        records += [{"threads": threads, "model": name, "tokens_per_second": spread(speeds[name]),
                     "bundled_to_this": spread([a / b for a, b in zip(speeds["bundled"], speeds[name])]),
                     "file_bytes": runs[name][0]["model"]["file_bytes"],
                     "weight_bytes_per_token": runs[name][0]["model"]["weight_bytes_per_token"]} for name in models]
    first = runs["bundled"][0]
    setting.write(f"equal_bytes_cpu_{machine_name(setting.program)}.json",
                  {"schema": "fairway-equal-bytes-1", "revision": first["revision"], "date": first["date"], "machine": first["machine"],
                   "command": "scripts/measure-quantization SHARED_DIR decode", "rounds": DECODE_ROUNDS, "records": records})


def tiles_by_width(model):
    """Tiles of 256 weights that were coded, padding included."""
    storage = json.loads((model / "quantization_config.json").read_text(encoding="utf-8"))["tensor_storage"]
    tiles = {}
    for module in storage.values():
        for name, tensor in module.get("stored_tensors", {}).items():
            if name.endswith(".trellis"):
                rows, columns, words = tensor["shape"]
                tiles[words // 16] = tiles.get(words // 16, 0) + rows * columns
    return dict(sorted(tiles.items()))


def time(setting):
    """Stages of a whole job; what the tile coder alone takes for as many tiles, and what it would take at its peak."""
    out = setting.work / "timed"
    coder = fairway("bench", "coder", "--threads", TIME_THREADS, "--tiles", CODER_TILES, program=setting.program)
    report = fairway("quantize", setting.source, "-b", TIME_BITS, "-o", out, "--force", "--threads", TIME_THREADS,
                     *setting.calibration, program=setting.program)
    report.pop("matrices")
    tiles = tiles_by_width(out)
    rates = {r["bits"]: r for r in coder["results"]}
    search = sum(count * rates[bits]["core_ms_per_tile"]["median"] for bits, count in tiles.items()) / 1e3 / TIME_THREADS
    peak = sum(count * rates[bits]["core_ms_per_tile"]["median"] * rates[bits]["share_of_peak"]["median"]
               for bits, count in tiles.items()) / 1e3 / TIME_THREADS
    largest = json.loads((setting.source / "config.json").read_text(encoding="utf-8"))
    content = {"schema": "fairway-quantize-1", "revision": coder["revision"], "date": coder["date"], "machine": coder["machine"],
               "command": f"fairway quantize {setting.source} -b {TIME_BITS} -o OUT --threads {TIME_THREADS}", "threads": TIME_THREADS,
               "bits": TIME_BITS, "report": report, "tiles": tiles, "coder_alone_seconds": search, "coder_at_peak_seconds": peak,
               "largest_block_bytes": block_bytes(largest), "coder": coder["results"]}
    setting.write(f"quantize_cpu_{machine_name(setting.program)}.json", content)


def block_bytes(config):
    """bf16 bytes of the weights of one expert layer of an MLA model."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    q_rank, kv_rank = config["q_lora_rank"], config["kv_lora_rank"]
    attention = (hidden * (q_rank + kv_rank + rope) + q_rank * heads * (nope + rope) + kv_rank * heads * (nope + value)
                 + heads * value * hidden)
    experts = config["n_routed_experts"] + config["n_shared_experts"]
    return 2 * (attention + hidden * (config["n_routed_experts"] + 3 * experts * config["moe_intermediate_size"]))


def quality_tables(_, content):
    rows = []
    for candidate in content["candidates"]:
        divergence = candidate["divergence"]
        rows.append([pathlib.Path(candidate["name"]).name, f"{candidate['size']['file_bytes'] / 1e6:.2f}",
                     f"{candidate['size']['coded_without_head']['bits_per_padded_weight']:.3f}", f"{candidate['perplexity']:.3f}",
                     f"{divergence['mean']:.5f} ± {error_of(candidate)}", f"{divergence['p99']:.3f}",
                     f"{100 * candidate['same_top']:.2f} %"])
    return [f"Against {pathlib.Path(content['reference']['name']).name} (perplexity {content['reference']['perplexity']:.3f}) on "
            f"{content['windows']} windows of {content['window']} tokens, fp32 activations. Divergence in nats per token.", "",
            *table(["model", "files, MB", "bits per weight", "perplexity", "KL divergence", "p99", "same top"], rows)]


def error_of(candidate):
    error = candidate["divergence"]["standard_error"]
    return "–" if error is None else f"{error:.5f}"  # one window has none


def divergence_of(candidate):
    return f"{candidate['divergence']['mean']:.5f}"


def mean_of(content, kind):
    """Mean divergence of the candidates whose name begins so."""
    return statistics.mean(c["divergence"]["mean"] for c in content["candidates"] if pathlib.Path(c["name"]).name.startswith(kind))


def quality_page(files):
    """files: {"curve" or "inputs": (path, content)}"""
    lines = []
    if "curve" in files:
        path, content = files["curve"]
        by_bits, others = {}, []
        for candidate in content["candidates"]:
            name = pathlib.Path(candidate["name"]).name
            rule, _, bits = name.partition("-")
            if rule in RULES:
                cell = f"{divergence_of(candidate)}, {candidate['size']['file_bytes'] / 1e6:.2f} MB"
                by_bits.setdefault(float(bits), {})[rule] = cell
            else:
                others += ["", f"`{name}`, {candidate['size']['file_bytes'] / 1e6:.2f} MB, in the same run: {divergence_of(candidate)}, "
                           f"perplexity {candidate['perplexity']:.3f} (plain {content['reference']['perplexity']:.3f})."]
        rules = list(RULES)
        if "head" in files:
            rules.append("optimal, head too")
            for candidate in files["head"][1]["candidates"]:
                bits = float(pathlib.Path(candidate["name"]).name.removeprefix("head-"))
                by_bits[bits][rules[-1]] = f"{divergence_of(candidate)}, {candidate['size']['file_bytes'] / 1e6:.2f} MB"
        rows = [[f"{bits:.2f}", *[row.get(rule, "same as uniform" if rule == "reference" else "–") for rule in rules]]
                for bits, row in sorted(by_bits.items())]
        lines = [f"Mean KL divergence from the plain model in nats per token, {content['windows']} windows of {content['window']} tokens, "
                 f"{content['machine']['cpu']}, revision `{content['revision'][:12]}` (`results/{path.name}`):", "",
                 *table(["bits", *rules], rows), *others]
        if "head" in files:
            path, content = files["head"]
            lines += ["", f"The head has 6 bits, but in the last column, whose models have the same bytes in all and a head whose width is chosen with the "
                      f"others (`--size BYTES --head-bits 0`; `results/{path.name}`, {content['windows']} windows)."]
    if "inputs" in files:
        path, content = files["inputs"]
        rows = [[pathlib.Path(c["name"]).name, divergence_of(c), error_of(c), f"{c['perplexity']:.3f}"]
                for c in content["candidates"]]
        lines += ["", f"Input scales shared by the experts of a layer, and separate ones, at {INPUT_BITS:g} bits, by seed of the random signs, "
                  f"{content['windows']} windows (`results/{path.name}`):", "",
                  *table(["model", "KL divergence", "standard error", "perplexity"], rows), "",
                  f"Mean over the seeds: shared scales cost {100 * (mean_of(content, 'shared') / mean_of(content, 'separate') - 1):+.2f} %."]
    return lines


def time_tables(_, content):
    report = content["report"]
    rows = [[stage, f"{seconds:.1f}"] for stage, seconds in report["seconds_of"].items()]
    rows += [["all", f"{report['seconds']:.1f}"]]
    coder = [[str(r["bits"]), number(r["core_ms_per_tile"]), f"{r['mse']:.4g}", f"{100 * r['share_of_peak']['median']:.0f} %"]
             for r in content["coder"]]
    limit = 1.5 * content["largest_block_bytes"] + 300e6
    return [f"`{content['command']}`: {content['threads']} threads, {sum(content['tiles'].values())} tiles.", "",
            *table(["stage", "seconds"], rows), "",
            f"The tile coder alone, at its rates below, takes {content['coder_alone_seconds']:.1f} s for these tiles, and "
            f"{content['coder_at_peak_seconds']:.1f} s if its three operations a state ran at the processor's peak. Peak memory "
            f"{report['peak_memory_bytes'] / 1e6:.0f} MB, the mapped source included; the bar of 1.5 x the largest block + 300 MB "
            f"is {limit / 1e6:.0f} MB.", "",
            *table(["bits", "core ms per tile", "mse", "of peak"], coder)]


def decode_tables(_, content):
    rows = [[str(r["threads"]), r["model"], f"{r['file_bytes'] / 1e6:.2f}", f"{r['weight_bytes_per_token'] / 1e6:.2f}",
             number(r["tokens_per_second"]), number(r["bundled_to_this"])] for r in content["records"]]
    return [f"The bundled model, of mixed widths, and uniform ones of as many bytes from the same source, {content['rounds']} rounds in turn. "
            "The uniform ones have a head of 6 bits, or one of the width of everything else.", "",
            *table(["threads", "model", "files, MB", "MB read per token", "tokens/s", "bundled / this"], rows)]
