"""The child process that holds a native model: `python -m agents.models.llama_worker`.

Frames travel both ways over pipes: four bytes of length, then JSON in ASCII (so any text passes, lone
surrogates too). Each request is `{"id", "op", ...}`; each answer carries the id with `ok`, `error` or a
`delta`. The first request is `load`. Native code may print, so what was stdout becomes stderr and the frames
have a descriptor of their own.

Two threads: the reader takes frames, and answers by itself what needs no decoding (rendering, tokenising,
counting), so that preparing never waits for an answer under way; the main thread decodes.

Invariant: the process does not outlive its parent. At the end of stdin it is gone, in the middle of a decode
too.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import signal
import struct
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, BinaryIO

from agents.models.chat_template import ChatTemplate
from agents.models.llama_prompts import Prompt, PromptReader
from agents.models.protocol import ChatRequest, Message, ModelFailure, Sampling
from agents.models.weights import INSTALL

if TYPE_CHECKING:
    from agents.models.llama_embedder import Embedder
    from agents.models.llama_native import Vocab, Weights
    from agents.models.llama_scheduler import Scheduler
    from agents.models.llama_tasks import Task

LENGTH = struct.Struct(">I")
EMBEDDING_BATCH = 512
_PR_SET_PDEATHSIG = 1

Frame = dict[str, Any]


class Wire:
    """Frames out, from any thread; frames in, from one."""

    def __init__(self) -> None:
        self._source: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._sink: BinaryIO = os.fdopen(os.dup(1), "wb")
        self._lock = Lock()
        os.dup2(2, 1)

    def receive(self) -> Frame | None:
        """The next frame; None when the parent is gone."""
        head = self._source.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack(head)
        body = self._source.read(length)
        if len(body) < length:
            return None
        frame: Frame = json.loads(body)
        return frame

    def send(self, frame: Frame) -> None:
        body = json.dumps(frame, separators=(",", ":")).encode("ascii")
        with self._lock:
            self._sink.write(LENGTH.pack(len(body)) + body)
            self._sink.flush()

    def answer(self, call: int, value: Any) -> None:
        self.send({"id": call, "ok": value})

    def fail(self, call: int, failure: ModelFailure) -> None:
        self.send({"id": call, "error": {"kind": failure.kind, "message": failure.message}})


class Loaded:
    """A model ready for requests, and how each becomes work."""

    def __init__(self, wire: Wire, config: Mapping[str, Any]) -> None:
        from agents.models import llama_native

        llama_native.start()
        self._wire = wire
        self._context: int = config["context"]
        self.weights = llama_native.Weights(config["path"], gpu_layers=config["gpu_layers"], adapter=config["adapter"])
        self._check_context()
        self.vocab: Vocab = self.weights.vocab
        self.template = ChatTemplate(
            self.weights.template, bos=self.vocab.text(self.vocab.bos), eos=self.vocab.text(self.vocab.eos)
        )
        self._prompts = PromptReader(self.template, self.vocab)
        self.scheduler = _scheduler(wire, self.weights, config)
        self.embedder = _embedder(self.weights, config)

    def _check_context(self) -> None:
        trained = self.weights.trained_context
        if self._context > trained:
            raise ModelFailure(
                "setup",
                f"context = {self._context} is more than the {trained} tokens this model was trained for",
            )

    def facts(self) -> Frame:
        return {
            "quantisation": self.weights.quantisation,
            "template": self.template.digest,
            "trained_context": self.weights.trained_context,
        }

    def prepare(self, frame: Frame) -> Frame:
        prompt = self._prompts.read(_messages(frame))
        return {"digest": prompt.digest, "tokens": len(prompt.tokens)}

    def count(self, frame: Frame) -> list[int]:
        return [len(self.vocab.tokenize(text, special=False)) for text in frame["texts"]]

    def embedding_input(self, frame: Frame) -> list[list[int]]:
        texts = [self.vocab.tokenize(text, special=False) or [max(self.vocab.eos, 0)] for text in frame["texts"]]
        longest = max(map(len, texts), default=0)
        if longest > self._context:
            raise ModelFailure("too_long", f"a text has {longest} tokens, more than the context of {self._context}")
        return texts

    def chat(self, frame: Frame) -> Task:
        from agents.models.llama_native import schema_grammar
        from agents.models.llama_tasks import ChatTask, ChoiceTask

        request = _chat_request(frame)
        prompt = self._prompts.read(request.messages)
        if request.choices:
            choices = self._replies(request.choices)
            if not all(choices):
                raise ModelFailure("refused", "a choice must not be empty")
            self._check_length(prompt, max(map(len, choices)))
            return ChoiceTask(frame["id"], request, prompt.tokens, choices)
        self._check_length(prompt, request.sampling.max_tokens)
        grammar = schema_grammar(request.schema) if request.schema is not None else None
        on_delta = self._deltas(frame["id"]) if frame["stream"] else None
        return ChatTask(frame["id"], request, prompt, self.vocab, grammar=grammar, on_delta=on_delta)

    def score(self, frame: Frame) -> Task:
        from agents.models.llama_tasks import ScoreTask

        prompt = self._prompts.read(_messages(frame))
        replies = self._replies(frame["replies"])
        self._check_length(prompt, max(map(len, replies), default=0))
        return ScoreTask(frame["id"], prompt.tokens, replies, frame["lane"])

    def _replies(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.vocab.tokenize(text, special=False) for text in texts]

    def _check_length(self, prompt: Prompt, reply: int) -> None:
        read = len(prompt.tokens)
        if read + reply > self._context:
            raise ModelFailure(
                "too_long",
                f"the prompt has {read} tokens and the answer may take {reply}: "
                f"together more than the context of {self._context}",
            )

    def _deltas(self, call: int) -> Callable[[int, str], None]:
        return lambda index, text: self._wire.send({"id": call, "delta": [index, text]})


def _scheduler(wire: Wire, weights: Weights, config: Mapping[str, Any]) -> Scheduler:
    from agents.models.llama_native import Context, ContextOptions, ids_of
    from agents.models.llama_scheduler import Policy, Scheduler

    ids = ids_of(weights)
    parallel = min(config["parallel"], (ids - 1) // 2)
    options = ContextOptions(
        cells=config["cells"],
        sequences=min(ids, max(64, 4 * parallel)),
        batch=config["batch"],
        threads=config["threads"],
        cache_type=config["cache_type"],
        flash_attention=config["flash_attention"],
    )

    def report(call: int, result: Any) -> None:
        if isinstance(result, ModelFailure):
            wire.fail(call, result)
        else:
            wire.answer(call, asdict(result))

    policy = Policy(
        sequences=options.sequences,
        parallel=parallel,
        idle_cells=config["idle_cells"],
        host_bytes=config["host_cache_mb"] << 20,
        exact=config["exact"],
        shares=weights.shares_prefixes,
    )
    return Scheduler(Context(weights, options), report, policy)


def _embedder(weights: Weights, config: Mapping[str, Any]) -> Embedder:
    from agents.models.llama_embedder import Embedder
    from agents.models.llama_native import ContextOptions

    return Embedder(
        weights,
        ContextOptions(
            cells=config["context"],
            sequences=1,
            batch=EMBEDDING_BATCH,
            threads=config["threads"],
            cache_type=config["cache_type"],
            flash_attention=config["flash_attention"],
            embeddings=True,
        ),
    )


class Worker:
    """The two threads and what passes between them."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._work: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        self._embeddings: deque[EmbeddingJob] = deque()
        self._loaded: Loaded | None = None

    def run(self) -> None:
        Thread(target=self._read, name="reader", daemon=True).start()
        _, call, config = self._work.get()
        loaded = self._load(call, config)
        if loaded is None:
            return
        self._loaded = loaded
        self._wire.answer(call, loaded.facts())
        while True:
            self._take_work(loaded)
            loaded.scheduler.step()
            self._embed(loaded)

    def _load(self, call: int, config: Mapping[str, Any]) -> Loaded | None:
        try:
            import_module("agents.models.llama_native")
        except (ImportError, OSError, RuntimeError) as error:
            self._wire.fail(call, ModelFailure("setup", f"llama.cpp cannot be imported ({error}): {INSTALL}"))
            return None
        try:
            return Loaded(self._wire, config)
        except ModelFailure as failure:
            self._wire.fail(call, failure)
            return None

    # The reader's thread

    def _read(self) -> None:
        status = 1
        try:
            self._read_frames()
            status = 0
        finally:
            # Without its reader the process would never learn that its parent is gone.
            os._exit(status)

    def _read_frames(self) -> None:
        while (frame := self._wire.receive()) is not None:
            if frame["op"] == "load":
                self._work.put(("load", frame["id"], frame["config"]))
            elif frame["op"] == "cancel":
                self._work.put(("cancel", frame["id"], None))
            else:
                self._accept(frame)

    def _accept(self, frame: Frame) -> None:
        call = frame["id"]
        try:
            self._dispatch(frame["op"], call, frame)
        except ModelFailure as failure:
            self._wire.fail(call, failure)
        except Exception as error:  # noqa: BLE001 - a fault in one request must not take the others with it
            traceback.print_exc(file=sys.stderr)
            self._wire.fail(call, ModelFailure("refused", f"the llama worker could not read this: {error!r}"))

    def _dispatch(self, op: str, call: int, frame: Frame) -> None:
        loaded = self._loaded
        if loaded is None:
            raise ModelFailure("setup", "the model is not loaded")
        if op == "prepare":
            self._wire.answer(call, loaded.prepare(frame))
        elif op == "count":
            self._wire.answer(call, loaded.count(frame))
        elif op == "figures":
            self._wire.answer(call, loaded.scheduler.figures())
        elif op == "embed":
            self._work.put(("embed", call, loaded.embedding_input(frame)))
        elif op == "chat":
            self._work.put(("task", call, loaded.chat(frame)))
        elif op == "score":
            self._work.put(("task", call, loaded.score(frame)))
        else:
            raise ModelFailure("unsupported", f"the llama worker knows no operation {op!r}")

    # The main thread

    def _take_work(self, loaded: Loaded) -> None:
        """All that has arrived; waits only when there is nothing to do."""
        idle = not loaded.scheduler.busy and not self._embeddings
        while idle or not self._work.empty():
            kind, call, value = self._work.get()
            idle = False
            if kind == "task":
                loaded.scheduler.submit(value)
            elif kind == "embed":
                self._embeddings.append(EmbeddingJob(call, value))
            else:
                loaded.scheduler.cancel(call)
                self._embeddings = deque(job for job in self._embeddings if job.call != call)

    def _embed(self, loaded: Loaded) -> None:
        """One text, so that answers under way are not held up for long."""
        if not self._embeddings:
            return
        job = self._embeddings[0]
        try:
            if job.texts:
                job.vectors.append(loaded.embedder.embed(job.texts.popleft()))
        except ModelFailure as failure:
            self._embeddings.popleft()
            self._wire.fail(job.call, failure)
            return
        if not job.texts:
            self._embeddings.popleft()
            self._wire.answer(job.call, {"vectors": job.vectors, "tokens": job.tokens})


