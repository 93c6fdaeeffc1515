"""What is trained on: the right replies under the right history, split by person, and everything else counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.messages import Line
from agents.models.protocol import Message
from agents.prompts import Prompt
from agents.responder import responder_messages
from tests.support.builders import (
    MODEL_ID,
    PROMPTS,
    BuiltRun,
    judge_again,
    judged,
    make_judge,
    make_run,
    personality,
    profile,
    prompt_id,
    small_store,
)
from tests.support.judged_store import PEOPLE
from train.data import DataSet, HeldOut, MessagePair, OwnFile, Selection, Side, select
from train.export import export
from trees.errors import SetupError
from trees.pairs import BadFilter
from trees.pool import Block, keep_block
from trees.store import Store
from trees.values import Node
from trees.writes import keep_prompt

ALL = Selection(evaluation=0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db") as opened:
        yield opened


def texts(found: DataSet, tree: int = 0) -> list[str]:
    return [message.text for message in found.trees[tree].messages]


def add_turn(run: BuiltRun, judge: str, tree: int = 0, parent: Node | None = None, **more: Any) -> tuple[Node, Node]:
    """A turn of two replies, the first better and continued."""
    name = more.pop("name", "hello")
    said = run.user(run.trees[tree], name, parent)
    good, bad = run.replies(said, f"good {name}", f"bad {name}")
    run.turn(said, [good, bad], [judged(said, judge, [(good, bad, "win")])], continued=more.get("continued", good))
    return good, bad


def test_a_history_repeats_no_opening_and_puts_no_winner_where_the_other_reply_was_played(store: Store) -> None:
    """Two faults of the code that was released with the paper, in its SFT data.

    It writes the opening as the user's message of every turn, and the preferred reply into every turn of the history,
    also where the conversation went on from the other one.
    """
    run, judge = make_run(store), make_judge(store)
    first = run.user(run.trees[0], "opening")
    good, bad = run.replies(first, "good 1", "bad 1")
    run.turn(first, [good, bad], [judged(first, judge, [(good, bad, "win")])], continued=bad)
    add_turn(run, judge, parent=bad, name="second")
    (tree,) = select(store, ALL).trees
    assert [(m.parent, m.speaker, m.text) for m in tree.messages] == [
        (-1, "user", "opening"),
        (0, "assistant", "good 1"),
        (0, "assistant", "bad 1"),
        (2, "user", "second"),
        (3, "assistant", "good second"),
        (3, "assistant", "bad second"),
    ]
    assert (tree.targets, tree.pairs) == ((1, 4), (MessagePair(1, 2), MessagePair(4, 5)))
    assert [m.text for m in tree.path(4)] == ["opening", "bad 1", "second", "good second"]


def test_an_early_reply_is_no_target_of_every_later_row_and_the_user_s_words_are_none(store: Store) -> None:
    """The released SFT code makes a row of each prefix and learns all of its tokens.

    So of ten turns the first reply is learnt ten times and the last one once, and with them what the user says.
    """
    run, judge = make_run(store), make_judge(store)
    parent = None
    for number in range(4):
        parent, _ = add_turn(run, judge, parent=parent, name=str(number))
    (tree,) = select(store, ALL).trees
    assert [tree.messages[i].text for i in tree.targets] == [f"good {n}" for n in range(4)]
    assert len(set(tree.targets)) == 4
    assert {tree.messages[i].speaker for i in tree.targets} == {"assistant"}


def test_a_rejected_reply_is_the_whole_text_and_no_single_character_of_it(store: Store) -> None:
    """The released DPO code draws one element of what it takes for a list of replies, and is a text."""
    run, judge = make_run(store), make_judge(store)
    said = run.user(run.trees[0], "hello")
    good, bad = run.replies(said, "a good reply", "another one, and worse")
    run.turn(said, [good, bad], [judged(said, judge, [(good, bad, "win")])])
    (tree,) = select(store, ALL).trees
    assert tree.messages[tree.pairs[0].rejected].text == "another one, and worse"


def test_a_turn_without_a_winner_gives_no_target(store: Store) -> None:
    run, judge = make_run(store), make_judge(store)
    said = run.user(run.trees[0], "hello")
    a, b = run.replies(said, "a", "b")
    run.turn(said, [a, b], [judged(said, judge, [(a, b, "tie")])])
    found = select(store, ALL)
    assert found.trees == ()
    assert found.dropped == {"targets": {"no_winner": 1}, "pairs": {"tie": 1}, "rows": {}}


def test_hints_ledgers_and_reasoning_never_enter(store: Store) -> None:
    run, judge = make_run(store), make_judge(store)
    said = run.user(run.trees[0], "hello", reasoning="SECRET")
    a, b = run.replies(said, "a", "b", hinted=True)
    run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])], facts=["SECRET"])
    assert "SECRET" not in repr(select(store, ALL).trees)


def test_held_out_people_are_refused_and_counted(store: Store) -> None:
    judge = make_judge(store)
    run = make_run(store, [("Ada", "calm"), ("Bo", "loud"), ("Cy", "shy")], held_out=["Bo", "loud", "shy"])
    for tree in range(3):
        add_turn(run, judge, tree)
    found = select(store, ALL)
    assert [tree.id for tree in found.trees] == [run.trees[0]]
    assert found.people == ((profile("Ada").id, personality("calm").id),)
    assert found.dropped["targets"] == found.dropped["pairs"] == {"held_out": 1, "unused": 1}
    with pytest.raises(HeldOut, match="is held out"):
        select(store, replace(ALL, people=(personality("shy").id[:8],)))


def test_who_says_the_same_as_somebody_held_out_is_refused(store: Store, tmp_path: Path) -> None:
    run, judge = make_run(store, [("Ada", "calm"), ("Bo", "loud")], held_out=["Bo"]), make_judge(store)
    add_turn(run, judge)
    store.apply([keep_block(Block(profile("Ada").id, "profile", profile("Bo").id, 0.99, "words"))])
    assert select(store, ALL).dropped["targets"] == {"blocked": 1}
    with pytest.raises(HeldOut, match="says the same"):
        select(store, replace(ALL, people=(profile("Ada").id,)))
    row = {"messages": [user("a"), assistant("b")], "profile": profile("Ada").id}
    assert select(store, NONE, [write(tmp_path / "own.jsonl", row)]).dropped["rows"] == {"held_out": 1}


def test_a_later_split_takes_effect_on_stored_trees(store: Store) -> None:
    run, judge = make_run(store), make_judge(store)
    add_turn(run, judge)
    before = select(store, ALL)
    store.apply([("UPDATE profiles SET split = 'held_out'", ())])
    assert (before.targets, select(store, ALL).targets) == (1, 0)


def test_filters_say_what_they_leave_out(store: Store) -> None:
    judge = make_judge(store)
    run = make_run(store, [("Ada", "calm"), ("Bo", "loud")])
    first, _ = add_turn(run, judge)
    add_turn(run, judge, parent=first, name="again")
    add_turn(run, judge, 1, name="bo")
    assert texts(select(store, replace(ALL, turns=(2, 2)))) == [
        "hello",
        "good hello",
        "again",
        "good again",
        "bad again",
    ]
    assert select(store, replace(ALL, turns=(2, 2))).dropped["pairs"] == {"other_turn": 2}
    only = select(store, replace(ALL, people=(profile("Bo").id[:9],)))
    assert (only.targets, only.dropped["targets"]) == (1, {"other_person": 2})
    assert select(store, replace(ALL, models=("hand",))).targets == 3
    with pytest.raises(SetupError, match="no model 'other'"):
        select(store, replace(ALL, models=("other",)))
    store.apply([("INSERT INTO models VALUES ('f0', 'scripted', 'other', '{}')", ())])
    assert select(store, replace(ALL, models=("other",))).dropped["targets"] == {"other_model": 3}
    assert select(store, replace(ALL, models=("other", MODEL_ID[:6]))).pairs == 3


def test_margins_are_in_the_judge_s_unit(store: Store) -> None:
    run, judge = make_run(store), make_judge(store)
    said = run.user(run.trees[0], "hello")
    a, b, c = run.replies(said, "a", "b", "c")
    verdicts = [(a, b, "win", 1.0), (a, c, "win", 0.2)]
    run.turn(said, [a, b, c], [judged(said, judge, verdicts)])  # type: ignore[arg-type]
    wide = select(store, replace(ALL, min_margin=0.5, unit="nats"))
    assert (wide.pairs, wide.dropped["pairs"], wide.dropped["targets"]) == (1, {"below_margin": 1}, {"below_margin": 1})
    with pytest.raises(BadFilter, match="does not measure in points"):
        select(store, replace(ALL, unit="points"))


def test_the_best_reply_against_each_leaves_out_wins_of_others(store: Store) -> None:
    run, judge = make_run(store), make_judge(store)
    said = run.user(run.trees[0], "hello")
    a, b, c = run.replies(said, "a", "b", "c")
    run.turn(said, [a, b, c], [judged(said, judge, [(a, b, "win"), (a, c, "win"), (b, c, "win")])])
    best = select(store, replace(ALL, pairs="best"))
    assert (select(store, ALL).pairs, best.pairs, best.dropped["pairs"]) == (3, 2, {"not_best": 1})


def weighed(store: Store, margins: Sequence[float | None], **more: Any) -> DataSet:
    """A tree a margin, each with one pair."""
    run, judge = make_run(store, PEOPLE[: len(margins)]), make_judge(store)
    for tree, margin in zip(run.trees, margins, strict=True):
        said = run.user(tree, "hello")
        a, b = run.replies(said, "a", "b")
        won = (a, b, "win") if margin is None else (a, b, "win", margin)
        run.turn(said, [a, b], [judged(said, judge, [won], unit=None if margin is None else "nats")])
    return select(store, replace(ALL, **{"evaluation": 0.0, "weights": "margin", **more}))


def weights_of(data: DataSet, *sides: Side) -> list[float]:
    return [pair.weight for side in sides for tree in data.side(side) for pair in tree.pairs]


def test_margins_as_weights_are_1_in_the_mean_and_part_of_the_digest(store: Store) -> None:
    found = weighed(store, [0.5, 1.0, 1.5, 3.0])
    assert weights_of(found, "train") == pytest.approx([1 / 3, 2 / 3, 1.0, 2.0])
    plain = select(store, replace(ALL, evaluation=0.0))
    assert weights_of(plain, "train") == [1.0] * 4
    assert found.digest != plain.digest
    assert weights_of(found.only("dpo"), "train") == weights_of(found, "train")
    assert found.only("sft").digest == plain.only("sft").digest, "targets have none"
    part = select(store, replace(ALL, evaluation=0.5, weights="margin"))
    trained, measured = weights_of(part, "train"), weights_of(part, "evaluation")
    assert sum(trained) / len(trained) == pytest.approx(1.0)
    scale = sum(trained) + sum(measured)
    assert sorted(w / scale for w in trained + measured) == pytest.approx([1 / 12, 1 / 6, 1 / 4, 1 / 2])


def test_own_rows_weigh_as_much_as_the_mean_pair(store: Store, tmp_path: Path) -> None:
    weighed(store, [1.0, 3.0])
    row = {"prompt": [user("x")], "chosen": [assistant("y")], "rejected": [assistant("z")]}
    (tmp_path / "own.jsonl").write_text(json.dumps(row), encoding="utf-8")
    wanted = replace(ALL, evaluation=0.0, weights="margin")
    found = select(store, wanted, [OwnFile(tmp_path / "own.jsonl", 1 / 3)])
    assert weights_of(found, "train") == [0.5, 1.5, 1.0]


def test_judges_without_margins_give_no_weights(store: Store) -> None:
    with pytest.raises(BadFilter, match="gives no margins"):
        weighed(store, [None])


def test_a_win_by_nothing_cannot_be_weighed(store: Store) -> None:
    with pytest.raises(SetupError, match=r"has the margin 0\.0"):
        weighed(store, [1.0, 0.0])


def test_only_one_fit_s_messages_are_kept(store: Store) -> None:
    run, judge = make_run(store), make_judge(store)
    good, _ = add_turn(run, judge)
    said = run.user(run.trees[0], "tied", good)
    a, b = run.replies(said, "a", "b")
    run.turn(said, [a, b], [judged(said, judge, [(a, b, "tie")])])
    both = select(store, ALL)
    assert texts(both.only("sft")) == ["hello", "good hello"]
    assert (both.only("sft").pairs, both.only("sft").targets) == (0, 1)
    assert texts(both.only("dpo")) == ["hello", "good hello", "bad hello"]
    assert both.only("dpo").trees[0].pairs == (MessagePair(1, 2),)


def test_an_edited_opening_is_a_tree_of_its_own(store: Store) -> None:
    run, judge = make_run(store), make_judge(store)
    add_turn(run, judge)
    said = run.user(run.trees[0], "edited", replica="1")
    a, b = run.replies(said, "a", "b")
    run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])])
    found = select(store, ALL)
    assert [texts(found, i)[0] for i in range(2)] == ["hello", "edited"]
    assert len({tree.id for tree in found.trees}) == 2
    assert len({tree.persona for tree in found.trees}) == 1


def many_people(store: Store, number: int = 10) -> BuiltRun:
    names = [(f"P{i // 2}", f"q{i}") for i in range(number)]
    run, judge = make_run(store, names), make_judge(store)
    for tree in range(number):
        for replica in range(2):
            said = run.user(run.trees[tree], f"hello {tree}", replica=str(replica))
            a, b = run.replies(said, f"a {tree}", f"b {tree}")
            run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])])
    return run


def test_the_split_is_by_person_and_profiles_stay_together(store: Store) -> None:
    many_people(store)
    found = select(store, replace(Selection(), evaluation=0.4))
    sides = {tree.profile_id: tree.side for tree in found.trees}
    assert all(tree.side == sides[tree.profile_id] for tree in found.trees)
    assert sorted(sides.values()) == ["evaluation"] * 2 + ["train"] * 3
    again = select(store, replace(Selection(), evaluation=0.4))
    assert again.digest == found.digest
    drawn = {select(store, Selection(evaluation=0.4, seed=seed)).digest for seed in range(8)}
    assert len(drawn) > 1


def test_somebody_evaluates_wherever_there_are_two(store: Store) -> None:
    many_people(store, 4)
    found = select(store, Selection(evaluation=0.01))
    assert len(found.side("evaluation")) == len(found.side("train")) == 4


def test_the_digest_is_of_what_is_trained_on(store: Store) -> None:
    run, judge = make_run(store), make_judge(store)
    add_turn(run, judge)
    found = select(store, ALL)
    assert found.digest == select(store, replace(ALL, min_margin=0.5)).digest
    assert found.digest != found.only("dpo").digest != found.only("sft").digest
    store.apply(keep_prompt(prompt_id("deploy", "[head]\nBe kind.\n"), "deploy", "[head]\nBe kind.\n"))
    kind = replace(ALL, deploy=prompt_id("deploy", "[head]\nBe kind.\n")[:9])
    assert select(store, kind).trees[0].system == "Be kind."
    assert found.digest != select(store, kind).digest
    other = make_judge(store, "other", threshold=0.5)
    user_node = run.tree().roots()[0]
    a, b = run.tree().children(user_node.id)
    judge_again(store, judged(user_node, other, [(b, a, "win")]))
    assert select(store, replace(ALL, judge="other")).digest != found.digest


def test_contexts_stand_under_deploy(tmp_path: Path) -> None:
    built, _ = small_store(tmp_path / "other.db", deploy="[head]\nBe kind.\n")
    with built:
        assert select(built, ALL).trees[0].system == "Be kind."
        assert select(built, replace(ALL, deploy="")).trees[0].system == ""
        with pytest.raises(SetupError, match="kind user, not deploy"):
            select(built, replace(ALL, deploy=prompt_id("user", PROMPTS["user"])))


def test_contexts_are_the_messages_that_a_deployed_model_is_sent(tmp_path: Path) -> None:
    """The same as `chat` and a benchmark make of the same history under the same prompt version."""
    text = "[head]\nBe kind.\n[tail]\n"
    built, run = small_store(tmp_path / "other.db", deploy=text)
    with built:
        (tree,) = select(built, ALL).trees
        stored = run.tree()
        for target in tree.targets:
            *before, _ = tree.path(target)
            ours = [Message("system", tree.system), *(Message(m.speaker, m.text) for m in before)]
            path = stored.path(tree.messages[target].node)[:-1]
            history = [Line(speaker=node.speaker, text=node.text) for node in path]
            assert tuple(ours) == responder_messages(Prompt("deploy", text), history, None)


# Files


def write(path: Path, *rows: Any) -> OwnFile:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return OwnFile(path, 1.0)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


NONE = Selection(runs=(), evaluation=0)


def test_rows_of_trl_s_forms_are_read(store: Store, tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    file = write(
        tmp_path / "own.jsonl",
        {"prompt": [system, user("a")], "completion": [assistant("b")]},
        {"messages": [system, user("a"), assistant("b"), user("c"), assistant("d")]},
        {"prompt": [user("x")], "chosen": [assistant("y")], "rejected": [assistant("z")]},
        {"chosen": [user("x"), assistant("y")], "rejected": [user("x"), assistant("w")]},
    )
    found = select(store, NONE, [file])
    assert found.lineage == "unknown"
    assert any("lineage `unknown`" in note for note in found.notes)
    first, second = found.trees
    assert (first.system, [m.text for m in first.messages], first.targets) == (
        "Be brief.",
        ["a", "b", "c", "d"],
        (1, 3),
    )
    assert [m.text for m in second.messages] == ["x", "y", "z", "w"]
    assert second.pairs == (MessagePair(1, 2), MessagePair(1, 3))


def test_reasoning_and_flawed_rows_do_not_enter(store: Store, tmp_path: Path) -> None:
    row = {"messages": [user("a"), assistant("<think>SECRET</think>b")]}
    same = {"prompt": [user("x")], "chosen": [assistant("y")], "rejected": [assistant("y")]}
    empty = {"prompt": [user("x")], "completion": [assistant("<think>only</think> ")]}
    found = select(store, NONE, [write(tmp_path / "own.jsonl", row, row, same, empty)])
    assert texts(found) == ["a", "b"]
    assert found.dropped["rows"] == {"duplicate": 1, "empty_reply": 1, "equal_text": 1}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "Expecting property name"),
        ("[1]", "not an object"),
        ('{"text": "hello"}', "it has text"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "'tool'"),
        ('{"prompt": "hi", "completion": "there"}', "not a list of messages"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "no text"),
        ('{"prompt": [{"role": "user", "content": "a"}], "chosen": [], "rejected": []}', "chosen is not a list"),
    ],
)
def test_a_broken_line_is_quoted_by_number(store: Store, tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' + line)
    with pytest.raises(SetupError, match="line 2") as error:
        select(store, NONE, [OwnFile(path, 1.0)])
    assert said in str(error.value)


def test_rows_with_held_out_words_or_people_are_refused(store: Store, tmp_path: Path) -> None:
    run, judge = make_run(store, [("Ada", "calm"), ("Bo", "loud")], held_out=["Bo", "loud"]), make_judge(store)
    add_turn(run, judge)
    add_turn(run, judge, 1, name="private")
    words = {"messages": [user("and before"), assistant("hm"), user("private"), assistant("good private")]}
    person = {"messages": [user("a"), assistant("b")], "profile": profile("Bo").id}
    beaten = {"prompt": [user("private")], "chosen": [assistant("new")], "rejected": [assistant("bad private")]}
    fine = {"messages": [user("private"), assistant("my own answer")]}
    found = select(store, NONE, [write(tmp_path / "own.jsonl", words, person, beaten, fine)])
    assert found.dropped["rows"] == {"held_out": 3}
    assert texts(found) == ["private", "my own answer"]
    assert any("were refused" in note for note in found.notes)


def test_a_share_is_drawn_by_the_seed_and_the_rest_counted(store: Store, tmp_path: Path) -> None:
    many_people(store, 4)
    rows = [{"messages": [user(f"q{i}"), assistant(f"r{i}")]} for i in range(30)]
    file = replace(write(tmp_path / "own.jsonl", *rows), share=0.2)
    found = select(store, ALL, [file])
    assert found.targets == 10
    assert found.dropped["rows"] == {"beyond_share": 28}
    assert select(store, ALL, [file]).digest == found.digest
    assert select(store, replace(ALL, seed=1), [file]).digest != found.digest
    with pytest.raises(SetupError, match="share"):
        select(store, ALL, [replace(file, share=0.0)])


def test_shares_of_several_files_are_of_everything_that_is_trained_on(store: Store, tmp_path: Path) -> None:
    many_people(store, 8)
    rows = [{"messages": [user(f"q{i}"), assistant(f"r{i}")]} for i in range(60)]
    long = [{"messages": [m for j in range(2) for m in (user(f"p{i}.{j}"), assistant(f"a{i}.{j}"))]} for i in range(30)]
    first = replace(write(tmp_path / "first.jsonl", *rows), share=0.25)
    second = replace(write(tmp_path / "second.jsonl", *long), share=0.25)
    found = select(store, replace(ALL, evaluation=0.25), [first, second])
    trained = Counter(dict.fromkeys(("first.jsonl", "second.jsonl"), 0))
    for tree in found.side("train"):
        trained[tree.source if tree.from_file else "store"] += len(tree.targets)
    total = trained.total()
    assert trained["store"] == total / 2
    assert trained["first.jsonl"] == trained["second.jsonl"] == total / 4
    stored = sum(len(tree.targets) for tree in found.trees if not tree.from_file)
    assert trained["store"] < stored, "what only measures does not count"


def test_files_that_leave_no_room_for_what_is_stored_are_refused(store: Store, tmp_path: Path) -> None:
    many_people(store, 2)
    one = {"messages": [user("q"), assistant("r")]}
    files = [replace(write(tmp_path / name, one), share=share) for name, share in (("a", 0.6), ("b", 0.4))]
    with pytest.raises(SetupError, match=r"share of 0\.6 and 0\.4 of all leave nothing"):
        select(store, ALL, files)
    with pytest.raises(SetupError, match="share of 1 of all"):
        select(store, ALL, [replace(files[0], share=1.0)])
    assert select(store, NONE, files).targets == 2, "by themselves they are taken whole"


def test_exported_rows_keep_their_lineage_until_they_are_edited(store: Store, tmp_path: Path) -> None:
    run, judge = make_run(store), make_judge(store)
    good, _ = add_turn(run, judge)
    add_turn(run, judge, parent=good, name="again")
    export(store, "sft", tmp_path / "own.jsonl")
    again = select(store, NONE, [OwnFile(tmp_path / "own.jsonl", 1.0)])
    assert again.lineage == "store"
    assert texts(again) == ["hello", "good hello", "again", "good again"]
    assert again.people == ((profile("Ada").id, personality("calm").id),)
    for was, now in (('"good again"', '"GOOD"'), ('"hello"', '"Hello"'), (run.trees[0], run.trees[0])):
        changed = (tmp_path / "own.jsonl").read_text().replace(was, now)
        (tmp_path / "changed.jsonl").write_text(changed)
        expected = "store" if was == now else "unknown"
        assert select(store, NONE, [OwnFile(tmp_path / "changed.jsonl", 1.0)]).lineage == expected


def test_exported_pairs_are_believed_with_both_their_replies(store: Store, tmp_path: Path) -> None:
    run, judge = make_run(store), make_judge(store)
    add_turn(run, judge)
    export(store, "dpo", tmp_path / "own.jsonl")
    assert select(store, NONE, [OwnFile(tmp_path / "own.jsonl", 1.0)]).lineage == "store"
    changed = (tmp_path / "own.jsonl").read_text().replace('"bad hello"', '"BAD"')
    (tmp_path / "own.jsonl").write_text(changed)
    assert select(store, NONE, [OwnFile(tmp_path / "own.jsonl", 1.0)]).lineage == "unknown"


def test_rows_by_nobody_known_are_trained_on_beside_people(store: Store, tmp_path: Path) -> None:
    many_people(store, 4)
    rows = [{"messages": [user(f"q{i}"), assistant(f"r{i}")]} for i in range(30)]
    file = write(tmp_path / "own.jsonl", *rows)
    mixed = select(store, Selection(evaluation=0.5), [replace(file, share=0.5)])
    assert {tree.side for tree in mixed.trees if tree.from_file} == {"train"}
    assert len({tree.profile_id for tree in mixed.side("evaluation")}) == 1
    alone = select(store, Selection(runs=(), evaluation=0.5), [file])
    assert (len(alone.side("train")), len(alone.side("evaluation"))) == (15, 15)


# ---- earlier runs


def test_of_earlier_runs_only_a_share_is_taken_and_the_rest_is_counted(store: Store) -> None:
    judge = make_judge(store)
    old, new = (make_run(store, [(name, "calm") for name in ("Ada", "Ben", "Cleo")], seed=seed) for seed in (1, 2))
    for run in (old, new):
        for tree in range(3):
            add_turn(run, judge, tree, name=f"{tree} of {run.id[:4]}")
    wanted = replace(ALL, runs=(new.id,), earlier=(old.id,), earlier_share=0.25)
    found = select(store, wanted)
    assert {tree.source for tree in found.trees} == {old.id, new.id}
    assert (found.targets, found.pairs) == (4, 4)
    assert (found.dropped["targets"], found.dropped["pairs"]) == ({"beyond_share": 2}, {"beyond_share": 2})
    assert select(store, wanted).digest == found.digest
    assert len({select(store, replace(wanted, seed=seed)).digest for seed in range(8)}) > 1
    assert (
        select(store, replace(wanted, earlier_share=0.0)).digest == select(store, replace(ALL, runs=(new.id,))).digest
    )
    assert select(store, replace(wanted, earlier_share=1.0)).targets == 6
