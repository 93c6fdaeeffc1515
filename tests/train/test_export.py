"""Exported rows: what TRL reads, with their origin, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import (
    BuiltRun,
    judge_again,
    judged,
    make_judge,
    make_run,
    personality,
    profile,
    small_store,
)
from train.export import export
from trees.errors import SetupError
from trees.ids import text_digest
from trees.store import Store
from trees.values import Node


@pytest.fixture
def built(tmp_path: Path) -> Iterator[tuple[Store, BuiltRun]]:
    store, run = small_store(tmp_path / "store.db")
    yield store, run
    store.close()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_dpo_rows_are_trl_s_with_their_origin(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, run = built
    counted: list[int] = []
    done = export(store, "dpo", tmp_path / "pairs.jsonl", count=counted.append)
    first, second = rows_of(tmp_path / "pairs.jsonl")
    assert (done.rows, done.dropped, counted) == (2, {}, [1, 2])
    assert second["prompt"] == [user("hello 1"), assistant("good 1"), user("hello 2")]
    assert (second["chosen"], second["rejected"]) == ([assistant("good 2")], [assistant("plain 2")])
    root = run.tree().roots()[0]
    good, plain = run.tree().children(root.id)
    judge = store.rows("SELECT id FROM judges")[0][0]
    assert {key: value for key, value in first.items() if key not in ("prompt", "chosen", "rejected")} == {
        "run": run.id,
        "tree": run.trees[0],
        "turn": 1,
        "user_id": root.id,
        "profile": profile("Ada").id,
        "profile_digest": text_digest("Ada lives here."),
        "personality": personality("calm").id,
        "personality_digest": text_digest("They are calm."),
        "chosen_id": good.id,
        "chosen_digest": good.digest,
        "rejected_id": plain.id,
        "rejected_digest": plain.digest,
        "judge": "judge",
        "judge_id": judge,
        "margin": 1.0,
        "unit": "nats",
        "split": "train",
    }


def test_sft_rows_are_the_winning_replies(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, run = built
    done = export(store, "sft", tmp_path / "targets.jsonl")
    first, second = rows_of(tmp_path / "targets.jsonl")
    assert (done.rows, done.kind, done.judge) == (2, "sft", "judge")
    assert (first["prompt"], first["completion"]) == ([user("hello 1")], [assistant("good 1")])
    assert second["completion"] == [assistant("good 2")]
    node = run.tree()[second["target_id"]]
    assert (node.text, node.digest) == ("good 2", second["target_digest"])


@pytest.mark.parametrize(
    ("deploy", "system"),
    [
        ("[head]\n", []),
        ("Only a comment.\n", []),
        ("[head]\nBe kind.\n", [{"role": "system", "content": "Be kind."}]),
    ],
)
def test_contexts_stand_under_the_deploy_prompt(tmp_path: Path, deploy: str, system: list[Any]) -> None:
    store, _ = small_store(tmp_path / "store.db", deploy=deploy)
    export(store, "sft", tmp_path / "out.jsonl")
    assert rows_of(tmp_path / "out.jsonl")[0]["prompt"] == [*system, user("hello 1")]


def test_the_prompt_is_that_of_the_tree_s_revision(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, run = built
    late = make_run(store, seed=9, deploy="[head]\nBe brief.\n")
    store.apply(
        [
            ("UPDATE trees SET revision = 1 WHERE run_id = ?", (run.id,)),
            (
                "INSERT INTO revisions SELECT ?, 1, prompts, '', 0 FROM revisions WHERE run_id = ?",
                (run.id, late.id),
            ),
        ]
    )
    export(store, "sft", tmp_path / "out.jsonl")
    assert rows_of(tmp_path / "out.jsonl")[0]["prompt"][0] == {"role": "system", "content": "Be brief."}


def test_hints_and_reasoning_never_enter(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        run, judge = make_run(store), make_judge(store)
        said = run.user(run.trees[0], "hello", reasoning="SECRET")
        a, b = run.replies(said, "a", "b", hinted=True)
        run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])], facts=["SECRET"])
        for kind in ("sft", "dpo"):
            export(store, kind, tmp_path / kind)
            assert "SECRET" not in (tmp_path / kind).read_text()


def test_any_text_is_valid_json(tmp_path: Path) -> None:
    hard = '\ud800 \x00 \u2028 世界 "quoted"\n'
    with Store.open(tmp_path / "store.db") as store:
        run, judge = make_run(store, [("Ada\ud800", "calm")]), make_judge(store)
        said = run.user(run.trees[0], hard)
        a, b = run.replies(said, hard + "a", "b")
        run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])])
        export(store, "dpo", tmp_path / "out.jsonl")
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert (row["prompt"], row["chosen"]) == ([user(hard)], [assistant(hard + "a")])


def turn_of(run: BuiltRun, number: int, *texts: str) -> tuple[Node, list[Node]]:
    said = run.user(run.trees[0], "hello", replica=str(number))
    return said, run.replies(said, *texts)


def test_everything_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.db") as store:
        judge = make_judge(store)
        run = make_run(store, [("Ada", "calm"), ("Bo", "loud"), ("Cy", "shy")], held_out=["Bo", "loud", "shy"])
        for number, outcome in enumerate(("tie", "both_bad", "unstable", "abstain")):
            said, (a, b) = turn_of(run, number, "a", "b")
            run.turn(said, [a, b], [judged(said, judge, [(a, b, outcome)])])
        said, (a, b, c) = turn_of(run, 5, "a", "a", "c")
        run.turn(said, [a, b, c], [judged(said, judge, [(a, b, "win", 1.0), (a, c, "win", 0.1)])])
        said, replies = turn_of(run, 6, "alone")
        run.turn(said, replies)
        for tree in run.trees[1:]:
            said = run.user(tree, "hello")
            a, b = run.replies(said, "a", "b")
            run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])])
        dpo = export(store, "dpo", tmp_path / "dpo", min_margin=0.5)
        sft = export(store, "sft", tmp_path / "sft", min_margin=0.5)
    each = dict.fromkeys(
        ("abstain", "below_margin", "both_bad", "equal_text", "held_out", "tie", "unstable", "unused"), 1
    )
    assert (dpo.rows, dpo.dropped) == (0, each)
    assert (sft.rows, sft.dropped) == (
        0,
        {"below_margin": 1, "held_out": 1, "no_winner": 4, "not_judged": 1, "unused": 1},
    )
    assert rows_of(tmp_path / "dpo") == []


def test_a_file_is_not_replaced_unasked(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, _ = built
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(SetupError, match="is there already"):
        export(store, "dpo", out)
    assert out.read_text() == "mine"
    export(store, "dpo", out, overwrite=True)
    assert len(rows_of(out)) == 2


def test_an_interrupted_export_leaves_nothing_half(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, _ = built
    out = tmp_path / "folder" / "out.jsonl"
    out.parent.mkdir()
    out.write_text("before")

    def interrupt(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, "dpo", out, overwrite=True, count=interrupt)
    assert out.read_text() == "before"
    assert list(out.parent.iterdir()) == [out]


def test_a_file_that_cannot_be_written_is_said(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot write"):
        export(built[0], "dpo", tmp_path / "missing" / "out.jsonl")


def test_the_same_store_gives_the_same_bytes(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, run = built
    export(store, "dpo", tmp_path / "one")
    with Store.read(store.path) as reader:
        export(reader, "dpo", tmp_path / "two", runs=[run.id], judge="judge", min_margin=0.0)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_only_the_judge_that_was_named_counts(built: tuple[Store, BuiltRun], tmp_path: Path) -> None:
    store, run = built
    other = make_judge(store, "other", threshold=0.5)
    root = run.tree().roots()[0]
    good, plain = run.tree().children(root.id)
    judge_again(store, judged(root, other, [(plain, good, "win")]))
    done = export(store, "dpo", tmp_path / "out", judge=other[:6])
    assert (done.rows, done.judge_id) == (1, other)
    assert rows_of(tmp_path / "out")[0]["chosen"] == [assistant("plain 1")]
