"""The whole loop on the embedded model, in the current folder: played, looked at, learnt from, played again, measured.

Every step is a command of the program, which is shown before it runs. The same script again shows the same runs,
trainings and benchmark: whatever is done is found by what it is. `demo/` holds the configurations that it writes.

    python examples/demo.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("demo")

TRAINING = """# A few steps on a few replies: every part at work, too little to learn anything worth having.
base = "embedded"
tokens_per_row = 512
[lora]
rank = 8
[schedule]
steps = 4
epochs = 4.0
rows_per_step = 1
[evaluation]
share = 0.1
every = 4
[sft.schedule]
learning_rate = 2e-4
[dpo.schedule]
learning_rate = 1e-4
"""

BESIDE = """# One tree: the base and what was trained answer every message side by side.
name = "trained beside base"
turns = 2
[models.small]
kind = "llama"
path = "embedded"
[models.trained]
kind = "llama"
path = "embedded"
adapter = "{adapter}"
[personas]
count = 1
[user]
model = "small"
sampling = {{ max_tokens = 40, temperature = 0.9, min_p = 0.05 }}
[inducer]
model = "small"
sampling = {{ max_tokens = 48, temperature = 0.0 }}
[responders.base]
model = "small"
prompt = "deploy"
sampling = {{ max_tokens = 40, temperature = 0.8, min_p = 0.05 }}
[responders.trained]
model = "trained"
prompt = "deploy"
sampling = {{ max_tokens = 40, temperature = 0.8, min_p = 0.05 }}
[judges.rating]
kind = "rating"
model = "small"
threshold = 0.01
"""

BENCH = """# Two people who were met nowhere else, two turns each: far too few to tell anything apart.
name = "demo"
turns = 2
[models.small]
kind = "llama"
path = "embedded"
[user]
model = "small"
sampling = {{ max_tokens = 32, temperature = 0.9, min_p = 0.05 }}
[inducer]
model = "small"
sampling = {{ max_tokens = 48, temperature = 0.0 }}
[judges.points]
kind = "points"
model = "small"
[cases]
count = 2
[tested.base]
model = "small"
sampling = {{ max_tokens = 40, temperature = 0.7 }}
[tested.trained]
model = "small"
adapter = "{adapter}"
sampling = {{ max_tokens = 40, temperature = 0.7 }}
"""


def main() -> None:
    began = time.monotonic()
    heading("Six people talk; three responders answer every message; a judge compares the answers")
    if not Path("quickstart.toml").exists():
        espalier("init", "quickstart.toml")
    run = played("quickstart.toml")
    espalier("show", run)
    espalier("report", run, "--html", str(FOLDER / "run.html"))
    heading("What of it could be trained on")
    espalier("data", "lint", run)
    heading("An adapter learns: first the winning replies (SFT), then the pairs (DPO)")
    settings = written("training.toml", TRAINING)
    espalier("train", "all", settings, "--run", run)
    adapter = json.loads(asked("train", "all", settings, "--run", run, "--json"))[1]["adapter"][:8]
    heading("What was trained answers beside what it was trained from")
    espalier("show", played(written("beside.toml", BESIDE.format(adapter=adapter))), "--path", "all")
    heading("Both are measured on people whom nobody has met")
    espalier("bench", "run", written("bench.toml", BENCH.format(adapter=adapter)))
    espalier("report", "demo", "--html", str(FOLDER / "bench.html"))
    heading("Where things lie")
    print(WHERE.format(adapter=adapter, seconds=round(time.monotonic() - began)))


WHERE = """espalier.db              all trees, judgements, trainings and scores: one SQLite file
espalier-adapters/       the adapters, each under its digest, with its lineage and a card
quickstart.toml, demo/   what was played, trained and measured: change something and run it again
demo/bench.html          the report on the benchmark, base against trained: open it in a browser
demo/run.html            the report on what was played

espalier                                   the app: look around in all of it
espalier chat embedded --adapter {adapter}   talk with what was trained
espalier train export {adapter} lora.gguf --to gguf-lora   for llama.cpp and what is built on it

This took {seconds} s. The embedded model shows that the loop works; its prose is no evidence of anything."""


def espalier(*words: str) -> None:
    """Run a command, in plain view; what it is comes before what it says. Ends the demo if it fails."""
    print(f"\n$ espalier {' '.join(words)}\n", flush=True)
    done = subprocess.run(command(words), env=environment(), check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def asked(*words: str) -> str:
    """What a command prints, for the script alone."""
    return subprocess.run(command(words), env=environment(), stdout=subprocess.PIPE, text=True, check=True).stdout


def command(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "tui.main", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def played(file: str) -> str:
    """Play a configuration; the id of its run, shortened. One that is finished is shown again."""
    espalier("run", file)
    facts: dict[str, Any] = json.loads(asked("run", file, "--json"))
    return str(facts["run"]["id"][:8])


def written(name: str, text: str) -> str:
    """A file of the demo's folder; one that is there already stays as it is if it says the same."""
    FOLDER.mkdir(exist_ok=True)
    file = FOLDER / name
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")
    return str(file)


def heading(text: str) -> None:
    print(f"\n== {text} ==", flush=True)


if __name__ == "__main__":
    main()
