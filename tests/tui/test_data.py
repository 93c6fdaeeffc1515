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
    alone = as_json(espalier("data", "lint", "--no-tokens", "--own", "own.jsonl", "--only-own", "--json"))
    assert alone["sides"]["train"] == {"people": 0, "trees": 1, "targets": 1, "pairs": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--turns", "3-1"], "are no turns"),
        (["--own", "x:y"], "is no share"),
        (["--person", "ffff"], "no profile begins with"),
        (["--judge", "nobody"], "no judge 'nobody'"),
        (["--deploy", "ffff"], "no prompt begins with"),
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


def test_an_export_has_a_card_and_makes_itself_again(espalier: Espalier, played: str, folder: Path) -> None:
    told = as_json(espalier("export", "dpo", "pairs.jsonl", "--run", played, "--min-margin", "0.0001", "--json"))
    assert told["card"] == "README.md"
    text = (folder / "README.md").read_text()
    command = next(line for line in text.splitlines() if line.startswith("espalier export"))
    assert f"--run {played} --judge {told['judge']} --min-margin 0.0001" in command
    before = (folder / "pairs.jsonl").read_bytes()
    espalier(*command.split()[1:], "--force")
    assert (folder / "pairs.jsonl").read_bytes() == before
    assert (folder / "README.md").read_text() == text


def test_conversations_go_out_and_come_in(espalier: Espalier, played: str, folder: Path) -> None:
    assert "JSON lines" in espalier("export", "paper", "paper.parquet", exit_code=3).stderr
    told = as_json(espalier("export", "paper", "paper.jsonl", "--no-card", "--json"))
    assert told["card"] is None
    assert not (folder / "README.md").exists()
    with (folder / "paper.jsonl").open("a") as file:
        file.write("broken\n")
    came = espalier("import", "paper.jsonl", "--store", "other.db", "--json", exit_code=1)
    assert "line " in came.stderr
    found = as_json(came)
    assert (found["conversations"], found["broken"], found["new"]) == (told["rows"], 1, True)
    espalier("verify", "--store", "other.db")
    assert "imported" in espalier("show", first_tree(folder / "other.db"), "--store", "other.db").stdout
    told = espalier("judge", found["run"], "--judge", "released", "--store", "other.db", exit_code=3).stderr
    assert "import run: nobody in it can judge" in told
    assert "was there already" in espalier("import", "paper.jsonl", "--store", "other.db", exit_code=1).stdout


def first_tree(path: Path) -> str:
    """Of a store."""
    with Store.read(path) as store:
        return store.trees()[0].id
