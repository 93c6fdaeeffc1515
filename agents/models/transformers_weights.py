"""A causal model of transformers, with a PEFT adapter: batches of answers and scores. Imports torch and its kin.

Everything here runs in one thread. A batch is padded on the left; prompts that are asked for more than one answer are
read once, and the cache is then repeated. An answer that is done leaves the batch with its rows of the cache.

Invariant: what an answer draws depends on its own logits, sampling and seed alone, never on its neighbours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, DynamicCache

from agents.models.llama_text import AnswerText
from agents.models.protocol import Completion, ModelFailure, Sampling
from agents.models.transformers_vocab import Vocab

PENALTY_WINDOW = 64
"""Tokens that the penalties look back on, the prompt's end included, as for the `llama` backend."""


class Answer:
    """One answer as it is drawn."""

    def __init__(
        self,
        vocab: Vocab,
        prompt: Sequence[int],
        sampling: Sampling,
        seed: int,
        *,
        reasons: bool,
        on_text: Callable[[str], None] | None = None,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> None:
        self.prompt = list(prompt)
        self.drawn: list[int] = []
        self.first_at = math.inf
        """When the first token was drawn, on the monotonic clock."""
        self.done = False
        self.abandoned = abandoned
        self.completion = Completion("")
        self._vocab = vocab
        self._sampling = sampling
        self._generator = torch.Generator().manual_seed(seed)
        self._text = AnswerText(sampling.stop, reasons=reasons)
        self._told = ""
        self._on_text = on_text

    def take(self, logits: torch.Tensor, ends: frozenset[int]) -> int:
        """Draw from float32 logits on the CPU; returns the token, and sets `done` if it was the last."""
        token = draw(logits, self._sampling, (self.prompt + self.drawn)[-PENALTY_WINDOW:], self._generator)
        self.first_at = min(self.first_at, time.monotonic())
        if token in ends:
            self._finish("stop")
            return token
        self.drawn.append(token)
        self._tell(self._new_text())
        if self._text.stopped:
            self._finish("stop")
        elif len(self.drawn) >= self._sampling.max_tokens:
            self._finish("length")
        return token

    def _new_text(self, *, last: bool = False) -> str:
        """What the tokens say beyond what was told; half a character waits for its other half."""
        whole = self._vocab.text(self.drawn)
        if not last and whole.endswith("\ufffd"):
            return ""
        new, self._told = whole[len(self._told) :], whole
        return self._text.feed(new.encode("utf-8"))

    def _finish(self, how: Any) -> None:
        self.done = True
        self._tell(self._new_text(last=True) + self._text.close())
        self.completion = Completion(self._text.text, how, self._text.reasoning)

    def _tell(self, text: str) -> None:
        if text and self._on_text is not None:
            self._on_text(text)


class Weights:
    """A loaded model. Raises ModelFailure("setup") if it cannot be loaded."""

    def __init__(
        self,
        folder: Path,
        *,
        gguf: str | None,
        adapter: Path | None,
        dtype: str,
        device: str,
        threads: int,
        classifier: bool,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = _device(device)
        kind: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
        options: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model = kind.from_pretrained(folder, dtype=_dtype(dtype, self.device), **options)
            if adapter is not None:
                model = _with_adapter(model, adapter)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ModelFailure("setup", f"transformers cannot load {str(folder)!r}: {error}") from error
        self._model = model.to(self.device).eval()
        self.vocab = Vocab(self._tokenizer)
        self.context = int(getattr(model.config, "max_position_embeddings", 0) or 4096)
        self.dtype = str(next(model.parameters()).dtype).removeprefix("torch.")

    @cached_property
    def _ends(self) -> frozenset[int]:
        found = [self._tokenizer.eos_token_id, getattr(self._model.generation_config, "eos_token_id", None)]
        flat = [token for each in found for token in (each if isinstance(each, list) else [each])]
        return frozenset(int(token) for token in flat if token is not None)

    def write(self, answers: Sequence[Answer]) -> None:
        """Draw all answers to their ends; those abandoned meanwhile leave the batch."""
        with torch.inference_mode(), _memory_failures():
            prompts = [list(prompt) for prompt in dict.fromkeys(tuple(answer.prompt) for answer in answers)]
            ids, mask = self._padded(prompts)
            cache = DynamicCache(config=self._model.config)
            logits = self._forward(ids, mask, mask.cumsum(-1).sub(1).clamp(min=0), cache)
            at = torch.tensor([prompts.index(answer.prompt) for answer in answers], device=self.device)
            cache.batch_select_indices(at)
            self._write(list(answers), logits[at], mask[at], cache)

    def _write(self, rows: list[Answer], logits: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> None:
        while True:
            drawn = [row.take(each, self._ends) for row, each in zip(rows, logits.float().cpu(), strict=True)]
            left = [index for index, row in enumerate(rows) if not (row.done or row.abandoned())]
            if not left:
                return
            if len(left) < len(rows):
                at = torch.tensor(left, device=self.device)
                cache.batch_select_indices(at)
                mask, rows = mask[at], [rows[index] for index in left]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            ids = torch.tensor([[drawn[index]] for index in left], device=self.device)
            logits = self._forward(ids, mask, mask.sum(-1, keepdim=True) - 1, cache)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        """The logits of each row's last token."""
        found = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
        )
        return torch.as_tensor(found.logits[:, -1])

    def score(self, prompt: Sequence[int], replies: Sequence[Sequence[int]]) -> list[float]:
        """log p(reply | prompt) in nats, of each reply; the prompt is read once."""
        scored = [list(reply) for reply in replies if reply]
        if not scored:
            return [0.0 for _ in replies]
        with torch.inference_mode(), _memory_failures():
            cache = DynamicCache(config=self._model.config)
            head, mask = self._padded([list(prompt)])
            first = self._forward(head, mask, torch.arange(len(prompt), device=self.device)[None], cache)
            sums = [float(first[0].double().log_softmax(-1)[reply[0]]) for reply in scored]
            longest = max(map(len, scored)) - 1
            if longest:
                cache.batch_repeat_interleave(len(scored))
                sums = self._rest(scored, sums, len(prompt), longest, cache)
        given = iter(sums)
        return [next(given) if reply else 0.0 for reply in replies]

    def _rest(
        self, scored: list[list[int]], sums: list[float], start: int, longest: int, cache: DynamicCache
    ) -> list[float]:
        """Add what follows each reply's first token. Padding stands on the right, where nothing looks at it."""
        ids = torch.tensor([[*reply[:-1], *[0] * (longest + 1 - len(reply))] for reply in scored], device=self.device)
        mask = torch.ones(len(scored), start + longest, dtype=torch.long, device=self.device)
        positions = torch.arange(start, start + longest, device=self.device).expand(len(scored), -1)
        found = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache)
        logprobs = found.logits.double().log_softmax(-1)
        return [
            math.fsum([first, *(float(row[i, token]) for i, token in enumerate(reply[1:]))])
            for first, row, reply in zip(sums, logprobs, scored, strict=True)
        ]

    def rewards(self, conversations: Sequence[Sequence[int]]) -> list[float]:
        """The classifier's one score of each conversation."""
        found = []
        with torch.inference_mode(), _memory_failures():
            for tokens in conversations:
                ids, mask = self._padded([list(tokens)])
                logits = self._model(input_ids=ids, attention_mask=mask).logits[0]
                if len(logits) != 1:
                    raise ModelFailure("refused", f"a reward model gives one score, and this one gives {len(logits)}")
                found.append(float(logits[0]))
        return found

    def _padded(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, rows))
        ids = [[0] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)


