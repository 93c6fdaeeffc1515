"""Configurations: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from simulation.config import RunConfig, load_config, make_config, presets
from tests.support.play import SMALL, cast_of, configuration
from trees.errors import SetupError


def refused(given: dict[str, Any]) -> str:
    with pytest.raises(SetupError) as caught:
        make_config({**SMALL, **given}, "run.toml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"turnz": 3}, "turnz: unknown key; did you mean 'turns'?"),
        ({"user": {"rerols": 1}}, "user.rerols: unknown key; did you mean 'rerolls'?"),
        ({"responders": {"warm": {"hints": True}}}, "responders.warm.hints: unknown key; did you mean 'hint'?"),
        (
            {"models": {"m": {"kind": "scripted", "permitts": 3}}},
            "models.m.permitts: unknown key; did you mean 'permits'?",
        ),
        (
            {"user": {"sampling": {"temprature": 1}}},
            "user.sampling.temprature: unknown key; did you mean 'temperature'?",
        ),
        ({"turns": "three"}, "turns: Input should be a valid integer"),
        ({"turns": 0}, "turns: Input should be greater than or equal to 1 (it is 0)"),
        ({"models": {}}, "name at least one model"),
        ({"models": {"m": {"kind": "gguf"}}}, "models.m"),
        ({"user": {"model": "scriptd"}}, "user.model: there is no 'scriptd', only scripted; did you mean 'scripted'?"),
        ({"judge": "ratng"}, "judge: there is no 'ratng', only rating; did you mean 'rating'?"),
        ({"judges": {"vote": {"kind": "panel", "members": []}}, "judge": "vote"}, "a panel needs at least two members"),
        ({"responders": {}}, "responders"),
        ({"preset": "papre"}, "there is no preset 'papre'"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], words: str) -> None:
    assert words in refused(given)


def test_two_models_and_a_role_that_names_none() -> None:
    models = {"one": {"kind": "scripted"}, "two": {"kind": "scripted", "variant": "2"}}
    assert "user: name its model; there are one, two" in refused({"models": models})


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="espalier init"):
        load_config(tmp_path / "run.toml")


def test_broken_toml_names_the_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('name = "x"\nturns = \n', encoding="utf-8")
    with pytest.raises(SetupError, match=r"run.toml cannot be read: .*line 2"):
        load_config(path)


@pytest.mark.parametrize("name", presets())
def test_presets_are_valid_with_nothing_but_a_model(name: str) -> None:
    config = make_config({"preset": name, "models": {"m": {"kind": "scripted"}}}, "run.toml")
    assert any(responder.hint for responder in config.responders.values())
    assert any(not responder.hint for responder in config.responders.values())


def test_the_presets_are_the_ones_documented() -> None:
    assert presets() == ["corrected", "paper", "paper-code"]


def test_a_files_own_responders_replace_the_presets() -> None:
    config = make_config({"models": {"m": {"kind": "scripted"}}, "responders": {"only": {}}}, "run.toml")
    assert list(config.responders) == ["only"]


def test_every_field_has_a_sentence() -> None:
    missing: list[str] = []

    def look(model: type[Any], where: str) -> None:
        for name, field in model.model_fields.items():
            if not field.description:
                missing.append(f"{where}{name}")

    from simulation import config

    sections = [value for value in vars(config).values() if isinstance(value, type) and hasattr(value, "model_fields")]
    for section in sections:
        look(section, f"{section.__name__}.")
    assert missing == []


async def test_a_judge_that_needs_scores_is_refused_naming_models_that_could() -> None:
    models = {
        "remote": {"kind": "autogen", "component": {"provider": "x", "config": {}}},
        "scripted": {"kind": "scripted"},
    }
    config = configuration(
        models=models,
        user={"model": "scripted"},
        inducer={"model": "scripted"},
        responders={"plain": {"model": "scripted"}, "warm": {"model": "scripted", "hint": True}},
        judges={"likelihood": {"kind": "likelihood", "model": "remote"}},
    )
    from agents.models.protocol import Capabilities, ModelIdentity
    from agents.models.scripted import ScriptedConfig, ScriptedModel

    class Speechless(ScriptedModel):
        @property
        def capabilities(self) -> Capabilities:
            return Capabilities(score=False)

        @property
        def identity(self) -> ModelIdentity:
            return ModelIdentity("autogen", "remote")

    able = ScriptedModel("scripted", ScriptedConfig(kind="scripted"))
    unable = Speechless("remote", ScriptedConfig(kind="scripted"))
    with pytest.raises(SetupError) as caught:
        await cast_of(config, models={"scripted": able, "remote": unable})
    assert "judges.likelihood needs a model that scores given replies, and 'remote' does not" in str(caught.value)
    assert "models of this configuration that do: scripted" in str(caught.value)


async def test_operational_fields_are_not_identity(tmp_path: Path) -> None:
    one = await cast_of(configuration())
    other = await cast_of(
        configuration(models={"scripted": {"kind": "scripted", "permits": 3, "deadline_s": 5}}, limits={"calls": 9})
    )
    assert one.identity() == other.identity()
    changed = await cast_of(configuration(turns=4))
    assert one.identity() != changed.identity()


def test_a_dumped_configuration_reads_back() -> None:
    config = configuration()
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
