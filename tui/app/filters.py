"""The line that says which trees are wanted: words that their messages hold, and terms `key:value` or `key<number`.

    turns>3 outcome:tie persona:"night nurse" -state:failed dog park

Words are looked up in the full-text index; a term's key is one of `KEYS`; `-` before a term turns it around.
Everything typed becomes a bound value of SQL, never a part of it.

Invariant: parsing never fails. A term that means nothing is a problem with its place, and the rest still counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from trees.text import escape, search_query

_TOKEN = re.compile(
    r"""(?P<not>-)?(?:(?P<key>[a-z]+)(?P<op>:|<=|>=|<|>|=))?(?:"(?P<quoted>[^"]*)"?|(?P<bare>\S+))""",
)
_COMPARE = frozenset({"<", "<=", ">", ">=", "="})
OUTCOMES = ("win", "tie", "both_bad", "unstable", "abstain")


@dataclass(frozen=True, slots=True)
class Problem:
    """A term that means nothing."""

    start: int
    end: int
    said: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on trees, as SQL over `trees t`, with the words to look for."""

    text: str = ""
    conditions: tuple[tuple[str, tuple[object, ...]], ...] = ()
    words: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def where(self) -> str:
        return " AND ".join(f"({sql})" for sql, _ in self.conditions) or "1"

    @property
    def values(self) -> tuple[object, ...]:
        return tuple(value for _, values in self.conditions for value in values)


Condition = tuple[str, tuple[object, ...]]


class _Meaningless(ValueError):
    """A value that a key cannot have."""


def parse(text: str) -> Filter:
    """What a person typed, as a filter."""
    conditions: list[Condition] = []
    problems: list[Problem] = []
    words: list[str] = []
    for token in _TOKEN.finditer(text):
        value = token["quoted"] if token["quoted"] is not None else token["bare"]
        if token["key"] is None and token["not"] is None:
            words.append(value)
            continue
        try:
            sql, values = _condition(token["key"], token["op"], value)
        except _Meaningless as error:
            problems.append(Problem(*token.span(), str(error)))
            continue
        conditions.append((f"NOT ({sql})" if token["not"] else sql, values))
    if words:
        try:
            conditions.append((_WORDS, (search_query(" ".join(words)),)))
        except ValueError as error:
            problems.append(Problem(0, len(text), str(error)))
    return Filter(text, tuple(conditions), " ".join(words), tuple(problems))


def _condition(key: str | None, op: str | None, value: str) -> Condition:
    if key is None:
        return _WORDS, (_query(value),)
    if key not in KEYS:
        near = get_close_matches(key, KEYS, n=1)
        meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(KEYS)}"
        raise _Meaningless(f"no key {key!r}{meant}")
    return KEYS[key](op or ":", value)


def _query(words: str) -> str:
    try:
        return search_query(words)
    except ValueError as error:
        raise _Meaningless(str(error)) from error


_WORDS = "t.id IN (SELECT n.tree_id FROM node_words w JOIN nodes n ON n.rowid = w.rowid WHERE node_words MATCH ?)"


def _number(column: str) -> Callable[[str, str], Condition]:
    def condition(op: str, value: str) -> Condition:
        try:
            number = float(value)
        except ValueError:
            raise _Meaningless(f"{value!r} is no number") from None
        return f"{column} {'=' if op == ':' else op} ?", (number,)

    return condition


def _one_of(column: str, known: tuple[str, ...]) -> Callable[[str, str], Condition]:
    def condition(op: str, value: str) -> Condition:
        _only_colon(op, value)
        if value not in known:
            raise _Meaningless(f"{value!r} is none of {', '.join(known)}")
        return f"{column} = ?", (value,)

    return condition


def _only_colon(op: str, value: str) -> None:
    if op in _COMPARE - {"="}:
        raise _Meaningless(f"{value!r} cannot be compared; write a colon")


def _run(op: str, value: str) -> Condition:
    _only_colon(op, value)
    return "t.run_id LIKE ? OR t.run_id IN (SELECT id FROM runs WHERE name = ?)", (f"{_plain(value)}%", escape(value))


def _tree(op: str, value: str) -> Condition:
    _only_colon(op, value)
    return "t.id LIKE ?", (f"{_plain(value)}%",)


def _plain(value: str) -> str:
    """An id's beginning without what LIKE would read as a pattern."""
    return value.lower().replace("%", "").replace("_", "")


