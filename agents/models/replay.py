"""Answers from a store: a model that was asked before says again what it said, by call id, and nothing else.

It takes on the identity of the model whose answers it has, so the calls of a run that is played again have the ids
they had then. A prompt's digest is over the messages where that model's was (remote and scripted ones); for a model
that digests tokens, the stored calls tell which token digest belongs to which messages.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from agents.calls import (
    chat_as_asked,
    chat_from_json,
    id_of_call,
    messages_digest,
    score_as_asked,
    score_from_json,
)
from agents.models.protocol import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    EmbedAnswer,
    Figures,
    Message,
    ModelFailure,
    ModelIdentity,
    OnDelta,
    Prepared,
    ScoreAnswer,
    ScoreRequest,
    estimated_tokens,
)
from agents.models.settings import ModelSettings
from trees.errors import StoreError
from trees.store import Store


class ReplayConfig(ModelSettings):
    """A model that answers from a store."""

    kind: Literal["replay"]
    store: str = Field(description="The store whose answers are given again.")
    label: str = Field(description="The name that the model had in that store's configuration.")


class ReplayModel:
    """See the module's docstring."""

    def __init__(self, name: str, config: ReplayConfig) -> None:
        self.name = name
        self._config = config
        self._store: Store | None = None
        self._identity: ModelIdentity | None = None

    @property
    def identity(self) -> ModelIdentity:
        assert self._identity is not None, "open the model first"
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(score=True, choice_logprobs=True, json_schema=True, deterministic=True)

    async def open(self) -> None:
        path = Path(self._config.store)
        try:
            self._store = Store.read(path)
        except StoreError as error:
            raise ModelFailure("setup", str(error)) from error
        found = self._store.rows("SELECT identity FROM models WHERE label = ?", (self._config.label,))
        if len(found) != 1:
            labels = ", ".join(row[0] for row in self._store.rows("SELECT DISTINCT label FROM models")) or "none"
            raise ModelFailure("setup", f"{path} has {len(found)} models named {self._config.label!r}; it has {labels}")
        self._identity = ModelIdentity(**json.loads(found[0][0]))

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        digest = messages_digest(tuple(messages))
        sql = "SELECT prompt_digest, tokens_in FROM calls WHERE messages_digest = ? AND model_id = ? LIMIT 1"
        rows = self._open_store().rows(sql, (digest, self.identity.id))
        return Prepared(*rows[0]) if rows else Prepared(digest, None)

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return estimated_tokens(texts)

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        """Raises ModelFailure("refused") for what was never asked."""
        return chat_from_json(await self._answer("chat", request.messages, chat_as_asked(request)))

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        """Raises ModelFailure("refused") for what was never asked."""
        return score_from_json(await self._answer("score", request.messages, score_as_asked(request)))

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        raise ModelFailure("unsupported", "replayed models do not embed")

    async def figures(self) -> Figures | None:
        return None

    async def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    async def _answer(self, kind: str, messages: tuple[Message, ...], asked: dict[str, object]) -> dict[str, object]:
        prepared = await self.prepare(messages)
        stored = self._open_store().answer(id_of_call(self.identity.id, kind, prepared.digest, asked))
        if stored is None:
            raise ModelFailure("refused", f"{self._config.store} holds no answer to this {kind} request")
        return stored

    def _open_store(self) -> Store:
        assert self._store is not None, "open the model first"
        return self._store