def draw(logits: torch.Tensor, sampling: Sampling, recent: Sequence[int], generator: torch.Generator) -> int:
    """The next token: penalties, cuts and temperature in llama.cpp's order, then a seeded draw."""
    logits = _penalised(logits, sampling, recent)
    if sampling.temperature <= 0:
        return int(logits.argmax())
    if sampling.top_k is not None and 0 < sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -math.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, places = logits.softmax(-1).sort(descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= sampling.top_p
        logits = logits.index_fill(0, places[beyond], -math.inf)
    if sampling.min_p is not None and sampling.min_p > 0:
        logits = logits.masked_fill(logits < logits.max() + math.log(sampling.min_p), -math.inf)
    chances = (logits / sampling.temperature).softmax(-1)
    return int(torch.multinomial(chances, 1, generator=generator))


def _penalised(logits: torch.Tensor, sampling: Sampling, recent: Sequence[int]) -> torch.Tensor:
    repeat = 1.0 if sampling.repeat_penalty is None else sampling.repeat_penalty
    frequency, presence = sampling.frequency_penalty or 0.0, sampling.presence_penalty or 0.0
    if (repeat, frequency, presence) == (1.0, 0.0, 0.0) or not recent:
        return logits
    tokens, counts = torch.unique(torch.tensor(list(recent)), return_counts=True)
    old = logits[tokens]
    new = torch.where(old > 0, old / repeat, old * repeat) - counts * frequency - presence
    return logits.index_copy(0, tokens, new.to(logits.dtype))


@contextmanager
def _memory_failures() -> Iterator[None]:
    """Out of memory is the request's failure; the model goes on."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):
            raise ModelFailure(
                "refused", "there is too little memory for this: lower `batch`, or shorten it"
            ) from error
        raise


def _with_adapter(model: Any, adapter: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelFailure(
            "setup", "an adapter is loaded by the package peft: pip install espalier-lm[train]"
        ) from error
    return PeftModel.from_pretrained(model, adapter)


def _device(wanted: str) -> torch.device:
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(wanted: str, device: torch.device) -> Any:
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return getattr(torch, wanted)
