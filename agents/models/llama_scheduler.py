"""Which branch is decoded when: many requests as one batch over one tree of prefixes.

A branch enters where the longest known prefix ends (`agents.models.llama_cache`). Each step decodes one batch: first
the next token of every answer under way, then as much of waiting prompts as fits, so that answers ride along with
reading. A branch whose prefix another is just reading waits for that rather than read it a second time.

Who enters next is decided by order of arrival, but a lane (a tree that is played) that has its share of the places
leaves the others' to the others. When the cache is full, idle prefixes go to host memory; when none is left the
youngest branch goes back to the queue, and nobody enters until somebody has left. The oldest is never sent back, so
there is always progress.

In exact mode there is one branch at a time, requests are served in order of arrival and the cache is cleared
before each, so that an answer depends on its request alone.

Invariant: a rider's leaf ends where its reading has come to: it is `branch.tokens` from `leaf.start` to `leaf.end`.
"""

from __future__ import annotations

import sys
import time
import traceback
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agents.models.llama_cache import Node, PrefixTree, common_prefix
from agents.models.llama_native import OUTPUTS, Context, NativeFailure
from agents.models.llama_tasks import Branch, Task
from agents.models.protocol import ChatAnswer, ModelFailure, ScoreAnswer

WORTH_WAITING = 16
"""Tokens that must be saved for a branch to wait until another has read them."""

Report = Callable[[int, ChatAnswer | ScoreAnswer | ModelFailure], None]


@dataclass(frozen=True, slots=True)
class Policy:
    """How much at once."""

    sequences: int
    """Sequence ids; more than twice `parallel`."""
    parallel: int
    """Branches at work together."""
    idle_cells: int
    """Cells kept in the cache beside those that branches at work stand on."""
    host_bytes: int
    """Host memory for what had to leave the cache."""
    exact: bool
    shares: bool
    """Whether this kind of model can go on from a prefix."""


@dataclass(eq=False, slots=True)
class Rider:
    """A branch in the scheduler's hands, waiting or at work."""

    branch: Branch
    ticket: int
    """Order of arrival."""
    leaf: Node | None = None
    leader: Rider | None = None
    """Who is reading what this one waits for, ..."""
    awaited: int = 0
    """... and up to how many tokens."""

    @property
    def read(self) -> int:
        return self.leaf.end if self.leaf else 0

    @property
    def missing(self) -> int:
        """Tokens that are not in the cache yet."""
        return len(self.branch.tokens) - self.read

    @property
    def lane(self) -> str:
        return self.branch.task.lane


@dataclass(frozen=True, slots=True)
class Chunk:
    """A rider's share of a batch: its tokens from `start` to before `end`."""

    rider: Rider
    leaf: Node
    start: int
    end: int


@dataclass(slots=True)
class Counts:
    """What was done since the start."""

    prompt_read: int = 0
    """Tokens decoded that were not drawn here."""
    prompt_reused: int = 0
    """Tokens that stood in the cache when their branch entered."""
    tokens_out: int = 0
    steps: int = 0
    rides: int = 0
    """Branches in all batches together."""
    decode_s: float = 0.0
    """Seconds inside llama.cpp's decoding."""
    writing_steps: int = 0
    """Those in which every branch has one token: nothing is read beside."""
    writing_rides: int = 0
    writing_s: float = 0.0
    """From loading such a batch to its last token drawn."""


