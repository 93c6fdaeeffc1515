"""The OpenAI-compatible protocol as values: a request's JSON, and answers read from JSON or an event stream.

No input or output happens here. Streamed or whole, an answer goes through `AnswerReader`, which takes the
chunks as the server sends them and gives the `ChatAnswer`; everything a server may get wrong ends in
`ModelFailure`.

Dialects differ in how a closed set of answers is asked for: vLLM has `structured_outputs`, llama.cpp a
grammar, and OpenAI a JSON schema, whose answer is an object with the choice inside.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from agents.models.protocol import (
    ChatAnswer,
    ChatRequest,
    Completion,
    ModelFailure,
    OnDelta,
    Sampling,
    Usage,
)
from agents.models.reasoning import OPEN, ReasoningSplitter

Dialect = Literal["openai", "vllm", "llama.cpp"]

MAX_BYTES = 8 * 1024 * 1024
"""Longest body, event or collected answer; a server that sends more is not answering."""
TOP_LOGPROBS = 20
SHOWN = 200
"""Characters of a wrong answer that a failure's message quotes."""

_FLOOR = -30.0
"""Nats: a choice among no listed alternative is never counted as less likely than this."""
_CHOICE_IN_JSON = re.compile(r'\s*(?:\{\s*"choice"\s*:\s*)?"')
_GRAMMAR_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


# ---- what is sent


def sampling_fields(sampling: Sampling, dialect: Dialect, limit_field: str) -> dict[str, object]:
    """Sampling as this dialect calls it; what is not set is not sent."""
    penalty = "repeat_penalty" if dialect == "llama.cpp" else "repetition_penalty"
    names = {"max_tokens": limit_field, "repeat_penalty": penalty}
    return {names.get(name, name): value for name, value in sampling.as_dict().items()}


def chat_body(
    request: ChatRequest, model: str, dialect: Dialect, *, stream: bool, limit_field: str = "max_tokens"
) -> dict[str, object]:
    """The JSON of a chat request."""
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in request.messages],
        **_fields(request, dialect, stream, limit_field),
    }
    if request.choices:
        body |= choices_fields(request.choices, dialect)
    return body


def completion_body(request: ChatRequest, model: str, tokens: Sequence[int], *, stream: bool) -> dict[str, object]:
    """The JSON of the same request to vLLM's completions, whose prompt is token ids; choices are not asked for."""
    return {"model": model, "prompt": list(tokens), **_fields(request, "vllm", stream, "max_tokens")}


def _fields(request: ChatRequest, dialect: Dialect, stream: bool, limit_field: str) -> dict[str, object]:
    """What a request asks for beside its prompt."""
    fields = sampling_fields(request.sampling, dialect, limit_field)
    if request.seed is not None:
        fields["seed"] = request.seed
    if request.n > 1:
        fields["n"] = request.n
    if stream:
        fields["stream"] = True
        fields["stream_options"] = {"include_usage": True}
    if request.schema is not None and not request.choices:
        fields["response_format"] = _json_schema(json.loads(request.schema))
    return fields


def choices_fields(choices: Sequence[str], dialect: Dialect) -> dict[str, object]:
    """What makes a server answer with one of these texts, and say how likely each was."""
    if dialect == "vllm":
        return {"structured_outputs": {"choice": list(choices)}}
    if dialect == "llama.cpp":
        return {"grammar": "root ::= " + " | ".join(f'"{_grammar_literal(choice)}"' for choice in choices)}
    schema = {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(choices)}},
        "required": ["choice"],
        "additionalProperties": False,
    }
    return {"response_format": _json_schema(schema)}


