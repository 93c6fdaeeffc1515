"""What `export` writes, as TRL and datasets read it. Needs the training extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.play import configuration, play
from train.export import export
from trees.store import Store

datasets = pytest.importorskip("datasets", reason="the training extra is not installed")
pytest.importorskip("trl", reason="the training extra is not installed")
transformers = pytest.importorskip("transformers", reason="the training extra is not installed")

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    """A tokenizer that only has to render the chat template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"x": 0}, unk_token="x")))
    words.chat_template = CHATML
    return words


async def exported(path: Path, kind: Any) -> Any:
    """A played run's rows as a data set."""
    await play(path, configuration(personas={"count": 4}))
    out = path.with_suffix(".jsonl")
    with Store.read(path) as store:
        done = export(store, kind, out)
    rows = datasets.load_dataset("json", data_files=str(out), split="train", cache_dir=str(path.parent / "cache"))
    assert len(rows) == done.rows > 0
    return rows


async def test_pairs_are_a_conversational_preference_data_set(store_path: Path, tokenizer: Any) -> None:
    from trl.data_utils import apply_chat_template, is_conversational, maybe_extract_prompt

    for row in await exported(store_path, "dpo"):
        assert is_conversational(row)
        assert maybe_extract_prompt(row)["prompt"] == row["prompt"], "the prompt is explicit already"
        sides = {key: row[key] for key in ("prompt", "chosen", "rejected")}
        text = apply_chat_template(sides, tokenizer)
        assert text["prompt"].endswith("<|im_start|>assistant\n")
        assert text["chosen"] == row["chosen"][0]["content"] + "<|im_end|>\n"
        assert text["rejected"] == row["rejected"][0]["content"] + "<|im_end|>\n"
        assert text["chosen"] != text["rejected"]


async def test_targets_are_a_conversational_prompt_completion_data_set(store_path: Path, tokenizer: Any) -> None:
    from trl.data_utils import apply_chat_template, is_conversational

    rows = await exported(store_path, "sft")
    for row in rows:
        assert is_conversational(row)
        text = apply_chat_template({key: row[key] for key in ("prompt", "completion")}, tokenizer)
        assert text["completion"] == row["completion"][0]["content"] + "<|im_end|>\n"
    assert len({row["target_id"] for row in rows}) == len(rows), "a turn is one target"


async def test_every_row_says_where_it_comes_from_and_is_training_data(store_path: Path) -> None:
    rows = await exported(store_path, "dpo")
    origin = {"run", "tree", "user_id", "chosen_id", "rejected_id", "profile", "personality", "profile_digest"}
    assert origin <= set(rows.column_names)
    with Store.read(store_path) as store:
        for row in rows:
            assert row["split"] == "train"
            sql = "SELECT parent_id FROM nodes WHERE id IN (?, ?)"
            assert store.rows(sql, (row["chosen_id"], row["rejected_id"])) == [(row["user_id"],)] * 2
