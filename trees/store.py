"""The store: one SQLite file that holds what was said, judged and kept, and explains itself.

`Store.open` is for whoever writes (it creates and migrates), `Store.read` for everybody else: read-only, so a late
reader can neither change a store nor bring a deleted one back. WAL, foreign keys, synchronous=FULL. Writes are lists
made by `trees.writes`, applied in one immediate transaction here or grouped by the engine's `trees.writer`.

Invariant: what a method returns is unescaped text and whole values; ids given by a person may be any unique prefix.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trees.errors import NotFound, StoreError, StoreFull, StoreMissing, StoreNewer
from trees.ids import ID_LENGTH
from trees.personas import Personality, Profile
from trees.schema import MIGRATIONS
from trees.situations import Situation, situation_from
from trees.text import search_form, search_query, unescape
from trees.tree import ConversationTree
from trees.values import Continued, Judgement, Ledger, Node, Presentation, RunState, Score, Verdict
from trees.writes import Write

if TYPE_CHECKING:
    from sqlite_utils import Database

BUSY_MS = 10_000
"""How long a short write waits for another process's short write, in milliseconds."""

MAPPED_BYTES = 1 << 30
"""How much of a store a reader maps into memory instead of copying page by page."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the store describes it."""

    id: str
    kind: str
    name: str
    seed: int
    identity: dict[str, Any]
    operation: dict[str, Any]
    state: RunState
    reason: str | None
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class TreeRow:
    """A tree as lists show it."""

    id: str
    run_id: str
    position: int
    profile_id: str | None
    personality_id: str | None
    revision: int
    state: str
    turns: int
    nodes: int
    cause: dict[str, Any] | None
    title: str
    situation: Situation | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that a search found."""

    node_id: str
    tree_id: str
    run_id: str
    turn: int
    speaker: str
    text: str


class Store:
    """An open store. Use as a context manager, or close it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self.connection = connection
        self.connection.create_function("search_form", 1, lambda text: search_form(unescape(text)), deterministic=True)

    @property
    def db(self) -> Database:
        """The same connection as sqlite-utils sees it, for whoever wants its tools."""
        from trees.migrations import Database

        return Database(self.connection)

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open for writing; create and migrate if needed. Raises StoreError with what to do."""
        try:
            connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False)
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise as_store_error(error, path) from error
        return cls(path, connection)

    @classmethod
    def read(cls, path: Path) -> Store:
        """Open read-only. Raises StoreMissing if there is nothing, StoreNewer if it cannot be understood."""
        if not path.is_file():
            raise StoreMissing(f"there is no store at {path}", hint="Start a run first, or name one with --store.")
        try:
            connection = _connect_read_only(path)
            try:
                _refuse_other_schema(connection, path)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise as_store_error(error, path) from error
        return cls(path, connection)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.connection.close()

    def apply(self, writes: Sequence[Write]) -> None:
        """Keep these writes in one short transaction. Raises StoreError; then none of them is kept."""
        with self.transaction():
            for sql, values in writes:
                self.connection.execute(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One immediate transaction for reads and writes that belong together."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.commit()
            finally:
                if self.connection.in_transaction:
                    self.connection.rollback()
        except sqlite3.Error as error:
            raise as_store_error(error, self.path) from error

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of a query."""
        return self.connection.execute(sql, values).fetchall()

    def find(self, table: str, prefix: str) -> str:
        """The whole id that begins with `prefix`. Raises NotFound if there is none or more than one."""
        wanted = prefix.strip().lower()
        if len(wanted) == ID_LENGTH and self.rows(f"SELECT 1 FROM {table} WHERE id = ?", (wanted,)):
            return wanted
        top = wanted + "g"
        found = [r[0] for r in self.rows(f"SELECT id FROM {table} WHERE id >= ? AND id < ? LIMIT 3", (wanted, top))]
        if len(found) == 1:
            return str(found[0])
        what = table.rstrip("s") if table != "personalities" else "personality"
        if found and wanted:
            raise NotFound(
                f"several {table} begin with {prefix!r}: {', '.join(found)} ...", hint="Give more of the id."
            )
        raise NotFound(f"no {what} begins with {prefix!r} in {self.path}", hint=_LISTING.get(table))

    # Runs and trees

    def run(self, run_id: str) -> RunRow:
        """One run, by its whole id. Raises NotFound."""
        rows = self._runs("WHERE id = ?", (run_id,))
        if not rows:
            raise NotFound(f"no run {run_id} in {self.path}", hint=_LISTING["runs"])
        return rows[0]

    def runs(self) -> list[RunRow]:
        """All runs, the latest first."""
        return self._runs("ORDER BY created_at DESC, id", ())

    def _runs(self, where: str, values: tuple[object, ...]) -> list[RunRow]:
        columns = "id, kind, name, seed, identity, operation, state, reason, created_at, updated_at"
        found = self.rows(f"SELECT {columns} FROM runs {where}", values)
        return [
            RunRow(r[0], r[1], unescape(r[2]), r[3], json.loads(r[4]), json.loads(r[5]), r[6], _text(r[7]), r[8], r[9])
            for r in found
        ]

    def trees(self, run_id: str | None = None, *, after: int = -1, limit: int | None = None) -> list[TreeRow]:
        """A run's trees in the order of its personas, a page at a time; of all runs if none is named."""
        limited = -1 if limit is None else limit
        if run_id is None:
            return self._trees("WHERE 1 ORDER BY run_id, position LIMIT ?", (limited,))
        return self._trees("WHERE run_id = ? AND position > ? ORDER BY position LIMIT ?", (run_id, after, limited))

    def tree_row(self, tree_id: str) -> TreeRow:
        rows = self._trees("WHERE id = ?", (tree_id,))
        if not rows:
            raise NotFound(f"no tree {tree_id} in {self.path}", hint=_LISTING["trees"])
        return rows[0]

    def _trees(self, where: str, values: tuple[object, ...]) -> list[TreeRow]:
        columns = (
            "id, run_id, position, profile_id, personality_id, revision, state, turns, nodes, cause, title, situation"
        )
        found = self.rows(f"SELECT {columns} FROM trees {where}", values)
        return [
            TreeRow(
                *(*r[:9], json.loads(r[9]) if r[9] else None, unescape(r[10]), situation_from(r[11]) if r[11] else None)
            )
            for r in found
        ]

    def tree_of(self, node_id: str) -> str:
        """The tree that holds a node. Raises NotFound."""
        rows = self.rows("SELECT tree_id FROM nodes WHERE id = ?", (node_id,))
        if not rows:
            raise NotFound(f"no node {node_id} in {self.path}", hint=_LISTING["nodes"])
        return str(rows[0][0])

    def tree(self, tree_id: str) -> ConversationTree:
        """A whole tree with its ledgers, judgements and marks."""
        tree = ConversationTree(tree_id)
        columns = (
            "id, tree_id, parent_id, turn, speaker, role, replica, text, origin, reasoning, call_id, answer, "
            "model_id, hinted, drift, rerolls, operation_id"
        )
        of_tree = "node_id IN (SELECT id FROM nodes WHERE tree_id = ?)"
        for r in self.rows(f"SELECT {columns} FROM nodes WHERE tree_id = ? ORDER BY rowid", (tree_id,)):
            tree.add(Node(*(*r[:7], unescape(r[7]), r[8], _text(r[9]), *r[10:13], bool(r[13]), *r[14:17])))
        for c in self.rows(f"SELECT node_id, policy, reason FROM continued WHERE {of_tree}", (tree_id,)):
            tree.continued[c[0]] = Continued(*c)
        sql = f"SELECT node_id, facts, sees_persona, call_id, dropped, failure FROM ledgers WHERE {of_tree}"
        for e in self.rows(sql, (tree_id,)):
            tree.ledgers[e[0]] = Ledger(e[0], tuple(json.loads(e[1])), bool(e[2]), e[3], e[4], _text(e[5]))
        for judgement in self.judgements(tree_id):
            tree.judgements.setdefault(judgement.node_id, []).append(judgement)
        return tree

    def judgements(self, tree_id: str) -> list[Judgement]:
        """All judgements over a tree's turns, in the order they were made."""
        ids = "SELECT j.id FROM judgements j JOIN nodes n ON n.id = j.node_id WHERE n.tree_id = ?"
        shown = _grouped(
            self.rows(
                "SELECT judgement_id, shown, call_id, raw, probabilities, label FROM presentations "
                f"WHERE judgement_id IN ({ids}) ORDER BY judgement_id, number",
                (tree_id,),
            )
        )
        scores = _grouped(
            self.rows(
                f"SELECT judgement_id, node_id, unit, value FROM scores WHERE judgement_id IN ({ids})", (tree_id,)
            )
        )
        verdict_columns = "judgement_id, first_id, second_id, outcome, margin, unit"
        verdicts = _grouped(
            self.rows(f"SELECT {verdict_columns} FROM verdicts WHERE judgement_id IN ({ids})", (tree_id,))
        )
        columns = "j.id, j.node_id, j.judge_id, j.repeat, j.covers, j.complete, j.cause"
        heads = self.rows(
            f"SELECT {columns} FROM judgements j JOIN nodes n ON n.id = j.node_id WHERE n.tree_id = ? ORDER BY j.rowid",
            (tree_id,),
        )
        return [
            Judgement(
                id=h[0],
                node_id=h[1],
                judge_id=h[2],
                repeat=h[3],
                covers=tuple(json.loads(h[4])),
                presentations=tuple(
                    Presentation(tuple(json.loads(p[0])), p[1], unescape(p[2]), json.loads(p[3]), _text(p[4]))
                    for p in shown.get(h[0], ())
                ),
                scores=tuple(Score(*s) for s in scores.get(h[0], ())),
                verdicts=tuple(Verdict(*v) for v in verdicts.get(h[0], ())),
                complete=bool(h[5]),
                cause=_text(h[6]),
            )
            for h in heads
        ]

    # People and prompts

    def profile(self, profile_id: str) -> Profile:
        """Raises NotFound."""
        rows = self.rows("SELECT facts, pronouns, text FROM profiles WHERE id = ?", (profile_id,))
        if not rows:
            raise NotFound(f"no profile {profile_id} in {self.path}", hint=_LISTING["profiles"])
        return Profile(tuple(json.loads(rows[0][0])), rows[0][1], unescape(rows[0][2]))

    def personality(self, personality_id: str) -> Personality:
        """Raises NotFound."""
        rows = self.rows("SELECT traits, pronouns, text FROM personalities WHERE id = ?", (personality_id,))
        if not rows:
            raise NotFound(f"no personality {personality_id} in {self.path}", hint=_LISTING["personalities"])
        return Personality(tuple(json.loads(rows[0][0])), rows[0][1], unescape(rows[0][2]))

    def prompt(self, prompt_id: str) -> tuple[str, str]:
        """Role and text of a prompt version. Raises NotFound."""
        rows = self.rows("SELECT role, text FROM prompts WHERE id = ?", (prompt_id,))
        if not rows:
            raise NotFound(f"no prompt {prompt_id} in {self.path}", hint=_LISTING["prompts"])
        return str(rows[0][0]), unescape(rows[0][1])

    def revisions(self, run_id: str) -> list[dict[str, str]]:
        """A run's prompt revisions, each from configured role to prompt id; the last one is in force."""
        found = self.rows("SELECT prompts FROM revisions WHERE run_id = ? ORDER BY revision", (run_id,))
        return [json.loads(r[0]) for r in found]

    # Calls and words

    def answer(self, call_id: str) -> dict[str, Any] | None:
        """The stored answer of a call, or None."""
        row = self.connection.execute("SELECT answer FROM calls WHERE id = ?", (call_id,)).fetchone()
        return None if row is None else json.loads(row[0])

    def search(self, words: str, *, limit: int = 50) -> list[Hit]:
        """Messages that hold all these words, the latest first. Raises ValueError if there is nothing to look for."""
        sql = (
            "SELECT n.id, n.tree_id, t.run_id, n.turn, n.speaker, n.text FROM node_words w "
            "JOIN nodes n ON n.rowid = w.rowid JOIN trees t ON t.id = n.tree_id "
            "WHERE node_words MATCH ? ORDER BY w.rowid DESC LIMIT ?"
        )
        return [Hit(*(*r[:5], unescape(r[5]))) for r in self.rows(sql, (search_query(words), limit))]


