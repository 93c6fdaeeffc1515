"""Pairs and targets as JSON lines or Parquet in TRL's conversational formats, for whoever trains elsewhere.

A row holds what a model is trained on (`prompt` and `completion`, or `prompt`, `chosen` and `rejected`, as
lists of messages) and where it comes from: ids, digests, judge, margin and unit, split. Contexts stand
under the run's `deploy` prompt; hints, ledgers and reasoning never enter.

Invariant: the file is there whole or not at all; the same store and filter give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from agents.messages import Line
from agents.models.protocol import Message
from agents.prompts import Prompt
from agents.views import responder_view
from trees.errors import SetupError
from trees.ids import text_digest
from trees.pairs import Dropped, Pair, Place, Reason, Target, make_filter, weigh_turns, weigh_verdicts
from trees.store import Store
from trees.tree import ConversationTree

ExportKind = Literal["sft", "dpo"]
Count = Callable[[int], None]
"""Told after each row how many are written."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export came to."""

    path: Path
    kind: ExportKind
    judge_id: str
    judge: str
    rows: int
    dropped: Mapping[Reason, int]
    """Verdicts (dpo) or turns (sft) that gave no row, by reason."""
    runs: tuple[str, ...]
    """That were looked at."""
    min_margin: float | None


class TrainingContexts:
    """What is read in training before a reply: the path to a user node under the run's `deploy` prompt.

    A `deploy` that is given stands in the place of every run's own.
    """

    def __init__(self, store: Store, deploy: str | None = None) -> None:
        self._store = store
        self._deploy = deploy
        self._heads: dict[str, str] = {}
        self._tree: ConversationTree | None = None
        self._digests: dict[str, str] = {}

    def tree(self, tree_id: str) -> ConversationTree:
        """A tree; the last one is kept, since rows come tree by tree."""
        if self._tree is None or self._tree.id != tree_id:
            self._tree = self._store.tree(tree_id)
        return self._tree

    def prompt(self, tree_id: str, user_id: str) -> tuple[Message, ...]:
        """The messages before a reply to a user node, with a system message if `deploy` says anything."""
        path = self.tree(tree_id).path(user_id)
        return responder_view(self.head(tree_id), [Line(speaker=n.speaker, text=n.text) for n in path], "")

    def digest_of_half(self, table: Literal["profiles", "personalities"], half_id: str | None) -> str | None:
        """The digest of a profile's or personality's text; None for a tree without a persona."""
        if half_id is None:
            return None
        if half_id not in self._digests:
            read = self._store.profile if table == "profiles" else self._store.personality
            self._digests[half_id] = text_digest(read(half_id).text)
        return self._digests[half_id]

    def head(self, tree_id: str) -> str:
        """The system message of a tree's contexts; "" if there is none."""
        if self._deploy is not None:
            return self._deploy
        if tree_id not in self._heads:
            row = self._store.tree_row(tree_id)
            revisions = self._store.revisions(row.run_id)
            deploy = revisions[row.revision].get("deploy") if revisions else None
            head = "" if deploy is None else Prompt(*self._store.prompt(deploy)).render("head")
            self._heads = {tree_id: head}
        return self._heads[tree_id]


def export(
    store: Store,
    kind: ExportKind,
    out: Path,
    *,
    judge: str | None = None,
    min_margin: float | None = None,
    runs: Sequence[str] | None = None,
    overwrite: bool = False,
    count: Count | None = None,
) -> Exported:
    """Write all rows of one judge; Parquet if the file is called so. Raises NotFound, BadFilter, or SetupError."""
    if out.exists() and not overwrite:
        raise SetupError(f"{out} is there already", hint="Name another file, or say --force.")
    wanted = make_filter(store, runs, judge, min_margin)
    contexts = TrainingContexts(store)
    dropped: Counter[Reason] = Counter()
    rows = 0
    with _row_writer(out, kind) as write:
        for found in weigh_turns(store, wanted) if kind == "sft" else weigh_verdicts(store, wanted):
            if isinstance(found, Dropped):
                dropped[found.reason] += 1
                continue
            row = sft_row(contexts, found) if isinstance(found, Target) else dpo_row(contexts, found)
            write(row)
            rows += 1
            if count is not None:
                count(rows)
    left_out = dict(sorted(dropped.items()))
    return Exported(out, kind, wanted.judge_id, wanted.judge, rows, left_out, wanted.runs, wanted.min_margin)


def sft_row(contexts: TrainingContexts, target: Target) -> dict[str, Any]:
    """A target as TRL's SFTTrainer reads it, and where it comes from."""
    reply = contexts.tree(target.place.tree_id)[target.node_id]
    return {
        "prompt": _as_dicts(contexts.prompt(target.place.tree_id, target.place.user_id)),
        "completion": _as_dicts([Message("assistant", reply.text)]),
        **_origin(contexts, target.place),
        "target_id": reply.id,
        "target_digest": reply.digest,
        **_said_by(target),
    }


def dpo_row(contexts: TrainingContexts, pair: Pair) -> dict[str, Any]:
    """A pair as TRL's DPOTrainer reads it, and where it comes from."""
    tree = contexts.tree(pair.place.tree_id)
    chosen, rejected = tree[pair.chosen_id], tree[pair.rejected_id]
    return {
        "prompt": _as_dicts(contexts.prompt(tree.id, pair.place.user_id)),
        "chosen": _as_dicts([Message("assistant", chosen.text)]),
        "rejected": _as_dicts([Message("assistant", rejected.text)]),
        **_origin(contexts, pair.place),
        "chosen_id": chosen.id,
        "chosen_digest": chosen.digest,
        "rejected_id": rejected.id,
        "rejected_digest": rejected.digest,
        **_said_by(pair),
    }


def _as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [asdict(message) for message in messages]


def _origin(contexts: TrainingContexts, place: Place) -> dict[str, Any]:
    return {
        "run": place.run_id,
        "tree": place.tree_id,
        "turn": place.turn,
        "user_id": place.user_id,
        "profile": place.profile_id,
        "profile_digest": contexts.digest_of_half("profiles", place.profile_id),
        "personality": place.personality_id,
        "personality_digest": contexts.digest_of_half("personalities", place.personality_id),
    }


def _said_by(found: Pair | Target) -> dict[str, Any]:
    return {
        "judge": found.judge,
        "judge_id": found.judge_id,
        "margin": found.margin,
        "unit": found.unit,
        "split": found.split,
    }


@contextmanager
def _row_writer(out: Path, kind: ExportKind) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What takes rows, for a file in the form that its name says."""
    with written_whole(out) as file:
        if out.suffix == ".parquet":
            from train.parquet_rows import parquet_writer

            with parquet_writer(file, kind) as take:
                yield take
            return

        def take_line(row: Mapping[str, Any]) -> None:
            file.write((json.dumps(row, ensure_ascii=True) + "\n").encode("ascii"))

        yield take_line


@contextmanager
def written_whole(out: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when everything is written to it and on disk. Raises SetupError."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(out)
    except OSError as error:
        raise SetupError(
            f"cannot write {out}: {error.strerror}", hint="Name another file or free some space."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
