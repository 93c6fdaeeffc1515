"""A trained adapter served by vLLM against transformers with PEFT: the same next tokens, and the same changes.

Both sides read the same tokens: conversations of one turn to the end of the reply. Per reply token it is compared what
either would write next, and by how much training has changed the token's log-probability. vLLM computes in bfloat16,
the other side in float32 on the same bfloat16 weights, so what differs is vLLM's rounding. Both figures are printed
(`pytest -s`, or `-rP`). Skipped where `make test-vllm` has not made vLLM's environment.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from agents.models.vllm import VllmModel
from tests.support.hf_folder import embedded_folder
from tests.support.message_trees import tree_of
from tests.support.real_vllm import MISSING, PYTHON, real_config

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PYTHON.exists(), reason=MISSING),
    pytest.mark.asyncio(loop_scope="module"),
]

AGREEMENT = 0.98
CORRELATION = 0.99
POSITIONS = 200
THINGS = ("cat", "bicycle", "garden", "old piano", "neighbour")
EVENTS = (
    ("I lost my {} today.", "I am sorry to hear that. When did you last see your {}?"),
    ("My {} makes me happy.", "That is good to hear! What do you like best about your {}?"),
    ("I worry about my {}.", "That sounds hard. What worries you most about your {}?"),
    ("Tell me about a {}.", "Gladly. What would you like to know about the {}?"),
)


@dataclass(frozen=True)
class Read:
    """What a model makes of reply tokens, one after the other over all conversations."""

    first: list[int]
    """The token that it would write."""
    logps: list[float]
    """log p of the token that stands there."""


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    pytest.importorskip("peft", reason="the train extra is not installed")
    assert request.config.cache is not None
    return embedded_folder(request.config.cache.mkdir("hf"))


@pytest.fixture(scope="module")
def conversations(folder: Path) -> list[Any]:
    """Token trees of one turn each."""
    from train.templates import open_reader
    from train.tokenise import tokenise

    said = [(user.format(thing), reply.format(thing)) for thing, (user, reply) in product(THINGS, EVENTS)]
    trees = [tree_of((-1, "user", user), (0, "assistant", reply), targets=[1]) for user, reply in said]
    named = [replace(tree, id=f"tree-{at}") for at, tree in enumerate(trees)]
    return list(tokenise(named, open_reader(str(folder))).trees)


@pytest.fixture(scope="module")
def adapter(folder: Path, conversations: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What thirty steps of SFT on every other conversation make."""
    from train.base_model import open_base
    from train.config import read_training_config
    from train.points import Silent
    from train.trainer import fit

    config = read_training_config(
        {
            "objective": "sft",
            "base": str(folder),
            "dtype": "bfloat16",
            "tokens_per_row": 512,
            "lora": {"rank": 8, "alpha": 16},
            "schedule": {"steps": 30, "epochs": 99, "learning_rate": 5e-4, "rows_per_step": 1},
            "evaluation": {"share": 0},
            "machine": {"device": "cpu", "save_every": 1000},
        }
    )
    done = fit(open_base(config), conversations[::2], config, tmp_path_factory.mktemp("training"), Silent())
    assert done.folder is not None
    return done.folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(folder: Path, adapter: Path) -> AsyncIterator[tuple[VllmModel, VllmModel]]:
    """The base and the adapter, of one server."""
    with pytest.MonkeyPatch.context() as patch:
        adapted = VllmModel("adapted", real_config(folder, adapter=str(adapter)))
        await adapted.open()
        assert adapted._serving.running is not None
        http = adapted._serving.running.http
        patch.setenv("VLLM_TEST_KEY", http._key)
        base = VllmModel("base", real_config(folder, endpoint=http.endpoints[0].url, api_key_env="VLLM_TEST_KEY"))
        await base.open()
        yield base, adapted
        await base.close()
        await adapted.close()


async def test_a_trained_adapter_is_the_same_model_in_vllm_and_in_transformers(
    served: tuple[VllmModel, VllmModel], folder: Path, adapter: Path, conversations: list[Any]
) -> None:
    base, adapted = served
    ours = [await by_vllm(model, conversations) for model in (base, adapted)]
    theirs = [by_transformers(folder, conversations, each) for each in (None, adapter)]
    positions = len(ours[1].first)
    same = sum(a == b for a, b in zip(ours[1].first, theirs[1].first, strict=True)) / positions
    our, their = (np.subtract(after.logps, before.logps) for before, after in (ours, theirs))
    correlation = float(np.corrcoef(our, their)[0, 1])
    print(
        f"vLLM against transformers with PEFT, {positions} reply positions: top-1 agreement {same:.4f}, "
        f"correlation of log-probability changes {correlation:.5f} (changes of {np.abs(their).mean():.2f} nats)"
    )
    assert positions >= POSITIONS
    assert np.abs(their).mean() > 0.2, "training has changed something"
    assert same >= AGREEMENT
    assert correlation >= CORRELATION


async def by_vllm(model: VllmModel, conversations: list[Any]) -> Read:
    """What the server says of each token of a prompt that ends with the reply."""
    rows = [tree.row(tree.targets[0]) for tree in conversations]
    fields = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 1}
    answers, _ = await model._complete([array("i", row) for row in rows], fields)
    first, logps = [], []
    for tree, row, answer in zip(conversations, rows, answers, strict=True):
        length = len(tree.segments[tree.targets[0]].tokens)
        for token, told in zip(row[-length:], answer["prompt_logprobs"][-length:], strict=True):
            first.append(_first(told))
            logps.append(float(told[str(token)]["logprob"]))
    return Read(first, logps)


def _first(told: Mapping[str, Mapping[str, Any]]) -> int:
    return next(int(token) for token, entry in told.items() if entry["rank"] == 1)


def by_transformers(folder: Path, conversations: list[Any], adapter: Path | None) -> Read:
    """The same from whole logits."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    # Weights as they are served, products in float32.
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float()
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    first, logps = [], []
    for tree in conversations:
        row, length = torch.tensor(tree.row(tree.targets[0])), len(tree.segments[tree.targets[0]].tokens)
        with torch.no_grad():
            logits = model(row[None]).logits[0, -length - 1 : -1].log_softmax(-1)
        first += logits.argmax(-1).tolist()
        logps += logits.gather(1, row[-length:, None])[:, 0].tolist()
    return Read(first, logps)
