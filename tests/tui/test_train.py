"""`espalier train`: from judged trees to an adapter that is talked with, and what it says when it cannot."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev

import pytest

pytest.importorskip("torch", reason="the training extra is not installed")
pytest.importorskip("peft", reason="the training extra is not installed")

import torch

from agents.overrides import setting
from tests.support.command_line import ROOT, Espalier, as_json, spawn
from tests.support.judged_store import PEOPLE, judged_store
from tests.support.tiny_base import tiny_base
from train.training_file import read_wanted
from trees.store import Store

TOML = """
base = "base"
tokens_per_row = 300

[data]
judge = "judge"

[lora]
rank = 4

[schedule]
steps = 4
epochs = 99.0
rows_per_step = 1
learning_rate = 1e-2

[evaluation]
share = 0.25
every = 2

[machine]
device = "cpu"
threads = 1
save_every = 2

[dpo.loss]
beta = 0.2
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def ready(folder: Path, made_base: Path) -> str:
    """A current folder with a base, a store with a judged run, and training.toml; the run's id."""
    (folder / "base").symlink_to(made_base)
    (folder / "training.toml").write_text(TOML, encoding="utf-8")
    return judged_store(folder / "espalier.db")


def test_sft_and_dpo_from_judged_trees_to_a_conversation(espalier: Espalier, ready: str, folder: Path) -> None:
    first, second = as_json(espalier("train", "all", "training.toml", "--json"))
    assert (first["kind"], second["kind"]) == ("sft", "dpo")
    assert second["start"] == first["adapter"]
    assert second["configuration"]["loss"]["beta"] == 0.2
    assert [step["kind"] for step in second["lineage"]["trainings"]] == ["sft", "dpo"]

    shown = espalier("train", "show", second["training"][:8]).output
    assert "s forward and backward" in shown
    assert "finished, 100% done" in shown
    assert f"--adapter {second['adapter'][:8]}" in shown
    assert "margin" in shown
    listed = as_json(espalier("train", "list", "--json"))
    assert {row["training"] for row in listed} == {first["training"], second["training"]}
    again = as_json(espalier("train", "dpo", "training.toml", "--adapter", first["adapter"][:8], "--json"))
    assert again["points"] == second["points"], "a finished training is shown, not done again"

    talked = espalier("chat", "base", "--adapter", second["adapter"][:8], "--max-tokens", "4", stdin="Hello\n/quit\n")
    assert "kept as tree" in talked.output
    espalier("train", "export", second["adapter"][:8], "out", "--to", "peft")
    assert (folder / "out" / "lineage.json").exists()
    espalier("train", "export", second["training"][:8], "lora.gguf", "--to", "gguf-lora")
    assert (folder / "lora.gguf").read_bytes()[:4] == b"GGUF"
    (folder / "safe").mkdir()
    assert "2 adapters beside it" in espalier("store", "backup", "safe/copy.db").output
    espalier("train", "export", second["adapter"][:8], "again", "--to", "peft", "--store", "safe/copy.db")
    assert "is sound" in espalier("verify", "--no-prompts").output


def test_without_an_adapter_dpo_goes_on_from_the_weights_that_sft_trained(
    espalier: Espalier, ready: str, folder: Path
) -> None:
    first, second = as_json(espalier("train", "all", "training.toml", "--set", "lora=false", "--json"))
    assert (first["adapter"], second["adapter"], second["start"]) == (None, None, None)
    assert second["base_name"] == first["result"]
    assert second["base"] != first["base"]
    lineage = second["lineage"]
    assert [step["id"] for step in lineage["trainings"]] == [first["training"], second["training"]]
    assert (lineage["base"], lineage["origin"]) == (second["base"], first["base"])
    assert lineage["known"]
    assert len(lineage["people"]) == len(PEOPLE)
    assert second["points"][0]["loss"] == pytest.approx(0.6931, abs=1e-3), "the reference is what SFT made"
    assert json.loads((folder / second["result"] / "lineage.json").read_text(encoding="utf-8")) == lineage
    assert first["base"] in (folder / second["result"] / "README.md").read_text(encoding="utf-8")
    assert f"dpo of the model of sft {first['training'][:8]}" in espalier("train", "show").output
    assert "is sound" in espalier("verify", "--no-prompts").output