def _persona(op: str, value: str) -> Condition:
    _only_colon(op, value)
    held = "instr(lower(text), lower(?))"
    sql = (
        f"t.profile_id IN (SELECT id FROM profiles WHERE {held}) "
        f"OR t.personality_id IN (SELECT id FROM personalities WHERE {held})"
    )
    return sql, (escape(value), escape(value))


def _outcome(op: str, value: str) -> Condition:
    _only_colon(op, value)
    if value not in OUTCOMES:
        raise _Meaningless(f"{value!r} is none of {', '.join(OUTCOMES)}")
    return f"t.id IN ({_VERDICTS} WHERE v.outcome = ?)", (value,)


def _margin(op: str, value: str) -> Condition:
    sql, values = _number("v.margin")(op, value)
    return f"t.id IN ({_VERDICTS} WHERE v.outcome = 'win' AND {sql})", values


_VERDICTS = "SELECT n.tree_id FROM verdicts v JOIN nodes n ON n.id = v.first_id"


def _role(op: str, value: str) -> Condition:
    _only_colon(op, value)
    return "EXISTS (SELECT 1 FROM nodes n WHERE n.tree_id = t.id AND instr(n.role, ?))", (value,)


def _drift(op: str, value: str) -> Condition:
    _only_colon(op, value)
    drifting = "EXISTS (SELECT 1 FROM nodes n WHERE n.tree_id = t.id AND n.drift IS NOT NULL"
    return (f"{drifting})", ()) if value == "any" else (f"{drifting} AND n.drift = ?)", (value,))


_IS = {
    "edited": "t.id IN (SELECT tree_id FROM operations WHERE kind IN ('reroll', 'edit', 'extend'))",
    "noted": "t.id IN (SELECT tree_id FROM operations WHERE kind = 'note')",
    "bookmarked": "t.id IN (SELECT tree_id FROM operations WHERE kind = 'bookmark')",
    "human": "EXISTS (SELECT 1 FROM nodes n WHERE n.tree_id = t.id AND n.origin = 'human')",
    "held_out": "t.id IN (SELECT tree_id FROM personas WHERE split = 'held_out')",
}


def _is(op: str, value: str) -> Condition:
    _only_colon(op, value)
    if value not in _IS:
        raise _Meaningless(f"{value!r} is none of {', '.join(_IS)}")
    return _IS[value], ()


KEYS: dict[str, Callable[[str, str], Condition]] = {
    "run": _run,
    "tree": _tree,
    "state": _one_of("t.state", ("growing", "done", "failed")),
    "persona": _persona,
    "turns": _number("t.turns"),
    "messages": _number("t.nodes"),
    "outcome": _outcome,
    "margin": _margin,
    "role": _role,
    "drift": _drift,
    "is": _is,
}
"""What a term may be about."""

HELP = (
    "words              messages that hold them all\n"
    'persona:"night"    the persona mentions it\n'
    "state:done         growing, done or failed\n"
    "turns>3 messages>9 numbers, with < <= = >= >\n"
    "outcome:tie        win, tie, both_bad, unstable, abstain\n"
    "margin<.1          a win as close as that\n"
    "role:warm          a role spoke in it\n"
    "drift:any          the user left its part\n"
    "is:edited          edited, noted, bookmarked, human, held_out\n"
    "run:1a2b tree:3c4d ids by their beginning\n"
    "-state:done        the opposite of a term"
)
