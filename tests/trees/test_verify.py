"""Verification finds every kind of damage, and nothing in a sound store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.builders import MODEL_ID, BuiltRun, make_run, small_store
from trees.ids import digest_of
from trees.store import Store
from trees.values import Use
from trees.verify import Finding, verify
from trees.writes import keep_operation

REPLY = "(SELECT id FROM nodes WHERE speaker = 'assistant' ORDER BY rowid LIMIT 1)"
SECOND_REPLY = "(SELECT id FROM nodes WHERE speaker = 'assistant' ORDER BY rowid LIMIT 1 OFFSET 1)"
LATER_REPLY = "(SELECT id FROM nodes WHERE speaker = 'assistant' AND turn = 2 ORDER BY rowid LIMIT 1)"
OPENING = "(SELECT id FROM nodes WHERE parent_id IS NULL ORDER BY rowid LIMIT 1)"
LATER_USER = "(SELECT id FROM nodes WHERE speaker = 'user' AND turn = 2)"
FIRST_JUDGEMENT = "(SELECT id FROM judgements ORDER BY rowid LIMIT 1)"

FIGURES = (
    "(run_id, model, at, interval_s, answered, failed, retries, permits, held, queued, prompt_read, prompt_reused, "
    "tokens_out, first_token_median_s, first_token_p95_s)"
)

DAMAGE: dict[str, tuple[str, str]] = {
    "another text": (f"UPDATE nodes SET text = 'another' WHERE id = {REPLY}", "digest"),
    "another digest": (f"UPDATE nodes SET digest = 'another' WHERE id = {REPLY}", "digest"),
    "a broken escape": (f"UPDATE nodes SET text = text || char(26) || 'x' WHERE id = {REPLY}", "escape"),
    "a NUL": (f"UPDATE nodes SET text = text || char(0) WHERE id = {REPLY}", "escape"),
    "a broken escape elsewhere": ("UPDATE presentations SET raw = char(26)", "escape"),
    "another replica": (f"UPDATE nodes SET replica = '7' WHERE id = {REPLY}", "node id"),
    "another role": (f"UPDATE nodes SET role = 'responder.other' WHERE id = {REPLY}", "node id"),
    "another parent": (f"UPDATE nodes SET parent_id = {SECOND_REPLY} WHERE id = {LATER_USER}", "node id"),
    "a missing parent": (f"UPDATE nodes SET parent_id = 'gone' WHERE id = {LATER_USER}", "orphan"),
    "a dangling reference": (f"UPDATE nodes SET parent_id = 'gone' WHERE id = {LATER_USER}", "reference"),
    "a circle": (f"UPDATE nodes SET parent_id = {LATER_REPLY} WHERE id = {OPENING}", "cycle"),
    "its own parent": (f"UPDATE nodes SET parent_id = id WHERE id = {LATER_USER}", "cycle"),
    "another tree's parent": (
        f"UPDATE nodes SET tree_id = (SELECT id FROM trees WHERE position = 1) WHERE id = {OPENING}",
        "parent",
    ),
    "two of one speaker": (f"UPDATE nodes SET speaker = 'user' WHERE id = {LATER_REPLY}", "alternation"),
    "a reply that opens": (f"UPDATE nodes SET speaker = 'assistant' WHERE id = {OPENING}", "alternation"),
    "a turn left out": (f"UPDATE nodes SET turn = 5 WHERE id = {LATER_USER}", "alternation"),
    "an opening in turn 2": (f"UPDATE nodes SET turn = 2 WHERE id = {OPENING}", "alternation"),
    "a mark on a user's message": (
        f"UPDATE continued SET node_id = {OPENING} WHERE node_id = {REPLY}",
        "continued",
    ),
    "a mark on nothing": (f"UPDATE continued SET node_id = 'gone' WHERE node_id = {REPLY}", "continued"),
    "a ledger on a reply": (f"UPDATE ledgers SET node_id = {REPLY} WHERE node_id = {OPENING}", "ledger"),
    "a ledger's call": ("UPDATE ledgers SET call_id = 'gone'", "call"),
    "a presentation's call": ("UPDATE presentations SET call_id = 'gone'", "call"),
    "a use without call": ("UPDATE uses SET call_id = 'gone' WHERE purpose = 'extra'", "call"),
    "a call without use": ("DELETE FROM uses WHERE purpose = 'extra'", "use"),
    "another request": ("UPDATE calls SET request = '{}'", "call id"),
    "another prompt digest": ("UPDATE calls SET prompt_digest = prompt_digest || 'x'", "call id"),
    "a node without call": (f"UPDATE nodes SET call_id = NULL WHERE id = {REPLY}", "answer"),
    "a node with a lost call": (f"UPDATE nodes SET call_id = 'gone' WHERE id = {REPLY}", "answer"),
    "an answer out of range": (f"UPDATE nodes SET answer = 1 WHERE id = {REPLY}", "answer"),
    "an answer that is not JSON": (
        f"UPDATE calls SET answer = '{{' WHERE id = (SELECT call_id FROM nodes WHERE id = {REPLY})",
        "answer",
    ),
    "a call that another run asked": (
        f"UPDATE uses SET run_id = 'gone' WHERE call_id = (SELECT call_id FROM nodes WHERE id = {REPLY})",
        "answer",
    ),
    "another repeat": (f"UPDATE judgements SET repeat = 3 WHERE id = {FIRST_JUDGEMENT}", "judgement id"),
    "a judgement of a reply": (
        f"UPDATE judgements SET node_id = {REPLY} WHERE id = {FIRST_JUDGEMENT}",
        "judgement",
    ),
    "a cover across parents": (
        f"UPDATE judgements SET covers = json_insert(covers, '$[#]', {LATER_REPLY}) WHERE id = {FIRST_JUDGEMENT}",
        "covers",
    ),
    "a verdict across parents": (
        f"UPDATE verdicts SET second_id = {LATER_REPLY} WHERE judgement_id = {FIRST_JUDGEMENT}",
        "verdict",
    ),
    "a verdict on one reply": ("UPDATE verdicts SET second_id = first_id", "verdict"),
    "a score across parents": (
        f"INSERT INTO scores VALUES ({FIRST_JUDGEMENT}, {LATER_REPLY}, 'nats', 1.0)",
        "score",
    ),
    "a presentation across parents": (
        f"UPDATE presentations SET shown = json_array({LATER_REPLY}) WHERE judgement_id = {FIRST_JUDGEMENT}",
        "presentation",
    ),
    "another judge": ("UPDATE judges SET spec = '{}'", "judge id"),
    "another model": ("UPDATE models SET identity = '{}'", "model id"),
    "another prompt": ("UPDATE prompts SET text = 'another'", "prompt id"),
    "another profile": ("UPDATE profiles SET text = 'another'", "persona id"),
    "another personality": ("UPDATE personalities SET text = 'another'", "persona id"),
    "another seed": ("UPDATE runs SET seed = seed + 1", "run id"),
    "another persona": (
        "UPDATE trees SET profile_id = (SELECT profile_id FROM trees WHERE position = 1) WHERE position = 0",
        "tree id",
    ),
    "a revision that is not there": ("UPDATE trees SET revision = 4", "revision"),
    "a prompt that is not there": ('UPDATE revisions SET prompts = \'{"user": "gone"}\'', "revision"),
    "too many nodes": ("UPDATE trees SET nodes = nodes + 1", "rollup"),
    "too few turns": ("UPDATE trees SET turns = 1", "rollup"),
    "another operation": ("UPDATE operations SET number = 2", "operation id"),
    "an operation on nothing": ("UPDATE operations SET node_id = 'gone'", "operation"),
    "an unindexed message": (
        "DELETE FROM node_words_docsize WHERE id = (SELECT min(rowid) FROM nodes)",
        "search",
    ),
    "an index of nothing": (f"DELETE FROM nodes WHERE id = {LATER_REPLY}", "search"),
    "a damaged index": ("UPDATE node_words_data SET block = x'00' WHERE id > 10", "search"),
    "figures of nobody": (
        f"INSERT INTO model_figures {FIGURES} SELECT id, 'nobody', 1, 2, 1, 0, 0, 4, 0, 0, 5, 0, 3, 0.1, 0.2 FROM runs",
        "figures",
    ),
    "figures below nothing": (
        f"INSERT INTO model_figures {FIGURES} SELECT id, 'small', 1, 2, 1, 0, 0, 4, 0, 0, -5, 0, 3, 0.1, 0.2 FROM runs",
        "counts",
    ),
    "broken JSON": ("UPDATE judgements SET covers = 'nonsense'", "unreadable"),
}


@pytest.fixture
def built(tmp_path: Path) -> Iterator[tuple[Store, BuiltRun]]:
    """A store with something of everything."""
    store, run = small_store(tmp_path / "store.db", people=[("Ada", "calm"), ("Bo", "loud")])
    reply = run.tree().leaves()[0]
    store.apply(keep_operation(run.id, reply.tree_id, reply.id, "reroll", 1, {}, "test")[1])
    extra = run.call(run.trees[0], reply.id, "judge.judge", ["A"])
    shown = "INSERT INTO presentations SELECT id, 0, covers, ?, 'A', '{}', 'A' FROM judgements"
    store.apply([("UPDATE uses SET purpose = 'extra' WHERE call_id = ?", (extra,)), (shown, (extra,))])
    yield store, run
    store.close()


def test_a_sound_store_has_no_findings(built: tuple[Store, BuiltRun]) -> None:
    store, _ = built
    told: list[tuple[str, int]] = []
    report = verify(store, progress=lambda what, done: told.append((what, done)))
    assert report.findings == ()
    assert report.clean
    assert report.checked["nodes"] == 6
    assert report.checked["judgements"] == 2
    assert ("nodes", 6) in told


def damage(store: Store, sql: str) -> None:
    """Change rows behind the schema's back."""
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        connection.execute(sql)


