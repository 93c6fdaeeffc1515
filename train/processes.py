"""Several processes that train together, as `accelerate launch` starts them: which one leads, and what they tell.

The leader holds the training's lock, writes its rows and files, and hears what is wanted of it. The others compute
their part of each step and do what the leader says. A process by itself leads nobody, and nothing here costs it
anything. torch is imported when there is somebody to talk with.

Invariant: all processes call `from_leader` and `gathered` equally often and in the same order.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, TypeVar

from trees.errors import SetupError

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a process waits for another: the leader reads a store or writes a model meanwhile."""
_abandoned = False


def count() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def place() -> int:
    """Which one this is, from 0."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def leads() -> bool:
    """Whether this is the one that owns lock, store, points and wishes."""
    return place() == 0


def from_leader(value: T) -> T:
    """What the leader gave, in every process."""
    if count() == 1 or _abandoned:
        return value
    told = [value]
    _group().broadcast_object_list(told, src=0)
    return told[0]


def gathered(value: T) -> list[T]:
    """What each process gave, in every process, in the order of their places. Nobody goes on before all have come."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    _group().all_gather_object(found, value)
    return found


def abandon() -> None:
    """Say nothing more to the others: this process has failed, and what they wait for is not going to come."""
    global _abandoned
    _abandoned = True


def share_of_step(rows_per_step: int) -> int:
    """Rows of an optimiser step that each process reads. Raises SetupError if they cannot be dealt evenly."""
    if rows_per_step % count():
        raise SetupError(
            f"schedule.rows_per_step = {rows_per_step} cannot be dealt evenly to {count()} processes",
            hint=f"Set it to a multiple of {count()}, or start another number of processes.",
        )
    return rows_per_step // count()


def _group() -> Any:
    try:
        import torch
        import torch.distributed as group
    except ImportError as error:
        raise SetupError(f"training needs torch ({error}): pip install 'espalier-lm[train]'") from error
    if not group.is_initialized():
        # Objects go through the CPU, so that a step on GPUs is not waited for; accelerate takes the group as it is.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        group.init_process_group(backend, timeout=PATIENCE)
    return group
