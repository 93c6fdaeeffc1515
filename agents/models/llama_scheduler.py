"""Which branch is decoded when: many requests as one batch over one cache of prefixes.

A seat is a sequence of the native cache and the tokens that stand in it, with a branch at work on it or idle.
Idle seats keep what they hold: a new branch begins where the longest shared prefix of any seat ends. Each
step decodes one batch: first the next token of every answer under way, then as much of waiting prompts as
fits. A branch whose prefix another is just reading waits for that rather than read it a second time.

When the cache is full, idle seats are emptied, the longest unused first; when none is left the youngest
branch goes back to the queue, to be read again later, and nobody enters until somebody has left. The oldest
is never sent back, so there is always progress.

In exact mode there is one branch at a time, requests are served in order of arrival and the cache is cleared
before each, so that an answer depends on its request alone.

Invariant: for every seat, `tokens` is what the native sequence holds at positions 0 to len(tokens) - 1.
"""

from __future__ import annotations

import sys
import traceback
from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agents.models.llama_native import OUTPUTS, Context, NativeFailure
from agents.models.llama_tasks import Branch, Task
from agents.models.protocol import ChatAnswer, ModelFailure, ScoreAnswer

WORTH_WAITING = 16
"""Tokens that must be saved for a branch to wait until another has read them."""

Report = Callable[[int, ChatAnswer | ScoreAnswer | ModelFailure], None]


@dataclass(eq=False, slots=True)
class Seat:
    """One sequence of the cache."""

    sequence: int
    tokens: list[int] = field(default_factory=list)
    taken: bool = False
    used: int = 0
    """The step of last use."""


@dataclass(eq=False, slots=True)
class Rider:
    """A branch in the scheduler's hands, waiting or seated."""

    branch: Branch
    ticket: int
    """Order of arrival."""
    seat: Seat | None = None
    leader: Rider | None = None
    """Who is reading what this one waits for, ..."""
    awaited: int = 0
    """... and up to how many tokens."""

    @property
    def missing(self) -> int:
        """Tokens that are not in the cache yet."""
        held = len(self.seat.tokens) if self.seat else 0
        return len(self.branch.tokens) - held


@dataclass(frozen=True, slots=True)
class Chunk:
    """A rider's share of a batch: its tokens from `start` to before `end`."""

    rider: Rider
    seat: Seat
    start: int
    end: int