def test_several_seeds_are_trained_one_after_the_other_and_compared(espalier: Espalier, ready: str) -> None:
    seeds = ("--seed", "1", "--seed", "2", "--seed", "3")
    found = as_json(espalier("train", "dpo", "training.toml", *seeds, "--json"))
    lines = found["over_seeds"]["dpo"]["seeds"]
    assert [line["seed"] for line in lines] == [1, 2, 3]
    assert [each["configuration"]["seed"] for each in found["trainings"]] == [1, 2, 3]
    assert len({each["adapter"] for each in found["trainings"]}) == 3
    last = [[p for p in each["points"] if p["kind"] == "evaluation"][-1] for each in found["trainings"]]
    for figure in ("loss", "accuracy", "margin"):
        values = [point[figure] for point in last]
        assert [line[figure] for line in lines] == values
        assert found["over_seeds"]["dpo"]["figures"][figure] == {
            "mean": fmean(values),
            "spread": stdev(values),
            "of": 3,
        }
    alone = as_json(espalier("train", "dpo", "training.toml", "--set", "seed=2", "--json"))
    assert alone["training"] == lines[1]["training"], "a seed is the training that it is alone"
    said = espalier("train", "dpo", "training.toml", *seeds).output
    assert "dpo over 3 seeds, by the last evaluation of each" in said
    assert f"{fmean(point['loss'] for point in last):.4g}" in said
    assert "one training at a time" in espalier("train", "dpo", *seeds, "--detach", exit_code=2).output


def test_seeds_of_both_fits_are_compared_by_fit(espalier: Espalier, ready: str) -> None:
    words = ("training.toml", "--seed", "1", "--seed", "2", "--set", "evaluation.share=0")
    found = as_json(espalier("train", "all", *words, "--json"))
    assert [each["kind"] for each in found["trainings"]] == ["sft", "dpo", "sft", "dpo"]
    assert found["trainings"][3]["start"] == found["trainings"][2]["adapter"]
    figures = found["over_seeds"]["sft"]["figures"]
    assert figures["loss"] == {"mean": None, "spread": None, "of": 0}
    assert "nobody was held back to measure on" in espalier("train", "all", *words).output


def test_a_dry_run_says_what_would_be_trained_and_keeps_nothing(espalier: Espalier, ready: str) -> None:
    facts = as_json(espalier("train", "dpo", "training.toml", "--run", ready[:8], "--dry-run", "--json"))
    assert (facts["steps"], facts["state"]) == (4, None)
    assert facts["data"]["pairs"] == 2 * len(PEOPLE)
    assert facts["data"]["measured_trees"] == 1
    assert 0 < facts["tokens"] < facts["tokens_flat"]
    assert facts["memory"]["total"] > facts["memory"]["weights"] > 0
    said = espalier("train", "sft", "training.toml", "--dry-run").output
    assert "gradients and moments" in said
    assert "8 targets in 4 trees of 4 people" in said
    assert as_json(espalier("train", "list", "--json")) == []


def test_trls_own_trainers_measure_who_is_held_back(espalier: Espalier, ready: str) -> None:
    for kind in ("sft", "dpo"):
        facts = as_json(espalier("train", kind, "training.toml", "--flat", "--json"))
        assert facts["state"] == "finished"
        measured = [point for point in facts["points"] if point["kind"] == "evaluation"]
        assert [point["step"] for point in measured] == [2, 4]
        assert all(point["loss"] > 0 for point in measured)
        assert all((point["accuracy"] is not None) == (kind == "dpo") for point in measured)


def test_in_the_background_it_is_steered_by_rows(espalier: Espalier, ready: str) -> None:
    endless = ("--set", "schedule.steps=100000", "--set", "machine.point_every=1000", "--detach", "--json")
    begun = as_json(espalier("train", "dpo", "training.toml", *endless))
    short = begun["training"][:8]
    locked = spawn("train", "resume", short)
    assert "goes on in the process with pid" in locked.communicate(timeout=60)[0]
    espalier("train", "stop", short)
    left = _until_left(espalier, short)
    assert left["state"] == "stopped"
    assert left["adapter"] is not None


