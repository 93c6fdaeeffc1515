"""A folder with rounds on scripted models and a learner of a few thousand weights. Needs torch."""

from __future__ import annotations

from pathlib import Path

ROUNDS = """
name = "two"
rounds = 2
patience = 0
[simulate]
learner = "tiny"
[train]
objectives = {objectives}
earlier_share = 0.25
"""
RUN = """
name = "play"
turns = 2
judge = "points"
[models.s]
kind = "scripted"
latency_s = {latency_s}
[models.tiny]
kind = "transformers"
path = "base"
exact = true
threads = 1
[personas]
count = 3
[user]
model = "s"
[inducer]
model = "s"
[responders.plain]
model = "s"
sampling = { max_tokens = 12 }
[responders.warm]
model = "s"
hint = true
sampling = { max_tokens = 12 }
[judges.points]
kind = "points"
model = "s"
"""
TRAINING = """
base = "base"
tokens_per_row = 1500
[lora]
rank = 2
[schedule]
steps = 3
epochs = 99.0
rows_per_step = 1
learning_rate = 1e-2
[evaluation]
share = 0
[machine]
device = "cpu"
threads = 1
save_every = 1
"""
BENCH = """
name = "measure"
turns = 1
[models.s]
kind = "scripted"
[models.tiny]
kind = "transformers"
path = "base"
exact = true
threads = 1
[user]
model = "s"
[inducer]
model = "s"
[judges.points]
kind = "points"
model = "s"
[tested.base]
model = "tiny"
sampling = { max_tokens = 8 }
[cases]
count = 3
"""


def rounds_folder(folder: Path, base: Path, *, objectives: str = '["sft", "dpo"]', latency_s: float = 0.0) -> Path:
    """Write the files, with the base beside them; returns rounds.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base").symlink_to(base)
    (folder / "run.toml").write_text(RUN.replace("{latency_s}", str(latency_s)), encoding="utf-8")
    (folder / "training.toml").write_text(TRAINING, encoding="utf-8")
    (folder / "bench.toml").write_text(BENCH, encoding="utf-8")
    file = folder / "rounds.toml"
    file.write_text(ROUNDS.replace("{objectives}", objectives), encoding="utf-8")
    return file