class Scheduler:
    """Runs in one thread; `step` as long as `busy`."""

    def __init__(
        self, context: Context, report: Report, *, sequences: int, parallel: int, exact: bool, shares: bool
    ) -> None:
        self._context = context
        self._report = report
        self._parallel = 1 if exact else parallel
        self._exact = exact
        self._shares = shares
        self._seats = [Seat(sequence) for sequence in range(sequences)]
        self._waiting: list[Rider] = []
        self._riding: list[Rider] = []
        self._tickets = 0
        self._steps = 0
        self._crowded = False
        self._served: Task | None = None

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._riding)

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
        """Seat who can be seated, decode one batch and hand its outputs over."""
        self._steps += 1
        self._admit()
        chunks = self._plan()
        if not chunks:
            return
        outputs = self._load(chunks)
        while not self._context.decode():
            if not self._evict():
                self._make_room()
                return
        for chunk in chunks:
            chunk.seat.tokens.extend(chunk.rider.branch.tokens[chunk.start : chunk.end])
            chunk.seat.used = self._steps
        for rider, place, position in outputs:
            self._deliver(rider, place, position)

    # Who enters

    def _admit(self) -> None:
        if self._crowded:
            return
        for rider in self._candidates():
            if len(self._riding) >= self._parallel:
                return
            if not self._follows(rider):
                self._waiting.remove(rider)
                self._riding.append(rider)
                rider.seat = self._take_seat(rider)

    def _candidates(self) -> list[Rider]:
        if not self._exact or not self._waiting:
            return list(self._waiting)
        task = self._waiting[0].branch.task
        if task is not self._served:
            if self._riding:
                return []
            self._served = task
            self._context.clear()
            self._seats = [Seat(seat.sequence) for seat in self._seats]
        return [rider for rider in self._waiting if rider.branch.task is task]

    def _follows(self, rider: Rider) -> bool:
        """Whether it is worth waiting until another has read a prefix that this one shares."""
        leader = rider.leader
        if leader is not None and leader.seat is not None and len(leader.seat.tokens) < rider.awaited:
            return True
        rider.leader = None
        if not self._shares:
            return False
        held = self._longest_prefix(rider)[1]
        for other in self._riding:
            if other.missing <= 1 or other.seat is None:
                continue
            shared = common_prefix(other.branch.tokens, rider.branch.tokens, rider.branch.first_output)
            if shared - max(held, len(other.seat.tokens)) >= WORTH_WAITING:
                rider.leader, rider.awaited = other, shared
                return True
        return False

    def _longest_prefix(self, rider: Rider) -> tuple[Seat | None, int]:
        """The seat that holds most of the branch's beginning; of equals, one that holds nothing else."""
        if not self._shares:
            return None, 0
        tokens, limit = rider.branch.tokens, rider.branch.first_output
        best: Seat | None = None
        rank = (0, False)
        for seat in self._seats:
            shared = common_prefix(seat.tokens, tokens, limit)
            own = (shared, not seat.taken and shared == len(seat.tokens))
            if shared and own > rank:
                best, rank = seat, own
        return best, rank[0]

    def _take_seat(self, rider: Rider) -> Seat:
        source, shared = self._longest_prefix(rider)
        if source is not None and not source.taken and shared == len(source.tokens):
            seat = source
        else:
            seat = self._vacate(source)
            if source is not None:
                self._context.copy_prefix(source.sequence, seat.sequence, shared)
                seat.tokens = source.tokens[:shared]
        seat.taken, seat.used = True, self._steps
        task = rider.branch.task
        if task.cached is None:
            task.cached = shared
        return seat

    def _vacate(self, keep: Seat | None) -> Seat:
        """An empty seat; there are more than riders and one, so one is always idle."""
        idle = [seat for seat in self._seats if not seat.taken and seat is not keep]
        seat = min(idle, key=lambda seat: (bool(seat.tokens), seat.used))
        self._empty(seat)
        return seat

    # What is decoded

    def _plan(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        room, outputs = self._context.capacity, OUTPUTS
        for rider in sorted(self._riding, key=lambda rider: (rider.missing > 1, rider.ticket)):
            assert rider.seat is not None
            start = len(rider.seat.tokens)
            quiet = max(rider.branch.first_output - start, 0)
            end = min(len(rider.branch.tokens), start + room, start + quiet + outputs)
            if end <= start:
                continue
            chunks.append(Chunk(rider, rider.seat, start, end))
            room -= end - start
            outputs -= max(end - start - quiet, 0)
        return chunks

    def _load(self, chunks: Iterable[Chunk]) -> list[tuple[Rider, int, int]]:
        """Fill the batch; returns whose logits will lie at which place, for which position."""
        self._context.clear_batch()
        outputs: list[tuple[Rider, int, int]] = []
        for chunk in chunks:
            branch = chunk.rider.branch
            for position in range(chunk.start, chunk.end):
                output = position >= branch.first_output
                place = self._context.add(branch.tokens[position], position, chunk.seat.sequence, output=output)
                if output:
                    outputs.append((chunk.rider, place, position))
        return outputs

    def _deliver(self, rider: Rider, place: int, position: int) -> None:
        if rider.seat is None:
            return
        branch = rider.branch
        try:
            branch.take(self._context, place, position)
        except NativeFailure:
            raise
        except ModelFailure as failure:
            self._fail(branch.task, failure)
        except Exception as error:  # noqa: BLE001 - a fault in one request must not take the others with it
            traceback.print_exc(file=sys.stderr)
            self._fail(branch.task, ModelFailure("refused", f"the llama worker could not go on: {error!r}"))
        if branch.done and rider.seat is not None:
            self._leave(rider)
            if branch.task.done:
                self._report(branch.task.call, branch.task.answer())

    # Who leaves

    def _leave(self, rider: Rider) -> None:
        """What was read stays in the seat for those who come."""
        self._riding.remove(rider)
        rider.branch.free()
        if rider.seat is not None:
            rider.seat.taken = False
            rider.seat = None
        self._crowded = False

    def _fail(self, task: Task, failure: ModelFailure) -> None:
        self.cancel(task.call)
        self._report(task.call, failure)

    def _evict(self) -> bool:
        """Empty the idle seat that was not used for longest. False if there is none."""
        idle = [seat for seat in self._seats if seat.tokens and not seat.taken]
        if not idle:
            return False
        self._empty(min(idle, key=lambda seat: seat.used))
        return True

    def _make_room(self) -> None:
        youngest = max(self._riding, key=lambda rider: rider.ticket)
        if len(self._riding) == 1:
            cells, needed = self._context.cells, len(youngest.branch.tokens)
            self._fail(
                youngest.branch.task,
                ModelFailure("too_long", f"{needed} tokens do not fit the cache of {cells} cells: raise `cells`"),
            )
            return
        assert youngest.seat is not None
        self._riding.remove(youngest)
        self._empty(youngest.seat)
        youngest.seat.taken, youngest.seat = False, None
        insort(self._waiting, youngest, key=lambda rider: rider.ticket)
        self._crowded = True

    def _empty(self, seat: Seat) -> None:
        self._context.cut(seat.sequence, 0)
        seat.tokens = []


def common_prefix(left: list[int], right: list[int], limit: int) -> int:
    """How many tokens two lists share from their beginning, at most `limit`; by slices, not by tokens."""
    high = min(len(left), len(right), limit)
    if left[:high] == right[:high]:
        return high
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
