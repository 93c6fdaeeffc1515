"""A benchmark's configuration, read from bench.toml: who is measured, on whom, by which judge.

Everything but `tested` and `limits` is shared by the models under test; each of them makes one run with the same
people, in which a single responder speaks.

Invariant: a model under test is told nothing but its prompt, unless it stands there as a baseline that says so.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from agents.models.config import ModelConfig
from agents.overrides import overlaid
from simulation.config import (
    SCORES_EACH,
    InducerConfig,
    JudgeConfig,
    LimitsConfig,
    ResponderConfig,
    RunConfig,
    SamplingConfig,
    Section,
    UserConfig,
    explain,
)
from simulation.situations import SituationConfig, named_situations
from trees.errors import SetupError

How = Literal["deploy", "floor", "told", "memory", "think_first", "few_shot"]
FLOOR = "generic replies"
"""Name of the model that the floor speaks with."""
GENERIC = (
    "I see. Tell me more about that.",
    "That sounds interesting. How do you feel about it?",
    "Thank you for sharing.",
)


class TestedConfig(Section):
    """A model under test, or a baseline."""

    model: str | None = Field(None, description="Name of the model; the floor needs none.")
    adapter: str | None = Field(None, description="LoRA adapter put on that model, for kinds that take one.")
    how: How = Field(
        "deploy",
        description="deploy: under the deploy prompt. floor: a generic reply. told: told the whole persona, a ceiling. "
        "memory: reminded of what was revealed. think_first, few_shot: under a prompt that asks for it.",
    )
    prompt: str | None = Field(None, description="Another prompt file than the one that `how` means.")
    sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=120, temperature=0.7), description="How its replies are drawn."
    )
    repeat: int = Field(
        0, ge=0, description="Another number is another draw of all conversations: to measure a model twice."
    )

    @model_validator(mode="after")
    def _has_a_model(self) -> TestedConfig:
        if self.how != "floor" and self.model is None:
            raise ValueError("name its model")
        if self.how == "floor" and (self.model or self.adapter):
            raise ValueError("a floor says generic replies and takes no model")
        return self


class CasesConfig(Section):
    """On whom. Every profile meets every personality."""

    profiles: str = Field(
        "held_out",
        description="'held_out' (20, shipped), 'store' (those that its split holds out), or a file beside this one.",
    )
    personalities: str = Field("held_out", description="The same for personalities: 5 are shipped.")
    count: int = Field(0, ge=0, description="So many cases, of as many people as they can be, for a trial; 0 is all.")


class BenchmarkConfig(Section):
    name: str = Field("benchmark", min_length=1, max_length=60, description="What lists call it.")
    seed: int = Field(1, ge=0, lt=2**31, description="Another seed is another measurement.")
    turns: int = Field(10, ge=1, description="How often the user speaks in a conversation.")
    deploy: str = Field("deploy", description="Prompt file under which models are measured.")
    models: dict[str, Annotated[ModelConfig, Field(discriminator="kind")]] = Field(
        min_length=1, description="Models by name."
    )
    user: UserConfig = Field(UserConfig(), description="The simulated person.")
    inducer: InducerConfig = Field(InducerConfig(), description="Keeps the ledger of what was revealed.")
    judges: dict[str, JudgeConfig] = Field(min_length=1, description="Who scores replies, by name; the first is shown.")
    tested: dict[str, TestedConfig] = Field(min_length=1, description="What is measured, by name.")
    cases: CasesConfig = Field(CasesConfig(), description="On whom.")
    situations: tuple[SituationConfig, ...] = Field(
        (),
        description="What brings people to talk: names of shipped situations, or tables; dealt to the cases in turn.",
    )
    limits: LimitsConfig = Field(LimitsConfig(), description="How much at once and in all, for each model.")

    @field_validator("situations", mode="before")
    @classmethod
    def _read_situations(cls, given: Any) -> Any:
        return named_situations(given)

    @model_validator(mode="after")
    def _measures(self) -> BenchmarkConfig:
        for name, judge in self.judges.items():
            if judge.kind not in SCORES_EACH:
                raise ValueError(f"judges.{name}: {judge.kind!r} gives no score to a reply on its own")
        for name, tested in self.tested.items():
            if tested.model is not None and tested.model not in self.models:
                raise ValueError(f"tested.{name}.model: there is no {tested.model!r}, only {', '.join(self.models)}")
            if tested.adapter and not self._takes_adapter(tested):
                raise ValueError(f"tested.{name}.adapter: a model of this kind takes none here")
            if name.strip() != name or not name:
                raise ValueError(f"tested: {name!r} is no name")
            if twin := next((other for other in self.tested if self.tested[other] == tested and other != name), None):
                raise ValueError(f"tested.{twin} and tested.{name} are one measurement; give one of them repeat = 1")
        return self

    def _takes_adapter(self, tested: TestedConfig) -> bool:
        return tested.model is not None and "adapter" in type(self.models[tested.model]).model_fields

    def bearer(self, names: Collection[str] = ()) -> str:
        """The tested model, of those named or of all, that an adapter is put on. Raises SetupError if that is unclear.

        It is the one that is deployed as it is; without such a one the only one that takes an adapter.
        """
        among = {name: tested for name, tested in self.tested.items() if not names or name in names}
        able = [name for name, tested in among.items() if self._takes_adapter(tested) and tested.adapter is None]
        plain = [name for name in able if among[name].how == "deploy" and not among[name].repeat]
        found = plain or able
        if not found:
            raise SetupError(
                f"none of {', '.join(among)} in the benchmark {self.name!r} takes an adapter and has none yet",
                hint="Kinds of model that take one: llama, transformers, vllm.",
            )
        if len(found) > 1:
            raise SetupError(
                f"the benchmark {self.name!r} tests several models that an adapter may be put on: {', '.join(found)}",
                hint=f"Name the one it was trained on: --model {found[0]}.",
            )
        return found[0]

    def table_with(self, name: str, adapter: str) -> dict[str, Any]:
        """What the file says of a tested model, with an adapter on it: a table under `tested` of its own."""
        return {**self._table(name), "adapter": adapter}

    def table_again(self, name: str, number: int) -> dict[str, Any]:
        """The same for another draw of all conversations of a tested model."""
        return {**self._table(name), "repeat": self.tested[name].repeat + number}

    def _table(self, name: str) -> dict[str, Any]:
        return self.tested[name].model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def testing(self, name: str, table: Mapping[str, Any]) -> tuple[BenchmarkConfig, str]:
        """The same with one more model under test, and its name: that of the file's own if the file has it already."""
        tested = TestedConfig.model_validate(table)
        twin = next((other for other, known in self.tested.items() if known == tested), None)
        if twin is not None:
            return self, twin
        if name in self.tested:
            raise SetupError(f"the benchmark {self.name!r} tests another {name!r} already", hint="Call that otherwise.")
        return self.model_copy(update={"tested": {**self.tested, name: tested}}), name

    def run_of(self, name: str) -> RunConfig:
        """The run that measures one model. Raises SetupError."""
        tested = self.tested[name]
        models, speaker = self._models_with(name, tested)
        judges = {key: judge.model_copy(update={"scores_lone": True}) for key, judge in self.judges.items()}
        try:
            return RunConfig(
                name=f"{self.name}: {name}",
                seed=self.seed,
                turns=self.turns,
                models=models,
                user=self._with_model(self.user),
                inducer=self._with_model(self.inducer),
                responders={"tested": self._responder(tested, speaker)},
                judges={key: self._with_model(judge) for key, judge in judges.items()},
                branching={"policy": "winner"},
                situations=self.situations,
                deploy=self.deploy,
                limits=self.limits,
            )
        except ValidationError as error:
            raise SetupError(f"the benchmark {self.name!r} cannot measure {name!r}:\n{explain(error)}") from error

    def _models_with(self, name: str, tested: TestedConfig) -> tuple[dict[str, Any], str]:
        models: dict[str, Any] = {key: entry.model_dump(exclude_unset=True) for key, entry in self.models.items()}
        if tested.how == "floor":
            return {**models, FLOOR: {"kind": "scripted", "says": GENERIC}}, FLOOR
        assert tested.model is not None
        if tested.adapter is None:
            return models, tested.model
        speaker = f"{tested.model} with the adapter of {name}"
        return {**models, speaker: {**models[tested.model], "adapter": tested.adapter}}, speaker

    def _responder(self, tested: TestedConfig, speaker: str) -> ResponderConfig:
        prompt = tested.prompt or (self.deploy if tested.how in ("deploy", "floor") else tested.how)
        return ResponderConfig(
            model=speaker,
            prompt=prompt,
            sampling=tested.sampling,
            hint=tested.how == "memory",
            told=tested.how == "told",
            repeat=tested.repeat,
        )

    def _with_model(self, role: Any) -> Any:
        """A role that names no model means the only one of the file, whatever a baseline adds to it."""
        if role.names() or len(self.models) != 1:
            return role
        return role.model_copy(update={"model": next(iter(self.models))})


def load_benchmark(path: Path, *, seed: int | None = None, given: Mapping[str, Any] | None = None) -> BenchmarkConfig:
    """Read a bench.toml; `given` comes over it by dotted keys.

    Raises SetupError that names the file, the key and what is wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SetupError(f"there is no file {path}", hint=f"Make one: espalier bench init {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from error
    chosen = {**(given or {}), **({} if seed is None else {"seed": seed})}
    try:
        return BenchmarkConfig.model_validate(overlaid(values, chosen))
    except ValidationError as error:
        raise SetupError(f"{path} is not a valid benchmark:\n{explain(error)}") from error


def sample() -> str:
    """A commented bench.toml, valid as it stands."""
    return (resources.files("simulation") / "bench.toml").read_text(encoding="utf-8")