class EmbeddingJob:
    """Texts to embed, as tokens, and the vectors so far."""

    def __init__(self, call: int, texts: Sequence[Sequence[int]]) -> None:
        self.call = call
        self.tokens = sum(map(len, texts))
        self.texts = deque(texts)
        self.vectors: list[list[float]] = []


def _messages(frame: Frame) -> tuple[Message, ...]:
    return tuple(Message(role, content) for role, content in frame["messages"])


def _chat_request(frame: Frame) -> ChatRequest:
    sampling = frame["sampling"]
    request = ChatRequest(
        messages=_messages(frame),
        sampling=Sampling(**{**sampling, "stop": tuple(sampling.get("stop", ()))}),
        seed=frame["seed"],
        n=frame["n"],
        choices=tuple(frame["choices"]),
        schema=frame["schema"],
        lane=frame["lane"],
    )
    if request.n < 1 or request.sampling.max_tokens < 1:
        raise ModelFailure(
            "refused", f"n = {request.n} and max_tokens = {request.sampling.max_tokens} must be at least 1"
        )
    return request


def _die_with_parent() -> None:
    """The end of stdin says the same, but only once this process runs Python."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    _die_with_parent()
    # Ctrl-C reaches the whole process group; ending this process is its parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Worker(Wire()).run()


if __name__ == "__main__":
    main()
