"""What `espalier verify` finds: everything the store says about itself, derived again.

Ids are hashed anew from what stands beside them, digests from the texts, the shape of trees from their
parents, and, where the caller brings a renderer, every prompt from the tree it was asked in. Each check is
one or two streaming queries in one read transaction, so a store is checked while its engine writes, and its
size costs time, not memory.

Invariant: nothing is changed and nothing is trusted; damage in one check is a finding and does not hide the
others.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from trees.ids import digest_of, node_id, run_id, text_digest, tree_id
from trees.personas import Personality, Profile
from trees.store import Store
from trees.text import LEAD, escape, unescape
from trees.values import Use

Rerender = Callable[[Use], str | None]
"""The digest of a use's messages rendered again; None if its turn was never stored."""
Progress = Callable[[str, int], None]
"""Told what is being checked and how many rows of it are done."""
Row = tuple[Any, ...]

PROGRESS_EVERY = 5_000
"""Rows between two reports of progress."""
USE_COLUMNS = "u.run_id, u.call_id, u.tree_id, u.node_id, u.role, u.purpose, u.prompt_id, u.tail, u.epoch"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the store that is not as it should be."""

    kind: str
    """What was checked: `node id`, `digest`, `orphan`, `prompt` ..."""
    id: str
    """Of the row."""
    what: str
    """In words."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked and what was found."""

    findings: tuple[Finding, ...]
    checked: Mapping[str, int]
    """Rows looked at, by what they are."""
    not_rendered: int = 0
    """Uses whose prompt cannot be rendered again, since a crash came before their turn was stored."""

    @property
    def clean(self) -> bool:
        return not self.findings


@dataclass(slots=True)
class _Checking:
    """One verification under way."""

    store: Store
    rerender: Rerender | None
    progress: Progress | None
    checked: Counter[str] = field(default_factory=Counter)
    not_rendered: int = 0

    def damage(self, sql: str) -> Iterator[Row]:
        """The rows of a query that finds none in a sound store."""
        return iter(self.store.connection.execute(sql))

    def rows(self, what: str, sql: str) -> Iterator[Row]:
        """Stream a query's rows and count them as things of this kind."""
        for row in self.store.connection.execute(sql):
            self.checked[what] += 1
            if self.progress is not None and self.checked[what] % PROGRESS_EVERY == 0:
                self.progress(what, self.checked[what])
            yield row
        if self.progress is not None:
            self.progress(what, self.checked[what])


Check = Callable[[_Checking], Iterator[Finding]]


def verify(store: Store, *, rerender: Rerender | None = None, progress: Progress | None = None) -> Report:
    """Check a whole store as it stands at this moment. Prompts are compared only if `rerender` is given."""
    checking = _Checking(store, rerender, progress)
    findings: list[Finding] = []
    store.connection.execute("BEGIN")
    try:
        for check in _CHECKS:
            findings += _guarded(check, checking)
    finally:
        store.connection.rollback()
    findings += _guarded(_search_index_inside, checking)
    return Report(tuple(findings), dict(checking.checked), checking.not_rendered)


def use_from_row(row: Row) -> Use:
    """A use from its row in the order of `USE_COLUMNS`."""
    run, call, tree, node, role, purpose, prompt, tail, epoch = row[:9]
    return Use(run, call, tree, node, role, purpose, prompt, json.loads(tail), epoch)


def _guarded(check: Check, checking: _Checking) -> Iterator[Finding]:
    """A check's findings; one that cannot be carried through is a finding itself."""
    try:
        yield from check(checking)
    except (sqlite3.Error, ValueError) as error:
        name = getattr(check, "__name__", "check").strip("_").replace("_", " ")
        yield Finding("unreadable", name, f"the check of {name} broke off: {error}")


# The file


