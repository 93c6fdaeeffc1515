"""The format released with arXiv 2410.03642, both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import judged, make_judge, make_run, small_store
from train.data import MessagePair, Selection, select
from train.released_format import export_paper, import_paper
from trees.errors import SetupError
from trees.store import Store
from trees.verify import verify


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db") as opened:
        yield opened


def turn(number: int, chosen: str, profile: str = "None", personality: str = "None") -> dict[str, Any]:
    return {
        "user": f"user {number}",
        "assistant": {"preferred": f"good {number}", "rejected": f"bad {number}"},
        "chosen": chosen,
        "inferred_profile": profile,
        "inferred_personality": personality,
    }


RECORD: dict[str, Any] = {
    "profile": "She is a nurse. She has two dogs.",
    "personality": "He is shy. He jokes a lot.",
    "conversations": [
        turn(1, "rejected", "She is a nurse."),
        turn(2, "preferred", "She is a nurse. She has two dogs.", "He is shy."),
        turn(3, "rejected", "She is a nurse. She has two dogs.", "He is shy."),
    ],
}


def write(path: Path, *records: Any) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_becomes_a_run_that_is_sound(store: Store, tmp_path: Path) -> None:
    done = import_paper(store, write(tmp_path / "in.jsonl", RECORD))
    assert (done.conversations, done.turns, done.new, done.problems) == (1, 3, True, ())
    assert verify(store).clean
    run = store.run(done.run_id)
    assert (run.kind, run.state, run.name) == ("import", "finished", "in.jsonl")
    (row,) = store.trees(run.id)
    assert (row.state, row.turns, row.nodes) == ("done", 3, 9)
    tree = store.tree(row.id)
    assert {node.origin for node in tree} == {"import"}
    assert [node.text for node in tree.continued_path()] == ["user 1", "bad 1", "user 2", "good 2", "user 3", "bad 3"]
    assert [tree.ledgers[user.id].facts for user, _ in tree.turns()] == [
        ("She is a nurse.",),
        ("She has two dogs.", "He is shy."),
        (),
    ]


def test_the_file_s_labels_are_pairs_under_the_path_it_took(store: Store, tmp_path: Path) -> None:
    import_paper(store, write(tmp_path / "in.jsonl", RECORD))
    (tree,) = select(store, Selection(judge="released", evaluation=0)).trees
    texts = [message.text for message in tree.messages]
    assert [(texts[p.chosen], texts[p.rejected]) for p in tree.pairs] == [(f"good {n}", f"bad {n}") for n in (1, 2, 3)]
    assert [message.text for message in tree.path(tree.pairs[1].chosen)] == ["user 1", "bad 1", "user 2", "good 2"]
    assert tree.pairs[0] == MessagePair(1, 2)


def test_what_was_imported_is_exported_as_it_was(store: Store, tmp_path: Path) -> None:
    import_paper(store, write(tmp_path / "in.jsonl", RECORD))
    done = export_paper(store, tmp_path / "out.jsonl")
    assert (done.rows, done.turns, done.dropped) == (1, 3, {})
    assert read(tmp_path / "out.jsonl") == [RECORD]


def test_the_same_file_is_imported_once(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", RECORD, RECORD)
    first, again = import_paper(store, path), import_paper(store, path)
    assert (first.run_id, first.new, again.new) == (again.run_id, True, False)
    assert store.rows("SELECT count(*) FROM trees") == [(1,)]
    assert "line 2 repeats" in first.notes[0]


def test_a_played_tree_is_written_along_what_it_went_on_from(tmp_path: Path) -> None:
    built, _ = small_store(tmp_path / "played.db")
    with built:
        export_paper(built, tmp_path / "out.jsonl")
    (record,) = read(tmp_path / "out.jsonl")
    assert record["profile"] == "Ada lives here."
    assert record["conversations"][1] == {
        "user": "hello 2",
        "assistant": {"preferred": "good 2", "rejected": "plain 2"},
        "chosen": "preferred",
        "inferred_profile": "f1 f2",
        "inferred_personality": "None",
    }


def test_of_several_replies_the_one_gone_on_from_is_shown(store: Store, tmp_path: Path) -> None:
    run, judge = make_run(store), make_judge(store)
    said = run.user(run.trees[0], "hello")
    a, b, c = run.replies(said, "a", "b", "c")
    verdicts: list[Any] = [(a, b, "win", 0.1), (a, c, "win", 0.9), (b, c, "win", 0.8)]
    run.turn(said, [a, b, c], [judged(said, judge, verdicts)], continued=b)
    export_paper(store, tmp_path / "out.jsonl")
    (told,) = read(tmp_path / "out.jsonl")[0]["conversations"]
    assert (told["assistant"], told["chosen"]) == ({"preferred": "b", "rejected": "c"}, "preferred")


def test_a_conversation_ends_before_a_turn_without_a_pair(store: Store, tmp_path: Path) -> None:
    run, judge = make_run(store), make_judge(store)
    parent = None
    for number, outcome in enumerate(("win", "tie", "win")):
        said = run.user(run.trees[0], f"hello {number}", parent)
        a, b = run.replies(said, "a", "b")
        run.turn(said, [a, b], [judged(said, judge, [(a, b, outcome)])], continued=a)
        parent = a
    done = export_paper(store, tmp_path / "out.jsonl")
    assert (done.turns, done.dropped) == (1, {"undecided": 2})


def test_held_out_people_are_not_written(store: Store, tmp_path: Path) -> None:
    import_paper(store, write(tmp_path / "in.jsonl", RECORD), split="held_out")
    assert export_paper(store, tmp_path / "out.jsonl").rows == 0
    assert select(store, Selection()).trees == ()


def test_reasoning_and_quoted_or_glued_halves_are_cleaned(store: Store, tmp_path: Path) -> None:
    """The released code put whole JSON lines into its records, and one of these held two people."""
    record = json.loads(json.dumps(RECORD))
    record["profile"] = '"She is a nurse.""He is a cook."'
    record["personality"] = '"He is shy."\n'
    record["conversations"][0]["assistant"]["preferred"] = "<think>hm</think>good 1"
    done = import_paper(store, write(tmp_path / "in.jsonl", record))
    (tree,) = store.trees(done.run_id)
    assert tree.profile_id is not None
    assert tree.personality_id is not None
    assert store.profile(tree.profile_id).text == "She is a nurse. He is a cook."
    assert store.personality(tree.personality_id).text == "He is shy."
    assert "2 glued together" in done.notes[0]
    assert "good 1" in {node.text for node in store.tree(tree.id)}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("{no", "Expecting"),
        ([1], "not an object"),
        ({**RECORD, "profile": None}, "profile is not a text"),
        ({**RECORD, "conversations": []}, "not a list of turns"),
        ({**RECORD, "conversations": [{**turn(1, "preferred"), "user": " "}]}, "no text of the user"),
        ({**RECORD, "conversations": [{**turn(1, "preferred"), "assistant": "x"}]}, "no preferred and rejected"),
        ({**RECORD, "conversations": [turn(1, "first")]}, "went on from 'first'"),
        (
            {**RECORD, "conversations": [{**turn(1, "preferred"), "assistant": {"preferred": "", "rejected": "b"}}]},
            "an empty reply",
        ),
    ],
)
def test_a_broken_line_is_named_and_costs_no_other(store: Store, tmp_path: Path, broken: Any, said: str) -> None:
    done = import_paper(store, write(tmp_path / "in.jsonl", broken, RECORD))
    assert done.conversations == 1
    assert done.problems[0].line == 1
    assert said in done.problems[0].what
    assert verify(store).clean


def test_a_file_without_a_conversation_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="line 1 is a JSON list"):
        import_paper(store, write(tmp_path / "in.jsonl", [1]))
    with pytest.raises(SetupError, match="cannot read"):
        import_paper(store, tmp_path / "missing.jsonl")
    assert store.runs() == []


def test_hostile_text_comes_through_unchanged(store: Store, tmp_path: Path) -> None:
    record = json.loads(json.dumps(RECORD))
    record["conversations"][0]["user"] = hostile = "\x1b[2J \ud800 {{ 7 }} <|im_end|> \x00"
    import_paper(store, write(tmp_path / "in.jsonl", record))
    export_paper(store, tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl")[0]["conversations"][0]["user"] == hostile
    assert verify(store).clean