@pytest.mark.parametrize(("sql", "kind"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_found(built: tuple[Store, BuiltRun], sql: str, kind: str) -> None:
    store, _ = built
    damage(store, sql)
    report = verify(store)
    assert kind in {finding.kind for finding in report.findings}
    assert all(finding.id and finding.what for finding in report.findings)
    with Store.read(store.path) as reader:
        assert verify(reader).findings == report.findings


def test_a_damaged_row_is_named(built: tuple[Store, BuiltRun]) -> None:
    store, run = built
    reply = run.tree().leaves()[0]
    damage(store, f"UPDATE nodes SET text = 'another' WHERE id = '{reply.id}'")
    assert verify(store).findings == (Finding("digest", reply.id, "its text is not what its digest says"),)


def test_trees_of_chats_and_imports_are_filed_under_other_keys(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        run = make_run(store, kind="import")
        store.connection.execute("PRAGMA foreign_keys = OFF")
        store.apply([("UPDATE trees SET profile_id = NULL, personality_id = NULL", ())])
        run.turn(run.user(run.trees[0], "hello"), [])
        assert verify(store).findings == ()


def test_prompts_are_compared_with_what_was_sent(built: tuple[Store, BuiltRun]) -> None:
    store, _ = built
    store.apply([("UPDATE calls SET messages_digest = id", ())])
    uses = {row[0]: row[1] for row in store.rows("SELECT call_id, role FROM uses")}
    assert verify(store, rerender=lambda use: use.call_id).findings == ()

    def user_is_unknown_and_judge_differs(use: Use) -> str | None:
        return {"user": None, "judge.judge": "another"}.get(use.role, use.call_id)

    report = verify(store, rerender=user_is_unknown_and_judge_differs)
    assert [(f.kind, uses[f.id]) for f in report.findings] == [("prompt", "judge.judge")]
    assert report.not_rendered == sum(role == "user" for role in uses.values())

    def breaks(use: Use) -> str | None:
        raise KeyError("turn")

    assert len(verify(store, rerender=breaks).findings) == len(uses)


def test_a_store_is_verified_while_its_engine_writes(built: tuple[Store, BuiltRun]) -> None:
    store, run = built
    with Store.read(store.path) as reader:

        def rerender(use: Use) -> None:
            run.turn(run.user(run.trees[1], "meanwhile", replica=use.call_id), [])

        assert verify(reader, rerender=rerender).findings == ()
        assert verify(reader).checked["nodes"] > 6


def test_ids_in_the_builders_are_those_that_are_checked() -> None:
    assert digest_of("model", {"backend": "scripted", "model": "by hand"}) == MODEL_ID
