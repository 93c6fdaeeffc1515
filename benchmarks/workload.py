"""A run of the engine as the requests that its model got, and how few tokens could have served them.

Invariant: requests are told apart by the model alone, so what is measured is what any backend would be asked.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from agents.models.chat_template import ChatTemplate
from agents.models.llama import LlamaModel
from agents.models.llama_native import Weights
from agents.models.llama_prompts import PromptReader
from agents.models.protocol import ChatAnswer, ChatRequest, Message, Model, OnDelta, ScoreAnswer, ScoreRequest
from simulation.cast import close_models, load_prompts, make_cast, open_models
from simulation.config import make_config
from simulation.engine import close_engine, open_engine
from simulation.personas import seed_personalities, seed_profiles
from simulation.runs import begin, plan_run
from trees.store import Store

NAME = "m"
MEASURING = "points"
REPLY = 60
"""Longest message and reply, in tokens."""


def configuration(model: dict[str, Any], judge: str, turns: int, trees: int) -> dict[str, Any]:
    """Trees of `turns` x 4 responders, two of them hinted, with a blind inducer and one judge.

    Under the judge of benchmarks (`points`) there is one responder, and each reply is scored on its own.
    """
    sampling = {"max_tokens": REPLY, "temperature": 0.8, "min_p": 0.05}
    return {
        "name": "inference",
        "turns": turns,
        "judge": judge,
        "models": {NAME: model},
        "user": {"rerolls": 0, "sampling": sampling},
        "inducer": {"sampling": {"max_tokens": REPLY, "temperature": 0.0}},
        "responders": {"tested": {"sampling": sampling}}
        if judge == MEASURING
        else {
            "plain": {"sampling": sampling},
            "cool": {"sampling": {**sampling, "temperature": 0.5}},
            "warm": {"hint": True, "sampling": sampling},
            "brief": {"hint": True, "sampling": {**sampling, "temperature": 0.5}},
        },
        "judges": {judge: {"kind": judge, "scores_lone": judge == MEASURING}},
        "limits": {"trees_in_flight": trees},
    }


@dataclass
class Asked:
    """One request and its answer."""

    request: ChatRequest | ScoreRequest
    started: float
    ended: float = 0.0
    texts: tuple[str, ...] = ()
    tokens_out: int = 0

    @property
    def lane(self) -> str:
        return self.request.lane

    @property
    def messages(self) -> tuple[Message, ...]:
        return self.request.messages

    @property
    def scored(self) -> tuple[str, ...]:
        return self.request.replies if isinstance(self.request, ScoreRequest) else self.request.choices


class Recorder:
    """A model that remembers what it was asked, in the order of asking."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.asked: list[Asked] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        asked = Asked(request, time.perf_counter())
        self.asked.append(asked)
        answer = await self._model.chat(request, on_delta)
        asked.ended = time.perf_counter()
        asked.texts = tuple(completion.text for completion in answer.completions)
        asked.tokens_out = 0 if request.choices else answer.usage.output_tokens or 0
        return answer

    async def score(self, request: ScoreRequest) -> ScoreAnswer:
        asked = Asked(request, time.perf_counter())
        self.asked.append(asked)
        answer = await self._model.score(request)
        asked.ended = time.perf_counter()
        return answer


@dataclass(frozen=True)
class Played:
    """A run as its model saw it."""

    asked: list[Asked]
    seconds: float
    turns: int
    trees: int
    figures: dict[str, float]
    """What the backend counted, if it does."""


async def play(model: dict[str, Any], judge: str, turns: int, trees: int) -> Played:
    """Play all trees at the same time, from the engine down, on a store of its own."""
    config = make_config(configuration(model, judge, turns, trees), "the benchmark")
    models = await open_models(config)
    try:
        cast = make_cast(config, models, load_prompts(config, None))
        pairs = [(profile, personality) for personality in seed_personalities() for profile in seed_profiles()]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "espalier.db"
            with Store.open(path) as store:
                run = begin(store, plan_run(cast, pairs[:trees], None))
            recorder = Recorder(models[NAME])
            engine = await open_engine(path, run.id, models={NAME: recorder})
            began = time.perf_counter()
            await engine.run()
            seconds = time.perf_counter() - began
            counted = await models[NAME].counters() if isinstance(models[NAME], LlamaModel) else None
            await close_engine(engine)
            with Store.read(path) as store:
                failed = store.rows("SELECT count(*) FROM failures")[0][0]
        assert not failed, f"{failed} calls failed"
        return Played(recorder.asked, seconds, turns, trees, dict(counted or {}))
    finally:
        await close_models(models)


