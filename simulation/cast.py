"""The cast of a run: opened models, roles, prompts and judges made of its configuration, and its identity.

The identity is what the run's id digests: what is played, each model by what it says it is, each prompt by its text.
Invariant: two configurations with equal identities play the same run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.bus import Acting
from agents.inducer import Inducer
from agents.judges.judge import JudgeAgent
from agents.judges.measured import check_rules
from agents.judges.verdicts import JudgeSpec
from agents.models.adapters import Adapters
from agents.models.open import open_model
from agents.models.protocol import Model, ModelFailure
from agents.prompts import Prompt, load_prompt
from agents.responder import Responder
from agents.roles import Role, Stage
from agents.user import User
from simulation.config import (
    DERIVED_JUDGES,
    MODEL_FREE_JUDGES,
    JudgeConfig,
    ResponderConfig,
    RoleConfig,
    RunConfig,
)
from simulation.situations import check_user_prompt
from trees.errors import SetupError
from trees.ids import digest_of

PLAYED = ("turns", "user", "inducer", "responders", "judges", "judge", "branching", "situations")
"""The sections of a configuration that are identity as they stand, but for the names of prompt files."""


async def open_models(config: RunConfig, adapters: Adapters | None = None) -> dict[str, Model]:
    """Load or connect every model that a role speaks. Raises SetupError; then none is left open."""
    wanted = {name for role in config.roles().values() if asks_a_model(role) for name in config.models_of(role)}
    return await open_named(config, wanted, adapters)


async def open_named(config: RunConfig, wanted: Collection[str], adapters: Adapters | None = None) -> dict[str, Model]:
    """Load or connect these models of a configuration. Raises SetupError; then none is left open."""
    models = {name: open_model(name, config.models[name], adapters) for name in sorted(wanted)}
    try:
        async with asyncio.TaskGroup() as opening:
            for model in models.values():
                opening.create_task(model.open())
    except ExceptionGroup as group:
        await close_models(models)
        failures = [error for error in group.exceptions if isinstance(error, ModelFailure)]
        if len(failures) != len(group.exceptions):
            raise
        raise SetupError("; ".join(failure.message for failure in failures)) from group
    except BaseException:
        await close_models(models)
        raise
    return models


async def close_models(models: Mapping[str, Model]) -> None:
    """Close them all, each whatever happens to the others."""
    await asyncio.gather(*(model.close() for model in models.values()), return_exceptions=True)


def asks_a_model(role: RoleConfig) -> bool:
    return not (isinstance(role, JudgeConfig) and role.kind in MODEL_FREE_JUDGES)


@dataclass(frozen=True)
class Cast:
    """Everybody who plays in a run, by configured name, and the prompts of the first revision."""

    config: RunConfig
    roles: Mapping[str, Role]
    """`user`, `inducer`, `responder.NAME`, `judge.NAME`."""
    prompts: Mapping[str, Prompt]
    """By role name, with `deploy`."""
    judges: Mapping[str, JudgeSpec]
    models: Mapping[str, Model]

    def identity(self) -> dict[str, Any]:
        """What the run's id digests."""
        played = {key: self.config.model_dump(mode="json")[key] for key in PLAYED}
        return {
            "play": _without_prompt_files(played),
            "models": {name: model.identity.as_dict() for name, model in sorted(self.models.items())},
            "prompts": {role: prompt.id for role, prompt in sorted(self.prompts.items())},
        }

    def operation(self, folder: Path | None) -> dict[str, Any]:
        """The half that may change, where the people came from (they stand in the run as rows) and the prompts' files,
        so that a run can be gone on with, and its configuration written down, from the store alone.
        """
        dumped = self.config.model_dump(mode="json")
        kept = {key: dumped[key] for key in ("models", "limits", "personas")}
        return {**kept, "folder": str(folder) if folder else None}


