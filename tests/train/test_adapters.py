"""Adapters: the same numbers from PEFT and from llama.cpp, names by content, lineage, bases, and every export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch

from agents.models.llama import LlamaConfig, LlamaModel
from agents.models.model_folder import read_adapter
from agents.models.protocol import ChatRequest, Message, ModelFailure, ReplyScore, Sampling, ScoreRequest
from agents.models.transformers import TransformersConfig, TransformersModel
from agents.models.weights import locate
from tests.support.gguf_f32 import f32_gguf
from train.adapters import (
    Lineage,
    LineageStep,
    StoredAdapters,
    base_digest,
    export_adapter,
    keep_adapter_files,
    lineage_of_base,
    read_lineage,
)
from train.gguf_export import BaseShape, write_lora
from trees.errors import SetupError

SOURCE = "What do you sell in your shop?"
REPLIES = ("I sell bread and cake, and on Sundays fish.", "No.", "Good morning to you too!")
GREEDY = Sampling(max_tokens=12, temperature=0)
STEP = LineageStep("t" * 32, "sft", "d" * 32, "c" * 32, ("r" * 32,))


HIDDEN, HEADS, KEY_HEADS, HEAD, WIDE = 576, 9, 3, 64, 1536
"""Of the embedded model."""
SIZES = {
    "self_attn.q_proj": (HIDDEN, HEADS * HEAD),
    "self_attn.k_proj": (HIDDEN, KEY_HEADS * HEAD),
    "self_attn.v_proj": (HIDDEN, KEY_HEADS * HEAD),
    "self_attn.o_proj": (HEADS * HEAD, HIDDEN),
    "mlp.gate_proj": (HIDDEN, WIDE),
    "mlp.up_proj": (HIDDEN, WIDE),
    "mlp.down_proj": (WIDE, HIDDEN),
}


def random_lora(folder: Path, layers: int) -> Path:
    """An adapter of all linear layers as PEFT saves it, with ranks and scales that differ by layer."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for layer in range(layers):
        for name, (inputs, outputs) in SIZES.items():
            rank = 8 if (layer, name) == (1, "self_attn.q_proj") else 4
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.08
            tensors[f"{key}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.08
    LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=sorted({name.rpartition(".")[2] for name in SIZES}),
        task_type="CAUSAL_LM",
        rank_pattern={"layers.1.self_attn.q_proj": 8},
        alpha_pattern={"layers.0.mlp.down_proj": 20},
    ).save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest) -> Path:
    """The embedded model in float32, as GGUF."""
    cache = request.config.cache
    assert cache is not None
    return f32_gguf(locate("embedded").path, cache.mkdir("gguf"))


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest) -> Path:
    """Its first two layers."""
    cache = request.config.cache
    assert cache is not None
    return f32_gguf(locate("embedded").path, cache.mkdir("gguf"), layers=2)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_lora(tmp_path_factory.mktemp("lora"), 2)


@pytest.fixture
def kept(lora: Path, base: Path, store_path: Path) -> Any:
    """The adapter among a store's own."""
    lineage = lineage_of_base(str(base)).with_training(STEP, [("p", "q")], known=True)
    return keep_adapter_files(lora, store_path, lineage, "# An adapter\n")


def question(text: str = SOURCE) -> tuple[Message, ...]:
    return (Message("system", "You are Ann, a baker by the sea."), Message("user", text))


async def test_llama_cpp_with_the_lora_gives_the_numbers_of_peft(whole: Path, store_path: Path, tmp_path: Path) -> None:
    base, lineage = whole, lineage_of_base(str(whole)).with_training(STEP, [("p", "q")], known=True)
    kept = keep_adapter_files(random_lora(tmp_path / "lora", 30), store_path, lineage, "# An adapter\n")
    adapters = StoredAdapters(store_path)
    theirs = TransformersModel("hf", TransformersConfig(kind="transformers", path=str(base), adapter=str(kept.path)))
    config = LlamaConfig(
        path=str(base), adapter=str(kept.path), cache_type="f32", flash_attention=False, context=512, threads=2
    )
    ours = LlamaModel("lora", config, adapters)
    try:
        for model in (theirs, ours):
            await model.open()
        request = ScoreRequest(question(), REPLIES)
        scored = [(await model.score(request)).scores for model in (ours, theirs)]
        assert theirs._weights is not None
        with theirs._weights._model.disable_adapter():
            scored.append((await theirs.score(request)).scores)
        for our, their, without in zip(*scored, strict=True):
            assert our.tokens == their.tokens
            assert our.logprob == pytest.approx(their.logprob, abs=1e-2)
            assert abs(our.logprob - without.logprob) > 0.2
        beginnings = beginnings_of(theirs, REPLIES[0])
        request = ScoreRequest(question(), beginnings)
        our_tokens, their_tokens = [by_token((await model.score(request)).scores) for model in (ours, theirs)]
        assert len(our_tokens) == len(beginnings) > 8
        assert our_tokens == pytest.approx(their_tokens, abs=1e-2), "token by token"
        assert ours.identity.adapter == theirs.identity.adapter == kept.digest
        said = [(await model.chat(ChatRequest(question(), GREEDY))).completions[0].text for model in (ours, theirs)]
        assert said[0] == said[1]
    finally:
        for model in (theirs, ours):
            await model.close()


