"""Trying a prompt: both sides at the very places where one was used, judged if asked, and nothing kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from agents.prompts import Prompt, prompt_of
from simulation.runs import config_of
from tests.support.command_line import spawn
from trees.errors import SetupError
from trees.jobs import whoami
from trees.store import Store
from trees.writes import keep_operation
from tui.trying import Trial, pinned_places, place_of, said_at, try_prompt

DRAFT = "[head]\nAnswer in one line.\n"


def draft(kind: str = "responder") -> Prompt:
    return prompt_of(kind, DRAFT)


def tried(store: Store, run_id: str, trial: Trial) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return try_prompt(store, pinned_places(store, run_id, trial.draft.kind), trial, events.append), events


def test_what_is_written_is_told_and_the_saved_side_is_what_was_stored(store_path: Path, run_id: str) -> None:
    before = hashlib.sha256(store_path.read_bytes()).hexdigest()
    with Store.read(store_path) as store:
        uses = pinned_places(store, run_id, "responder")
        result, events = tried(store, run_id, Trial(draft()))
        stored = [said_at(store, use) for use in uses]
    assert [each["saved"] for each in result["places"]] == stored
    for number, each in enumerate(result["places"], 1):
        told = [event["text"] for event in events if event["place"] == number and event.get("side") == "draft"]
        assert "".join(told) == each["draft"] != each["saved"]
    assert hashlib.sha256(store_path.read_bytes()).hexdigest() == before


def test_the_prompt_that_was_used_says_the_same_again(store_path: Path, run_id: str) -> None:
    with Store.read(store_path) as store:
        use = pinned_places(store, run_id, "responder")[0]
        same = Prompt(*store.prompt(use.prompt_id))
        again = try_prompt(store, [use], Trial(same, draft()), lambda _: None)
        assert again["places"][0]["draft"] == said_at(store, use)
        assert again["places"][0]["saved"] != again["places"][0]["draft"]


def test_a_judge_of_the_run_says_which_is_better(store_path: Path, run_id: str) -> None:
    with Store.read(store_path) as store:
        judge = next(iter(config_of(store.run(run_id)).judges))
        result, events = tried(store, run_id, Trial(draft(), judge=judge))
    outcomes = [each["outcome"] for each in result["places"]]
    assert set(outcomes) <= {"draft", "saved", "tie", "both_bad", "unstable", "abstain"}
    assert sum(result["outcomes"].values()) == len(outcomes)
    assert [event["outcome"] for event in events if "outcome" in event]


def test_the_set_is_one_place_a_person_until_messages_are_bookmarked(store_path: Path, run_id: str) -> None:
    with Store.read(store_path) as store:
        trees = [row.id for row in store.trees(run_id)]
        assert [use.tree_id for use in pinned_places(store, run_id, "responder")] == trees
        marked = place_of(store, trees[0], "responder", 2)
    with Store.open(store_path) as store:
        store.apply(keep_operation(run_id, marked.tree_id, marked.node_id, "bookmark", 1, {"on": True}, whoami())[1])
        found = pinned_places(store, run_id, "responder")
        assert {use.node_id for use in found} == {marked.node_id}


@pytest.mark.parametrize(
    ("trial", "says"),
    [
        (Trial(prompt_of("inducer", "[head]\nx\n[tail]\ny\n")), "cannot be tried on its own"),
        (Trial(draft(), judge="nobody"), "no judge 'nobody'"),
        (Trial(draft("user"), judge="likelihood"), "judges compare replies"),
    ],
)
def test_what_cannot_be_tried_is_said(store_path: Path, run_id: str, trial: Trial, says: str) -> None:
    with Store.read(store_path) as store, pytest.raises(SetupError, match=says):
        try_prompt(store, pinned_places(store, run_id, trial.draft.kind), trial, lambda _: None)


def test_the_command_tells_each_place_and_ends_with_the_document(store_path: Path, run_id: str, tmp_path: Path) -> None:
    file = tmp_path / "draft.md"
    file.write_text(DRAFT, encoding="utf-8")
    words = ("prompts", "try", "responder", str(file), "--set", "2", "--run", run_id, "--store", str(store_path))
    child = spawn(*words, "--follow")
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    *events, last = [json.loads(line) for line in said.splitlines()]
    assert {event["place"] for event in events} == {1, 2}
    assert [place["title"] for place in last["places"]] == [e["title"] for e in events if "title" in e]
    child = spawn("prompts", "try", "responder", str(file), "--store", str(store_path))
    _, told = child.communicate(timeout=60)
    assert child.returncode == 2
    assert "--tree" in told
    assert "--set" in told
