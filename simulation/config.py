"""A run's configuration: one pydantic tree, read from TOML, with a sentence and a unit per field.

Unknown keys are refused with the nearest known one. A preset fills in what a file leaves out. Two halves: `models`
and `limits` are operational and may change at any time (a model's identity is what the loaded model says it is); all
the rest is identity: it is frozen with the run and digested into its id.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from agents.models.config import ModelConfig
from agents.models.protocol import Sampling
from agents.models.settings import NumberOrAuto
from agents.overrides import overlaid
from simulation.situations import SituationConfig, named_situations
from trees.errors import SetupError

Preset = Literal["corrected", "paper", "paper-code"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SamplingConfig(Section):
    """How answers are drawn."""

    max_tokens: int = Field(120, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(0.8, ge=0, description="0 is greedy; higher is more varied.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draw from the likeliest tokens up to this probability.")
    top_k: int | None = Field(None, ge=1, description="Draw from this many likeliest tokens.")
    min_p: float | None = Field(None, ge=0, le=1, description="Leave out tokens below this share of the likeliest.")
    repeat_penalty: float | None = Field(None, gt=0, description="llama.cpp's penalty on repetition; 1 is off.")
    presence_penalty: float | None = Field(None, description="OpenAI's penalty on tokens that occurred.")
    frequency_penalty: float | None = Field(None, description="OpenAI's penalty by how often a token occurred.")
    stop: tuple[str, ...] = Field((), description="Texts that end an answer.")

    def value(self) -> Sampling:
        return Sampling(**self.model_dump())


class RoleConfig(Section):
    model: str | None = Field(None, description="Name of the model that speaks; the only model if left out.")
    models: tuple[str, ...] = Field((), description="Several models, one of which is drawn for each turn.")
    prompt: str | None = Field(None, description="Prompt file in prompts/ beside this file, or a shipped one.")
    sampling: SamplingConfig = Field(SamplingConfig(), description="How its answers are drawn.")

    @model_validator(mode="after")
    def _one_way_to_name_models(self) -> RoleConfig:
        if self.model is not None and self.models:
            raise ValueError("give either model or models")
        return self

    def names(self) -> tuple[str, ...]:
        """The models as named here; empty if the only model is meant."""
        return self.models or ((self.model,) if self.model else ())


class UserConfig(RoleConfig):
    sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=90, temperature=0.9, min_p=0.05), description="How messages are drawn."
    )
    rerolls: int = Field(2, ge=0, le=10, description="How often a message that drifts out of character is re-rolled.")


class InducerConfig(RoleConfig):
    sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=160, temperature=0.0), description="How answers are drawn."
    )
    sees_persona: bool = Field(
        False, description="true: an oracle that is shown the persona. false: blind, reads the transcript alone."
    )


class ResponderConfig(RoleConfig):
    sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=90, temperature=0.8, min_p=0.05), description="How replies are drawn."
    )
    hint: bool = Field(False, description="Whether it is told what the user has revealed so far.")
    told: bool = Field(False, description="Whether it is told the whole persona: a ceiling, not for training data.")
    samples: int = Field(1, ge=1, le=16, description="Replies a turn; each becomes a sibling.")
    repeat: int = Field(0, ge=0, description="Another number is another draw of everything: to measure a model twice.")


class JudgeConfig(RoleConfig):
    kind: Literal[
        "likelihood",
        "rating",
        "points",
        "reward",
        "choice",
        "pairwise",
        "rules",
        "treatment",
        "panel",
        "lookahead",
    ] = Field(description="What the judge does; see docs/judges.md.")
    sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=300, temperature=0.0), description="How answers are drawn."
    )
    threshold: float | None = Field(
        None, ge=0, description="Smallest difference of scores that is a win, in the judge's unit."
    )
    condition: Literal["persona", "revealed"] = Field(
        "persona", description="likelihood: given the whole persona, or only what was revealed."
    )
    hinted_first: bool = Field(
        False, description="choice: show the hinted reply first and once, to measure what position does."
    )
    sees_dialogue: bool = Field(True, description="points: shown the whole dialogue, or the last message alone.")
    scores_lone: bool = Field(False, description="Score a turn's only reply too; without it such a turn asks nothing.")
    rules: dict[str, float] = Field({}, description="rules: name of a rule to its argument.")
    members: tuple[str, ...] = Field((), description="panel: names of the judges that vote.")
    of: str = Field("", description="lookahead: the judge whose scores count; the deciding one if left out.")
    depth: int = Field(3, ge=1, description="lookahead: how many turns below a reply count.")
    discount: float = Field(1.0, gt=0, le=1, description="lookahead: what a turn counts less than the one before it.")


class BranchingConfig(Section):
    policy: Literal["winner", "random", "weighted", "all", "beam"] = Field(
        "random", description="Which replies the conversation goes on from."
    )
    winner_weight: float = Field(2.0, gt=0, description="random: how much likelier the winner is than another reply.")
    depth: int = Field(2, ge=1, description="all: down to this turn every reply goes on; after it the winner does.")
    width: int = Field(2, ge=1, description="beam: how many replies of a turn go on, by score.")


class PersonasConfig(Section):
    count: int = Field(6, ge=1, description="How many personas, drawn without repeats.")
    profiles: str = Field("seeds", description="'seeds' (shipped), 'store' (imported ones), or a file beside this one.")
    personalities: str = Field("seeds", description="The same for personalities.")
    draw: str | None = Field(
        None, description="A draw that `espalier personas pair` recorded: its first ones are played instead."
    )


class LimitsConfig(Section):
    """All operational. 0 means no limit."""

    trees_in_flight: NumberOrAuto = Field(
        "auto", description='Trees played at the same time: a number, or "auto", as many as keep the models busy.'
    )
    calls: int = Field(0, ge=0, description="Stop after this many calls of this run; 0 is no limit.")
    tokens: int = Field(0, ge=0, description="Stop after this many tokens read and written; 0 is no limit.")
    minutes: float = Field(0, ge=0, description="Stop after this long at work, in minutes; 0 is no limit.")
    money: float = Field(
        0, ge=0, description="Stop after spending this, in the unit of the models' prices; 0 is no limit."
    )


class RunConfig(Section):
    name: str = Field("run", min_length=1, max_length=80, description="What lists call the run.")
    seed: int = Field(1, ge=0, lt=2**31, description="Another seed is another run of the same configuration.")
    preset: Preset = Field("corrected", description="What fills in the roles this file leaves out.")
    turns: int = Field(3, ge=1, description="How often the user speaks in a conversation.")
    models: dict[str, Annotated[ModelConfig, Field(discriminator="kind")]] = Field(
        description="The models by name; each is loaded once, however many roles use it."
    )
    personas: PersonasConfig = Field(PersonasConfig(), description="Who is played.")
    situations: tuple[SituationConfig, ...] = Field(
        (),
        description="What brings people to talk: names of shipped situations, or tables; one is drawn for each tree.",
    )
    user: UserConfig = Field(UserConfig(), description="The persona user.")
    inducer: InducerConfig = Field(InducerConfig(), description="Reads what the user has revealed.")
    responders: dict[str, ResponderConfig] = Field(min_length=1, description="Who answers, by name.")
    judges: dict[str, JudgeConfig] = Field(min_length=1, description="Who judges each turn, by name.")
    judge: str = Field("", description="The judge that branching follows; the first one if left out.")
    branching: BranchingConfig = Field(BranchingConfig(), description="Which replies go on.")
    deploy: str = Field("deploy", description="Prompt file of the system message for trained models.")
    limits: LimitsConfig = Field(LimitsConfig(), description="How much at once and in all.")

    @field_validator("situations", mode="before")
    @classmethod
    def _read_situations(cls, given: Any) -> Any:
        return named_situations(given)

    @model_validator(mode="after")
    def _names_exist(self) -> RunConfig:
        if not self.models:
            raise ValueError("models: name at least one model")
        for place, role in self.roles().items():
            for name in role.names():
                _known(name, self.models, f"{place}.model")
            needs_one = not (isinstance(role, JudgeConfig) and role.kind in MODEL_FREE_JUDGES)
            if not role.names() and len(self.models) != 1 and needs_one:
                raise ValueError(f"{place}: name its model; there are {', '.join(self.models)}")
        for name, judge in self.judges.items():
            if judge.scores_lone and judge.kind not in SCORES_EACH:
                raise ValueError(f"judges.{name}.scores_lone: a judge of kind {judge.kind} compares replies")
        if self.judge:
            _known(self.judge, self.judges, "judge")
        for name, judge in self.judges.items():
            for member in judge.members:
                _known(member, self.judges, f"judges.{name}.members")
                if self.judges[member].kind in ("panel", "lookahead"):
                    raise ValueError(f"judges.{name}.members: {member!r} is a {self.judges[member].kind} itself")
            if judge.kind == "panel" and len(judge.members) < 2:
                raise ValueError(f"judges.{name}.members: a panel needs at least two members")
            if judge.kind == "lookahead":
                self._looks_ahead(name, judge)
        return self

    def _looks_ahead(self, name: str, judge: JudgeConfig) -> None:
        if self.deciding_judge == name:
            raise ValueError(f"judge: {name!r} looks at what grew, so branching cannot follow it; name another judge")
        scorer = judge.of or self.deciding_judge
        _known(scorer, self.judges, f"judges.{name}.of")
        if self.judges[scorer].kind not in SCORES_EACH:
            raise ValueError(f"judges.{name}.of: {scorer!r} gives no score to a reply on its own")

    def roles(self) -> dict[str, RoleConfig]:
        """Every role by its place in the file."""
        return {
            "user": self.user,
            "inducer": self.inducer,
            **{f"responders.{name}": role for name, role in self.responders.items()},
            **{f"judges.{name}": role for name, role in self.judges.items()},
        }

    def models_of(self, role: RoleConfig) -> tuple[str, ...]:
        """Names of the models that may speak a role."""
        return role.names() or (next(iter(self.models)),)

    def with_models_named(self) -> dict[str, Any]:
        """As plain values in which every role names its models, so that another model changes nobody's."""
        plain = self.model_dump(mode="json")
        for place, role in self.roles().items():
            section, _, name = place.partition(".")
            there = plain[section][name] if name else plain[section]
            if not role.names() and len(self.models) == 1:
                there["model"] = next(iter(self.models))
        return plain

    @property
    def deciding_judge(self) -> str:
        """The judge whose verdicts branching follows."""
        return self.judge or next(iter(self.judges))


