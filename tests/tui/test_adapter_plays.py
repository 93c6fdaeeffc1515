"""An adapter of the embedded model, trained on the de-quantised weights: the same one speaks through every backend."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="the llama extra is not installed")
pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

from tests.support.command_line import Espalier, as_json
from tests.support.judged_store import judged_store

TRAINING = """
base = "embedded"
tokens_per_row = 600
[lora]
rank = 4
[schedule]
steps = 5
epochs = 99.0
rows_per_step = 1
learning_rate = 4e-3
shape = "constant_with_warmup"
[evaluation]
share = 0
[machine]
save_every = 100
"""
RUN = """
name = "adapter"
turns = 1
[models.still]
kind = "scripted"
says = ["Ada asks 0"]
[models.llama]
kind = "llama"
path = "embedded"
adapter = "{adapter}"
[models.transformers]
kind = "transformers"
path = "embedded"
adapter = "{adapter}"
[personas]
count = 1
[user]
model = "still"
[inducer]
model = "still"
[responders.llama]
model = "llama"
prompt = "deploy"
sampling = {{ max_tokens = 8, temperature = 0.0 }}
[responders.transformers]
model = "transformers"
prompt = "deploy"
sampling = {{ max_tokens = 8, temperature = 0.0 }}
[judges.rules]
kind = "rules"
rules = {{ max_words = 20 }}
"""


@pytest.mark.embedded
def test_what_was_learnt_is_said_in_chat_and_in_a_run_by_both_backends(espalier: Espalier, folder: Path) -> None:
    judged_store(folder / "espalier.db")
    (folder / "training.toml").write_text(TRAINING, encoding="utf-8")
    adapter = as_json(espalier("train", "sft", "training.toml", "--json"))["adapter"]

    words = ("chat", "embedded", "--temperature", "0", "--max-tokens", "8")
    talked = espalier(*words, "--adapter", adapter[:8], stdin="Ada asks 0\n/quit\n").output
    assert "Yes, Ada" in talked
    assert "Yes, Ada" not in espalier(*words, stdin="Ada asks 0\n/quit\n").output

    (folder / "run.toml").write_text(RUN.format(adapter=adapter[:8]), encoding="utf-8")
    run = as_json(espalier("run", "run.toml", "--json"))["run"]["id"]
    tree = as_json(espalier("show", run, "--json"))
    replies = [node for node in tree["nodes"] if node["speaker"] == "assistant"]
    assert {node["role"] for node in replies} == {"responder.llama", "responder.transformers"}
    assert all(node["text"].startswith("Yes, Ada") for node in replies)