class Tokens:
    """Prompts and replies as the embedded model reads them."""

    def __init__(self, weights: Weights) -> None:
        vocab = weights.vocab
        template = ChatTemplate(weights.template, bos=vocab.text(vocab.bos), eos=vocab.text(vocab.eos))
        self._reader = PromptReader(template, vocab)
        self._vocab = vocab
        self._prompts: dict[tuple[Message, ...], list[int]] = {}

    def prompt(self, asked: Asked) -> list[int]:
        if asked.messages not in self._prompts:
            self._prompts[asked.messages] = self._reader.read(asked.messages).tokens
        return self._prompts[asked.messages]

    def reply(self, text: str) -> list[int]:
        return self._vocab.tokenize(text, special=False)

    def paths(self, asked: Asked) -> list[list[int]]:
        """What a request needs to have been read: the prompt, and the scored replies up to their last token."""
        prompt = self.prompt(asked)
        return [prompt, *(prompt + self.reply(text)[:-1] for text in asked.scored)]

    def written(self, asked: Asked) -> list[list[int]]:
        return [self.prompt(asked) + self.reply(text) for text in asked.texts if not asked.scored]


@dataclass
class Need:
    """The fewest tokens that serve a list of requests, were nothing ever forgotten."""

    quiet: int = 0
    """Read without logits."""
    scored: int = 0
    """Read with logits, because a given reply is scored."""
    out: int = 0
    branches: int = 0
    """Each may re-read one token, the prompt's last, whose logits begin its answer."""
    shared: int = 0
    """Tokens of prompts that were known already."""
    _root: dict[int, Any] = field(default_factory=dict, repr=False)

    def ask(self, tokens: Tokens, asked: Asked) -> None:
        prompt = tokens.prompt(asked)
        quiet = self._insert(prompt)
        self.quiet += quiet
        self.shared += len(prompt) - quiet
        self.scored += sum(self._insert(path) for path in tokens.paths(asked)[1:])
        # Scored replies go on from one reading of the prompt's last token; answers each take it anew.
        self.branches += asked.request.n if isinstance(asked.request, ChatRequest) and not asked.scored else 1

    def answer(self, tokens: Tokens, asked: Asked) -> None:
        self.out += asked.tokens_out
        for path in tokens.written(asked):
            self._insert(path)

    def _insert(self, path: Sequence[int]) -> int:
        """Tokens of a path that were not known."""
        node, new = self._root, 0
        for token in path:
            if token not in node:
                node[token] = {}
                new += 1
            node = node[token]
        return new


def need_of(tokens: Tokens, asked: Sequence[Asked]) -> Need:
    """Requests and answers in the order in which they happened."""
    need = Need()
    happened = [(a.started, 0, i) for i, a in enumerate(asked)] + [(a.ended, 1, i) for i, a in enumerate(asked)]
    for _, answered, index in sorted(happened):
        (need.answer if answered else need.ask)(tokens, asked[index])
    return need


def turn_times(asked: Sequence[Asked], turns: int) -> list[float]:
    """Seconds a tree took for each turn while all trees were played together.

    Trees keep step, so a turn lasts from the mean end of the one before to the mean end of its own, and all trees
    share that time. A turn ends with the last request of its kind: as many judging requests a tree as turns.
    """
    began = min(each.started for each in asked)
    lanes = sorted({each.lane for each in asked})
    ends: list[list[float]] = [[] for _ in range(turns)]
    for lane in lanes:
        judging = sorted((each for each in asked if each.lane == lane and each.scored), key=lambda each: each.started)
        per_turn = len(judging) // turns
        for turn in range(turns):
            ends[turn].append(max(each.ended for each in judging[turn * per_turn : (turn + 1) * per_turn]))
    means = [began, *(sum(times) / len(times) for times in ends)]
    return [(after - before) / len(lanes) for before, after in pairwise(means)]
