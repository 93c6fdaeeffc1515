"""Conversations in the format released with arXiv 2410.03642, written from a store and read into one.

A line is one person: `profile`, `personality`, and `conversations`, a list of turns with `user`, `assistant`
(`preferred` and `rejected`), `chosen` (which of the two the conversation went on from), `inferred_profile` and
`inferred_personality` (what was revealed so far, "None" for nothing). The format has one path and two replies a turn,
so a tree is written along its continued path for as long as every turn has a pair with the reply gone on from.

Invariant: a file's bytes make its run: read again, it is the same run, and nothing is kept twice. A line is taken
whole or not at all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agents.models.reasoning import split_reasoning
from train.export import written_whole
from trees.errors import SetupError
from trees.ids import digest_of, node_id, run_id, tree_id
from trees.pairs import Dropped, Pair, make_filter, weigh_verdicts
from trees.personas import Personality, Problem, Profile, parse_personas, pronouns_of, sentences
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import Continued, Judgement, Ledger, Node, Split, Turn, Verdict
from trees.writes import (
    Write,
    finish_tree,
    in_one,
    keep_judge,
    keep_personality,
    keep_profile,
    keep_run,
    keep_tree,
    keep_turn,
    set_run_state,
)

JUDGE = "released"
"""Name of the judge that an imported file's labels are kept under."""
NOTHING = "None"
_SPEC: dict[str, object] = {"kind": "import", "format": "arXiv 2410.03642"}
_QUOTED = 80


@dataclass(frozen=True, slots=True)
class PaperExport:
    """What an export came to."""

    path: Path
    kind: Literal["paper"]
    judge_id: str
    judge: str
    rows: int
    """Conversations."""
    turns: int
    dropped: Mapping[str, int]
    """Turns that are not in it: `undecided`, the first without a pair (the format has none such), and all after it."""
    runs: tuple[str, ...]
    min_margin: float | None


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import came to."""

    run_id: str
    conversations: int
    turns: int
    new: bool
    """False if this very file was imported before."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


# From a store


def export_paper(
    store: Store,
    out: Path,
    *,
    judge: str | None = None,
    min_margin: float | None = None,
    runs: Sequence[str] | None = None,
    overwrite: bool = False,
) -> PaperExport:
    """Write trees that have a pair in their first turn. Raises NotFound, BadFilter, or SetupError."""
    if out.exists() and not overwrite:
        raise SetupError(f"{out} is there already", hint="Name another file, or say --force.")
    wanted = make_filter(store, runs, judge, min_margin)
    pairs: dict[str, dict[str, list[Pair]]] = {}
    for found in weigh_verdicts(store, wanted):
        if not isinstance(found, Dropped):
            pairs.setdefault(found.place.tree_id, {}).setdefault(found.place.user_id, []).append(found)
    dropped: Counter[str] = Counter()
    conversations = turns = 0
    with written_whole(out) as file:
        for tree, decided in pairs.items():
            record, left = _record(store, tree, decided)
            if left:
                dropped["undecided"] += left
            if record["conversations"]:
                file.write((json.dumps(record, ensure_ascii=True) + "\n").encode("ascii"))
                conversations, turns = conversations + 1, turns + len(record["conversations"])
    judged_by = (wanted.judge_id, wanted.judge)
    return PaperExport(out, "paper", *judged_by, conversations, turns, dict(dropped), wanted.runs, wanted.min_margin)


def _record(store: Store, tree_id: str, pairs: Mapping[str, list[Pair]]) -> tuple[dict[str, Any], int]:
    """A tree in the released format, and how many of its turns are not in it."""
    row, tree = store.tree_row(tree_id), store.tree(tree_id)
    profile = store.profile(row.profile_id) if row.profile_id else None
    personality = store.personality(row.personality_id) if row.personality_id else None
    path = tree.continued_path()
    users = [node for node in path if node.speaker == "user"]
    went_on = {node.parent_id: node.id for node in path if node.speaker == "assistant"}
    told: list[dict[str, Any]] = []
    for user in users:
        pair = _shown(pairs.get(user.id, ()), went_on.get(user.id))
        if pair is None:
            break
        told.append(_turn(tree, user, pair, went_on.get(user.id), personality))
    record = {
        "profile": profile.text if profile else "",
        "personality": personality.text if personality else "",
        "conversations": told,
    }
    return record, len(users) - len(told)


