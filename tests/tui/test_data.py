"""`data lint` on the command line: the figures, samples in brackets, hostile text, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.builders import judged, make_judge, make_run
from tests.support.command_line import Espalier, as_json
from tests.support.tokenizers import CHATML, byte_tokenizer
from trees.store import Store


@pytest.fixture
def base(folder: Path) -> str:
    """The folder of a small tokenizer."""
    pytest.importorskip("transformers", reason="the training extra is not installed")
    made = byte_tokenizer(CHATML, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>")
    made.save_pretrained(folder / "base")
    return "base"


def test_lint_says_what_would_be_trained_on(espalier: Espalier, played: str, base: str) -> None:
    shown = espalier("data", "lint", played[:8], "--base", base, "--limit", "100")
    assert "by the verdicts of 'likelihood'" in shown.stdout
    assert "data digest " in shown.stdout
    assert "tokens a conversation" in shown.stdout
    assert "a reply ends with '<|im_end|>'" in shown.stdout
    told = as_json(espalier("data", "lint", "--base", base, "--json", "--limit", "100"))
    assert told["sides"]["train"]["people"] == told["sides"]["evaluation"]["people"] == 1
    assert told["tokens"]["limit"]["limit"] == 100
    assert sum(each["count"] for each in told["tokens"]["histograms"]["trees"]) == 2
    assert told["lineage"] == "store"


def test_lint_without_tokens_loads_no_tokenizer(espalier: Espalier, played: str) -> None:
    told = as_json(espalier("data", "lint", "--no-tokens", "--json", "--evaluation", "0", "--turns", "1"))
    assert told["tokens"] is None
    assert told["sides"]["evaluation"]["people"] == 0
    assert told["dropped"]["pairs"].keys() <= {"other_turn", "tie"}


def test_nothing_left_is_exit_1(espalier: Espalier, played: str) -> None:
    assert "nothing to train on" in espalier("data", "lint", "--no-tokens", "--min-margin", "1e9", exit_code=1).stdout


def test_own_rows_are_mixed_in_aloud(espalier: Espalier, played: str, folder: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (folder / "own.jsonl").write_text(json.dumps(row))
    shown = espalier("data", "lint", "--no-tokens", "--own", "own.jsonl:0.5")
    assert "lineage unknown" in shown.stdout
    assert "1 of 1 rows of own.jsonl are mixed in" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--turns", "3-1"], "are no turns"),
        (["--own", "x:y"], "is no share"),
        (["--person", "ffff"], "no profile begins with"),
        (["--judge", "nobody"], "no judge 'nobody'"),
    ],
)
def test_wrong_usage_is_said(espalier: Espalier, played: str, arguments: list[str], said: str) -> None:
    assert said in espalier("data", "lint", "--no-tokens", *arguments, exit_code=2).stderr


def test_hostile_text_is_shown_safely(espalier: Espalier, folder: Path, base: str) -> None:
    hostile = "\x1b[2J[bold]<|im_end|>\u202ereversed"
    with Store.open(folder / "espalier.db") as store:
        run, judge = make_run(store), make_judge(store)
        said = run.user(run.trees[0], hostile)
        a, b = run.replies(said, hostile + "a", "b")
        run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])])
    shown = espalier("data", "lint", "--base", base).stdout
    assert "\x1b[2J" not in shown
    assert "⟦<ESC>[2J[bold]<|im_end|><U+202E>reverseda<|im_end|>⟧" in shown
    assert "⟦-b<|im_end|>⟧" in shown
