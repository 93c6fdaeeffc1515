"""Whether sharing, eviction and batching change answers: greedy text of 200 prompts, each way, against each one alone.

On a de-quantised F32 model with an F32 cache and no fused attention nothing may change, and scores must equal those of
transformers. On the quantised model, where a batch does change logits, the rate at which texts part is told.

    python benchmarks/exactness.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from common import Bar, finish, say

from agents.models.llama import LlamaConfig, LlamaModel
from agents.models.protocol import ChatRequest, Message, Sampling, ScoreRequest
from agents.models.weights import locate
from simulation.personas import seed_personalities, seed_profiles

TOKENS = 12
QUESTIONS = (
    "What did you do today?",
    "Is there anything that worries you?",
    "Tell me about the place where you live.",
    "What would you like to learn this year?",
)
REPLY = "I walked along the harbour and fed the gulls, and then it rained."


def prompts(number: int) -> list[tuple[Message, ...]]:
    """Fours that share their beginning, a persona, and differ in the question."""
    people = zip(seed_profiles() * 3, [p for p in seed_personalities() for _ in range(3)], strict=False)
    heads = [
        f"You are {profile.facts[0]} {profile.facts[1]} You are {personality.text}"[:240]
        for profile, personality in people
    ]
    pairs = [(head, question) for head in heads for question in QUESTIONS][:number]
    return [(Message("system", head), Message("user", question)) for head, question in pairs]


def greedy(messages: tuple[Message, ...]) -> ChatRequest:
    return ChatRequest(messages, Sampling(max_tokens=TOKENS, temperature=0))


async def texts(config: LlamaConfig, asked: Sequence[tuple[Message, ...]], *, together: bool) -> list[str]:
    """The answers, one request at a time or all at once."""
    model = LlamaModel("m", config)
    await model.open()
    try:
        if together:
            answers = await asyncio.gather(*(model.chat(greedy(messages)) for messages in asked))
        else:
            answers = [await model.chat(greedy(messages)) for messages in asked]
        return [answer.completions[0].text for answer in answers]
    finally:
        await model.close()


async def ways(path: str, number: int, settings: dict[str, Any]) -> dict[str, int]:
    """How many of the texts are those that each prompt gets alone, from an empty cache."""
    asked = prompts(number)
    patient: dict[str, Any] = {"kind": "llama", "path": path, "context": 512, "deadline_s": 3600, **settings}
    say("  alone")
    alone = await texts(LlamaConfig(**patient, exact=True), asked, together=False)
    say("  after prefix sharing")
    shared = await texts(LlamaConfig(**patient), asked, together=False)
    say("  after eviction and return")
    # Each beginning is read, pushed out by all the others, and fetched again for each of its questions.
    spread = sorted(range(number), key=lambda index: (index % len(QUESTIONS), index))
    evicted = await texts(LlamaConfig(**patient, cells=512), [asked[index] for index in spread], together=False)
    say("  in batches")
    batched = await texts(LlamaConfig(**patient, parallel=16), random.Random(1).sample(asked, number), together=True)
    order = random.Random(1).sample(range(number), number)
    return {
        "shared": sum(a == b for a, b in zip(alone, shared, strict=True)),
        "evicted": sum(alone[index] == text for index, text in zip(spread, evicted, strict=True)),
        "batched": sum(alone[index] == text for index, text in zip(order, batched, strict=True)),
    }


async def score_error(path: str, number: int) -> float:
    """Largest difference from transformers in the mean log-probability of a reply, in nats a token."""
    asked = prompts(number)
    model = LlamaModel("m", LlamaConfig(kind="llama", path=path, cache_type="f32", flash_attention=False, context=512))
    await model.open()
    try:
        answers = await asyncio.gather(*(model.score(ScoreRequest(messages, (REPLY,))) for messages in asked))
    finally:
        await model.close()
    reference = transformers_scores(asked)
    return max(
        abs(answer.scores[0].logprob - logprob) / tokens
        for answer, (logprob, tokens) in zip(answers, reference, strict=True)
    )


def transformers_scores(asked: Sequence[tuple[Message, ...]]) -> list[tuple[float, int]]:
    """The same from the shipped file, de-quantised by transformers, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = locate("embedded").path
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32).eval()
    found = []
    for messages in asked:
        prompt = "".join(f"<|im_start|>{each.role}\n{each.content}<|im_end|>\n" for each in messages)
        head = tokenizer.encode(f"{prompt}<|im_start|>assistant\n", add_special_tokens=False)
        tail = tokenizer.encode(REPLY, add_special_tokens=False)
        with torch.inference_mode():
            logits = model(torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
        logprobs = logits.double().log_softmax(-1)[range(len(tail)), tail]
        found.append((float(logprobs.sum()), len(tail)))
    return found


async def run(number: int) -> int:
    figures: dict[str, Any] = {"prompts": number}
    from tests.support.gguf_f32 import f32_gguf

    source = locate("embedded").path
    with tempfile.TemporaryDirectory() as folder:
        exact = str(f32_gguf(source, Path(folder)))
        say("F32")
        figures["f32"] = await ways(exact, number, {"cache_type": "f32", "flash_attention": False})
        say("  scores against transformers")
        figures["score_error"] = await score_error(exact, min(number, 40))
    say("quantised, as it is served by default")
    figures["quantised"] = await ways(str(source), number, {})
    bars = [Bar(f"F32 texts unchanged: {way}", same / number, at_least=1) for way, same in figures["f32"].items()]
    bars.append(Bar("score against transformers, nats a token", figures["score_error"], at_most=1e-3))
    return finish("exactness", figures, bars)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="12 prompts")
    return asyncio.run(run(12 if parser.parse_args().quick else 200))


if __name__ == "__main__":
    sys.exit(main())
