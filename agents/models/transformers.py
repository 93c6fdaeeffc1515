"""Backend `transformers`: a model in this process, with a PEFT adapter, for checking what was trained.

One thread holds the model (`agents.models.transformers_weights`) and does one batch after the other; requests that
wait meanwhile are the next batch. `task = "reward"` loads a sequence classifier, whose score of a conversation stands
in `ReplyScore.logprob`; the `reward` judge reads it there.

Invariant: the event loop never computes; a request whose caller has gone is not begun, and leaves its batch at the next
token; after `close` nobody waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue

from agents.models.adapters import Adapters, FoldersOnly, check_base
from agents.models.chat_template import ChatTemplate
from agents.models.choices import answer_seed, chosen
from agents.models.llama_prompts import Prompt, PromptReader
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
    ReplyScore,
    ScoreAnswer,
    ScoreRequest,
    Usage,
)
from agents.models.settings import ADAPTER_BASE, ModelSettings
from agents.models.weights import EMBEDDED, locate

if TYPE_CHECKING:
    from agents.models.transformers_weights import Answer, Weights

INSTALL = "pip install espalier-lm[train]"
_OPERATIONAL: dict[str, JsonValue] = {"operational": True}


class TransformersConfig(ModelSettings):
    """A model of transformers in this process."""

    kind: Literal["transformers"] = Field(description="transformers, in this process.")
    path: str = Field(
        "embedded", description='A folder, "owner/repo" on the hub, a GGUF file, or "embedded" (in a package).'
    )
    adapter: str | None = Field(
        None, description="A LoRA: digest or training of one in the store, or a folder as PEFT saves it."
    )
    adapter_base: str | None = Field(None, min_length=8, description=ADAPTER_BASE)
    task: Literal["chat", "reward"] = Field("chat", description="chat, or reward: a classifier that scores replies.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the weights; auto takes float32 on a CPU."
    )
    exact: bool = Field(False, description="One request at a time, for the same answers every time.")
    context: int | None = Field(
        None, ge=64, description="Tokens that one request may take, its answer included; the model's own if left out."
    )
    device: str = Field("auto", description="cpu, cuda, mps, or auto.", json_schema_extra=_OPERATIONAL)
    batch: int = Field(16, ge=1, description="Requests answered together, a number.", json_schema_extra=_OPERATIONAL)
    threads: int = Field(
        0, ge=0, description="Threads that compute; 0 leaves it to torch.", json_schema_extra=_OPERATIONAL
    )


@dataclass(eq=False)
class _Job:
    """A request that waits for its batch."""

    answers: list[Answer]
    """What is to be written; empty for what is computed at once."""
    compute: Callable[[], Any] | None
    future: asyncio.Future[Any]


class TransformersModel:
    """See the module's docstring, and `agents.models.protocol.Model` for what each method promises."""

    def __init__(self, name: str, config: TransformersConfig, adapters: Adapters | None = None) -> None:
        self.name = name
        self._config = config
        self._adapters = adapters or FoldersOnly()
        self._identity: ModelIdentity | None = None
        self._weights: Weights | None = None
        self._prompts: PromptReader | None = None
        self._template: ChatTemplate | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._jobs: deque[_Job] = deque()
        self._running: list[_Job] = []
        """The batch that the thread has."""
        self._pump: asyncio.Task[None] | None = None

    @property
    def identity(self) -> ModelIdentity:
        if self._identity is None:
            raise RuntimeError(f"the identity of model {self.name!r} is known after open()")
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        chats = self._config.task == "chat"
        return Capabilities(
            chat=chats,
            score=chats,
            reward=not chats,
            choice_logprobs=chats,
            deterministic=self._config.exact,
            context=self._context,
        )

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
        config = self._config
        try:
            from agents.models.transformers_weights import Weights
        except ImportError as error:
            raise ModelFailure("setup", f"transformers and torch cannot be imported ({error}): {INSTALL}") from error
        gguf: str | None = None
        if config.path == EMBEDDED or config.path.lower().endswith(".gguf"):
            located = locate(config.path)
            folder, gguf, digest = located.path.parent, located.path.name, located.digest
        else:
            folder = fetched(config.path)
            digest = folder_digest(folder)
        adapter = self._adapters.find(config.adapter) if config.adapter else None
        if adapter is not None:
            check_base(adapter, digest, config.adapter_base)
        weights = Weights(
            folder,
            gguf=gguf,
            adapter=adapter.path if adapter else None,
            dtype=config.dtype,
            device=config.device,
            threads=config.threads,
            classifier=config.task == "reward",
        )
        vocab = weights.vocab
        self._template = ChatTemplate(vocab.template, bos=vocab.bos_text, eos=vocab.eos_text)
        self._prompts = PromptReader(self._template, vocab)
        self._weights = weights
        self._identity = ModelIdentity(
            backend="transformers",
            model=digest,
            quantisation=weights.dtype,
            template=self._template.digest,
            adapter=adapter.digest if adapter else None,
            settings={"exact": config.exact, "context": self._context, "task": config.task},
        )

    @property
    def _context(self) -> int | None:
        own = self._weights.context if self._weights else None
        return self._config.context or own

    async def prepare(self, messages: Sequence[Message]) -> Prepared:
        prompt = self._read(messages)
        return Prepared(prompt.digest, len(prompt.tokens))

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        vocab = self._loaded().vocab
        return [len(vocab.tokenize(text, special=False)) for text in texts]

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        if request.schema is not None:
            raise ModelFailure("unsupported", "transformers cannot hold an answer to a JSON schema")
        weights, prompt = self._loaded(), self._read(request.messages)
        if request.choices:
            replies = [weights.vocab.tokenize(choice, special=False) for choice in request.choices]
            self._check_length(prompt, max(map(len, replies)))
            joint = await self._compute(partial(weights.score, prompt.tokens, replies))
            return ChatAnswer(chosen(request, joint), Usage(len(prompt.tokens), 0, len(request.choices)))
        self._check_length(prompt, request.sampling.max_tokens)
        from agents.models.transformers_weights import Answer

        began = time.monotonic()
        future = asyncio.get_running_loop().create_future()
        answers = [
            Answer(
                weights.vocab,
                prompt.tokens,
                request.sampling,
                answer_seed(request.seed or 0, index),
                reasons=prompt.reasons,
                on_text=_from_thread(on_delta, index),
                abandoned=future.done,
            )
            for index in range(request.n)
        ]
        await self._wait_for(_Job(answers, None, future))
        out = sum(len(answer.drawn) for answer in answers)
        first_s = min(answer.first_at for answer in answers) - began
        return ChatAnswer(tuple(answer.completion for answer in answers), Usage(len(prompt.tokens), 0, out, first_s))

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        weights = self._loaded()
        if self._config.task == "reward":
            return await self._reward(request)
        prompt = self._read(request.messages)
        replies = [weights.vocab.tokenize(reply, special=False) for reply in request.replies]
        self._check_length(prompt, max(map(len, replies), default=0))
        sums = await self._compute(partial(weights.score, prompt.tokens, replies))
        scores = [ReplyScore(value, len(reply)) for value, reply in zip(sums, replies, strict=True)]
        return ScoreAnswer(tuple(scores), Usage(len(prompt.tokens), 0, 0))

    async def _reward(self, request: ScoreRequest) -> ScoreAnswer:
        assert self._prompts is not None
        spoken = [
            self._prompts.read((*request.messages, Message("assistant", reply)), add_generation_prompt=False).tokens
            for reply in request.replies
        ]
        for tokens in spoken:
            self._check_length(Prompt(tokens, reasons=False), 0)
        rewards = await self._compute(partial(self._loaded().rewards, spoken))
        scores = [ReplyScore(value, len(tokens)) for value, tokens in zip(rewards, spoken, strict=True)]
        return ScoreAnswer(tuple(scores), Usage(sum(map(len, spoken)), 0, 0))

    async def embed(self, texts: Sequence[str]) -> EmbedAnswer:
        raise ModelFailure("unsupported", "the transformers backend does not embed")

    async def figures(self) -> Figures | None:
        return None

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
            self._pump = None
        for job in [*self._running, *self._jobs]:
            # The thread looks at it before each token.
            if not job.future.done():
                job.future.set_exception(ModelFailure("died", "the model was closed"))
        self._jobs.clear()
        self._running = []
        self._weights = None
        if thread is not None:
            thread.shutdown(wait=False)

    def _loaded(self) -> Weights:
        if self._weights is None:
            raise ModelFailure("setup", f"the model {self.name!r} is not open")
        return self._weights

    def _read(self, messages: Sequence[Message]) -> Prompt:
        self._loaded()
        assert self._prompts is not None
        return self._prompts.read(messages)

    def _check_length(self, prompt: Prompt, reply: int) -> None:
        read, most = len(prompt.tokens), self._context
        if most is not None and read + reply > most:
            raise ModelFailure(
                "too_long",
                f"the prompt has {read} tokens and the answer may take {reply}: more than the context of {most}",
            )

    # The queue and the thread

    async def _compute(self, compute: Callable[[], Any]) -> Any:
        return await self._wait_for(_Job([], compute, asyncio.get_running_loop().create_future()))

    async def _wait_for(self, job: _Job) -> Any:
        self._jobs.append(job)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._serve(), name=f"batches of {self.name}")
        return await job.future

    async def _serve(self) -> None:
        """One batch after the other until nobody waits."""
        loop = asyncio.get_running_loop()
        while jobs := self._next_batch():
            self._running = jobs
            try:
                results = await loop.run_in_executor(self._thread, self._run, jobs)
            except Exception as error:  # noqa: BLE001 - told to those who wait, each of them
                for job in jobs:
                    if not job.future.done():
                        job.future.set_exception(_as_failure(error))
                continue
            for job, result in zip(jobs, results, strict=True):
                if not job.future.done():
                    job.future.set_result(result)
        self._running = []

    def _next_batch(self) -> list[_Job]:
        """The first that somebody waits for and, if it writes, those behind it that write too; empty if there is none.

        Whose caller has gone is dropped.
        """
        most = 1 if self._config.exact else self._config.batch
        self._jobs = deque(job for job in self._jobs if not job.future.done())
        batch: list[_Job] = []
        while self._jobs and _fit([*batch, self._jobs[0]], most):
            batch.append(self._jobs.popleft())
        return batch

    def _run(self, jobs: Sequence[_Job]) -> list[Any]:
        if jobs[0].compute is not None:
            return [jobs[0].compute()]
        waiting = [answer for job in jobs if not job.future.done() for answer in job.answers]
        if waiting:
            self._loaded().write(waiting)
        return [None for _ in jobs]


def _fit(jobs: Sequence[_Job], most: int) -> bool:
    """Whether these are done together: one of any kind, or such that write."""
    return len(jobs) == 1 or (all(job.answers for job in jobs) and sum(len(job.answers) for job in jobs) <= most)


def _as_failure(error: Exception) -> ModelFailure:
    if isinstance(error, ModelFailure):
        return error
    return ModelFailure("refused", f"transformers could not go on: {type(error).__name__}: {error}")


def _from_thread(on_delta: OnDelta | None, index: int) -> Callable[[str], None] | None:
    if on_delta is None:
        return None
    loop = asyncio.get_running_loop()

    def tell(text: str) -> None:
        loop.call_soon_threadsafe(on_delta, index, text)

    return tell