def _database(checking: _Checking) -> Iterator[Finding]:
    for (said,) in checking.damage("PRAGMA integrity_check"):
        if said != "ok":
            yield Finding("database", "integrity_check", str(said))
    for table, rowid, parent, _ in checking.damage("PRAGMA foreign_key_check"):
        yield Finding("reference", f"{table} {rowid}", f"it refers to a row of {parent} that is not there")


def _escapes(checking: _Checking) -> Iterator[Finding]:
    for table, column, identity in _ESCAPED:
        sql = f"SELECT {identity}, {column} FROM {table} WHERE instr({column}, char({ord(LEAD)}))"
        for row_id, stored in checking.damage(sql):
            if escape(unescape(stored)) != stored:
                yield Finding("escape", str(row_id), f"{table}.{column} holds a broken escape")


_ESCAPED = (
    ("profiles", "text", "id"),
    ("personalities", "text", "id"),
    ("prompts", "text", "id"),
    ("runs", "name", "id"),
    ("trainings", "name", "id"),
    ("trainings", "reason", "id"),
    ("rounds", "name", "id"),
    ("rounds", "reason", "id"),
    ("round_steps", "reason", "rounds_id"),
    ("trees", "title", "id"),
    ("nodes", "reasoning", "id"),
    ("ledgers", "failure", "node_id"),
    ("judgements", "cause", "id"),
    ("presentations", "raw", "judgement_id"),
    ("presentations", "label", "judgement_id"),
)
"""Table, column and id of every escaped text but the messages', which are looked at one by one."""


# What runs share


def _people(checking: _Checking) -> Iterator[Finding]:
    halves: tuple[tuple[str, str, Any], ...] = (
        ("profiles", "facts", Profile),
        ("personalities", "traits", Personality),
    )
    for table, parts, make in halves:
        for row_id, listed, pronouns, text in checking.rows(table, f"SELECT id, {parts}, pronouns, text FROM {table}"):
            if make(tuple(json.loads(listed)), pronouns, unescape(text)).id != row_id:
                yield Finding("persona id", row_id, f"a row of {table} is not what its id says")


def _named_by_content(checking: _Checking) -> Iterator[Finding]:
    for row_id, role, text in checking.rows("prompts", "SELECT id, role, text FROM prompts"):
        if digest_of("prompt", role, unescape(text)) != row_id:
            yield Finding("prompt id", row_id, f"a {role} prompt is not the text that its id says")
    for row_id, identity in checking.rows("models", "SELECT id, identity FROM models"):
        if digest_of("model", json.loads(identity)) != row_id:
            yield Finding("model id", row_id, "a model is not what its id says")
    for row_id, spec in checking.rows("judges", "SELECT id, spec FROM judges"):
        if digest_of("judge", json.loads(spec)) != row_id:
            yield Finding("judge id", row_id, "a judge is not what its id says")
    for row_id, configuration in checking.rows("rounds", "SELECT id, configuration FROM rounds"):
        if digest_of("rounds", json.loads(configuration)) != row_id:
            yield Finding("rounds id", row_id, "the configuration of rounds is not what its id says")


# Runs and trees


def _runs(checking: _Checking) -> Iterator[Finding]:
    sql = "SELECT id, identity, seed FROM runs WHERE kind = 'play'"
    for row_id, identity, seed in list(checking.rows("runs", sql)):
        people = "SELECT profile_id, personality_id FROM trees WHERE run_id = ? ORDER BY position"
        personas = [list(row) for row in checking.store.rows(people, (row_id,))]
        if run_id(json.loads(identity), seed, personas) != row_id:
            yield Finding("run id", row_id, "its identity, seed or personas are not what its id says")
    lacking = (
        "SELECT t.id, t.revision FROM trees t JOIN runs r ON r.id = t.run_id AND r.kind = 'play' "
        "WHERE NOT EXISTS (SELECT 1 FROM revisions v WHERE v.run_id = t.run_id AND v.revision = t.revision)"
    )
    for row_id, revision in checking.damage(lacking):
        yield Finding("revision", row_id, f"its run has no revision {revision} of the prompts")
    for run, revision, prompts in checking.rows("revisions", "SELECT run_id, revision, prompts FROM revisions"):
        for prompt in json.loads(prompts).values():
            if not checking.store.rows("SELECT 1 FROM prompts WHERE id = ?", (prompt,)):
                yield Finding("revision", run, f"revision {revision} names the prompt {prompt}, which is not there")


