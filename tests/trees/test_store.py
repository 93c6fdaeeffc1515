"""The store: opened safely or refused with what to do, and everything that goes in comes out."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations

from tests.support.builders import (
    PROMPTS,
    judge_again,
    judged,
    make_judge,
    make_run,
    personality,
    profile,
    prompt_id,
    small_store,
)
from trees import migrations as migrations_module
from trees.errors import NotFound, StoreError, StoreFull, StoreMissing, StoreNewer
from trees.schema import MIGRATIONS
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import CallFailure, Continued, Ledger, Presentation, Turn
from trees.verify import verify
from trees.writes import delete_run, keep_event, keep_failure, keep_operation, keep_turn, resolve_failures


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def schema_of(path: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()


# Opening


def test_the_known_migrations_are_the_real_ones(path: Path) -> None:
    Store.open(path).close()
    assert [m.name for m in migrations_module.migrations.applied(Database(path))] == list(MIGRATIONS)


def test_migrating_twice_changes_nothing(path: Path) -> None:
    store, _ = small_store(path)
    store.close()
    before = schema_of(path)
    with Store.open(path) as store:
        migrations_module.migrations.apply(store.db)
        assert len(store.trees()) == 1
    assert schema_of(path) == before


def test_a_failing_migration_leaves_nothing(path: Path) -> None:
    Store.open(path).close()
    before = schema_of(path)
    broken = Migrations("espalier")

    @broken()
    def m999_broken(db: Database) -> None:
        db.executescript("CREATE TABLE half (a); CREATE TABLE profiles (b);")

    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        broken.apply(Database(path))
    assert schema_of(path) == before
    Store.read(path).close()


@pytest.mark.parametrize("opened", [Store.open, Store.read])
def test_a_newer_schema_is_refused(path: Path, opened: object) -> None:
    Store.open(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO _sqlite_migrations VALUES (99, 'espalier', 'm099_later', '2030')")
        connection.commit()
    with pytest.raises(StoreNewer, match=r"m099_later") as refused:
        opened(path)  # type: ignore[operator]
    assert "Upgrade" in str(refused.value)


@pytest.mark.parametrize("opened", [Store.open, Store.read])
def test_another_file_is_not_taken_for_a_store(path: Path, opened: object) -> None:
    path.write_text("a poem, " * 500)
    with pytest.raises(StoreError, match="not a usable store"):
        opened(path)  # type: ignore[operator]
    assert path.read_text().startswith("a poem")


def test_an_empty_or_foreign_database_is_not_read(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE birds (name)")
    with pytest.raises(StoreError, match="lacks m001"):
        Store.read(path)


def test_a_missing_store_is_said_and_not_made(path: Path) -> None:
    with pytest.raises(StoreMissing, match="no store"):
        Store.read(path)
    assert not path.exists()
    with pytest.raises(StoreError, match="unable to open"):
        Store.open(path / "folder" / "store.db")


def test_a_reader_can_neither_write_nor_bring_a_deleted_store_back(path: Path) -> None:
    small_store(path)[0].close()
    with Store.read(path) as reader:
        with pytest.raises(StoreError, match="readonly"):
            reader.apply(keep_event("job", "kind", {}))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.connection.execute("CREATE TABLE more (a)")
        for file in path.parent.iterdir():
            file.unlink()
        with pytest.raises(StoreError):
            reader.apply(keep_event("job", "kind", {}))
    assert list(path.parent.iterdir()) == []


@contextmanager
def folder_nobody_may_write() -> Iterator[Path]:
    """A folder that this process cannot write to, even if root runs it."""
    with tempfile.TemporaryDirectory() as name:
        small_store(Path(name) / "store.db")[0].close()
        for file in Path(name).iterdir():
            file.chmod(0o444)
        Path(name).chmod(0o555)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if was_root:
                os.seteuid(0)
            Path(name).chmod(0o755)


def test_a_read_only_folder_is_read_and_not_written() -> None:
    with folder_nobody_may_write() as folder:
        with Store.read(folder / "store.db") as store:
            assert len(store.tree(store.trees()[0].id)) == 6
            assert verify(store).findings == ()
        with pytest.raises(StoreError, match="for writing"):
            Store.open(folder / "store.db")
        with pytest.raises(StoreError, match="for writing"):
            Store.open(folder / "another.db")


def test_a_store_that_somebody_holds_alone_is_busy_and_not_read_past_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_store(path)[0].close()
    monkeypatch.setattr("trees.store.BUSY_MS", 20)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="busy"):
            Store.read(path)


# Round trips

HARD = "a\x00b\x1ac\ud800d\udfff \x1a0 世界 \U0001f600\r\n  {{ x }} <think>"


def test_every_value_of_a_turn_comes_back(path: Path) -> None:
    with Store.open(path) as store:
        run = make_run(store)
        judge = make_judge(store)
        user = run.user(run.trees[0], HARD, drift="echo", rerolls=2, reasoning=HARD)
        a, b = run.replies(user, HARD, "plain", hinted=True)
        first = judged(
            user,
            judge,
            [(a, b, "win", 0.1 + 0.2)],
            scores={a.id: 1 / 3, b.id: -0.0},
            presentations=[
                Presentation((a.id, b.id), a.call_id, HARD, {a.id: 0.1, b.id: 0.9}, HARD),
                Presentation((b.id, a.id), None, "", {}, None),
            ],
        )
        failed = judged(user, judge, [(a, b, "abstain")], repeat=1, unit=None, complete=False)
        ledger = Ledger(user.id, (HARD, "fact"), True, a.call_id, 3, HARD)
        turn = Turn(user, ledger, (a, b), (first, failed), (Continued(a.id, "random", "drawn"),))
        store.apply(keep_turn(turn))
        wanted = ConversationTree(run.trees[0])
        wanted.add_turn(turn)
        found = run.tree()
    assert list(found) == list(wanted)
    assert found[a.id].text == HARD
    assert (found.ledgers, found.judgements, found.continued) == (
        wanted.ledgers,
        wanted.judgements,
        wanted.continued,
    )


def test_a_turn_given_twice_is_refused_whole(path: Path) -> None:
    store, run = small_store(path)
    tree = run.tree()
    user = tree.roots()[0]
    extra = run.replies(user, "one more", role="responder.late")
    before = run.tree()
    with pytest.raises(StoreError, match="UNIQUE"):
        store.apply(keep_turn(Turn(user, None, (*extra, *tree.children(user.id)), new_user=False)))
    assert list(run.tree()) == list(before)
    assert verify_but_unused(store) == []


def verify_but_unused(store: Store) -> list[str]:
    return [f.kind for f in verify(store).findings]


def test_runs_trees_people_and_prompts_come_back(path: Path) -> None:
    with Store.open(path) as store:
        run = make_run(store, [("Ada\ud800", "calm"), ("Bo\x00", "loud")], held_out=["Bo\x00"])
        assert store.run(run.id).identity["play"] == {"turns": 2}
        assert [(t.id, t.position, t.state, t.nodes) for t in store.trees(run.id)] == [
            (run.trees[0], 0, "growing", 0),
            (run.trees[1], 1, "growing", 0),
        ]
        assert [t.position for t in store.trees(run.id, after=0, limit=5)] == [1]
        assert store.profile(profile("Ada\ud800").id) == profile("Ada\ud800")
        assert store.personality(personality("loud").id) == personality("loud")
        assert store.prompt(prompt_id("user", PROMPTS["user"])) == ("user", PROMPTS["user"])
        assert store.revisions(run.id) == [dict(run.prompts)]
        for read in (
            store.profile,
            store.personality,
            store.prompt,
            store.run,
            store.tree_row,
            store.tree_of,
        ):
            with pytest.raises(NotFound, match="0123"):
                read("0123")


def test_calls_failures_operations_come_back(path: Path) -> None:
    store, run = small_store(path)
    tree = run.tree()
    root = tree.roots()[0]
    assert root.call_id is not None
    assert store.answer(root.call_id) == {"completions": [{"text": "hello 1"}]}
    assert store.answer("none") is None
    place = (run.id, run.trees[0], root.id, "user", "speak.0", "lost")
    store.apply(keep_failure(CallFailure(*place, "timeout", HARD, ({"kind": "timeout"},))))
    store.apply(resolve_failures("lost"))
    assert store.rows("SELECT kind, resolved_at > 0 FROM failures") == [("timeout", 1)]
    operation, writes = keep_operation(run.id, run.trees[0], root.id, "edit", 1, {"text": HARD}, "somebody")
    store.apply(writes)
    assert store.find("operations", operation[:10]) == operation


def test_ids_are_found_by_any_unique_beginning(path: Path) -> None:
    store, run = small_store(path)
    assert store.find("runs", run.id) == run.id
    assert store.find("runs", f" {run.id[:4].upper()} ") == run.id
    ids = sorted(row[0] for row in store.rows("SELECT id FROM nodes"))
    for prefix, said in (("", "no node"), ("zz", "no node"), ("%", "no node"), (ids[0] + "0", "no node")):
        with pytest.raises(NotFound, match=said):
            store.find("nodes", prefix)
    store.apply([("UPDATE operations SET id = id", ())])
    store.connection.execute("PRAGMA foreign_keys = OFF")
    store.apply([("UPDATE nodes SET id = 'abc' || substr(id, 4) WHERE id IN (?, ?)", (ids[0], ids[1]))])
    with pytest.raises(NotFound, match="several nodes begin with 'abc'"):
        store.find("nodes", "abc")


# Deleting


def test_deleting_one_of_two_runs_leaves_the_other_whole(path: Path) -> None:
    store, first = small_store(path)
    second = make_run(store, seed=2)
    user = second.user(second.trees[0], "hello 2nd")
    replies = [second.replies(user, text)[0] for text in ("good", "plain")][:1]
    second.turn(user, replies)
    shared = [run.call(run.trees[0], run.trees[0], "user", ["shared"], shared="shared") for run in (first, second)]
    assert shared[0] == shared[1]
    whole = list(second.tree())

    store.apply(delete_run(first.id))

    assert verify(store).findings == ()
    assert list(second.tree()) == whole
    assert store.answer(shared[1]) is not None
    assert [run.id for run in store.runs()] == [second.id]
    assert store.search("good 1") == []
    assert len(store.search("hello 2nd")) == 1
    store.apply(delete_run(second.id))
    left = {t: store.rows(f"SELECT count(*) FROM {t}")[0][0] for t in ("nodes", "calls", "uses", "judges", "models")}
    assert left == dict.fromkeys(left, 0)
    assert verify(store).findings == ()


def test_deleting_a_run_leaves_what_another_needs_to_begin(path: Path) -> None:
    store, first = small_store(path)
    waiting = make_run(store, seed=2)
    judge = make_judge(store, "judge")
    store.apply(delete_run(first.id))
    user = waiting.user(waiting.trees[0], "hello")
    a, b = waiting.replies(user, "a", "b")
    waiting.turn(user, [a, b], [judged(user, judge, [(a, b, "win")])])
    assert verify(store).findings == ()


# Room


def test_a_full_disk_is_said_and_what_was_committed_stays(path: Path) -> None:
    store, run = small_store(path)
    nodes = list(run.tree())
    user = run.tree().roots()[0]
    pages = store.rows("PRAGMA page_count")[0][0]
    store.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreFull, match="no room") as full:
        store.apply(
            keep_turn(Turn(user, None, tuple(run.replies(user, "x" * 100_000, role="responder.big")), (), (), False))
        )
    assert "Free some space" in str(full.value)
    assert list(run.tree()) == nodes
    store.connection.execute("PRAGMA max_page_count = 1073741823")
    store.apply(keep_turn(Turn(user, None, tuple(run.replies(user, "later", role="responder.big")), (), (), False)))
    assert len(run.tree()) == len(nodes) + 1
    assert verify(store).findings == ()


def test_search_and_order_outlive_a_vacuum(path: Path) -> None:
    store, first = small_store(path)
    second = make_run(store, seed=2)
    second.turn(second.user(second.trees[0], "only here"), [])
    store.apply(delete_run(first.id))
    store.connection.execute("VACUUM")
    assert [hit.text for hit in store.search("only")] == ["only here"]
    assert verify(store).findings == ()


def test_a_later_judgement_stands_beside_the_first(path: Path) -> None:
    store, run = small_store(path)
    user = run.tree().roots()[0]
    a, b = run.tree().children(user.id)
    judge = store.rows("SELECT id FROM judges")[0][0]
    judge_again(store, judged(user, judge, [(b, a, "win")], repeat=1))
    assert [j.repeat for j in run.tree().judgements[user.id]] == [0, 1]
    assert store.rows("SELECT chosen_id FROM pairs WHERE turn_id = ?", (user.id,)) == [(b.id,)]
