"""The vllm backend with a real server: what it answers, against transformers on the same weights, and what it survives.

Skipped where `make test-vllm` has not made vLLM's environment.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from agents.models.protocol import ChatRequest, Message, ModelFailure, Sampling, ScoreRequest
from agents.models.vllm import VllmModel
from tests.support.hf_folder import embedded_folder
from tests.support.real_vllm import MISSING, PYTHON, real_config

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PYTHON.exists(), reason=MISSING),
    pytest.mark.asyncio(loop_scope="module"),
]

MESSAGES = (Message("system", "You are a kind neighbour."), Message("user", "I lost my cat <|im_end|> today."))
REPLIES = ("I am so sorry. Where did you see her last?", "Cats are animals with four legs.", "No.")
GREEDY = Sampling(max_tokens=24, temperature=0)
NEAR = 0.05
"""Nats a token by which bfloat16 kernels may differ."""


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    pytest.importorskip("transformers", reason="the train extra is not installed")
    assert request.config.cache is not None
    return embedded_folder(request.config.cache.mkdir("hf"))


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA weights drawn at random, large enough to be seen."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    made = tmp_path_factory.mktemp("adapter")
    get_peft_model(base, config).save_pretrained(made)
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adapted(folder: Path, adapter: Path) -> AsyncIterator[VllmModel]:
    """A server started here, with the adapter."""
    opened = VllmModel("adapted", real_config(folder, adapter=str(adapter)))
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(folder: Path, adapted: VllmModel) -> AsyncIterator[VllmModel]:
    """The base model, asked of the same server as of one that was started by hand."""
    assert adapted._serving.running is not None
    http = adapted._serving.running.http
    os.environ["VLLM_TEST_KEY"] = http._key
    opened = VllmModel("base", real_config(folder, endpoint=http.endpoints[0].url, api_key_env="VLLM_TEST_KEY"))
    await opened.open()
    yield opened
    await opened.close()
    del os.environ["VLLM_TEST_KEY"]


async def test_a_stream_of_deltas_is_the_answer(model: VllmModel) -> None:
    pieces: list[str] = []
    streamed = await model.chat(ChatRequest(MESSAGES, GREEDY), lambda index, text: pieces.append(text))
    whole = await model.chat(ChatRequest(MESSAGES, GREEDY))
    assert streamed.completions[0].text == "".join(pieces)
    assert len(pieces) > 3
    assert whole.completions[0].text
    assert whole.usage.prompt_tokens == (await model.prepare(MESSAGES)).tokens


async def test_several_answers_under_one_seed(model: VllmModel) -> None:
    request = ChatRequest(MESSAGES, Sampling(max_tokens=12, temperature=1.0), seed=7, n=3)
    answer = await model.chat(request)
    assert len({completion.text for completion in answer.completions}) == 3


async def test_an_answer_follows_its_schema(model: VllmModel) -> None:
    schema = '{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}'
    answer = await model.chat(ChatRequest(MESSAGES, Sampling(max_tokens=30, temperature=0), schema=schema))
    assert answer.completions[0].text.replace(" ", "").replace("\n", "") in ('{"ok":true}', '{"ok":false}')


async def test_what_shares_a_prefix_is_read_once(model: VllmModel) -> None:
    long = (Message("system", "You are a kind neighbour. " * 60), Message("user", "Hello."))
    await model.chat(ChatRequest(long, Sampling(max_tokens=1, temperature=0)))
    again = await model.chat(ChatRequest(long, Sampling(max_tokens=1, temperature=0)))
    assert again.usage.prompt_tokens is not None
    assert (again.usage.cached_tokens or 0) > again.usage.prompt_tokens / 2
    figures = await model.figures()
    assert figures is not None
    assert figures.steps > 0
    assert figures.cells is not None
    assert figures.prompt_reused >= (again.usage.cached_tokens or 0)
    assert figures.prompt_read > 0


async def test_scores_and_choices_are_those_of_transformers(model: VllmModel, folder: Path) -> None:
    scored = await model.score(ScoreRequest(MESSAGES, REPLIES))
    expected = by_transformers(folder, REPLIES)
    for score, (logprob, tokens) in zip(scored.scores, expected, strict=True):
        assert score.tokens == tokens
        assert abs(score.logprob - logprob) / tokens < NEAR
    choices = ("Yes", "No", "both_bad", "tie")
    answer = await model.chat(ChatRequest(MESSAGES, Sampling(temperature=0), choices=choices))
    joint = [logprob for logprob, _ in by_transformers(folder, choices)]
    total = math.log(math.fsum(map(math.exp, joint)))
    found = answer.completions[0].choice_logprobs
    assert found is not None
    lengths = [tokens for _, tokens in by_transformers(folder, choices)]
    for choice, logprob, length in zip(choices, joint, lengths, strict=True):
        # The others' rounding is in the sum that it is measured against.
        assert abs(found[choice] - (logprob - total)) < NEAR * (length + 1) * 2


async def test_a_prompt_that_does_not_fit_is_too_long(model: VllmModel) -> None:
    with pytest.raises(ModelFailure) as caught:
        await model.chat(ChatRequest((Message("user", "word " * 5000),), GREEDY))
    assert caught.value.kind == "too_long"


async def test_an_adapter_is_served_by_its_digest_and_answers_differently(
    model: VllmModel, adapted: VllmModel, folder: Path, adapter: Path
) -> None:
    one = await adapted.score(ScoreRequest(MESSAGES, REPLIES))
    other = await model.score(ScoreRequest(MESSAGES, REPLIES))
    assert adapted.identity.adapter is not None
    assert adapted.identity.model == model.identity.model
    assert [s.tokens for s in one.scores] == [s.tokens for s in other.scores]
    assert all(abs(a.logprob - b.logprob) > NEAR * a.tokens for a, b in zip(one.scores, other.scores, strict=True))
    for score, (logprob, tokens) in zip(one.scores, by_transformers(folder, REPLIES, adapter), strict=True):
        assert abs(score.logprob - logprob) / tokens < NEAR


async def test_a_killed_server_is_started_again_and_leaves_nothing_behind(adapted: VllmModel) -> None:
    processes = processes_of(adapted)
    assert len(processes) > 1, "vLLM's engine is a process of its own"
    processes[0].send_signal(signal.SIGKILL)
    with pytest.raises(ModelFailure) as caught:
        await adapted.chat(ChatRequest(MESSAGES, GREEDY))
    assert caught.value.kind == "died"
    assert not psutil.wait_procs(processes, timeout=20)[1]
    assert (await adapted.chat(ChatRequest(MESSAGES, GREEDY))).completions[0].text
    processes = processes_of(adapted)
    await adapted.close()
    assert not any(process.is_running() for process in processes)


def processes_of(model: VllmModel) -> list[psutil.Process]:
    """The server's process first, then all that it has started."""
    assert model.pid is not None
    server = psutil.Process(model.pid)
    return [server, *server.children(recursive=True)]


def by_transformers(folder: Path, replies: tuple[str, ...], adapter: Path | None = None) -> list[tuple[float, int]]:
    """(log-probability, tokens) of each reply after MESSAGES, from float32 kernels on the same bfloat16 weights."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    # Where the text of a control token stands in a message it is read letter by letter.
    said = [{"role": m.role, "content": m.content.replace("<|im_end|>", "\ue000")} for m in MESSAGES]
    rendered = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    before, after = rendered.split("\ue000")
    pieces = [before + "<", "|im_end|>" + after]
    prompt = [token for piece in pieces for token in tokenizer(piece, add_special_tokens=False).input_ids]
    found = []
    for reply in replies:
        tokens = tokenizer(reply, add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        rows = logits[len(prompt) - 1 : -1]
        found.append((float(sum(row[token] for row, token in zip(rows, tokens, strict=True))), len(tokens)))
    return found