def _trees(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT t.id, t.run_id, r.kind, t.profile_id, t.personality_id, t.turns, t.nodes,
           (SELECT count(*) FROM nodes n WHERE n.tree_id = t.id),
           (SELECT coalesce(max(turn), 0) FROM nodes n WHERE n.tree_id = t.id)
    FROM trees t JOIN runs r ON r.id = t.run_id
    """
    for row_id, run, kind, profile, personality, turns, nodes, real_nodes, real_turns in checking.rows("trees", sql):
        # The persona's key as simulation.runs makes it; chats and imports are filed under other keys.
        if kind == "play" and tree_id(run, f"{profile}:{personality}") != row_id:
            yield Finding("tree id", row_id, "its run or persona is not what its id says")
        if (turns, nodes) != (real_turns, real_nodes):
            said, real = f"{nodes} nodes, {turns} turns", f"{real_nodes} nodes, {real_turns} turns"
            yield Finding("rollup", row_id, f"it says {said} and has {real}")


def _operations(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT o.id, t.run_id, o.tree_id, o.node_id, o.kind, o.number, n.tree_id
    FROM operations o JOIN trees t ON t.id = o.tree_id LEFT JOIN nodes n ON n.id = o.node_id
    """
    for row_id, run, tree, node, kind, number, holder in checking.rows("operations", sql):
        if digest_of("operation", run, node, kind, number) != row_id:
            yield Finding("operation id", row_id, f"{kind} {number} is not what its id says")
        if node != tree and holder != tree:
            yield Finding("operation", row_id, f"it points at the node {node}, which its tree does not hold")


# Nodes


def _nodes(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT n.id, t.run_id, n.tree_id, n.parent_id, n.role, n.replica, n.text, n.digest, n.turn, n.speaker,
           p.id, p.tree_id, p.turn, p.speaker
    FROM nodes n JOIN trees t ON t.id = n.tree_id LEFT JOIN nodes p ON p.id = n.parent_id
    """
    for row in checking.rows("nodes", sql):
        row_id, run, tree, parent, role, replica, stored, digest = row[:8]
        text = unescape(stored)
        if node_id(run, parent or tree, role, replica) != row_id:
            yield Finding("node id", row_id, "its run, parent, role or replica is not what its id says")
        if text_digest(text) != digest:
            yield Finding("digest", row_id, "its text is not what its digest says")
        if escape(text) != stored:
            yield Finding("escape", row_id, "its text holds a broken escape or what SQLite cannot hold")
        yield from _placed(row_id, tree, parent, row[8:10], row[10:])


def _placed(row_id: str, tree: str, parent: str | None, own: Row, above: Row) -> Iterator[Finding]:
    """Whether a message stands where one may, by its (turn, speaker) and its parent's row."""
    found, tree_above, turn_above, speaker_above = above
    if parent is None:
        if own != (1, "user"):
            yield Finding(
                "alternation",
                row_id,
                f"{own[1]} in turn {own[0]} cannot open a tree",
            )
    elif found is None:
        yield Finding("orphan", row_id, f"its parent {parent} is not there")
    elif tree_above != tree:
        yield Finding("parent", row_id, f"its parent {parent} is in another tree, {tree_above}")
    elif own != ((turn_above, "assistant") if speaker_above == "user" else (turn_above + 1, "user")):
        after = f"{speaker_above} in turn {turn_above}"
        yield Finding("alternation", row_id, f"{own[1]} in turn {own[0]} stands after {after}")


def _cycles(checking: _Checking) -> Iterator[Finding]:
    sql = """
    WITH RECURSIVE reached(id) AS (
        SELECT id FROM nodes WHERE parent_id IS NULL
        UNION SELECT n.id FROM reached JOIN nodes n ON n.parent_id = reached.id)
    SELECT id, parent_id FROM nodes WHERE id NOT IN (SELECT id FROM reached)
    """
    above: dict[str, str] = dict(checking.damage(sql))
    for row_id in above:
        seen, step = {row_id}, above[row_id]
        while step in above and step not in seen:
            seen.add(step)
            step = above[step]
        if step == row_id:
            yield Finding("cycle", row_id, "it is among its own ancestors")


def _marks(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT c.node_id, n.speaker FROM continued c LEFT JOIN nodes n ON n.id = c.node_id
    """
    for node, speaker in checking.rows("continued", sql):
        if speaker != "assistant":
            yield Finding("continued", node, f"a conversation goes on from a reply, not from {_named(speaker)}")
    sql = "SELECT l.node_id, n.speaker FROM ledgers l LEFT JOIN nodes n ON n.id = l.node_id"
    for node, speaker in checking.rows("ledgers", sql):
        if speaker != "user":
            yield Finding("ledger", node, f"a ledger is kept on a user's message, not on {_named(speaker)}")


def _answers(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT n.id, n.call_id, n.answer, c.id, CASE WHEN json_valid(c.answer)
           THEN json_array_length(c.answer, '$.completions') END,
           EXISTS (SELECT 1 FROM uses u WHERE u.call_id = n.call_id AND u.run_id = t.run_id)
    FROM nodes n JOIN trees t ON t.id = n.tree_id LEFT JOIN calls c ON c.id = n.call_id
    WHERE n.origin = 'model'
    """
    for row_id, call, index, found, answers, used in checking.rows("spoken nodes", sql):
        if call is None:
            yield Finding("answer", row_id, "a model is said to have spoken, and no call is named")
        elif found is None:
            yield Finding("answer", row_id, f"its call {call} is not there")
        elif not 0 <= index < (answers or 0):
            yield Finding("answer", row_id, f"it is answer {index} of call {call}, which has {answers or 0}")
        elif not used:
            yield Finding("answer", row_id, f"its call {call} has no use in its run")


# Judging


def _judgements(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT j.id, j.node_id, j.judge_id, j.repeat, j.covers, n.speaker,
           (SELECT json_group_array(id) FROM nodes r WHERE r.parent_id = j.node_id),
           (SELECT json_group_array(node_id) FROM scores s WHERE s.judgement_id = j.id),
           (SELECT json_group_array(json_array(first_id, second_id)) FROM verdicts v
            WHERE v.judgement_id = j.id),
           (SELECT json_group_array(json(shown)) FROM presentations p WHERE p.judgement_id = j.id)
    FROM judgements j LEFT JOIN nodes n ON n.id = j.node_id
    """
    for row_id, node, judge, repeat, covers, speaker, *parts in checking.rows("judgements", sql):
        if digest_of("judgement", node, judge, repeat) != row_id:
            yield Finding("judgement id", row_id, "its turn, judge or repeat is not what its id says")
        if speaker != "user":
            yield Finding("judgement", row_id, f"a judgement is over a user's turn, not over {_named(speaker)}")
        replies, scored, verdicts, shown = (json.loads(part) for part in parts)
        yield from _judged(row_id, json.loads(covers), replies, scored, verdicts, shown)


def _judged(
    row_id: str,
    covers: Sequence[str],
    replies: Sequence[str],
    scored: Sequence[str],
    verdicts: Sequence[Sequence[str]],
    shown: Sequence[Sequence[str]],
) -> Iterator[Finding]:
    """Whether a judgement speaks only of the replies it covers, and covers only replies of its turn."""
    covered = set(covers)
    if not covered <= set(replies):
        yield Finding("covers", row_id, "it covers replies that are not under its turn")
    if not covered.issuperset(scored):
        yield Finding("score", row_id, "it scores a reply that it does not cover")
    if any(first == second or not {first, second} <= covered for first, second in verdicts):
        yield Finding("verdict", row_id, "a verdict is not over two replies that it covers")
    if not all(covered.issuperset(order) for order in shown):
        yield Finding("presentation", row_id, "it showed a reply that it does not cover")


def _asked_calls(checking: _Checking) -> Iterator[Finding]:
    for what, sql in _NAMED_CALLS:
        for row_id, call in checking.damage(sql):
            yield Finding("call", row_id, f"a {what} names the call {call}, which is not there")


_NAMED_CALLS = tuple(
    (
        what,
        f"SELECT {identity}, call_id FROM {table} WHERE call_id IS NOT NULL "
        f"AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.id = {table}.call_id)",
    )
    for what, table, identity in (
        ("ledger", "ledgers", "node_id"),
        ("presentation", "presentations", "judgement_id"),
        ("use", "uses", "node_id"),
    )
)


# Calls


def _calls(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT c.id, c.model_id, c.kind, c.prompt_digest, c.request,
           EXISTS (SELECT 1 FROM uses u WHERE u.call_id = c.id)
           OR EXISTS (SELECT 1 FROM growing_uses g WHERE g.call_id = c.id)
    FROM calls c
    """
    for row_id, model, kind, prompt_digest, request, used in checking.rows("calls", sql):
        if digest_of("call", model, kind, prompt_digest, json.loads(request)) != row_id:
            yield Finding("call id", row_id, "its model, prompt or request is not what its id says")
        if not used:
            yield Finding("use", row_id, "nothing uses this call")


_GROWING_USES = """
SELECT u.growing_id, u.call_id, u.place, u.place, 'growing', u.purpose, u.prompt_id, u.tail, 0, c.messages_digest
FROM growing_uses u JOIN calls c ON c.id = u.call_id
"""
"""Why growings made their calls, in the shape of uses."""


def _prompts(checking: _Checking) -> Iterator[Finding]:
    if checking.rerender is None:
        return
    sql = f"""
    SELECT {USE_COLUMNS}, c.messages_digest FROM uses u JOIN calls c ON c.id = u.call_id ORDER BY u.tree_id
    """
    for row in chain(checking.rows("rendered prompts", sql), checking.rows("rendered prompts", _GROWING_USES)):
        use = use_from_row(row)
        try:
            digest = checking.rerender(use)
        except (LookupError, TypeError, ValueError, AssertionError) as error:
            yield Finding("prompt", use.call_id, f"{use.role}, {use.purpose}: it does not render: {error!r}")
            continue
        if digest is None:
            checking.not_rendered += 1
        elif digest != row[9]:
            place = f"{use.role}, {use.purpose} at {use.node_id}"
            yield Finding("prompt", use.call_id, f"{place}: rendered again, it is not what was sent")


# The pool


def _candidates(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT c.item_id, c.kind, c.text, c.reason,
           EXISTS (SELECT 1 FROM pool i WHERE i.id = c.item_id AND i.kind = c.kind)
    FROM candidates c
    """
    for item, kind, text, reason, there in checking.rows("candidates", sql):
        if digest_of(kind, unescape(text)) != item:
            yield Finding("candidate id", item, f"a candidate for a {kind} is not what its id says")
        if reason is None and not there:
            yield Finding("candidate", item, f"it was kept as a {kind} and is not in the pool")


# Figures


def _figures(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT f.run_id, f.model, f.at, f.first_token_median_s > f.first_token_p95_s,
           min(f.answered, f.failed, f.retries, f.held, f.queued, f.prompt_read, f.prompt_reused, f.tokens_out) < 0,
           r.identity
    FROM model_figures f JOIN runs r ON r.id = f.run_id
    """
    for run, model, at, swapped, negative, identity in checking.rows("figures", sql):
        if unescape(model) not in json.loads(identity).get("models", {}):
            yield Finding("figures", run, f"figures of the model {unescape(model)!r}, which the run does not have")
        if swapped or negative:
            yield Finding("counts", run, f"what {unescape(model)!r} did until {at:.3f} is counted wrongly")


# Trainings


def _trainings(checking: _Checking) -> Iterator[Finding]:
    sql = "SELECT id, configuration, data_digest, kind, base, start_adapter, lineage FROM trainings"
    for row_id, configuration, data, kind, base, start, lineage in checking.rows("trainings", sql):
        frozen = json.loads(configuration)
        if digest_of("training", frozen, data) != row_id:
            yield Finding("training id", row_id, "its configuration or data digest is not what its id says")
        if (frozen.get("objective"), frozen.get("base"), frozen.get("start")) != (kind, base, start):
            yield Finding("training", row_id, "its kind, base or start is not that of its configuration")
        if not _leads_to(json.loads(lineage), row_id, base, data):
            yield Finding("lineage", row_id, "its lineage does not lead from its base to it")
    sql = "SELECT training_id, step FROM training_points WHERE step < 0 OR tokens < 0 OR accuracy NOT BETWEEN 0 AND 1"
    for row_id, step in checking.damage(sql):
        yield Finding("point", row_id, f"its point at step {step} is counted wrongly")
    yield from _adapters(checking)


def _adapters(checking: _Checking) -> Iterator[Finding]:
    sql = """
    SELECT a.id, a.training_id, a.base, a.start_adapter, a.lineage, t.base, t.start_adapter, t.data_digest
    FROM adapters a LEFT JOIN trainings t ON t.id = a.training_id
    """
    for row_id, training, base, start, lineage, trained_base, trained_start, data in checking.rows("adapters", sql):
        if (base, start) != (trained_base, trained_start):
            yield Finding("adapter", row_id, f"its base or start is not that of its training {training}")
        elif not _leads_to(json.loads(lineage), training, base, data):
            yield Finding("lineage", row_id, f"its lineage does not lead from its base to its training {training}")


def _leads_to(lineage: Mapping[str, Any], training: str, base: str, data: str) -> bool:
    """Whether a lineage begins at the base and ends with the training."""
    steps = lineage.get("trainings") or [{}]
    return lineage.get("base") == base and (steps[-1].get("id"), steps[-1].get("data")) == (training, data)


# The full-text index


def _search_index(checking: _Checking) -> Iterator[Finding]:
    missing = "SELECT id FROM nodes WHERE rowid NOT IN (SELECT id FROM node_words_docsize)"
    for (row_id,) in checking.damage(missing):
        yield Finding("search", row_id, "the full-text index does not hold it")
    left_over = "SELECT id FROM node_words_docsize WHERE id NOT IN (SELECT rowid FROM nodes)"
    for (number,) in checking.damage(left_over):
        yield Finding("search", str(number), "the full-text index holds a message that is not there")


_NOT_NOW = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY})
"""Errors that say nothing of the index."""


def _search_index_inside(checking: _Checking) -> Iterator[Finding]:
    """FTS5's own check. Its form is a write: a store that is busy or may not be written goes without."""
    uri = f"{checking.store.path.resolve().as_uri()}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("INSERT INTO node_words (node_words) VALUES ('integrity-check')")
        checking.checked["full-text index"] += 1
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _NOT_NOW:
            yield Finding("search", "node_words", f"the full-text index is damaged: {error}")


def _named(speaker: str | None) -> str:
    return "a node that is not there" if speaker is None else f"a message of the {speaker}"


_CHECKS: tuple[Check, ...] = (
    _database,
    _escapes,
    _people,
    _named_by_content,
    _runs,
    _trees,
    _operations,
    _nodes,
    _cycles,
    _marks,
    _answers,
    _judgements,
    _asked_calls,
    _calls,
    _prompts,
    _candidates,
    _figures,
    _trainings,
    _search_index,
)