def _shown(pairs: Sequence[Pair], continued: str | None) -> Pair | None:
    """The pair that stands for a turn: one with the reply gone on from, as the better one if it can be."""
    fitting = [pair for pair in pairs if continued is None or continued in (pair.chosen_id, pair.rejected_id)]
    return max(fitting, key=lambda p: (p.chosen_id == continued, p.margin or 0.0), default=None)


def _turn(
    tree: ConversationTree, user: Node, pair: Pair, continued: str | None, personality: Personality | None
) -> dict[str, Any]:
    traits = set(personality.traits) if personality else set()
    revealed = tree.revealed(user.id)
    return {
        "user": user.text,
        "assistant": {"preferred": tree[pair.chosen_id].text, "rejected": tree[pair.rejected_id].text},
        "chosen": "rejected" if continued == pair.rejected_id else "preferred",
        "inferred_profile": " ".join(fact for fact in revealed if fact not in traits) or NOTHING,
        "inferred_personality": " ".join(fact for fact in revealed if fact in traits) or NOTHING,
    }


# Into a store


class _Broken(ValueError):
    """A line that is not a conversation."""


def import_paper(store: Store, path: Path, *, split: Split = "train") -> Imported:
    """Keep a file as a run of kind `import`; its labels are the verdicts of a judge. Raises SetupError.

    Broken lines are reported by number and never cost the good ones. `split` is for people the store does not know.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}", hint="Name a file of JSON lines.") from error
    identity: dict[str, Any] = {"import": {"format": _SPEC["format"], "file": digest_of("file", data.hex())}}
    run = run_id(identity, 0, [])
    reader = _Reader(run, str(path), split)
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if raw.strip():
            reader.line(number, raw)
    if not reader.trees:
        first = f": line {reader.problems[0].line} is {reader.problems[0].what}" if reader.problems else ""
        raise SetupError(
            f"{path} holds no conversation{first}",
            hint="A line is an object with profile, personality and conversations.",
        )
    new = not store.rows("SELECT 1 FROM runs WHERE id = ?", (run,))
    if new:
        head = [keep_run(run, "import", path.name, 0, identity, {}), keep_judge(reader.judge, JUDGE, "import", _SPEC)]
        store.apply(in_one([*head, *reader.trees.values(), set_run_state(run, "finished")]))
    return Imported(run, len(reader.trees), reader.turns, new, tuple(reader.problems), tuple(reader.notes))


class _Reader:
    """Lines as writes."""

    def __init__(self, run: str, source: str, split: Split) -> None:
        self.judge = digest_of("judge", _SPEC)
        self.trees: dict[str, list[Write]] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.turns = 0
        self._run, self._source, self._split = run, source, split

    def line(self, number: int, raw: bytes) -> None:
        try:
            record = json.loads(raw.decode("utf-8"))
            if not isinstance(record, dict):
                raise _Broken(f"a JSON {type(record).__name__}, not an object")
            self._record(number, record)
        except (UnicodeDecodeError, ValueError) as error:
            self.problems.append(Problem(number, str(error), raw.decode("utf-8", "replace").strip()[:_QUOTED]))

    def _record(self, number: int, record: Mapping[str, Any]) -> None:
        said = record.get("conversations")
        if not isinstance(said, list) or not said:
            raise _Broken("its conversations are not a list of turns")
        profile, personality = self._profile(number, record), self._personality(number, record)
        tree = tree_id(self._run, digest_of("record", record))
        if tree in self.trees:
            self.notes.append(f"{self._source}, line {number} repeats an earlier one and is left out")
            return
        turns = self._turns(tree, said)
        facts = profile.facts or (profile.text,)
        self.trees[tree] = in_one(
            [
                keep_profile(profile, source=self._source, split=self._split),
                keep_personality(personality, source=self._source, split=self._split),
                keep_tree(tree, self._run, len(self.trees), profile.id, personality.id, title=facts[0][:60]),
                *(keep_turn(turn) for turn in turns),
                finish_tree(tree),
            ]
        )
        self.turns += len(turns)

    def _profile(self, number: int, record: Mapping[str, Any]) -> Profile:
        text = self._half(number, record, "profile")
        return Profile(sentences(text), pronouns_of(text), text)

    def _personality(self, number: int, record: Mapping[str, Any]) -> Personality:
        text = self._half(number, record, "personality")
        return Personality(sentences(text), pronouns_of(text), text)

    def _half(self, number: int, record: Mapping[str, Any], kind: Any) -> str:
        """A half as text. The released code wrote its own lines into it, with their quotes; one line held two."""
        text = record.get(kind)
        if not isinstance(text, str) or not text.strip():
            raise _Broken(f"its {kind} is not a text")
        text = text.strip()
        if not text.startswith('"'):
            return text
        parsed = parse_personas(text.encode("utf-8", "replace"), kind=kind, source=self._source)
        if not parsed.items:
            return text
        if len(parsed.items) > 1:
            self.notes.append(f"{self._source}, line {number}: its {kind} is {len(parsed.items)} glued together")
        return " ".join(item.text for item in parsed.items)

    def _turns(self, tree: str, said: Sequence[Any]) -> list[Turn]:
        turns: list[Turn] = []
        above: Node | None = None
        known: set[str] = set()
        for number, told in enumerate(said, 1):
            turn = self._turn(tree, above, number, told, known)
            turns.append(turn)
            went_on = turn.continued[0].node_id
            above = next(reply for reply in turn.replies if reply.id == went_on)
        return turns

    def _turn(self, tree: str, above: Node | None, number: int, told: Any, known: set[str]) -> Turn:
        words = _checked(told, number)
        user = self._node(tree, above, number, "user", told["user"])
        replies = tuple(self._node(tree, user, number, f"responder.{side}", words[side]) for side in words)
        by_side = dict(zip(words, replies, strict=True))
        facts = _new_facts(told, known)
        judgement = Judgement(
            id=digest_of("judgement", user.id, self.judge, 0),
            node_id=user.id,
            judge_id=self.judge,
            repeat=0,
            covers=tuple(reply.id for reply in replies),
            verdicts=(Verdict(by_side["preferred"].id, by_side["rejected"].id, "win"),),
        )
        mark = Continued(by_side[told["chosen"]].id, "import", "the file says so")
        return Turn(user, Ledger(user.id, facts, sees_persona=True), replies, (judgement,), (mark,))

    def _node(self, tree: str, above: Node | None, turn: int, role: str, text: str) -> Node:
        parent = tree if above is None else above.id
        return Node(
            id=node_id(self._run, parent, role, "0"),
            tree_id=tree,
            parent_id=None if above is None else above.id,
            turn=turn,
            speaker="user" if role == "user" else "assistant",
            role=role,
            replica="0",
            text=text,
            origin="import",
        )


def _checked(told: Any, number: int) -> dict[str, str]:
    """The two replies of a turn, without reasoning. Raises _Broken."""
    if not isinstance(told, dict) or not isinstance(told.get("user"), str) or not told["user"].strip():
        raise _Broken(f"turn {number} has no text of the user")
    replies = told.get("assistant")
    sides = ("preferred", "rejected")
    if not isinstance(replies, dict) or not all(isinstance(replies.get(side), str) for side in sides):
        raise _Broken(f"turn {number} has no preferred and rejected reply")
    words = {side: split_reasoning(replies[side])[0] for side in sides}
    if not all(text.strip() for text in words.values()):
        raise _Broken(f"turn {number} has an empty reply")
    if told.get("chosen") not in sides:
        raise _Broken(f"turn {number} went on from {told.get('chosen')!r}, not from 'preferred' or 'rejected'")
    return words


def _new_facts(told: Mapping[str, Any], known: set[str]) -> tuple[str, ...]:
    """What a turn revealed that no turn before it had."""
    texts = (told.get("inferred_profile"), told.get("inferred_personality"))
    named = [text for text in texts if isinstance(text, str) and text.strip().rstrip(".") not in ("", NOTHING)]
    facts = dict.fromkeys(fact for text in named for fact in sentences(text) if fact not in known)
    known.update(facts)
    return tuple(facts)
