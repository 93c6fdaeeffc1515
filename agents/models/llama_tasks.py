"""What is asked of the native model: a task is one request, its branches are the token sequences it needs
decoded.

A branch is a list of tokens that must stand in the cache and a first position from which logits are wanted;
the scheduler feeds it and hands over logits, the branch says when it is done. An answer grows its own list by
what it draws; a scored path is given whole. Branches of a task begin with the same prompt and share it in the
cache.

Invariant: a branch whose cells were taken away can be fed again from its tokens alone and goes on as if
nothing had happened.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from agents.models.choices import answer_seed, chosen
from agents.models.llama_native import Context, Sampler, Vocab
from agents.models.llama_prompts import Prompt
from agents.models.llama_text import AnswerText
from agents.models.protocol import (
    ChatAnswer,
    ChatRequest,
    Completion,
    ReplyScore,
    ScoreAnswer,
    Usage,
)

OnDelta = Callable[[int, str], None]


class Branch(ABC):
    """One sequence of tokens on its way through the model."""

    def __init__(self, task: Task, tokens: list[int]) -> None:
        self.task = task
        self.tokens = tokens
        self.drawn_from = len(tokens)
        """The position of the first token that was drawn here, rather than given."""
        self.done = False

    @property
    @abstractmethod
    def first_output(self) -> int:
        """The first position whose logits are wanted; all from there on are."""

    @abstractmethod
    def take(self, context: Context, place: int, position: int) -> None:
        """The logits at this position lie at this place of the batch just decoded."""

    def free(self) -> None:
        """Give native memory back. May be called twice."""
        return


class Task(ABC):
    """One request: its branches and what they cost."""

    def __init__(self, call: int, prompt: Sequence[int], lane: str) -> None:
        self.call = call
        self.prompt = prompt
        self.lane = lane
        self.branches: list[Branch] = []
        self.cached: int | None = None
        self._started = time.monotonic()
        self._first_token_s: float | None = None

    @property
    def done(self) -> bool:
        return all(branch.done for branch in self.branches)

    @abstractmethod
    def answer(self) -> ChatAnswer | ScoreAnswer:
        """Once all branches are done."""

    def note_token(self) -> None:
        if self._first_token_s is None:
            self._first_token_s = time.monotonic() - self._started

    def usage(self, output_tokens: int) -> Usage:
        return Usage(len(self.prompt), self.cached or 0, output_tokens, self._first_token_s)


class ChatTask(Task):
    """n answers to one prompt."""

    def __init__(
        self,
        call: int,
        request: ChatRequest,
        prompt: Prompt,
        vocab: Vocab,
        *,
        grammar: str | None = None,
        on_delta: OnDelta | None = None,
    ) -> None:
        super().__init__(call, prompt.tokens, request.lane)
        self.request = request
        self.vocab = vocab
        self.grammar = grammar
        self.on_delta = on_delta
        self._answers = [AnswerBranch(self, index, reasons=prompt.reasons) for index in range(request.n)]
        self.branches = list(self._answers)

    def answer(self) -> ChatAnswer:
        drawn = sum(branch.drawn for branch in self._answers)
        return ChatAnswer(tuple(branch.completion() for branch in self._answers), self.usage(drawn))


class AnswerBranch(Branch):
    """One answer as it is drawn, token by token."""

    def __init__(self, task: ChatTask, index: int, *, reasons: bool) -> None:
        super().__init__(task, list(task.prompt))
        self.drawn = 0
        self._chat = task
        self._index = index
        self._text = AnswerText(task.request.sampling.stop, reasons=reasons)
        self._sampler: Sampler | None = None
        self._completion = Completion("")

    @property
    def first_output(self) -> int:
        return len(self.tokens) - 1

    def take(self, context: Context, place: int, position: int) -> None:
        token = self._draw(context, place)
        self.task.note_token()
        if self._chat.vocab.ends(token):
            self._finish(Completion("", "stop"))
            return
        self.tokens.append(token)
        self.drawn += 1
        self._emit(self._text.feed(self._chat.vocab.piece(token, first=self.drawn == 1)))
        if self._text.stopped:
            self._finish(Completion("", "stop"))
        elif self.drawn >= self._chat.request.sampling.max_tokens:
            self._finish(Completion("", "length"))

    def _draw(self, context: Context, place: int) -> int:
        if self._sampler is None:
            request = self._chat.request
            seed = answer_seed(request.seed or 0, self._index)
            self._sampler = Sampler(self._chat.vocab, request.sampling, seed, self._chat.grammar, self._chat.prompt)
        return self._sampler.draw(context, place)

    def _emit(self, text: str) -> None:
        if text and self._chat.on_delta is not None:
            self._chat.on_delta(self._index, text)

    def _finish(self, ending: Completion) -> None:
        self._emit(self._text.close())
        self._completion = replace(ending, text=self._text.text, reasoning=self._text.reasoning)
        self.done = True

    def completion(self) -> Completion:
        return self._completion

    def free(self) -> None:
        if self._sampler is not None:
            self._sampler.free()
            self._sampler = None


class ScoreTask(Task):
    """The log-probability of each reply after one prompt. What replies have in common is read once."""

    def __init__(self, call: int, prompt: Sequence[int], replies: Sequence[Sequence[int]], lane: str = "") -> None:
        super().__init__(call, prompt, lane)
        self._replies = replies
        self._logprobs: dict[tuple[int, int], float] = {}
        self.branches = [ScoredPath(self, path, wanted) for path, wanted in scored_paths(len(prompt), replies).items()]

    def note(self, reply: int, position: int, logprob: float) -> None:
        self._logprobs[reply, position] = logprob

    def scores(self) -> list[ReplyScore]:
        sums: dict[int, list[float]] = defaultdict(list)
        for (reply, _), logprob in sorted(self._logprobs.items()):
            sums[reply].append(logprob)
        return [ReplyScore(math.fsum(sums[index]), len(reply)) for index, reply in enumerate(self._replies)]

    def answer(self) -> ChatAnswer | ScoreAnswer:
        return ScoreAnswer(tuple(self.scores()), self.usage(0))


class ChoiceTask(ScoreTask):
    """A choice among given texts, by their joint log-probabilities as the beginning of the reply."""

    def __init__(
        self, call: int, request: ChatRequest, prompt: Sequence[int], choices: Sequence[Sequence[int]]
    ) -> None:
        super().__init__(call, prompt, choices, request.lane)
        self._request = request

    def answer(self) -> ChatAnswer:
        scores = self.scores()
        completions = chosen(self._request, [score.logprob for score in scores])
        lengths = {choice: score.tokens for choice, score in zip(self._request.choices, scores, strict=True)}
        return ChatAnswer(completions, self.usage(sum(lengths[completion.text] for completion in completions)))


class ScoredPath(Branch):
    """A prompt and the beginning of some replies; logits are wanted from where no other path gives them."""

    def __init__(self, task: ScoreTask, path: tuple[int, ...], wanted: Mapping[int, list[tuple[int, int]]]) -> None:
        super().__init__(task, [*task.prompt, *path])
        self._score = task
        self._wanted = wanted

    @property
    def first_output(self) -> int:
        return min(self._wanted)

    def take(self, context: Context, place: int, position: int) -> None:
        self.task.note_token()
        row = context.logits(place)
        top = float(row.max())
        total = top + math.log(float(np.exp(row - row.max()).sum(dtype=np.float64)))
        for reply, token in self._wanted.get(position, ()):
            self._score.note(reply, position, float(row[token]) - total)
        self.done = position == len(self.tokens) - 1


def scored_paths(
    prompt: int, replies: Sequence[Sequence[int]]
) -> dict[tuple[int, ...], dict[int, list[tuple[int, int]]]]:
    """What to read after a prompt of so many tokens, and which reply's token is looked up at which position.

    A reply's last token is looked up, not read. Where replies begin alike, the logits after their common tokens are
    taken from the first that has them, so a path lists only positions that are its own.
    """
    paths: dict[tuple[int, ...], dict[int, list[tuple[int, int]]]] = {}
    owners: dict[tuple[int, ...], tuple[int, ...]] = {}
    for index in sorted(range(len(replies)), key=lambda index: len(replies[index]), reverse=True):
        reply = tuple(replies[index])
        for offset, token in enumerate(reply):
            path = owners.setdefault(reply[:offset], reply[:-1])
            paths.setdefault(path, defaultdict(list))[prompt - 1 + offset].append((index, token))
    return paths