def make_cast(config: RunConfig, models: Mapping[str, Model], prompts: Mapping[str, Prompt]) -> Cast:
    """Put the cast together and check that everybody can do their part. Raises SetupError."""
    roles = roles_of(config)
    asked = {name: model.identity.id for name, model in models.items()}
    specs = judge_specs(config, roles, asked, {role: prompt.id for role, prompt in prompts.items()})
    _check_capabilities(config, roles, models)
    return Cast(config, roles, dict(prompts), specs, models)


def judge_specs(
    config: RunConfig, roles: Mapping[str, Role], models: Mapping[str, str], prompts: Mapping[str, str]
) -> dict[str, JudgeSpec]:
    """The judges of a configuration by name, with the ids of models by name and of prompts by role."""
    specs: dict[str, JudgeSpec] = {}
    for name, judge in sorted(config.judges.items(), key=lambda item: item[1].kind in DERIVED_JUDGES):
        given = judge.model_copy(update={"of": judge.of or config.deciding_judge})
        specs[name] = _judge_spec(name, given, roles[f"judge.{name}"], models, prompts, specs)
    return specs


def roles_of(config: RunConfig) -> dict[str, Role]:
    """Every role by its name, before any model is opened."""
    return {
        "user": _role("user", config, config.user, rerolls=config.user.rerolls),
        "inducer": _role("inducer", config, config.inducer),
        **{f"responder.{name}": _responder(name, config, r) for name, r in config.responders.items()},
        **{f"judge.{name}": _role(f"judge.{name}", config, judge) for name, judge in config.judges.items()},
    }


def load_prompts(config: RunConfig, folder: Path | None) -> dict[str, Prompt]:
    """The prompt of every role, from `prompts/` beside the configuration or the shipped ones. Raises SetupError."""
    kinds = {
        "user": ("user", config.user.prompt or _user_prompt(config, folder)),
        "inducer": ("inducer", config.inducer.prompt),
        **{
            f"responder.{name}": ("told" if role.told else "responder", role.prompt)
            for name, role in config.responders.items()
        },
        **{
            f"judge.{name}": (f"judge.{judge.kind}", judge.prompt)
            for name, judge in config.judges.items()
            if asks_a_model(judge)
        },
        "deploy": ("deploy", config.deploy),
    }
    loaded = {role: load_prompt(kind, name, folder) for role, (kind, name) in kinds.items()}
    check_user_prompt(loaded["user"], config.situations)
    return loaded


def _user_prompt(config: RunConfig, folder: Path | None) -> str | None:
    """The shipped prompt that tells of situations where there are any, unless a person's own stands beside."""
    own = folder is not None and (folder / "user.md").is_file()
    return "user_in_situation" if config.situations and not own else None


def make_actors(cast: Cast, stage: Stage) -> dict[str, Acting]:
    """The agents by role name."""
    actors: dict[str, Acting] = {
        "user": User(stage, cast.roles["user"]),
        "inducer": Inducer(stage, cast.roles["inducer"]),
    }
    for name, role in cast.roles.items():
        if name.startswith("responder."):
            actors[name] = Responder(stage, role)
    for name, spec in cast.judges.items():
        if spec.kind not in DERIVED_JUDGES:
            actors[f"judge.{name}"] = JudgeAgent(stage, spec)
    return actors


def _role(name: str, config: RunConfig, role: RoleConfig, **settings: object) -> Role:
    return Role(name, config.models_of(role), role.sampling.value(), settings=settings)


def _responder(name: str, config: RunConfig, role: ResponderConfig) -> Role:
    settings = {"hint": role.hint, "told": role.told}
    return Role(f"responder.{name}", config.models_of(role), role.sampling.value(), role.samples, settings)


