"""Backend `llama`: a GGUF model in a supervised child process, by llama.cpp's own scheduler of sequences.

The child (`agents.models.llama_worker`) holds the model, because native code may end its process; this side
starts it, asks it, and starts it again when it has died: calls in flight then fail with "died", which the
call path may retry, and the next request finds a new child. Nothing is retried here.

Invariant: all children of one `LlamaModel` answer as the same identity; a file that changed meanwhile is
refused.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from agents.models.adapters import Adapters, FoldersOnly, lora_for
from agents.models.llama_process import WorkerProcess
from agents.models.protocol import (
    Capabilities,
    ChatAnswer,
    ChatRequest,
    Completion,
    EmbedAnswer,
    Figures,
    Message,
    ModelFailure,
    ModelIdentity,
    OnDelta,
    Prepared,
    ReplyScore,
    ScoreAnswer,
    ScoreRequest,
    Usage,
)
from agents.models.restarts import Child, Restarts
from agents.models.settings import ADAPTER_BASE, ModelSettings
from agents.models.weights import INSTALL, Weights, locate

SMALLEST_CACHE = 16384
_IDLE_CELLS = 256
"""Cells that stay hot on a CPU beside those in use: attention there visits every used cell for every token."""
_MOST_HOST_MB = 8192

_OPERATIONAL: dict[str, JsonValue] = {"operational": True}


class LlamaConfig(ModelSettings):
    """A GGUF model on this machine, run by llama.cpp."""

    kind: Literal["llama"] = Field("llama", description="The backend.")
    path: str = Field(
        "embedded",
        description='The weights: a GGUF file, "hf://owner/repo:file.gguf", or "embedded" (in a package).',
    )
    exact: bool = Field(
        False,
        description="Answer one request at a time from a cleared cache, for the same bytes every time.",
    )
    context: int = Field(4096, ge=64, description="Tokens that one request may take, its answer included.")
    cache_type: Literal["f16", "f32"] = Field("f16", description="Number format of the KV cache.")
    flash_attention: bool = Field(True, description="Whether llama.cpp uses its fused attention.")
    adapter: str | None = Field(
        None, description="A LoRA: digest or training of one in the store, a folder as PEFT saves it, or a GGUF file."
    )
    adapter_base: str | None = Field(None, min_length=8, description=ADAPTER_BASE)
    cells: int = Field(
        0,
        ge=0,
        description="KV cells, in tokens, that all requests share; 0 takes twice the context, at least 16384.",
        json_schema_extra=_OPERATIONAL,
    )
    parallel: int = Field(
        16, ge=1, le=64, description="Sequences decoded together, a number.", json_schema_extra=_OPERATIONAL
    )
    batch: int = Field(
        512,
        ge=64,
        le=8192,
        description="Most tokens decoded in one step, a number.",
        json_schema_extra=_OPERATIONAL,
    )
    host_cache_mb: int | None = Field(
        None,
        ge=0,
        description="Memory, in MiB, for prefixes that had to leave the cells; a quarter of what is free if not given.",
        json_schema_extra=_OPERATIONAL,
    )
    threads: int = Field(
        0,
        ge=0,
        description="Threads that compute; 0 takes the cores given to it.",
        json_schema_extra=_OPERATIONAL,
    )
    gpu_layers: int = Field(
        0, ge=-1, description="Layers put on a GPU, a number; -1 puts all.", json_schema_extra=_OPERATIONAL
    )
    max_restarts: int = Field(
        5,
        ge=0,
        description="How many times within 10 minutes a dead child is started again.",
        json_schema_extra=_OPERATIONAL,
    )

    @model_validator(mode="after")
    def _one_request_fits(self) -> LlamaConfig:
        if 0 < self.cells < self.context:
            raise ValueError(f"cells = {self.cells} must be at least context = {self.context}, or 0")
        return self

    def span(self) -> tuple[int, int]:
        """As many as are decoded together, and half as many that wait: the scheduler picks what shares most."""
        together = 1 if self.exact else self.parallel
        return together + (together + 1) // 2, together + (together + 1) // 2

    def settings(self) -> dict[str, object]:
        """What changes answers beside the weights."""
        return {
            "exact": self.exact,
            "context": self.context,
            "cache_type": self.cache_type,
            "flash_attention": self.flash_attention,
        }

    def load_options(self, weights: Weights, adapter: Weights | None) -> dict[str, object]:
        """What the child is told."""
        cells = self.cells or max(2 * self.context, SMALLEST_CACHE)
        return {
            **self.settings(),
            "path": str(weights.path),
            "adapter": str(adapter.path) if adapter else None,
            "cells": cells,
            "idle_cells": cells if self.gpu_layers else _IDLE_CELLS,
            "host_cache_mb": _host_cache_mb() if self.host_cache_mb is None else self.host_cache_mb,
            "parallel": self.parallel,
            "batch": self.batch,
            "threads": self.threads or _cores(),
            "gpu_layers": self.gpu_layers,
        }


class LlamaModel:
    """A model in a child process; see `agents.models.protocol.Model` for what each method promises."""

    def __init__(self, name: str, config: LlamaConfig, adapters: Adapters | None = None) -> None:
        self.name = name
        self.config = config
        self._adapters = adapters or FoldersOnly()
        self._identity: ModelIdentity | None = None
        restarts = Restarts(f"the llama worker of model {name!r}", config.max_restarts)
        self._worker: Child[WorkerProcess] = Child(name, restarts)
        self._open = False

    @property
    def identity(self) -> ModelIdentity:
        if self._identity is None:
            raise RuntimeError(f"the identity of model {self.name!r} is known after open()")
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            score=True,
            choice_logprobs=True,
            json_schema=True,
            embed=True,
            deterministic=self.config.exact,
            context=self.config.context,
        )

    @property
    def pid(self) -> int | None:
        """The child's process id while one is alive."""
        worker = self._worker.running
        return worker.pid if worker else None

    async def open(self) -> None:
        if not self._worker.wanted:
            self._identity = None
        self._open = True
        try:
            await self._ready()
        except BaseException:
            await self.close()
            raise

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        told = await self._ask("prepare", {"messages": _pairs(messages)})
        return Prepared(told["digest"], told["tokens"])

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        counts: list[int] = await self._ask("count", {"texts": list(texts)})
        return counts

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        body = {
            "messages": _pairs(request.messages),
            "sampling": request.sampling.as_dict(),
            "seed": request.seed,
            "n": request.n,
            "choices": list(request.choices),
            "schema": request.schema,
            "lane": request.lane,
            "stream": on_delta is not None,
        }
        told = await self._ask("chat", body, on_delta)
        return ChatAnswer(tuple(Completion(**each) for each in told["completions"]), Usage(**told["usage"]))

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        body = {"messages": _pairs(request.messages), "replies": list(request.replies), "lane": request.lane}
        told = await self._ask("score", body)
        return ScoreAnswer(tuple(ReplyScore(**each) for each in told["scores"]), Usage(**told["usage"]))

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        told = await self._ask("embed", {"texts": list(texts)})
        return EmbedAnswer(tuple(map(tuple, told["vectors"])), Usage(prompt_tokens=told["tokens"]))

    async def counters(self) -> dict[str, float] | None:
        """What the child counts, as `Scheduler.figures` names it; None while there is no child."""
        worker = self._worker.running
        told: dict[str, float] | None = await worker.ask("figures", {}) if worker else None
        return told

    async def figures(self) -> Figures | None:
        told = await self.counters()
        if told is None:
            return None
        return Figures(
            prompt_read=int(told["prompt_read"]),
            prompt_reused=int(told["prompt_reused"]),
            tokens_out=int(told["tokens_out"]),
            steps=int(told["steps"]),
            batch_fill=told["batch_fill"] if told["steps"] else None,
            running=int(told["running"]),
            waiting=int(told["waiting"]),
            cells_used=int(told["cells_used"]),
            cells=int(told["cells"]),
        )

    async def close(self) -> None:
        self._open = False
        worker = await self._worker.take()
        if worker is not None:
            await worker.stop()

    async def _ask(self, op: str, body: Mapping[str, Any], on_delta: OnDelta | None = None) -> Any:
        worker = await self._ready()
        return await worker.ask(op, body, on_delta)

    # Starting and starting again

    async def _ready(self) -> WorkerProcess:
        if not self._open:
            raise ModelFailure("setup", f"the model {self.name!r} is not open")
        return await self._worker.ready(self._start)

    async def _start(self, _: WorkerProcess | None) -> WorkerProcess:
        weights = await asyncio.to_thread(locate, self.config.path)
        adapter = await asyncio.to_thread(self._lora, weights)
        worker = await WorkerProcess.spawn()
        try:
            facts = await worker.ask("load", {"config": self.config.load_options(weights, adapter)})
            self._settle(self._identify(weights, adapter, facts))
        except ModelFailure as failure:
            await worker.stop()
            raise self._setup_failure(failure, worker) from failure
        except BaseException:
            await worker.stop()
            raise
        return worker

    def _lora(self, weights: Weights) -> Weights | None:
        if self.config.adapter is None:
            return None
        return lora_for(self.config.adapter, weights, self._adapters, self.config.adapter_base)

    def _identify(self, weights: Weights, adapter: Weights | None, facts: Mapping[str, Any]) -> ModelIdentity:
        return ModelIdentity(
            backend="llama",
            model=weights.digest,
            quantisation=facts["quantisation"],
            template=facts["template"],
            adapter=adapter.digest if adapter else None,
            settings=self.config.settings(),
        )

    def _settle(self, identity: ModelIdentity) -> None:
        if self._identity is not None and self._identity != identity:
            raise ModelFailure("setup", f"the file {self.config.path!r} changed while model {self.name!r} was in use")
        self._identity = identity

    def _setup_failure(self, failure: ModelFailure, worker: WorkerProcess) -> ModelFailure:
        """A child that fails while loading fails the set-up, whatever the kind; its last words say why."""
        words = failure.message
        if failure.kind == "died":
            words = f"{words}\nIs the model too large for the memory? Did {INSTALL} go well?"
        elif worker.last_words:
            words = f"{words}\n{worker.last_words}"
        return ModelFailure("setup", f"model {self.name!r} ({self.config.path}) cannot be loaded: {words}")


def _pairs(messages: Sequence[Message]) -> list[list[str]]:
    return [[message.role, message.content] for message in messages]


def _host_cache_mb() -> int:
    """A quarter of the memory that is free now, file caches included; of all memory where that cannot be told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    return min(free // 4, _MOST_HOST_MB)


def _cores() -> int:
    """The cores this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