SCORES_EACH = frozenset({"likelihood", "rating", "points", "reward", "rules"})
"""Kinds of judge that score a reply without another one to compare it with."""
MODEL_FREE_JUDGES = frozenset({"rules", "treatment", "panel", "lookahead"})
"""Kinds of judge that ask no model."""
DERIVED_JUDGES = frozenset({"panel", "lookahead"})
"""Kinds of judge that are made of what other judges said, and act on no request of their own."""


def _known(name: str, known: Mapping[str, object], place: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{place}: there is no {name!r}, only {', '.join(known)}{meant}")


def load_config(path: Path, *, seed: int | None = None, given: Mapping[str, Any] | None = None) -> RunConfig:
    """Read a configuration file; `given` comes over it by dotted keys.

    Raises SetupError that names the file, the key and what is wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SetupError(f"there is no file {path}", hint=f"Make one: espalier init {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from error
    chosen = {**(given or {}), **({} if seed is None else {"seed": seed})}
    return make_config(overlaid(values, chosen), str(path))


def make_config(given: dict[str, Any], where: str) -> RunConfig:
    """A configuration from plain values, filled in by its preset. Raises SetupError."""
    preset = given.get("preset", "corrected")
    try:
        return RunConfig.model_validate(_filled_in(given, _preset(str(preset), where)))
    except ValidationError as error:
        raise SetupError(f"{where} is not a valid configuration:\n{explain(error)}") from error


def presets() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("simulation") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def _preset(name: str, where: str) -> dict[str, Any]:
    if name not in presets():
        raise SetupError(f"{where}: there is no preset {name!r}", hint=f"Presets: {', '.join(presets())}.")
    file = resources.files("simulation") / "presets" / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _filled_in(given: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """The preset's sections under the file's: sections of one role merge, a file's own set of roles replaces."""
    merged = dict(given)
    for key, value in preset.items():
        mine = given.get(key)
        if key not in given:
            merged[key] = value
        elif isinstance(value, dict) and isinstance(mine, dict) and key not in ("responders", "judges"):
            merged[key] = {**value, **mine}
    if "judges" in given and "judge" not in given and isinstance(given["judges"], dict):
        merged["judge"] = next(iter(given["judges"]), "")
    return merged


def explain(error: ValidationError) -> str:
    """A validation error as lines `key: what is wrong`, with the nearest known key for an unknown one."""
    return "\n".join(f"  {_explain_one(dict(e))}" for e in error.errors())


def _explain_one(error: dict[str, Any]) -> str:
    # Pydantic names the chosen variant of a union in the location; a file has no such level.
    place = [str(part) for part in error["loc"] if part not in BACKENDS]
    where = ".".join(place) or "the file"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place[-1], _known_keys(error["loc"]), n=1, cutoff=0.5)
        return f"{where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    if error["type"] in ("value_error", "missing", "union_tag_invalid", "union_tag_not_found"):
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    given = error.get("input")
    return f"{where}: {error['msg']} (it is {given!r:.80})"


BACKENDS = frozenset(
    {"llama", "openai", "scripted", "replay", "autogen", "vllm", "transformers", "sentence-transformers"}
)


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    """The keys that the section at a location has. Names and union tags in a location are no fields: it stays."""
    sections: list[type[BaseModel]] = [RunConfig]
    for part in location[:-1]:
        below = [s.model_fields[part].annotation for s in sections if part in s.model_fields]
        if below:
            sections = [model for annotation in below for model in _sections_in(annotation)]
    return [name for section in sections for name in section.model_fields]


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _sections_in(inner)]
