"""Time of one expert block: every width, codebook and back end in turn, and every kernel row for some widths."""

import statistics
import subprocess

from measuring.base import THREADS, bench, comma, document, fairway, progress, spread, synth

# Every (gate, up, down) of mean 3: experts take them in turn, so that neighbours in a layer never agree.
MEAN_3 = ";".join(f"{g},{u},{9 - g - u}" for g in range(1, 8) for u in range(1, 9 - g))
MIXED = "28 tuples of mean 3"
CELLS = [dict(zip(("name", "bits", "codebook", "backend"), cell)) for cell in (
    ("2", "2", "mul1", "auto"), ("3", "3", "mul1", "auto"), ("4", "4", "mul1", "auto"), ("6", "6", "mul1", "auto"),
    ("6,2,3", "6,2,3", "mul1", "auto"), ("6,3,4", "6,3,4", "mul1", "auto"), (MIXED, MEAN_3, "mul1", "auto"),
    ("3", "3", "mcg", "auto"), ("3", "3", "3inst", "auto"), ("2", "2", "mul1", "cpu_avx2"), ("3", "3", "mul1", "cpu_avx2"),
    ("4", "4", "mul1", "cpu_avx2"), ("3", "3", "mcg", "cpu_avx2"), ("3", "3", "3inst", "cpu_avx2"))]
# (name of the comparison, slower, faster, bar by token count; None: every count). Cells are (bits, codebook).
COMPARISONS = [("mixed tuples to uniform 3 bits", (MIXED, "mul1"), ("3", "mul1"), 1.1, (1, 16, 256)),
               ("mcg to mul1", ("3", "mcg"), ("3", "mul1"), 1.6, None),
               ("3inst to mul1", ("3", "3inst"), ("3", "mul1"), 1.6, None)]
RATES = ("weight_gb_per_second", "gmac_per_second", "experts_touched", "share_of_ceiling", "share_of_int8_ceiling")
CEILINGS = ("ceiling_gb_per_second", "ceiling_gmac_per_second", "core_ghz")

ROW_TUPLES = ("6,2,3", "6,3,4", "6,2,4", "2,2,2", "3,3,3")
ROW_TOKENS = (1, 4, 16, 32, 64, 256)
ROW_THREADS = 2
BACKENDS = ("cpu_ref", "cpu_avx2", "cpu_avx512")  # better last
GENERIC = "mixed_bpw_kernel"


def samples_of(rows):
    """The values of one combination over all rounds."""
    return {"ms": statistics.median(row["ms_per_layer"]["median"] for row in rows),
            "ms_spread": spread([row["ms_per_layer"]["median"] for row in rows]),
            **{name: statistics.median(row[name] for row in rows) for name in RATES},
            **{name: statistics.median(row[name]["median"] for row in rows) for name in CEILINGS},
            "kernels": sorted(rows[0]["kernels"])}


# Without a warm-up: the program has read the weights once, and a sample is the median of five evaluations or more.
def one_round(settings, model, tokens, threads, *more):
    return bench(settings, "moe", model, "--batch", comma(tokens), "--threads", comma(threads), "--warmup", 0, "--runs", 1,
                 "--cell-seconds", settings.cell_seconds, *more)["results"]


def comparisons(found):
    """Ratios of two cells of one round, so that both saw the machine in the same state."""
    ratios = []
    for name, slow, fast, bar, tokens_with_bar in COMPARISONS:
        for (bits, codebook, backend, threads, tokens), rows in found.items():
            base = found.get((*fast, backend, threads, tokens))
            if (bits, codebook) != slow or base is None:
                continue
            per_round = [a["ms_per_layer"]["median"] / b["ms_per_layer"]["median"] for a, b in zip(rows, base)]
            has_bar = tokens_with_bar is None or tokens in tokens_with_bar
            ratios.append({"name": name, "backend": backend, "threads": threads, "tokens": tokens, "ratio": spread(per_round),
                           "bar": bar if has_bar else None})
    return ratios


