"""The scheduler over a cache that checks every step: random requests, cancels, little room."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from agents.models import llama_cache
from agents.models.llama_cache import _subtree, _upwards, common_prefix
from agents.models.llama_scheduler import Policy, Scheduler
from agents.models.llama_tasks import Branch, Task, scored_paths
from agents.models.protocol import ModelFailure, ScoreAnswer

Cell = list[int]
"""One token in the cache; shared by identity."""


class CheckedCache:
    """Stands for `llama_native.Context`: sequences of shared cells; refuses what llama.cpp refuses."""

    def __init__(self, cells: int, capacity: int, *, forgetful: bool = False) -> None:
        self.cells = cells
        self.capacity = capacity
        self.forgetful = forgetful
        """Whether what was saved can never be restored."""
        self.sequences: dict[int, dict[int, Cell]] = defaultdict(dict)
        self.batch: list[tuple[int, int, int, bool]] = []
        self.seen: list[list[int]] = []
        self.decoded = 0
        self.restored = 0

    @property
    def used(self) -> int:
        return len({id(cell) for cells in self.sequences.values() for cell in cells.values()})

    def held(self, sequence: int) -> list[int]:
        cells = self.sequences[sequence]
        assert sorted(cells) == list(range(len(cells))), "a sequence has no holes"
        return [cells[position][0] for position in range(len(cells))]

    def clear_batch(self) -> None:
        self.batch = []

    def add(self, token: int, position: int, sequence: int, *, output: bool) -> int:
        assert len(self.batch) < self.capacity
        self.batch.append((token, position, sequence, output))
        return len(self.batch) - 1

    def decode(self) -> bool:
        if self.used + len(self.batch) > self.cells:
            return False
        self.seen = []
        for token, position, sequence, _ in self.batch:
            assert position == len(self.held(sequence)), "positions of a sequence follow one another"
            self.sequences[sequence][position] = [token]
            self.seen.append(self.held(sequence))
        self.decoded += len(self.batch)
        return True

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        wanted = {position: cell for position, cell in self.sequences[source].items() if start <= position < end}
        assert not wanted.keys() & self.sequences[target].keys()
        self.sequences[target] |= wanted

    def cut(self, sequence: int, start: int) -> bool:
        self.sequences[sequence] = {p: cell for p, cell in self.sequences[sequence].items() if p < start}
        return True

    def save(self, sequence: int, start: int, end: int) -> list[bytearray]:
        cells = {p: cell[0] for p, cell in self.sequences[sequence].items() if start <= p < end}
        assert len(cells) == end - start
        return [bytearray(json.dumps(cells).encode())]

    def restore(self, sequence: int, saved: Sequence[bytearray]) -> bool:
        cells = {int(position): [token] for each in saved for position, token in json.loads(each).items()}
        assert not self.sequences[sequence].keys() & cells.keys()
        if self.forgetful or self.used + len(cells) > self.cells:
            return False
        self.sequences[sequence] |= cells
        self.restored += len(cells)
        return True

    def clear(self) -> None:
        self.sequences.clear()


def check_tree(scheduler: Scheduler, cache: CheckedCache) -> None:
    """The invariants of `agents.models.llama_cache`, against what the cache really holds."""
    tree = scheduler._tree
    ids, hot, host = [], 0, 0
    for node in _subtree(tree._root)[1:]:
        assert node.parent is not None
        assert node in node.parent.children
        assert node.start == node.parent.end
        assert node.hot != bool(node.saved)
        assert node.parent.hot or not node.hot
        assert not (node.running and node.children)
        assert (node.sequence is not None) == (node.hot and not any(child.hot for child in node.children))
        hot += len(node.tokens) if node.hot else 0
        host += node.host_bytes
        if node.sequence is not None:
            path = [token for each in reversed(list(_upwards(node))) for token in each.tokens]
            assert cache.held(node.sequence) == path
            ids.append(node.sequence)
    assert (tree.hot_cells, tree.host_bytes) == (hot, host)
    assert hot == cache.used
    assert sorted([*ids, *tree._free]) == list(range(tree._sequences))


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
        super().__init__(call, prompt, f"lane {call % 3}")
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


def drive(
    scheduler: Scheduler, cache: CheckedCache, pending: list[Writing], dice: random.Random, done: dict[int, Any]
) -> set[int]:
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
        check_tree(scheduler, cache)
        steps += 1
        assert steps < 20_000, "no progress"
    return cancelled


def policy(
    parallel: int, *, exact: bool = False, shares: bool = True, idle: int = 10_000, host: int = 1 << 30
) -> Policy:
    return Policy(2 * parallel + 2, parallel, idle, host, exact, shares)


@pytest.mark.parametrize("seed", range(90))
def test_every_branch_reads_its_own_tokens_whatever_happens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(llama_cache, "WORTH_RESTORING", dice.choice([2, 16]))
    room = dice.choice([40, 120])
    cells = dice.choice([room, 2 * room, 6 * room])
    cache = CheckedCache(cells, dice.choice([7, 32]), forgetful=seed % 11 == 0)
    done: dict[int, Any] = {}
    allowed = policy(
        dice.choice([1, 2, 5]),
        exact=seed % 5 == 0,
        shares=seed % 7 != 0,
        idle=dice.choice([0, 20, 10_000]),
        host=dice.choice([0, 2000, 1 << 20]),
    )
    scheduler = Scheduler(cache, done.__setitem__, allowed)  # type: ignore[arg-type]
    tasks = [some_task(call, dice, room) for call in range(12)]
    cancelled = drive(scheduler, cache, list(tasks), dice, done)
    for task in tasks:
        assert (task.call in done) != (task.call in cancelled)
        if task.call in done:
            assert not isinstance(done[task.call], ModelFailure)
            task.check()


def finish(scheduler: Scheduler) -> None:
    while scheduler.busy:
        scheduler.step()


def test_a_shared_prompt_is_read_once() -> None:
    cache = CheckedCache(2000, 512)
    done: dict[int, Any] = {}
    scheduler = Scheduler(cache, done.__setitem__, policy(8))  # type: ignore[arg-type]
    prompt = list(range(300))
    for call in range(4):
        scheduler.submit(Writing(call, [*prompt, 500 + call], 5, 2, 0))
    finish(scheduler)
    assert len(done) == 4
    assert cache.decoded < 300 + 8 * (5 + 2)
    assert scheduler.figures()["prompt_read"] == 300 + 4 + 4


def test_a_prefix_that_left_the_cache_comes_back_from_host_memory() -> None:
    cache = CheckedCache(2000, 512)
    done: dict[int, Any] = {}
    scheduler = Scheduler(cache, done.__setitem__, policy(2, idle=0))  # type: ignore[arg-type]
    first, second = list(range(300)), list(range(1000, 1300))
    for call, prompt in enumerate([first, second, [*first, 7], [*second, 8]]):
        scheduler.submit(Writing(call, prompt, 3, 1, 0))
        finish(scheduler)
        check_tree(scheduler, cache)
    # A step begins by letting go of what was left idle before it.
    assert cache.restored >= 600
    assert scheduler.figures()["prompt_read"] <= 300 + 300 + 2 * 2


def test_a_short_run_in_the_middle_does_not_hide_what_follows() -> None:
    cache = CheckedCache(2000, 512)
    done: dict[int, Any] = {}
    scheduler = Scheduler(cache, done.__setitem__, policy(2, idle=0))  # type: ignore[arg-type]
    head = [1, 2, 3]
    prompts = [[*head, *range(100, 200)], [*head, *range(300, 400)], list(range(500, 600)), [*head, *range(100, 201)]]
    for call, prompt in enumerate(prompts):
        scheduler.submit(Writing(call, prompt, 3, 1, 0))
        finish(scheduler)
    assert scheduler.figures()["prompt_read"] <= 103 + 100 + 100 + 2


def test_a_running_branch_can_be_joined_where_it_stands() -> None:
    cache = CheckedCache(2000, 512)
    done: dict[int, Any] = {}
    scheduler = Scheduler(cache, done.__setitem__, policy(4))  # type: ignore[arg-type]
    writing = Writing(0, list(range(100)), 30, 1, 0)
    scheduler.submit(writing)
    for _ in range(10):
        scheduler.step()
    joining = Writing(1, list(writing.branches[0].tokens[:-1]), 5, 1, 0)
    scheduler.submit(joining)
    finish(scheduler)
    writing.check()
    joining.check()
    assert scheduler.figures()["prompt_reused"] == len(joining.prompt) - 1


def test_a_lane_with_many_requests_leaves_the_others_their_share() -> None:
    cache = CheckedCache(4000, 512)
    ended: list[int] = []
    scheduler = Scheduler(cache, lambda call, _: ended.append(call), policy(4))  # type: ignore[arg-type]
    for call in range(0, 60, 3):
        scheduler.submit(Writing(call, [1, 2, call], 9, 1, 0))
    scheduler.submit(Writing(1, [5, 6], 9, 1, 0))
    finish(scheduler)
    assert len(ended) == 21
    assert ended.index(1) < 8


def test_a_branch_that_fails_takes_only_its_task_along(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Writer):
        def take(self, context: Any, place: int, position: int) -> None:
            raise KeyError("a fault")

    done: dict[int, Any] = {}
    scheduler = Scheduler(CheckedCache(200, 32), done.__setitem__, policy(2))  # type: ignore[arg-type]
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
    run, tokens = ([dice.randrange(2) for _ in range(dice.randrange(12))] for _ in range(2))
    start, limit = dice.randrange(4), dice.randrange(12)
    expected = 0
    while (
        start + expected < min(len(tokens), limit) and expected < len(run) and run[expected] == tokens[start + expected]
    ):
        expected += 1
    assert common_prefix(run, tokens, start, limit) == expected


def test_replies_that_begin_alike_are_read_once() -> None:
    paths = scored_paths(10, [[1, 2, 3, 4], [1, 2, 5], [1, 2, 3], [], [9], [1, 2, 3, 4]])
    assert paths == {
        (1, 2, 3): {
            9: [(0, 1), (5, 1), (1, 1), (2, 1), (4, 9)],
            10: [(0, 2), (5, 2), (1, 2), (2, 2)],
            11: [(0, 3), (5, 3), (1, 5), (2, 3)],
            12: [(0, 4), (5, 4)],
        }
    }
    parted = scored_paths(10, [[1, 2, 3, 4], [1, 5, 6, 7]])
    assert {path: sorted(wanted) for path, wanted in parted.items()} == {
        (1, 2, 3): [9, 10, 11, 12],
        (1, 5, 6): [11, 12],
    }
