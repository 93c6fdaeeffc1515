"""The scheduler over a cache that checks every step: random requests, cancels, little room."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agents.models.llama_scheduler import Scheduler, common_prefix
from agents.models.llama_tasks import Branch, Task
from agents.models.protocol import ModelFailure, ScoreAnswer

Cell = list[int]
"""One token in the cache; shared by identity."""


class CheckedCache:
    """Stands for `llama_native.Context`: sequences of shared cells; refuses what llama.cpp refuses."""

    def __init__(self, cells: int, capacity: int) -> None:
        self.cells = cells
        self.capacity = capacity
        self.sequences: dict[int, list[Cell]] = {}
        self.batch: list[tuple[int, int, int, bool]] = []
        self.seen: list[list[int]] = []
        self.decoded = 0

    def clear_batch(self) -> None:
        self.batch = []

    def add(self, token: int, position: int, sequence: int, *, output: bool) -> int:
        assert len(self.batch) < self.capacity
        self.batch.append((token, position, sequence, output))
        return len(self.batch) - 1

    def decode(self) -> bool:
        used = {id(cell) for cells in self.sequences.values() for cell in cells}
        if len(used) + len(self.batch) > self.cells:
            return False
        self.seen = []
        for token, position, sequence, _ in self.batch:
            cells = self.sequences.setdefault(sequence, [])
            assert position == len(cells), "positions of a sequence follow one another"
            cells.append([token])
            self.seen.append([cell[0] for cell in cells])
        self.decoded += len(self.batch)
        return True

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        assert not self.sequences.get(target)
        self.sequences[target] = self.sequences[source][:length]

    def cut(self, sequence: int, length: int) -> bool:
        self.sequences[sequence] = self.sequences.get(sequence, [])[:length]
        return True

    def clear(self) -> None:
        self.sequences = {}


def successor(tokens: list[int]) -> int:
    return random.Random(str(tokens)).randrange(1000, 2000)


class Writer(Branch):
    """Grows by the successor of what the cache really holds."""

    def __init__(self, task: Writing) -> None:
        super().__init__(task, list(task.prompt))
        self.length = task.length

    @property
    def first_output(self) -> int:
        return len(self.tokens) - 1

    def take(self, context: Any, place: int, position: int) -> None:
        assert context.seen[place] == self.tokens[: position + 1]
        self.tokens.append(successor(context.seen[place]))
        self.done = len(self.tokens) == len(self.task.prompt) + self.length


class Path(Branch):
    """Wants every position from the prompt's end on."""

    def __init__(self, task: Writing) -> None:
        super().__init__(task, [*task.prompt, *range(task.length)])
        self.taken: set[int] = set()

    @property
    def first_output(self) -> int:
        return len(self.task.prompt) - 1

    def take(self, context: Any, place: int, position: int) -> None:
        assert context.seen[place] == self.tokens[: position + 1]
        self.taken.add(position)
        self.done = position == len(self.tokens) - 1


class Writing(Task):
    def __init__(self, call: int, prompt: list[int], length: int, writers: int, paths: int) -> None:
        super().__init__(call, prompt)
        self.length = length
        self.branches = [*(Writer(self) for _ in range(writers)), *(Path(self) for _ in range(paths))]

    def answer(self) -> ScoreAnswer:
        return ScoreAnswer(())

    def check(self) -> None:
        for branch in self.branches:
            if isinstance(branch, Path):
                assert branch.taken == set(range(branch.first_output, len(branch.tokens)))
                continue
            expected = list(self.prompt)
            while len(expected) < len(branch.tokens):
                expected.append(successor(expected))
            assert branch.tokens == expected
            assert len(expected) == len(self.prompt) + self.length


def some_task(call: int, dice: random.Random, room: int) -> Writing:
    """Prompts are one of a few heads and a tail, so that they share prefixes of any length."""
    head = [dice.randrange(3)] * dice.randrange(1, room // 3)
    tail = [dice.randrange(3) for _ in range(dice.randrange(room // 3))]
    return Writing(call, head + tail, dice.randrange(1, room // 3), dice.randrange(1, 4), dice.randrange(3))


def drive(scheduler: Scheduler, pending: list[Writing], dice: random.Random, done: dict[int, Any]) -> set[int]:
    """Submit, step and cancel in any order until nothing is left; returns what was cancelled."""
    cancelled: set[int] = set()
    steps = 0
    while pending or scheduler.busy:
        if pending and dice.random() < 0.3:
            scheduler.submit(pending.pop())
        if dice.random() < 0.03:
            call = dice.randrange(12)
            cancelled |= {call} - set(done)
            scheduler.cancel(call)
            pending[:] = [task for task in pending if task.call not in cancelled]
        scheduler.step()
        steps += 1
        assert steps < 20_000, "no progress"
    return cancelled


@pytest.mark.parametrize("seed", range(60))
def test_every_branch_reads_its_own_tokens_whatever_happens(seed: int) -> None:
    dice = random.Random(seed)
    room = dice.choice([40, 120])
    parallel, exact = dice.choice([1, 2, 5]), seed % 5 == 0
    cache = CheckedCache(dice.choice([room, 2 * room, 6 * room]), dice.choice([7, 32]))
    done: dict[int, Any] = {}
    scheduler = Scheduler(
        cache,  # type: ignore[arg-type]
        done.__setitem__,
        sequences=4 * parallel + 4,
        parallel=parallel,
        exact=exact,
        shares=seed % 7 != 0,
    )
    tasks = [some_task(call, dice, room) for call in range(12)]
    cancelled = drive(scheduler, list(tasks), dice, done)
    for task in tasks:
        assert (task.call in done) != (task.call in cancelled)
        if task.call in done:
            assert not isinstance(done[task.call], ModelFailure)
            task.check()


def test_a_shared_prompt_is_read_once() -> None:
    cache = CheckedCache(2000, 512)
    done: dict[int, Any] = {}
    scheduler = Scheduler(
        cache,  # type: ignore[arg-type]
        done.__setitem__,
        sequences=40,
        parallel=8,
        exact=False,
        shares=True,
    )
    prompt = list(range(300))
    for call in range(4):
        scheduler.submit(Writing(call, [*prompt, 500 + call], 5, 2, 0))
    while scheduler.busy:
        scheduler.step()
    assert len(done) == 4
    assert cache.decoded < 300 + 8 * (5 + 2)


def test_a_branch_that_fails_takes_only_its_task_along(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Writer):
        def take(self, context: Any, place: int, position: int) -> None:
            raise KeyError("a fault")

    done: dict[int, Any] = {}
    scheduler = Scheduler(
        CheckedCache(200, 32),  # type: ignore[arg-type]
        done.__setitem__,
        sequences=12,
        parallel=2,
        exact=False,
        shares=True,
    )
    broken, sound = Writing(1, [1, 2], 3, 2, 0), Writing(2, [1, 2], 3, 2, 0)
    broken.branches[0] = Broken(broken)
    scheduler.submit(broken)
    scheduler.submit(sound)
    while scheduler.busy:
        scheduler.step()
    assert isinstance(done[1], ModelFailure)
    assert "a fault" in done[1].message
    assert "KeyError" in capsys.readouterr().err
    sound.check()


@pytest.mark.parametrize("seed", range(20))
def test_common_prefix(seed: int) -> None:
    dice = random.Random(seed)
    left, right = ([dice.randrange(2) for _ in range(dice.randrange(12))] for _ in range(2))
    limit = dice.randrange(12)
    expected = 0
    while expected < min(len(left), len(right), limit) and left[expected] == right[expected]:
        expected += 1
    assert common_prefix(left, right, limit) == expected