def _json_schema(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _grammar_literal(text: str) -> str:
    return "".join(_GRAMMAR_ESCAPES.get(c) or (c if c >= " " else f"\\x{ord(c):02X}") for c in text)


# ---- what comes back


class EventParser:
    """Server-sent events from bytes cut anywhere. Comments and fields other than `data` are passed over."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next bytes; return the data of the events that are complete now."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_BYTES:
            raise ModelFailure("bad_answer", f"an event is longer than {MAX_BYTES} bytes")
        events = []
        for ended in lines:
            if ended.startswith(b"data:"):
                self._data.append(ended[5:].strip())
            elif self._data and not ended.rstrip(b"\r"):
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
        return events

    def finish(self) -> list[bytes]:
        """The event that lacks only its closing blank line, if there is one."""
        return self.feed(b"\n\n")


def parse_json(data: bytes) -> Mapping[str, Any]:
    """A JSON object, or ModelFailure("bad_answer")."""
    try:
        # Decoded here: left to itself, json looks for UTF-16 and UTF-32 in every chunk first.
        value = json.loads(data.decode("utf-8"))
    # Deep nesting ends in RecursionError: also only a server's bad answer.
    except (ValueError, RecursionError) as error:
        shown = data[:SHOWN].decode("utf-8", "replace")
        raise ModelFailure("bad_answer", f"the server's answer is not JSON: {shown!r}") from error
    return _object(value, "the server's answer")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ModelFailure("bad_answer", f"{what} is a JSON {type(value).__name__}, not an object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ModelFailure("bad_answer", f"{what} is a JSON {type(value).__name__}, not a list")
    return value


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


@dataclass(slots=True)
class _Draft:
    """One answer while it is written."""

    content: ReasoningSplitter = field(default_factory=ReasoningSplitter)
    reasoning: list[str] = field(default_factory=list)
    tokens: list[Mapping[str, Any]] = field(default_factory=list)
    """Log-probability entries, one a token."""
    finish: str | None = None


class AnswerReader:
    """Reads one answer to a chat or a completion, whole or in chunks."""

    def __init__(self, request: ChatRequest, on_delta: OnDelta | None = None, *, reasons: bool = False) -> None:
        """`reasons`: the prompt itself already opened a <think> block."""
        self._request = request
        self._on_delta = on_delta
        self._drafts = [_Draft() for _ in range(request.n)]
        if reasons:
            for draft in self._drafts:
                draft.content.feed(OPEN)
        self._started = time.perf_counter()
        self._first_token_s: float | None = None
        self._usage: Mapping[str, Any] = {}
        self._characters = 0

    @property
    def finished(self) -> bool:
        """Whether the server said of every answer why it ended."""
        return all(draft.finish is not None for draft in self._drafts)

    def take_event(self, data: bytes) -> None:
        """Take one chunk of a stream."""
        self._take(parse_json(data), "delta")

    def take_whole(self, data: bytes) -> None:
        """Take an answer that was not streamed."""
        body = parse_json(data)
        choices = _list(body.get("choices"), "choices")
        if len(choices) < self._request.n:
            raise ModelFailure("bad_answer", f"asked for {self._request.n} answers, got {len(choices)}")
        self._take(body, "message")

    def _take(self, chunk: Mapping[str, Any], part: str) -> None:
        if chunk.get("error"):
            raise failure_of(_count(_error_of(chunk).get("code")) or 500, chunk)
        if usage := chunk.get("usage"):
            self._usage = _object(usage, "usage")
        for choice in _list(chunk.get("choices") or [], "choices"):
            self._take_choice(_object(choice, "a choice"), part)

    def _take_choice(self, choice: Mapping[str, Any], part: str) -> None:
        index = choice.get("index", 0)
        if not isinstance(index, int) or not 0 <= index < len(self._drafts):
            raise ModelFailure("bad_answer", f"answer index {index!r} of {len(self._drafts)} answers")
        draft = self._drafts[index]
        said = _object(choice.get(part) or {}, part)
        if content := _text(said.get("content")) or _text(choice.get("text")):
            self._grow(content)
            shown = draft.content.feed(content)
            if shown and self._on_delta is not None:
                self._on_delta(index, shown)
        if thought := _text(said.get("reasoning_content") or said.get("reasoning")):
            self._grow(thought)
            draft.reasoning.append(thought)
        if logprobs := choice.get("logprobs"):
            entries = _list(_object(logprobs, "logprobs").get("content") or [], "logprobs")
            draft.tokens += [_object(entry, "a token's log-probability") for entry in entries]
        draft.finish = _text(choice.get("finish_reason")) or draft.finish

    def _grow(self, text: str) -> None:
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._started
        self._characters += len(text)
        if self._characters > MAX_BYTES:
            raise ModelFailure("bad_answer", f"the answer is longer than {MAX_BYTES} characters")

    def answer(self, *, streamed: bool) -> ChatAnswer:
        """All answers. Raises ModelFailure("bad_answer") if one is not what was asked for."""
        completions = tuple(_completion(self._request, draft) for draft in self._drafts)
        details = self._usage.get("prompt_tokens_details")
        usage = Usage(
            prompt_tokens=_count(self._usage.get("prompt_tokens")),
            cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else None,
            output_tokens=_count(self._usage.get("completion_tokens")),
            first_token_s=self._first_token_s if streamed else None,
        )
        return ChatAnswer(completions, usage)


def _completion(request: ChatRequest, draft: _Draft) -> Completion:
    content, inline = draft.content.finish()
    reasoning = "\n".join(part for part in ("".join(draft.reasoning), inline) if part) or None
    if draft.finish == "content_filter":
        raise ModelFailure("refused", "the server's content filter withheld the answer")
    if not content.strip():
        # Saying nothing is an answer like any other where any text is one; under the same seed it would come again.
        if draft.finish == "stop" and not request.choices and request.schema is None:
            return Completion("", "stop", reasoning)
        spent = " but reasoning" if reasoning else ""
        raise ModelFailure("bad_answer", f"the answer holds nothing{spent} (finish: {draft.finish})")
    finish: Literal["stop", "length"] = "length" if draft.finish == "length" else "stop"
    if request.choices:
        choice, at = read_choice(content, request.choices)
        logprobs = choice_logprobs(draft.tokens, content, at, request.choices)
        return Completion(choice, finish, reasoning, logprobs)
    # A cut answer is no fault of the server's, and asking again would cut it again: its finish says what it is.
    if request.schema is not None and finish == "stop":
        _check_json(content)
    return Completion(content, finish, reasoning)


def _check_json(content: str) -> None:
    try:
        json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFailure("bad_answer", f"asked for JSON, got {content[:SHOWN]!r}") from error


def read_choice(content: str, choices: Sequence[str]) -> tuple[str, int]:
    """The choice an answer consists of, plain or as JSON, and where in the answer it begins."""
    by_text = {choice.strip(): choice for choice in choices}
    plain = content.strip()
    if plain in by_text:
        return by_text[plain], content.index(plain)
    if opening := _CHOICE_IN_JSON.match(content):
        value = _value_in_json(content)
        if value in by_text:
            return by_text[value], opening.end()
    listed = ", ".join(repr(choice) for choice in choices)
    raise ModelFailure("bad_answer", f"the answer is none of {listed[:SHOWN]}: {content[:SHOWN]!r}")


def _value_in_json(content: str) -> str:
    try:
        value = json.loads(content)
    except ValueError:
        return ""
    return _text(value.get("choice") if isinstance(value, dict) else value).strip()


# ---- how likely each choice was


def choice_logprobs(
    tokens: Sequence[Mapping[str, Any]], content: str, at: int, choices: Sequence[str]
) -> dict[str, float] | None:
    """Natural-log probability of each choice, from the alternatives of the token where the answer begins.

    None if the server gave no alternatives, or if one of them could begin more than one choice.
    """
    found = _token_at(tokens, content, at)
    if found is None:
        return None
    entry, prefix = found
    alternatives = entry.get("top_logprobs")
    if not isinstance(alternatives, list) or not alternatives:
        return None
    listed: list[float] = []
    matched: dict[str, list[float]] = {choice: [] for choice in choices}
    for alternative in alternatives:
        if not isinstance(alternative, dict) or not isinstance(alternative.get("logprob"), (int, float)):
            return None
        listed.append(max(_FLOOR, float(alternative["logprob"])))
        begun = _choices_begun_by(_token_text(alternative), prefix, choices)
        if len(begun) > 1:
            return None
        for choice in begun:
            matched[choice].append(listed[-1])
    if not any(matched.values()):
        return None
    floor = _floor(listed)
    return _normalised({choice: _log_sum(values) if values else floor for choice, values in matched.items()})


def _token_at(tokens: Sequence[Mapping[str, Any]], content: str, at: int) -> tuple[Mapping[str, Any], str] | None:
    """The token in which position `at` of the content falls, and what of the token stands before it."""
    texts = [_token_text(token) for token in tokens]
    # Tokens of reasoning may stand before the content's and an end token after them.
    offset = "".join(texts).rfind(content)
    if offset < 0:
        return None
    wanted = offset + at
    begin = 0
    for token, text in zip(tokens, texts, strict=True):
        if begin + len(text) > wanted:
            return token, text[: wanted - begin]
        begin += len(text)
    return None


def _token_text(token: Mapping[str, Any]) -> str:
    """A token's text; servers replace what is not whole UTF-8 in `token`, `bytes` is exact."""
    raw = token.get("bytes")
    if isinstance(raw, list) and all(isinstance(b, int) and 0 <= b < 256 for b in raw):
        return bytes(raw).decode("utf-8", "replace")
    return _text(token.get("token"))


def _choices_begun_by(token: str, prefix: str, choices: Iterable[str]) -> list[str]:
    if prefix.strip():
        if not token.startswith(prefix):
            return []
        token = token[len(prefix) :]
    begun = token.strip().rstrip('"}').rstrip()
    return [choice for choice in choices if choice.strip().startswith(begun)] if begun else []


def _floor(listed: Sequence[float]) -> float:
    """For a choice that is not listed: no more than the least likely listed one, nor than what all of them
    leave.
    """
    left = 1.0 - math.exp(_log_sum(listed))
    return max(_FLOOR, min(*listed, math.log(left) if left > 0 else _FLOOR))


def _log_sum(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


def _normalised(values: Mapping[str, float]) -> dict[str, float]:
    total = _log_sum(list(values.values()))
    return {key: value - total for key, value in values.items()}


# ---- what went wrong

_TOO_LONG = re.compile(
    r"context.{0,12}(length|size|window)|maximum context|max_model_len|prompt is too long|too many tokens",
    re.IGNORECASE,
)


def failure_of(status: int, body: object, retry_after_s: float | None = None) -> ModelFailure:
    """The failure that an error response stands for."""
    error = _error_of(body)
    said = _text(error.get("message"))[:SHOWN] or "no message"
    message = f"the server answered {status}: {said}"
    if status == 429:
        return ModelFailure("rate_limited", message, retry_after_s=retry_after_s, status=status)
    if (status >= 500 and status != 501) or status == 408:
        return ModelFailure("unavailable", message, retry_after_s=retry_after_s, status=status)
    hints = " ".join(_text(error.get(name)) for name in ("code", "type")).replace("_", " ")
    if status == 413 or _TOO_LONG.search(f"{said} {hints}"):
        return ModelFailure("too_long", message, status=status)
    return ModelFailure("refused", message, status=status)


def _error_of(body: object) -> Mapping[str, Any]:
    """The error object in a body, whichever of the usual shapes it has."""
    if not isinstance(body, dict):
        return {"message": body} if isinstance(body, str) else {}
    error = body.get("error") or body.get("detail") or body
    if isinstance(error, dict):
        return error
    return {"message": error if isinstance(error, str) else json.dumps(error)}
