"""The reward judge: a real, if tiny and untrained, classifier judges a played run, and the store stays sound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from agents.models.weights import locate
from agents.rerender import Rerender
from tests.support.play import configuration, play
from tests.support.tiny_base import tiny_base
from trees.errors import SetupError
from trees.store import Store
from trees.verify import verify


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    source = locate("embedded").path
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=0,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def judged_by(model: dict[str, object], folder: Path) -> dict[str, object]:
    return {
        "models": {
            "scripted": {"kind": "scripted"},
            "classifier": {"kind": "transformers", "path": str(folder), **model},
        },
        "user": {"model": "scripted"},
        "inducer": {"model": "scripted"},
        "responders": {"plain": {"model": "scripted"}, "warm": {"hint": True, "model": "scripted"}},
        "judges": {"reward": {"kind": "reward", "model": "classifier"}},
        "judge": "reward",
    }


async def test_replies_are_judged_by_a_classifiers_score(store_path: Path, classifier: Path) -> None:
    run = await play(store_path, configuration(**judged_by({"task": "reward"}, classifier)))
    with Store.read(store_path) as store:
        scores = store.rows("SELECT node_id, unit, value FROM scores")
        wins = store.rows("SELECT first_id, second_id, margin, unit FROM verdicts WHERE outcome = 'win'")
        assert verify(store, rerender=Rerender(store)).findings == ()
    assert len(scores) == 2 * 2 * 3
    assert {unit for _, unit, _ in scores} == {"reward"}
    value = {node: score for node, _, score in scores}
    assert wins
    assert all(value[first] - value[second] == pytest.approx(margin) for first, second, margin, _ in wins)
    assert run


async def test_a_model_that_chats_is_no_reward_model(store_path: Path, classifier: Path, tmp_path: Path) -> None:
    chats = tiny_base(tmp_path / "chats")
    with pytest.raises(SetupError, match="scores replies as a classifier"):
        await play(store_path, configuration(**judged_by({"path": str(chats)}, classifier)))