_LISTING = {
    "runs": "List them with `espalier status`.",
    "trees": "List them with `espalier trees`.",
    "nodes": "See a tree's node ids with `espalier show TREE --ids`.",
    "profiles": "List them with `espalier personas list`.",
    "personalities": "List them with `espalier personas list`.",
    "prompts": "List them with `espalier prompts list`.",
    "draws": "Make one with `espalier personas pair --count N`.",
}


def as_store_error(error: Exception, path: Path) -> StoreError:
    """What SQLite says, in words that tell what to do."""
    said = str(error)
    if "full" in said or "disk I/O" in said:
        hint = "Free some space, then `espalier resume`: everything committed so far is kept."
        return StoreFull(f"no room to write to {path}: {said}", hint=hint)
    if "readonly" in said or "unable to open" in said:
        hint = "Check that its folder exists and may be written to, or name another file with --store."
        return StoreError(f"cannot open the store {path} for writing: {said}", hint=hint)
    if "not a database" in said or "malformed" in said:
        return StoreError(f"{path} is not a usable store: {said}", hint="Restore it from a backup.")
    if "locked" in said:
        return StoreError(
            f"{path} is busy: {said}", hint="Another process holds it for long; try again when it is done."
        )
    return StoreError(f"the store {path} refused a write: {said}")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    _refuse_newer(connection, path)
    if set(MIGRATIONS) - set(_applied(connection)):
        # Only a store that has to be brought up to date waits for sqlite-utils to load.
        from trees.migrations import Database, migrations

        migrations.apply(Database(connection))


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Read-only; from a folder where SQLite may not make its side files, as a file that nobody changes."""
    base = path.resolve().as_uri()
    for mode in ("mode=ro", "mode=ro&immutable=1"):
        connection = sqlite3.connect(
            f"{base}?{mode}", uri=True, isolation_level=None, timeout=BUSY_MS / 1000, check_same_thread=False
        )
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            # A store that is merely busy does change: read as immutable, it would be read wrongly.
            if "immutable" in mode or error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise
        else:
            connection.execute("PRAGMA query_only = ON")
            connection.execute(f"PRAGMA mmap_size = {MAPPED_BYTES}")
            return connection
    raise AssertionError("unreachable: the second mode returns or raises")


def _applied(connection: sqlite3.Connection) -> list[str]:
    exists = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    if not exists:
        return []
    sql = "SELECT name FROM _sqlite_migrations WHERE migration_set = 'espalier'"
    return [row[0] for row in connection.execute(sql)]


def _refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    unknown = sorted(set(_applied(connection)) - set(MIGRATIONS))
    if unknown:
        raise StoreNewer(
            f"{path} was written by a newer version: it has the migration {unknown[-1]}, which this one does not know",
            hint="Upgrade espalier-lm, or use another store.",
        )


def _refuse_other_schema(connection: sqlite3.Connection, path: Path) -> None:
    _refuse_newer(connection, path)
    missing = [name for name in MIGRATIONS if name not in _applied(connection)]
    if missing:
        raise StoreError(
            f"{path} is older than this version, or not a store: it lacks {missing[0]}",
            hint="Any command that writes brings it up to date, for instance `espalier store migrate`.",
        )


def _text(stored: str | None) -> str | None:
    return None if stored is None else unescape(stored)


def _grouped(rows: Iterable[tuple[Any, ...]]) -> dict[str, list[tuple[Any, ...]]]:
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for first, *rest in rows:
        groups.setdefault(first, []).append(tuple(rest))
    return groups
