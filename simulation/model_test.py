"""Trying a model out: what it can do, how fast, and what goes wrong, in four short questions.

Each part of the answer has `works` (True, False, or None for what the model does not offer), `seconds`, and
what came back or why nothing did. Nothing here retries and nothing is stored.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from agents.models.protocol import ChatRequest, Message, Model, ModelFailure, Sampling, ScoreRequest
from trees.ids import canonical_json

DEADLINE_S = 120.0
"""Longest wait for one of the four answers, in seconds."""

_GREETING = (
    Message("system", "You are a friendly conversation partner."),
    Message("user", "Say hello in one sentence."),
)
_QUESTION = (Message("user", "Which is an animal?\nA: a horse\nB: a hammer\nAnswer with one letter."),)
_LIST = (Message("user", 'Name two colours as JSON: {"colours": ["...", "..."]}'),)
_REPLIES = ("Hello, how nice to meet you!", "Hammer the purple of seven.")
_SCHEMA = canonical_json(
    {
        "type": "object",
        "properties": {"colours": {"type": "array", "items": {"type": "string"}, "maxItems": 2}},
        "required": ["colours"],
        "additionalProperties": False,
    }
)

Part = dict[str, Any]


async def try_model(model: Model) -> dict[str, Any]:
    """Ask an open model what roles would ask of it. Failures are part of the answer and are never raised."""
    can = model.capabilities
    return {
        "model": model.name,
        "identity": model.identity.as_dict(),
        "capabilities": {name: getattr(can, name) for name in can.__slots__},
        "chat": await _timed(lambda: _chat(model), offered=can.chat),
        "score": await _timed(lambda: _score(model), offered=can.score),
        "choices": await _timed(lambda: _choices(model), offered=can.chat),
        "schema": await _timed(lambda: _schema(model), offered=can.json_schema),
    }


async def _timed(ask: Callable[[], Awaitable[Part]], *, offered: bool) -> Part:
    """One part, with how long it took."""
    if not offered:
        return {"works": None, "why": "not offered by this model"}
    started = time.monotonic()
    try:
        async with asyncio.timeout(DEADLINE_S):
            part = await ask()
    except TimeoutError:
        part = {"works": False, "why": f"no answer within {DEADLINE_S:g} s"}
    except ModelFailure as failure:
        part = {"works": False, "why": f"{failure.kind}: {failure.message}"}
    seconds = time.monotonic() - started
    tokens = part.get("tokens")
    rate = {"tokens_per_s": round(tokens / seconds, 1)} if tokens and seconds > 0 else {}
    return {**part, **rate, "seconds": round(seconds, 3)}


async def _chat(model: Model) -> Part:
    sampling = Sampling(max_tokens=40, temperature=0.7)
    answer = await model.chat(ChatRequest(_GREETING, sampling, seed=1))
    text = answer.completions[0].text
    tokens, first = answer.usage.output_tokens, answer.usage.first_token_s
    return {"works": bool(text.strip()), "text": text, "tokens": tokens, "first_token_s": first}


async def _score(model: Model) -> Part:
    answer = await model.score(ScoreRequest(_GREETING, _REPLIES))
    means = [score.logprob / max(score.tokens, 1) for score in answer.scores]
    sensible = means[0] > means[1]
    why = {} if sensible else {"why": "a greeting scored below nonsense"}
    return {"works": sensible, "nats_per_token": [round(mean, 3) for mean in means], **why}


async def _choices(model: Model) -> Part:
    answer = await model.chat(ChatRequest(_QUESTION, Sampling(max_tokens=4, temperature=0.0), choices=("A", "B")))
    first = answer.completions[0]
    closed = first.text.strip() in ("A", "B")
    odds = first.choice_logprobs
    part: Part = {"works": closed, "text": first.text, "logprobs": None if odds is None else dict(odds)}
    return part if closed else {**part, "why": "the answer is not one of the choices"}


async def _schema(model: Model) -> Part:
    request = ChatRequest(_LIST, Sampling(max_tokens=60, temperature=0.0), schema=_SCHEMA)
    text = (await model.chat(request)).completions[0].text
    try:
        colours = json.loads(text)["colours"]
    except (ValueError, KeyError, TypeError):
        return {"works": False, "text": text, "why": "the answer does not satisfy the schema"}
    return {"works": isinstance(colours, list), "text": text}