def moe(settings):
    """The expert block of GLM-4.7-Flash; every round visits every checkpoint, back end, thread and token count."""
    found = {}
    for number in range(settings.rounds):
        for index, cell in enumerate(CELLS):
            progress(f"moe round {number + 1}/{settings.rounds}, cell {index + 1}/{len(CELLS)}: {cell['name']} bits, "
                     f"{cell['codebook']}, {cell['backend']}")
            chosen = [] if cell["backend"] == "auto" else ["--backend", cell["backend"]]
            model = synth(settings, cell["name"], cell["bits"], cell["codebook"])
            for row in one_round(settings, model, settings.tokens, THREADS, *chosen):
                key = (cell["name"], cell["codebook"], cell["backend"], row["threads"], row["batch"])
                found.setdefault(key, []).append(row)
        if settings.between:
            subprocess.run(settings.between, shell=True, check=True)
    records = [{"bits": bits, "codebook": codebook, "backend": backend, "threads": threads, "tokens": tokens, **samples_of(rows)}
               for (bits, codebook, backend, threads, tokens), rows in found.items()]
    command = (f"fairway bench moe --model-path MODEL --batch {comma(settings.tokens)} --threads {comma(THREADS)} --warmup 0 "
               f"--runs 1 --cell-seconds {settings.cell_seconds} [--backend NAME], repeated")
    int8 = next(iter(found.values()))[0]["int8_instruction"]
    return document(settings, "moe", command, geometry=settings.geometry(), layers=settings.layers, routing="uniform",
                    int8_instruction=int8, records=records, ratios=comparisons(found))


def rows_for(bits):
    """The trellis rows of the best back end here that are compiled for these widths, or for any."""
    rows = [row for row in fairway("kernels")["rows"]
            if row["op"] == "moe_swiglu" and row["weights"] == "trellis" and row["can_run"]
            and row["bits"] in ("any", bits) and "mul1" in row["codebooks"]]
    best = max((row["backend"] for row in rows), key=BACKENDS.index)
    return [row for row in rows if row["backend"] == best]


def tokens_of(row, settings):
    """Token counts at which a row may find groups of the size it is meant for: `m_min` to `m_max` tokens of one expert."""
    geometry = settings.geometry()
    share = geometry["num_experts_per_tok"] / geometry["n_routed_experts"]
    return [t for t in ROW_TOKENS if t in settings.tokens and row["m_min"] <= t and max(1, t * share) <= row["m_max"]]


def rows(settings):
    """Each kernel row forced in turn for layers of one tuple, so that a specialised row stands beside the generic one."""
    found = {}
    for number in range(settings.rounds):
        for bits in ROW_TUPLES:
            model = synth(settings, "3" if bits == "3,3,3" else "2" if bits == "2,2,2" else bits, bits)
            for row in rows_for(bits):
                tokens = tokens_of(row, settings)
                if not tokens:
                    continue
                progress(f"rows round {number + 1}/{settings.rounds}: {bits}, {row['id']}, {comma(tokens)} tokens")
                for result in one_round(settings, model, tokens, [ROW_THREADS], "--kernel", row["id"]):
                    key = (bits, result["batch"], row["id"], row["family"], row["activations"])
                    found.setdefault(key, []).append(result)
    generic = {key[:2]: results for key, results in found.items() if key[3] == GENERIC}
    records = []
    for (bits, tokens, row, family, activations), results in found.items():
        record = {"bits": bits, "tokens": tokens, "threads": ROW_THREADS, "row": row, "family": family,
                  "activations": activations, **samples_of(results)}
        if (bits, tokens) in generic:
            record["generic_to_this"] = spread([a["ms_per_layer"]["median"] / b["ms_per_layer"]["median"]
                                                for a, b in zip(generic[(bits, tokens)], results)])
        records.append(record)
    command = (f"fairway bench moe --model-path MODEL --batch LIST --threads {ROW_THREADS} --warmup 0 --runs 1 --cell-seconds "
               f"{settings.cell_seconds} --kernel ROW, repeated")
    return document(settings, "rows", command, geometry=settings.geometry(), layers=settings.layers, routing="uniform",
                    records=records)
