"""What llama.cpp itself does on this machine: rates of bare `llama_decode` loops at a workload's own path lengths.

A snapshot is a moment of a workload: the paths of the sequences that ran then, in a context that holds nothing else.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from workload import Asked, Tokens

from agents.models.llama_native import Context, ContextOptions, Weights

ABREAST = 16
SEQUENCES = 64
STEPS = 16
REPEATS = 3


@dataclass(frozen=True)
class Rates:
    """Tokens a second."""

    prefill: float
    scoring: float
    decode: float
    cells: int
    """Used while it was measured."""


def context(weights: Weights, cells: int, batch: int = 512) -> Context:
    threads = len(os.sched_getaffinity(0))
    return Context(weights, ContextOptions(cells, SEQUENCES, batch, threads, "f16", flash_attention=True))


class Bare:
    """A context and the bare loops over it."""

    def __init__(self, weights: Weights, cells: int = 32768) -> None:
        self._context = context(weights, cells)
        self._held: list[list[int]] = []

    def hold(self, paths: Sequence[list[int]]) -> int:
        """Clear the cache and read these paths, a shared beginning once; returns the cells in use."""
        self._context.clear()
        self._held = []
        used = 0
        for path in paths:
            known, source = max(((_common(path, other), i) for i, other in enumerate(self._held)), default=(0, 0))
            sequence = len(self._held)
            if known:
                self._context.copy(source, sequence, 0, known)
            self._read({sequence: path[known:]}, {sequence: known}, outputs=0)
            self._held.append(path)
            used += len(path) - known
        return used

    def prefill(self, tokens: Sequence[int]) -> float:
        """Tokens a second of reading further tokens after four of the paths, without logits."""
        return self._rate(lambda: self._extend(tokens, 128, outputs=0), 4 * 128)

    def scoring(self, tokens: Sequence[int]) -> float:
        """The same with logits at every token."""
        return self._rate(lambda: self._extend(tokens, 32, outputs=32), 4 * 32)

    def decode(self, abreast: int, steps: int = STEPS) -> float:
        """Tokens a second of greedy answers to so many paths at once."""
        return self._rate(lambda: self._answer(abreast, steps), abreast * steps)

    def _rate(self, run: Callable[[], None], tokens: int) -> float:
        rates = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            run()
            rates.append(tokens / (time.perf_counter() - began))
            for sequence, path in enumerate(self._held):
                self._context.cut(sequence, len(path))
        return statistics.median(rates)

    def _extend(self, tokens: Sequence[int], length: int, *, outputs: int) -> None:
        chosen = range(0, len(self._held), max(len(self._held) // 4, 1))[:4]
        new = {sequence: list(tokens[:length]) for sequence in chosen}
        self._read(new, {sequence: len(self._held[sequence]) for sequence in chosen}, outputs=outputs)

    def _read(self, new: dict[int, list[int]], starts: dict[int, int], *, outputs: int) -> None:
        todo = [
            (token, starts[sequence] + offset, sequence, offset >= len(tokens) - outputs)
            for sequence, tokens in new.items()
            for offset, token in enumerate(tokens)
        ]
        for first in range(0, len(todo), self._context.capacity):
            self._context.clear_batch()
            for token, position, sequence, output in todo[first : first + self._context.capacity]:
                self._context.add(token, position, sequence, output=output)
            assert self._context.decode()

    def _answer(self, abreast: int, steps: int) -> None:
        last = [path[-1] for path in self._held[:abreast]]
        for step in range(steps):
            self._context.clear_batch()
            for sequence in range(abreast):
                self._context.add(last[sequence], len(self._held[sequence]) + step, sequence, output=True)
            assert self._context.decode()
            last = [int(np.argmax(self._context.logits(sequence))) for sequence in range(abreast)]


def measure(bare: Bare, tokens: Tokens, asked: Sequence[Asked], moments: Sequence[float]) -> list[Rates]:
    """The rates at some moments of a workload, each a share of its answers in order."""
    answers = [each for each in asked if not each.scored]
    found = []
    for moment in moments:
        until = max(int(len(answers) * moment), ABREAST)
        paths = [tokens.prompt(each) for each in answers[until - ABREAST : until]]
        cells = bare.hold(paths)
        some = [token for path in paths for token in path[-64:]]
        found.append(Rates(bare.prefill(some), bare.scoring(some), bare.decode(ABREAST), cells))
    return found


def mean_rate(rates: Sequence[float]) -> float:
    """Of equal amounts of work at each."""
    return statistics.harmonic_mean(rates)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
