"""An adapter of the embedded model, trained on the de-quantised weights: the same one speaks through every backend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="the llama extra is not installed")
pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

from tests.support.command_line import Espalier, as_json
from tests.support.judged_store import judged_store
from trees.store import Store

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
BENCH = """
name = "of an adapter"
turns = 1
[models.still]
kind = "scripted"
[models.llama]
kind = "llama"
path = "embedded"
[user]
model = "still"
[inducer]
model = "still"
[judges.rules]
kind = "rules"
rules = {{ max_words = 20 }}
[tested.tuned]
model = "llama"
adapter = "{adapter}"
sampling = {{ max_tokens = 8, temperature = 0.0 }}
[cases]
{cases}
"""


@pytest.mark.long
@pytest.mark.embedded
def test_what_was_learnt_is_said_everywhere_and_measured_on_nobody_who_was_seen(
    espalier: Espalier, folder: Path
) -> None:
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

    (folder / "bench.toml").write_text(BENCH.format(adapter=adapter[:8], cases="count = 2"), encoding="utf-8")
    (measured,) = as_json(espalier("bench", "run", "bench.toml", "--json"))["models"]
    assert measured["n"] == [2]
    assert measured["lineage"].startswith("base ")
    assert measured["lineage"].endswith("4 people")
    assert " > sft " in measured["lineage"]

    with Store.read(folder / "espalier.db") as store:
        seen = store.rows("SELECT text FROM profiles WHERE split = 'train' ORDER BY id LIMIT 1")[0][0]
    (folder / "seen.jsonl").write_text(
        json.dumps({"kind": "profile", "pronouns": "they", "facts": [seen]}), encoding="utf-8"
    )
    elsewhere = str(next((folder / "espalier-adapters").glob(f"{adapter}*")))
    text = BENCH.format(adapter=elsewhere, cases='profiles = "seen.jsonl"')
    (folder / "bench.toml").write_text(text, encoding="utf-8")
    refused = espalier("bench", "run", "bench.toml", "--store", "other.db", exit_code=3).stderr
    assert "1 of the 1 profiles were trained on: 'tuned' comes of base" in " ".join(refused.split())
    assert seen[:20] in refused