def _until_left(espalier: Espalier, short: str) -> dict[str, object]:
    """The facts once nobody is at work."""
    import time

    until = time.monotonic() + 60
    while True:
        facts: dict[str, object] = as_json(espalier("train", "show", short, "--json"))
        if facts["engine"] is None:
            return facts
        assert time.monotonic() < until, "it does not leave"
        time.sleep(0.05)


def test_ctrl_c_makes_a_checkpoint_and_says_how_to_go_on(espalier: Espalier, ready: str, folder: Path) -> None:
    words = ("train", "sft", "training.toml", "--set", "schedule.steps=100000", "--store", str(folder / "espalier.db"))
    process = spawn(*words)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "go on with: espalier train resume" in said
    shown = as_json(espalier("train", "show", "--json"))
    assert (shown["state"], shown["adapter"]) == ("paused", None)
    assert (folder / "espalier-trainings" / shown["training"][:16]).is_dir()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("dpo", "training.toml", "--min-margin", "9"), 3, "no pairs to train on: 8 below_margin"),
        (("dpo", "training.toml", "--judge", "nobody"), 2, "no judge 'nobody'"),
        (("dpo", "training.toml", "--adapter", "abcdef"), 3, "no adapter 'abcdef'"),
        (("sft", "training.toml", "--model", "nowhere"), 3, "there is no folder 'nowhere'"),
        (("sft", "training.toml", "--set", "lora.rank=0"), 3, "lora.rank"),
        (("sft", "training.toml", "--set", "lora.rnak=4"), 3, "lora.rnak"),
        (("sft", "training.toml", "--set", "tokens_per_row=20"), 3, "longer than 20 tokens"),
        (("sft", "training.toml", "--set", "rank"), 2, "not of the form KEY=VALUE"),
        (("sft", "missing.toml"), 3, "cannot read missing.toml"),
        (("show", "abcdef"), 2, "no training begins with 'abcdef'"),
        (("pause", "abcdef"), 2, "no training begins with 'abcdef'"),
    ],
)
def test_what_cannot_be_done_quotes_the_value_and_says_what_to_do(
    words: tuple[str, ...], code: int, said: str, espalier: Espalier, ready: str
) -> None:
    assert said in espalier("train", *words, exit_code=code).output


def test_one_person_alone_and_a_template_without_end_are_refused(
    espalier: Espalier, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    judged_store(folder / "espalier.db", PEOPLE[:1])
    tiny_base(folder / "base")
    (folder / "training.toml").write_text(TOML, encoding="utf-8")
    alone = espalier("train", "dpo", "training.toml", exit_code=3).output
    assert "are of one person" in alone
    assert "evaluation.share=0" in alone
    tiny_base(folder / "endless", template="{% for m in messages %}{{ m['content'] }}\n{% endfor %}", eos=None)
    words = ("--model", "endless", "--set", "evaluation.share=0")
    assert "nothing ends a reply" in espalier("train", "dpo", "training.toml", *words, exit_code=3).output


def test_the_example_is_usable_and_each_objective_has_its_own_part(ready: str, folder: Path) -> None:
    with Store.read(folder / "espalier.db") as store:
        sft, dpo = (read_wanted(ROOT / "examples" / "training.toml", fit, {}, store).config for fit in ("sft", "dpo"))
        assert (sft.schedule.learning_rate, dpo.schedule.learning_rate) == (1e-4, 1e-5)
        assert sft.schedule.epochs == dpo.schedule.epochs
        whole = read_wanted(None, "sft", {"lora": False, "data.runs": [ready[:6]]}, store)
        assert (whole.config.lora, whole.selection.runs) == (None, (ready,))


def test_settings_are_toml_or_text() -> None:
    assert setting("lora.rank=8") == ("lora.rank", 8)
    assert setting("dtype=bfloat16") == ("dtype", "bfloat16")
    assert setting("data.turns=[1, 2]") == ("data.turns", [1, 2])
    assert json.dumps(setting('lora.targets=["q_proj"]')[1]) == '["q_proj"]'
