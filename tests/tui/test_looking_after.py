"""The store, models, prompts and personas: what is kept beside the trees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command_line import Espalier, as_json
from trees.jobs import take_lock
from trees.store import Store
from trees.verify import verify


def test_a_backup_is_a_store_of_its_own(espalier: Espalier, played: str, folder: Path) -> None:
    espalier("store", "backup", "copy.db")
    assert (
        espalier("trees", "--json", "--canonical", "--store", "copy.db").stdout
        == espalier("trees", "--json", "--canonical").stdout
    )
    with Store.read(folder / "copy.db") as copy:
        assert verify(copy).clean
    assert not list(folder.glob("*.part"))
    assert "exists already" in espalier("store", "backup", "copy.db", exit_code=3).stderr
    espalier("store", "backup", "copy.db", "--force")


def test_a_deleted_run_takes_its_calls_along_and_no_others(espalier: Espalier, played: str) -> None:
    other = as_json(espalier("run", "run.toml", "--seed", "8", "--json"))["run"]["id"]
    assert "Delete run" in espalier("store", "delete", played, stdin="n\n", exit_code=1).output
    espalier("store", "delete", played, "--yes")
    assert [run["id"] for run in as_json(espalier("status", "--all", "--json"))] == [other]
    espalier("verify")
    espalier("store", "delete", other, stdin="y\n")
    assert "0 calls dropped, 0 kept" in espalier("store", "prune").stdout
    espalier("store", "vacuum")


def test_nothing_is_deleted_or_rewritten_under_an_engine(espalier: Espalier, played: str) -> None:
    with Store.open(Path("espalier.db")) as store:
        take_lock(store, played, "run")
    assert "Stop it first" in espalier("store", "delete", played, "--yes", exit_code=4).stderr
    assert "Stop it first" in espalier("store", "vacuum", exit_code=4).stderr


def test_migrate_says_what_the_store_has(espalier: Espalier, played: str) -> None:
    assert "is up to date" in espalier("store", "migrate").stdout


def test_models_of_a_file_and_of_the_store(espalier: Espalier, played: str) -> None:
    (configured,) = as_json(espalier("models", "list", "run.toml", "--json"))
    assert configured["roles"] == [
        "user",
        "inducer",
        "responders.plain",
        "responders.warm",
        "judges.likelihood",
    ]
    (stored,) = as_json(espalier("models", "list", "--json"))
    assert (stored["model"], stored["backend"]) == ("s", "scripted")
    assert stored["calls"] > 0
    assert "scripted" in espalier("models", "list", "run.toml").stdout


def test_a_model_is_tried_in_four_ways(espalier: Espalier) -> None:
    result = as_json(espalier("models", "test", "s", "--config", "run.toml", "--json"))
    assert {part: result[part]["works"] for part in ("chat", "score", "choices", "schema")} == dict.fromkeys(
        ("chat", "score", "choices", "schema"), True
    )
    assert "works" in espalier("models", "test", "s", "--config", "run.toml").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["x", "--config", "run.toml"], "has no model 'x'"),
        (["x"], "--config FILE"),
        (["missing.gguf"], "missing.gguf"),
    ],
)
def test_a_model_that_is_not_there_is_told(espalier: Espalier, words: list[str], said: str) -> None:
    assert said in espalier("models", "test", *words, exit_code=3).stderr


def test_prompts_are_listed_shown_and_compared(espalier: Espalier, played: str) -> None:
    found = as_json(espalier("prompts", "list", "--json"))
    assert {row["where"] for row in found} == {"shipped", "store"}
    stored = next(row for row in found if row["where"] == "store" and row["role"] == "responder")
    assert stored["runs"] == [played[:8]]
    assert "[head]" in espalier("prompts", "show", stored["id"]).stdout
    assert "are the same" in espalier("prompts", "diff", "responder", stored["name"]).stdout
    assert "+++ user" in espalier("prompts", "diff", "responder", "user", exit_code=1).stdout
    assert "there is no prompt 'nobody'" in espalier("prompts", "show", "nobody", exit_code=3).stderr


def test_a_saved_prompt_holds_for_trees_that_have_not_begun(espalier: Espalier, folder: Path) -> None:
    text = (folder / "run.toml").read_text(encoding="utf-8")
    (folder / "small.toml").write_text(text + "\n[limits]\ncalls = 1\ntrees_in_flight = 1\n", encoding="utf-8")
    run = as_json(espalier("run", "small.toml", "--json", exit_code=1))["run"]["id"]
    (folder / "prompts").mkdir()
    (folder / "prompts" / "warmer.md").write_text("Warmer.\n[head]\nBe warm.\n", encoding="utf-8")
    result = espalier("prompts", "save", "responder.warm", "prompts/warmer.md", "--run", run)
    assert "revision 1" in result.stdout
    assert "it holds for trees" in result.stdout
    assert "Warmer." in espalier("prompts", "list").stdout
    espalier("resume", "--config", "run.toml")
    assert {tree["revision"] for tree in as_json(espalier("trees", "--json", "--canonical"))["trees"]} == {1}
    espalier("verify")


def test_a_prompt_that_cannot_be_rendered_is_not_kept(espalier: Espalier, folder: Path) -> None:
    (folder / "bad.md").write_text("[head]\nHello {{ profil }}\n", encoding="utf-8")
    assert "did you mean 'profile'?" in espalier("prompts", "save", "user", "bad.md", exit_code=3).stderr
    assert "there is no role 'usr'" in espalier("prompts", "save", "usr", "bad.md", exit_code=2).output
    assert not (folder / "espalier.db").exists()


def test_personas_are_added_and_shown_fact_by_fact(espalier: Espalier) -> None:
    espalier("personas", "add", "--profile", "I am a nurse. I have two dogs.")
    (row,) = as_json(espalier("personas", "list", "--json"))["store"]
    assert (row["kind"], row["source"]) == ("profile", "command line")
    shown = as_json(espalier("personas", "show", row["id"][:8], "--json"))
    assert shown["parts"] == ["I am a nurse.", "I have two dogs."]
    assert "- I have two dogs." in espalier("personas", "show", row["id"]).stdout
    assert "give --profile" in espalier("personas", "add", exit_code=2).output
    assert "no profile or personality" in espalier("personas", "show", "zz", exit_code=2).stderr


def test_seeds_are_counted_and_can_be_shown(espalier: Espalier) -> None:
    from simulation.personas import seed_profiles

    assert "shipped as seeds" in espalier("personas", "list").stdout
    assert seed_profiles()[0].text in espalier("personas", "show", seed_profiles()[0].id).stdout


def test_good_lines_are_imported_and_broken_ones_named(espalier: Espalier, folder: Path) -> None:
    good = {"kind": "profile", "pronouns": "she", "facts": ["I am a cook.", "I like rain."]}
    lines = [json.dumps(good), '{"kind": 5', json.dumps("I fly kites. I am old.")]
    (folder / "people.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = espalier("personas", "import", "people.jsonl", "--kind", "profile", exit_code=1)
    assert "people.jsonl, line 2" in result.stderr
    assert "2 imported, 1 broken lines" in result.stdout
    again = espalier("personas", "import", "people.jsonl", "--kind", "profile", exit_code=1)
    assert "0 imported, 2 were there already" in again.stdout