class Scheduler:
    """Runs in one thread; `step` as long as `busy`."""

    def __init__(self, context: Context, report: Report, policy: Policy) -> None:
        self._context = context
        self._report = report
        self._parallel = 1 if policy.exact else policy.parallel
        self._idle_cells = policy.idle_cells
        self._exact = policy.exact
        self._shares = policy.shares
        self._tree = PrefixTree(
            context, capacity=context.cells, sequences=policy.sequences, host_bytes=policy.host_bytes
        )
        self._waiting: list[Rider] = []
        self._riding: list[Rider] = []
        self._tickets = 0
        self._counts = Counts()
        self._crowded = False
        self._served: Task | None = None

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._riding)

    def figures(self) -> dict[str, float]:
        """Counters since the start and gauges of now; may be read from another thread."""
        counts, steps = self._counts, max(self._counts.steps, 1)
        return {
            "prompt_read": counts.prompt_read,
            "prompt_reused": counts.prompt_reused,
            "tokens_out": counts.tokens_out,
            "steps": counts.steps,
            "batch_fill": counts.rides / steps,
            "decode_s": counts.decode_s,
            "writing_steps": counts.writing_steps,
            "writing_rides": counts.writing_rides,
            "writing_s": counts.writing_s,
            "running": len(self._riding),
            "waiting": len(self._waiting),
            "cells_used": self._tree.hot_cells,
            "cells": self._context.cells,
            "host_bytes": self._tree.host_bytes,
        }

    def submit(self, task: Task) -> None:
        for branch in task.branches:
            self._tickets += 1
            self._waiting.append(Rider(branch, self._tickets))
        if not task.branches:
            self._report(task.call, task.answer())

    def cancel(self, call: int) -> None:
        """Forget a request, wherever it is. Nothing is reported."""
        for rider in [rider for rider in self._riding if rider.branch.task.call == call]:
            self._leave(rider)
        for rider in [rider for rider in self._waiting if rider.branch.task.call == call]:
            self._waiting.remove(rider)
            rider.branch.free()

    def step(self) -> None:
        """Let enter who can, decode one batch and hand its outputs over."""
        self._admit()
        chunks = self._plan()
        if not chunks:
            return
        self._tree.trim(self._idle_cells)
        if not (self._tree.make_room(sum(chunk.end - chunk.start for chunk in chunks)) and self._decode(chunks)):
            self._send_back()

    def _decode(self, chunks: list[Chunk]) -> bool:
        entered = time.perf_counter()
        outputs = self._load(chunks)
        began = time.perf_counter()
        while not self._context.decode():
            if not self._tree.evict():
                return False
        self._counts.decode_s += time.perf_counter() - began
        self._counts.steps += 1
        self._counts.rides += len(chunks)
        for chunk in chunks:
            self._counts.prompt_read += max(min(chunk.end, chunk.rider.branch.drawn_from) - chunk.start, 0)
            self._tree.grow(chunk.leaf, chunk.rider.branch.tokens[chunk.start : chunk.end])
        for rider, place, position in outputs:
            self._deliver(rider, place, position)
        if all(chunk.end - chunk.start == 1 for chunk in chunks):
            self._counts.writing_steps += 1
            self._counts.writing_rides += len(chunks)
            self._counts.writing_s += time.perf_counter() - entered
        return True

    # Who enters

    def _admit(self) -> None:
        if self._crowded:
            return
        reading = sum(rider.missing for rider in self._riding)
        for rider in self._candidates():
            # Who enters before there is room in a batch for it only takes cells from those at work.
            if len(self._riding) >= self._parallel or reading >= self._context.capacity:
                return
            if not self._follows(rider):
                self._waiting.remove(rider)
                self._enter(rider)
                reading += rider.missing

    def _enter(self, rider: Rider) -> None:
        branch = rider.branch
        rider.leaf = self._tree.enter(branch.tokens, self._shareable(branch))
        self._riding.append(rider)
        self._counts.prompt_reused += rider.read
        if branch.task.cached is None:
            branch.task.cached = rider.read

    def _shareable(self, branch: Branch) -> int:
        return branch.first_output if self._shares else 0

    def _candidates(self) -> Iterator[Rider]:
        if self._exact:
            yield from self._exact_candidates()
            return
        riding = Counter(rider.lane for rider in self._riding)
        share = -(-self._parallel // max(len(riding.keys() | {rider.lane for rider in self._waiting}), 1))
        waiting = list(self._waiting)
        for sated in (False, True):
            for rider in [rider for rider in waiting if rider.leaf is None]:
                if sated or riding[rider.lane] < share:
                    yield rider
                    riding[rider.lane] += rider.leaf is not None

    def _exact_candidates(self) -> list[Rider]:
        if not self._waiting:
            return []
        task = self._waiting[0].branch.task
        if task is not self._served:
            if self._riding:
                return []
            self._served = task
            self._tree.clear()
        return [rider for rider in self._waiting if rider.branch.task is task]

    def _follows(self, rider: Rider) -> bool:
        """Whether it is worth waiting until another has read a prefix that this one shares."""
        leader = rider.leader
        if leader is not None and leader.leaf is not None and leader.read < rider.awaited:
            return True
        rider.leader = None
        if not self._shares:
            return False
        tokens, limit = rider.branch.tokens, rider.branch.first_output
        known = self._tree.known(tokens, limit)
        for other in self._riding:
            if other.missing <= 1:
                continue
            shared = common_prefix(other.branch.tokens, tokens, 0, limit)
            worth = 1 if other.branch.task is rider.branch.task else WORTH_WAITING
            if shared - max(known, other.read) >= worth:
                rider.leader, rider.awaited = other, shared
                return True
        return False

    # What is decoded

    def _plan(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        room, outputs = self._context.capacity, OUTPUTS
        for rider in sorted(self._riding, key=lambda rider: (rider.missing > 1, rider.ticket)):
            assert rider.leaf is not None
            start = rider.read
            quiet = max(rider.branch.first_output - start, 0)
            end = min(len(rider.branch.tokens), start + room, start + quiet + outputs)
            if end <= start:
                continue
            chunks.append(Chunk(rider, rider.leaf, start, end))
            room -= end - start
            outputs -= max(end - start - quiet, 0)
        return chunks

    def _load(self, chunks: Iterable[Chunk]) -> list[tuple[Rider, int, int]]:
        """Fill the batch; returns whose logits will lie at which place, for which position."""
        self._context.clear_batch()
        outputs: list[tuple[Rider, int, int]] = []
        for chunk in chunks:
            branch, sequence = chunk.rider.branch, chunk.leaf.sequence
            assert sequence is not None
            for position in range(chunk.start, chunk.end):
                output = position >= branch.first_output
                place = self._context.add(branch.tokens[position], position, sequence, output=output)
                if output:
                    outputs.append((chunk.rider, place, position))
        return outputs

    def _deliver(self, rider: Rider, place: int, position: int) -> None:
        if rider.leaf is None:
            return
        branch = rider.branch
        before = len(branch.tokens)
        try:
            branch.take(self._context, place, position)
        except NativeFailure:
            raise
        except ModelFailure as failure:
            self._fail(branch.task, failure)
        except Exception as error:  # noqa: BLE001 - a fault in one request must not take the others with it
            traceback.print_exc(file=sys.stderr)
            self._fail(branch.task, ModelFailure("refused", f"the llama worker could not go on: {error!r}"))
        self._counts.tokens_out += len(branch.tokens) - before
        if branch.done and rider.leaf is not None:
            self._leave(rider)
            if branch.task.done:
                self._report(branch.task.call, branch.task.answer())

    # Who leaves

    def _leave(self, rider: Rider) -> None:
        """What was read stays in the tree for those who come."""
        self._riding.remove(rider)
        rider.branch.free()
        self._stand_up(rider)
        self._crowded = False

    def _stand_up(self, rider: Rider) -> None:
        assert rider.leaf is not None
        self._tree.leave(rider.leaf, keep=self._shares)
        rider.leaf = None

    def _fail(self, task: Task, failure: ModelFailure) -> None:
        self.cancel(task.call)
        self._report(task.call, failure)

    def _send_back(self) -> None:
        """The cache is full of what runs: the youngest makes room, to go on later."""
        youngest = max(self._riding, key=lambda rider: rider.ticket)
        if len(self._riding) == 1:
            cells, needed = self._context.cells, len(youngest.branch.tokens)
            self._fail(
                youngest.branch.task,
                ModelFailure("too_long", f"{needed} tokens do not fit the cache of {cells} cells: raise `cells`"),
            )
            return
        self._riding.remove(youngest)
        self._stand_up(youngest)
        insort(self._waiting, youngest, key=lambda rider: rider.ticket)
        self._crowded = True