def _judge_spec(
    name: str,
    judge: JudgeConfig,
    role: Role,
    models: Mapping[str, str],
    prompts: Mapping[str, str],
    made: Mapping[str, JudgeSpec],
) -> JudgeSpec:
    settings: dict[str, object] = {}
    if judge.threshold is not None:
        settings["threshold"] = judge.threshold
    if judge.kind == "likelihood":
        settings["condition"] = judge.condition
    if judge.kind == "rules":
        settings["rules"] = check_rules(judge.rules)
    if judge.kind == "points":
        settings["sees_dialogue"] = judge.sees_dialogue
    if judge.scores_lone:
        settings["scores_lone"] = True
    if judge.hinted_first:
        settings["hinted_first"] = True
    if judge.kind == "panel":
        settings["members"] = {member: made[member].id for member in judge.members}
    if judge.kind == "lookahead":
        settings |= {"of": made[judge.of].id, "depth": judge.depth, "discount": judge.discount}
    if not asks_a_model(judge):
        return JudgeSpec(name, judge.kind, role, None, "", settings)
    model_ids = [models[model] for model in role.models]
    identity = model_ids[0] if len(model_ids) == 1 else digest_of("models", model_ids)
    return JudgeSpec(name, judge.kind, role, identity, prompts[f"judge.{name}"], settings)


def _check_capabilities(config: RunConfig, roles: Mapping[str, Role], models: Mapping[str, Model]) -> None:
    for name, judge in config.judges.items():
        if judge.kind == "likelihood":
            _require(f"judges.{name}", "score", "scores given replies", roles[f"judge.{name}"], models)
        if judge.kind == "reward":
            what = "scores replies as a classifier"
            _require(f"judges.{name}", "reward", what, roles[f"judge.{name}"], models)
        if judge.kind == "rating":
            what = "gives probabilities of its choices"
            _require(f"judges.{name}", "choice_logprobs", what, roles[f"judge.{name}"], models)
    for place, role in config.roles().items():
        if not asks_a_model(role) or (isinstance(role, JudgeConfig) and role.kind in ("likelihood", "reward")):
            continue
        _require(
            place,
            "chat",
            "chats",
            roles[place.replace("responders.", "responder.").replace("judges.", "judge.")],
            models,
        )


def _require(place: str, capability: str, what: str, role: Role, models: Mapping[str, Model]) -> None:
    for name in role.models:
        if getattr(models[name].capabilities, capability):
            continue
        able = [other for other, model in models.items() if getattr(model.capabilities, capability)]
        others = f"models of this configuration that do: {', '.join(able)}" if able else _ABLE[capability]
        raise SetupError(
            f"{place} needs a model that {what}, and {name!r} does not", hint=f"Use one that does; {others}."
        )


_ABLE = {
    "reward": 'the kind "transformers" with task = "reward" does',
    "score": "the kinds 'llama' (any GGUF file, or the embedded one) and 'scripted' score",
    "choice_logprobs": "the kinds 'llama' and 'scripted' do, and many servers",
    "chat": "every kind but an embedder chats",
}


_ADDED_LATER: tuple[tuple[str, Any], ...] = (
    ("told", False),
    ("sees_dialogue", True),
    ("scores_lone", False),
    ("of", ""),
    ("depth", 3),
    ("discount", 1.0),
    ("repeat", 0),
    ("situations", []),
)
"""Keys at the value that runs had before the keys were there: left out, so that those runs stay what they are."""


def _without_prompt_files(played: dict[str, Any]) -> dict[str, Any]:
    """Prompts count by their text, which stands beside; where it was read from is not identity."""

    def bare(role: Mapping[str, Any]) -> dict[str, Any]:
        return {key: v for key, v in role.items() if key != "prompt" and (key, v) not in _ADDED_LATER}

    return {
        **bare(played),
        "user": bare(played["user"]),
        "inducer": bare(played["inducer"]),
        "responders": {name: bare(role) for name, role in played["responders"].items()},
        "judges": {name: bare(role) for name, role in played["judges"].items()},
    }


def differences(stored: Any, given: Any, place: str = "") -> list[str]:
    """The keys in which two identities differ, dotted."""
    if isinstance(stored, dict) and isinstance(given, dict):
        keys: Sequence[str] = sorted({*stored, *given})
        return [
            found
            for key in keys
            for found in differences(stored.get(key), given.get(key), f"{place}.{key}" if place else key)
        ]
    return [] if stored == given else [place]
