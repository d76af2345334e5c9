"""What every measurement needs: the program, synthetic models, machine and revision, spreads, result files."""

import dataclasses
import datetime
import json
import pathlib
import re
import statistics
import subprocess
import sys

REPO = pathlib.Path(__file__).resolve().parents[2]
RESULTS = REPO / "results"
PROGRAM = REPO / "build" / "release" / "fairway"
DEMO = "models/books-moe"
GLM = "bench/configs/glm-4.7-flash.json"
THREADS = [1, 2]


@dataclasses.dataclass
class Settings:
    """What a whole measurement uses; trial() is a short one with the same steps on layers of the bundled model's size."""

    rounds: int
    config: str = GLM
    layers: int = 7  # one dense and six expert layers of 230 MB at 3 bits: far more than a cache holds
    tokens: tuple = (1, 4, 16, 32, 64, 256, 512)
    cell_seconds: float = 0.15
    prompt: int = 512
    decode: int = 32
    ceiling_mib: int = 0  # 0: what `fairway bench` takes for the machine's caches
    between: str = ""  # shell command after every round of moe
    results: pathlib.Path = RESULTS
    is_trial: bool = False

    @staticmethod
    def trial():
        return Settings(rounds=1, config=DEMO, tokens=(1, 16), cell_seconds=0, prompt=16, decode=4,
                        ceiling_mib=16, results=REPO / "build" / "measure" / "trial", is_trial=True)

    def geometry(self):
        path = REPO / self.config
        return json.loads((path / "config.json" if path.is_dir() else path).read_text(encoding="utf-8"))

    def name(self):
        return pathlib.Path(self.config).stem


def git(*arguments):
    return subprocess.run(["git", "-C", REPO, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def revision(settings):
    head = git("rev-parse", "HEAD")
    if not git("status", "--porcelain"):
        return head
    if settings.is_trial:
        return head + "-dirty"
    sys.exit("scripts/measure: the tree has changes; commit them first, so that the results name what was measured")


def fairway(*arguments, program=PROGRAM):
    command = [str(a) for a in arguments] + ["--json"]
    done = subprocess.run([program, *command], cwd=REPO, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"fairway {' '.join(command)}: exit code {done.returncode}\n{done.stderr}{done.stdout}")
    return json.loads(done.stdout)


def bench(settings, kind, model, *more, program=PROGRAM):
    ceiling = ["--ceiling-mib", settings.ceiling_mib] if settings.ceiling_mib else []
    return fairway("bench", kind, "--model-path", model, *ceiling, *more, program=program)


def machine(program=PROGRAM):
    return fairway("kernels", program=program)["machine"]


def machine_name(program=PROGRAM):
    """From the processor's own numbers, such as intel-6-207-2cpu."""
    facts = dict(re.findall(r"^(\S[^\t\n]*?)\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    vendor = re.sub(r"^Genuine|^Authentic", "", facts.get("vendor_id", "unknown")).lower()
    return f"{vendor}-{facts.get('cpu family', '0')}-{facts.get('model', '0')}-{machine(program)['cores']}cpu"


def synth(settings, name, bits, codebook="mul1", layers=None):
    """The directory of a synthetic checkpoint, written if it is not there yet. `name` stands for `bits` in it."""
    layers = layers or settings.layers
    parts = [settings.name().split("-")[0], name]
    parts += [codebook] if codebook != "mul1" else []
    parts += [f"{layers}-layers"] if layers != settings.layers else []
    out = REPO / "build" / "measure" / re.sub("[^0-9a-z]+", "-", "-".join(parts))
    if not (out / "config.json").exists():
        progress(f"writing {out.relative_to(REPO)}")
        fairway("synth", "--config", settings.config, "--bits", bits, "--codebook", codebook, "--layers", layers, "--out", out,
                "--force")
    return out


def progress(text):
    print(f"==> {text}", flush=True)


def comma(values):
    return ",".join(map(str, values))


def spread(samples):
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples), "samples": list(samples)}


def document(settings, kind, command, **content):
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"schema": f"fairway-{kind}-1", "revision": revision(settings), "date": now, "machine": machine(),
            "command": command, "rounds": settings.rounds, **content}


def write(settings, kind, name, content):
    settings.results.mkdir(parents=True, exist_ok=True)
    path = settings.results / f"{kind}_cpu_{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    progress(f"wrote {path.relative_to(REPO)}")
