"""`espalier judge RUN --judge human`: a person votes blind at a terminal; what they said is kept, told and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from simulation.votes import CannotVote, Person, is_person, judged, owed, shown_order, vote_of
from tests.support.builders import BuiltRun, make_judge, make_run
from tests.support.builders import judged as by_model
from tests.support.command_line import Espalier, as_json
from trees.pairs import find_judge
from trees.statistics import agreement, cohens_kappa
from trees.store import Store
from trees.verify import verify

TEXTS = ("Try the night bus.", "You should sleep.", "\x1b[2J[b]What \u202ekind of shift?")


@pytest.fixture
def run(folder: Path) -> BuiltRun:
    """Two turns of three replies, each judged by a model that prefers the first one."""
    with Store.open(folder / "espalier.db") as store:
        run = make_run(store)
        judge = make_judge(store, "likelihood")
        parent = None
        for turn in range(2):
            user = run.user(run.trees[0], f"Hello {turn}", parent)
            replies = [
                run.replies(user, text, role=f"responder.{name}", hinted=name == "warm")[0]
                for name, text in zip(("plain", "warm", "brief"), TEXTS, strict=True)
            ]
            first, second, third = replies
            said = by_model(user, judge, [(first, second, "win"), (first, third, "win")])
            run.turn(user, replies, [said], continued=first)
            parent = first
    return run


def test_votes_are_asked_blind_kept_at_once_and_gone_on_with(espalier: Espalier, run: BuiltRun) -> None:
    first = espalier("judge", run.id[:8], "--judge", "human", stdin="A\nq\n")
    assert "1 votes kept, 0 skipped, 1 turns left" in first.stdout
    for word in ("responder", "plain", "warm", "brief", "hinted", "likelihood", "★", "\x1b", "\u202e"):
        assert word not in first.stdout
    assert all(f"{letter}  " in first.stdout for letter in "ABC")
    second = espalier("judge", run.id[:8], "--judge", "human", "--json", stdin="x\na\ns\n")
    assert as_json(second) == {"run": run.id, "judge": "human", "voted": 0, "skipped": 1, "left": 1}
    assert "'a' is no vote" in second.stderr
    third = espalier("judge", run.id[:8], "--judge", "human", stdin="b\n")
    assert "0 turns left" in third.stdout
    with Store.read(run.store.path) as store:
        assert verify(store).clean
        tree = store.tree(run.trees[0])
        assert owed(tree, Person()) == []
        votes = [vote_of(tree.judgement_of(user.id, Person().id)) for user, _ in tree.turns()]
        user, replies = tree.turns()[0]
    assert votes == [shown_order(user, replies)[0].id, "both_bad"]


def test_what_a_person_said_is_in_status_show_and_export(espalier: Espalier, run: BuiltRun, folder: Path) -> None:
    espalier("judge", run.id[:8], "--judge", "human", stdin="A\n=\n")
    rows = {row["judge"]: row for row in as_json(espalier("status", run.id[:8], "--json"))["judges"]}
    assert (rows["human"]["kind"], rows["human"]["win"], rows["human"]["tie"]) == ("human", 2, 3)
    assert rows["likelihood"]["agreement"]["human"]["turns"] == 2
    assert "likelihood: agrees with human on" in espalier("status", run.id[:8]).stdout
    assert espalier("show", "--judge", "human").stdout.count("★") >= 1
    espalier("export", "dpo", "pairs.jsonl", "--judge", "human")
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    with Store.read(run.store.path) as store:
        assert find_judge(store, [run.id])[1] == "likelihood", "votes count where they are named"
        user, replies = store.tree(run.trees[0]).turns()[0]
    picked = shown_order(user, replies)[0].text
    assert [pair["chosen"][-1]["content"] for pair in pairs] == [picked, picked]


def test_two_people_are_two_judges_and_a_second_vote_counts(espalier: Espalier, run: BuiltRun) -> None:
    espalier("judge", run.id[:8], "--judge", "human.ada", stdin="A\n=\n")
    espalier("judge", run.id[:8], "--judge", "human.ben", stdin="A\nB\n")
    espalier("judge", run.id[:8], "--judge", "human.ben", "--again", stdin="B\nB\n")
    with Store.read(run.store.path) as store:
        assert verify(store).clean
        tree = store.tree(run.trees[0])
        user, replies = tree.turns()[0]
        made = tree.judgement_of(user.id, Person("human.ben").id)
        found = agreement(store, run.id, Person("human.ada").id, Person("human.ben").id)
    assert made is not None
    assert (made.repeat, vote_of(made)) == (1, shown_order(user, replies)[1].id)
    assert (found.turns, found.agreed) == (2, 0)


def test_a_vote_fits_its_turn_and_a_reply_never_beats_its_own_words(run: BuiltRun) -> None:
    with Store.open(run.store.path) as store:
        turns = store.tree(run.trees[0]).turns()
    user, replies = turns[0]
    with pytest.raises(CannotVote, match="'D' is no reply"):
        judged(Person(), user, replies, "D")
    same = [replace(reply, text="Yes.") for reply in replies[:2]]
    assert [verdict.outcome for verdict in judged(Person(), user, same, "A").verdicts] == ["tie"]
    assert shown_order(user, replies) == shown_order(user, replies[::-1]), "the order is that of the turn"
    assert not any(map(is_person, ("humane", "human.", "likelihood")))


def test_kappa_is_what_cohen_says() -> None:
    table = {("a", "a"): 25, ("a", "b"): 13, ("a", "c"): 12, ("b", "a"): 12, ("b", "b"): 2, ("b", "c"): 16}
    table |= {("c", "a"): 3, ("c", "b"): 15, ("c", "c"): 2}
    said = [pair for pair, number in table.items() for _ in range(number)]
    found = cohens_kappa(said, 100)
    chance = 0.5 * 0.4 + 0.3 * 0.3 + 0.2 * 0.3
    assert found.agreed == 29
    assert found.kappa == pytest.approx((0.29 - chance) / (1 - chance))
    assert found.interval is not None
    assert found.interval[0] < found.kappa < found.interval[1]


def test_kappa_of_little_is_wide_and_of_nothing_is_none() -> None:
    few = cohens_kappa([("first", "first"), ("second", "second")], 2)
    assert few.kappa == 1
    assert few.interval is not None
    assert few.interval[0] < 0.3
    assert few.interval[1] == 1
    assert cohens_kappa([], 0).kappa is None
    assert cohens_kappa([("neither", "neither")] * 9, 9).kappa is None
