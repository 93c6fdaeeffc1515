"""Embedders: what turns profiles and personalities into vectors, so that those that say the same can be found.

One is any model that embeds; another needs no model and knows words and their parts only, so what is said in other
words is far from it for that embedder, and it claims no paraphrases.

Invariant: vectors are float32 rows of length 1, and an embedder's name changes whenever its vectors would.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from agents.models.config import ModelConfig
from agents.models.open import open_model
from agents.models.protocol import Model, ModelFailure
from agents.models.sentences import SHIPPED, SentencesConfig
from trees.errors import SetupError

Vectors = NDArray[np.float32]

LEXICAL = "lexical"
CHOICES = f"{SHIPPED}, {LEXICAL}, the name of a configured model that embeds, a folder, or hf://owner/repo"
_ENTRIES: TypeAdapter[ModelConfig] = TypeAdapter(Annotated[ModelConfig, Field(discriminator="kind")])
_DIMENSIONS = 4096
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_PART = 4
"""Characters of a part of a word."""
AT_ONCE = 64
"""Texts in one request to a model."""


class Embedder(Protocol):
    """Makes vectors; `name` is what they are kept under."""

    name: str
    knows_paraphrases: bool
    """Whether the same thing in other words is near."""
    choice: Mapping[str, Any]
    """How it is opened again, for the store: `name`, and the `entry` of a configured model."""

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        """One row a text, in order, each of length 1. Raises SetupError if there is no vector to be had."""

    async def close(self) -> None: ...


class LexicalEmbedder:
    """Counts words, pairs of words and parts of words, hashed to a fixed number of columns.

    Counts enter as 1 + log(count), a usual damping; columns are signed so that collisions cancel on average
    (feature hashing, Weinberger et al. 2009, arXiv 0902.2206).
    """

    name = f"{LEXICAL}-1"
    knows_paraphrases = False
    choice: Mapping[str, Any] = {"name": LEXICAL}

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(lexical, texts)

    async def close(self) -> None:
        return None


class ModelEmbedder:
    """A loaded model that embeds."""

    knows_paraphrases = True

    def __init__(self, model: Model, choice: Mapping[str, Any]) -> None:
        identity = model.identity
        self.choice = choice
        self.name = f"{identity.model[:40]}@{identity.id[:8]}"
        self._model = model

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        rows: list[Sequence[float]] = []
        for begin in range(0, len(texts), AT_ONCE):
            try:
                answer = await self._model.embed(list(texts[begin : begin + AT_ONCE]))
            except ModelFailure as failure:
                raise SetupError(f"the embedder {self.name!r} gave no vectors: {failure.message}") from failure
            rows += answer.vectors
        return normalised(np.asarray(rows, dtype=np.float32).reshape(len(texts), -1))

    async def close(self) -> None:
        await self._model.close()


class KeptVectors:
    """No embedder but its name: where every item has its vector in the store, none is loaded."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.knows_paraphrases = name != LexicalEmbedder.name
        self.choice: Mapping[str, Any] = {}

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        raise RuntimeError(f"{len(texts)} texts have no vector by {self.name}, and its embedder was not opened")

    async def close(self) -> None:
        return None


async def reopen_embedder(choice: Mapping[str, Any], configured: Mapping[str, ModelConfig] | None = None) -> Embedder:
    """The embedder that the store says was used: by the configuration at hand, else by the entry that was kept."""
    name, entries = str(choice["name"]), dict(configured or {})
    if name not in entries and "entry" in choice:
        entries[name] = _ENTRIES.validate_python(choice["entry"])
    return await open_embedder(name, entries)


async def open_embedder(choice: str, configured: Mapping[str, ModelConfig] | None = None) -> Embedder:
    """The embedder of that name, loaded. Raises SetupError naming the choices."""
    if choice == LEXICAL:
        return LexicalEmbedder()
    model = open_model("embedder", _entry(choice, configured or {}))
    try:
        await model.open()
        if not model.capabilities.embed:
            raise SetupError(f"the model {choice!r} does not embed", hint=f"Embedders: {CHOICES}.")
    except ModelFailure as failure:
        await model.close()
        hint = f"Or take another embedder: {CHOICES}."
        raise SetupError(f"the embedder {choice!r} cannot be loaded: {failure.message}", hint=hint) from failure
    except BaseException:
        await model.close()
        raise
    return ModelEmbedder(model, _how(choice, configured or {}))


def _entry(choice: str, configured: Mapping[str, ModelConfig]) -> ModelConfig:
    if choice in configured:
        return configured[choice]
    return SentencesConfig(kind="sentence-transformers", path=choice)


def _how(choice: str, configured: Mapping[str, ModelConfig]) -> dict[str, Any]:
    """What opens it again from anywhere: folders by their whole path."""
    if choice not in configured:
        return {"name": _whole(choice)}
    entry = configured[choice].model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {
        "name": choice,
        "entry": {k: _whole(v) if k == "path" and isinstance(v, str) else v for k, v in entry.items()},
    }


def _whole(path: str) -> str:
    folder = Path(path).expanduser()
    return str(folder.resolve()) if path != SHIPPED and folder.exists() else path


def normalised(rows: Vectors) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Vectors = (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return scaled


def lexical(texts: Sequence[str]) -> Vectors:
    """What `LexicalEmbedder` makes of texts, at once."""
    rows = np.zeros((len(texts), _DIMENSIONS), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for feature, count in _features(text).items():
            code = crc32(feature.encode("utf-8", "surrogatepass"))
            row[code % _DIMENSIONS] += (1 + np.log(count)) * (1 if code & 0x8000_0000 else -1)
    return normalised(rows)


def _features(text: str) -> dict[str, int]:
    words = [word.lower() for word in _WORD.findall(text)]
    counts: dict[str, int] = {}
    parts = (f"~{word[i : i + _PART]}" for word in words if len(word) > _PART for i in range(len(word) - _PART + 1))
    for feature in [*words, *(f"{a} {b}" for a, b in pairwise(words)), *parts]:
        counts[feature] = counts.get(feature, 0) + 1
    return counts