def beginnings_of(model: TransformersModel, reply: str) -> tuple[str, ...]:
    """The reply's text up to each of its tokens."""
    assert model._weights is not None
    vocab = model._weights.vocab
    tokens = vocab.tokenize(reply, special=False)
    found = tuple(vocab.text(tokens[: end + 1]) for end in range(len(tokens)))
    assert [vocab.tokenize(text, special=False) for text in found] == [tokens[: e + 1] for e in range(len(tokens))]
    return found


def by_token(scores: Sequence[ReplyScore]) -> list[float]:
    """What each token adds: log p of it after those before."""
    sums = [0.0, *(score.logprob for score in scores)]
    assert [score.tokens for score in scores] == list(range(1, len(sums)))
    return [after - before for before, after in pairwise(sums)]


def test_an_adapter_is_named_by_weights_configuration_and_lineage_alone(
    lora: Path, base: Path, kept: Any, store_path: Path, tmp_path: Path
) -> None:
    assert kept.path.name == kept.digest
    assert kept.base == locate(str(base)).digest
    elsewhere = shutil.copytree(kept.path, tmp_path / "elsewhere")
    (elsewhere / "README.md").write_text("Another card.")
    (elsewhere / "lora.gguf").write_bytes(b"GGUF")
    assert read_adapter(str(elsewhere)).digest == kept.digest
    lineage = lineage_of_base(str(base)).with_training(STEP, [("p", "q")], known=True)
    assert keep_adapter_files(lora, store_path, lineage, "# The card again\n").digest == kept.digest
    other = lineage_of_base(str(base)).with_training(STEP, [("p", "z")], known=True)
    assert keep_adapter_files(lora, store_path, other, "").digest != kept.digest


def test_lineage_is_read_back_and_unknown_stays_unknown(lora: Path, base: Path, kept: Any) -> None:
    lineage = read_lineage(kept, str(base))
    assert lineage.known
    assert lineage.people == (("p", "q"),)
    assert lineage.trainings == (STEP,)
    outside = read_lineage(read_adapter(str(lora)), str(base))
    assert not outside.known
    assert not outside.with_training(STEP, [], known=True).known


async def test_an_adapter_of_another_base_is_refused_with_both_digests(base: Path, kept: Any, store_path: Path) -> None:
    adapters = StoredAdapters(store_path)
    other = locate("embedded").digest
    model = LlamaModel("other", LlamaConfig(adapter=str(kept.path), context=512), adapters)
    with pytest.raises(ModelFailure, match=rf"(?s){kept.base}.*{other}.*adapter_base"):
        await model.open()
    stated = LlamaConfig(adapter=str(kept.path), adapter_base=kept.base[:12], context=512, threads=2)
    model = LlamaModel("stated", stated, adapters)
    await model.open()
    await model.close()


async def test_what_no_store_knows_is_said(store_path: Path) -> None:
    for named in ("abcdef", "no/such/folder"):
        model = LlamaModel("none", LlamaConfig(adapter=named), StoredAdapters(store_path))
        with pytest.raises(ModelFailure, match=f"no adapter '{named}'"):
            await model.open()


def test_exports_hold_the_same_weights(base: Path, kept: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[1, 42, 317, 9, 88, 1200]])
    merged = export_adapter(kept, "merged", str(base), tmp_path / "merged")
    gguf = export_adapter(kept, "gguf", str(base), tmp_path / "merged.gguf", "f32")
    models = [
        AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32),
        AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32),
    ]
    with torch.inference_mode():
        one, other = (model.eval()(input_ids=ids).logits for model in models)
    assert torch.allclose(one, other, atol=1e-2)
    for whole in (merged, gguf):
        brought = lineage_of_base(str(whole))
        assert (brought.trainings, brought.people, brought.known) == ((STEP,), (("p", "q"),), True)
        assert (brought.origin, brought.base) == (kept.base, base_digest(str(whole)))
    peft = export_adapter(kept, "peft", str(base), tmp_path / "peft")
    assert read_adapter(str(peft)).digest == kept.digest
    assert (merged / "lineage.json").exists()
    assert (merged / "README.md").exists()
    with pytest.raises(SetupError, match="exists already"):
        export_adapter(kept, "merged", str(base), merged)
    with pytest.raises(SetupError, match=f"(?s){kept.base}.*embedded"):
        export_adapter(kept, "gguf-lora", "embedded", tmp_path / "lora.gguf")


def test_what_gguf_cannot_hold_is_refused_by_name(lora: Path, tmp_path: Path) -> None:
    shape = BaseShape("llama", 2, HEADS, KEY_HEADS)
    config = json.loads((lora / "adapter_config.json").read_text())
    for key, value, said in (("use_dora", True, "DoRA"), ("bias", "all", "biases"), ("peft_type", "IA3", "IA3")):
        folder = shutil.copytree(lora, tmp_path / key)
        (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))
        with pytest.raises(SetupError, match=said):
            write_lora(folder, shape, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_a_lineage_goes_through_json() -> None:
    lineage = Lineage("b", "base", (STEP,), (("p", "q"),), known=True)
    from train.adapters import lineage_from

    for each in (lineage, replace(lineage, origin="a")):
        assert lineage_from(json.loads(json.dumps(each.as_dict()))) == each
