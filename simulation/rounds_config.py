"""Rounds as a person writes them: a TOML file that names three others, and what goes on between them.

The three are what `espalier run`, `espalier train` and `espalier bench run` take; under each, `set` is laid over the
file. What is frozen of rounds is what the files say, not where they lie; `rounds`, `patience` and what is operational
in the files may change while rounds go on.

Invariant: two files of equal identity do the same steps by the same command lines.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from agents.models.settings import ModelSettings
from agents.overrides import overlaid
from simulation.benchmark_config import BenchmarkConfig, TestedConfig, load_benchmark
from simulation.benchmark_config import sample as bench_sample
from simulation.cast import load_prompts
from simulation.config import RunConfig, SamplingConfig, Section, explain, load_config
from simulation.quickstart import quickstart
from trees.errors import SetupError
from trees.rounds import StepKind, rounds_id

Objective = Literal["sft", "dpo"]
_OPERATIONAL_OF_TRAINING = ("machine",)


class FileSection(Section):
    """A file of another command, and what is laid over it."""

    file: str = Field(description="A file beside this one.")
    given: dict[str, Any] = Field({}, alias="set", description="Fields of the file to be had otherwise, by dotted key.")


class SimulateSection(FileSection):
    """What is played in each round; as `espalier run` has it."""

    file: str = Field("run.toml", description="A configuration of a run, beside this file.")
    learner: str | None = Field(
        None, description="Name, in that file, of the model that learns; the only one if left out."
    )
    joins_as: str = Field(
        "learnt", min_length=1, description="Name of the responder as which what was learnt joins from round 2 on."
    )
    sampling: SamplingConfig | None = Field(
        None, description="How the joined responder's replies are drawn; as the file's first responder if left out."
    )
    samples: int = Field(1, ge=1, le=16, description="Replies a turn of the joined responder.")


class TrainSection(FileSection):
    """What is trained in each round; as `espalier train` has it."""

    file: str = Field("training.toml", description="Settings of trainings, beside this file.")
    objectives: tuple[Objective, ...] = Field(
        ("sft", "dpo"), min_length=1, description="What is trained one after the other, each from the one before."
    )
    start: Literal["previous", "base"] = Field(
        "previous", description="previous: from what the round before learnt. base: from the base each time."
    )
    earlier_share: float = Field(
        0.3, ge=0, le=1, description="Of all that is trained on: how much may come from earlier rounds; 1 takes all."
    )


class BenchmarkSection(FileSection):
    """What is measured in each round; as `espalier bench run` has it."""

    file: str = Field("bench.toml", description="A benchmark, beside this file.")
    baseline: str | None = Field(
        None, description="Which of its tested models learns; the first that is deployed as it is if left out."
    )


class RoundsConfig(Section):
    name: str = Field("rounds", min_length=1, max_length=60, description="What lists call them.")
    seed: int = Field(1, ge=0, lt=2**30, description="Of round 1; each further one plays under the next seed.")
    rounds: int = Field(3, ge=1, le=1000, description="How many rounds at most; may be raised later.")
    patience: int = Field(
        1, ge=0, description="Stop after so many rounds in a row that are not above the best so far; 0 goes on."
    )
    simulate: SimulateSection = Field(SimulateSection(), description="What is played.")
    train: TrainSection = Field(TrainSection(), description="What is trained.")
    benchmark: BenchmarkSection = Field(BenchmarkSection(), description="What is measured.")


@dataclass(frozen=True)
class Rounds:
    """Rounds with the files that they name."""

    id: str
    file: Path
    config: RoundsConfig
    run: RunConfig
    training: Mapping[str, Any]
    """What the training file says with what is laid over it, as plain values: `train` knows what they mean."""
    bench: BenchmarkConfig
    learner: str
    """Name of the model that learns, in the run."""
    baseline: str
    """Name of the tested model that learns, in the benchmark."""
    steps: tuple[StepKind, ...]
    """Of every round but round 0, which only measures."""
    configuration: Mapping[str, Any]
    """The frozen half."""

    @property
    def folder(self) -> Path:
        return self.file.resolve().parent

    @property
    def judge(self) -> str:
        """Name of the judge whose verdicts are trained on: the one branching follows if the trainings name none."""
        return _judge(self.run, self.training)

    @property
    def tested(self) -> TestedConfig:
        return self.bench.tested[self.baseline]

    @property
    def operation(self) -> dict[str, Any]:
        """The half that may change at any time."""
        return {"file": str(self.file.resolve()), "rounds": self.config.rounds, "patience": self.config.patience}


def load_rounds(path: Path) -> Rounds:
    """Read a rounds.toml and the files it names. Raises SetupError that names the file, the key and what is wrong."""
    config = _read(path)
    folder = path.resolve().parent
    run = load_config(folder / config.simulate.file, given=config.simulate.given)
    bench = load_benchmark(folder / config.benchmark.file, given=config.benchmark.given)
    training = overlaid(_toml(folder / config.train.file), config.train.given)
    learner, baseline = _learner(config, run, path), _baseline(config, bench, path)
    steps = _steps(config, run, _judge(run, training))
    configuration = {
        "seed": config.seed,
        "simulate": {**_own(config.simulate), "learner": learner},
        "train": _own(config.train),
        "benchmark": {"baseline": baseline},
        "steps": list(steps),
        "run": _identity_of_run(run, folder),
        "training": {key: value for key, value in training.items() if key not in _OPERATIONAL_OF_TRAINING},
        "bench": _identity_of_bench(bench, baseline, folder),
    }
    return Rounds(rounds_id(configuration), path, config, run, training, bench, learner, baseline, steps, configuration)


def samples() -> dict[str, str]:
    """The commented rounds.toml, and the files it names, by name; valid as they stand."""
    folder = resources.files("simulation")
    return {
        "rounds.toml": (folder / "rounds.toml").read_text(encoding="utf-8"),
        "run.toml": quickstart(),
        "training.toml": (folder / "rounds_training.toml").read_text(encoding="utf-8"),
        "bench.toml": bench_sample(),
    }


def _read(path: Path) -> RoundsConfig:
    try:
        return RoundsConfig.model_validate(_toml(path, hint=f"Make one: espalier rounds init {path}"))
    except ValidationError as error:
        raise SetupError(f"{path} does not describe rounds:\n{explain(error)}") from error


def _toml(path: Path, hint: str | None = None) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SetupError(f"there is no file {path}", hint=hint) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SetupError(f"{path} cannot be read: {error}") from error


def _learner(config: RoundsConfig, run: RunConfig, path: Path) -> str:
    """The model that learns. Raises SetupError if it is not clear which, or if it takes no adapter."""
    named = config.simulate.learner
    if named is None and len(run.models) > 1:
        raise SetupError(
            f"{path}: simulate.learner is left out, and {config.simulate.file} has several models",
            hint=f"Name the one that learns: {', '.join(run.models)}.",
        )
    name = named or next(iter(run.models))
    if name not in run.models:
        raise SetupError(
            f"{path}: {config.simulate.file} has no model {name!r}", hint=f"It has {', '.join(run.models)}."
        )
    if "adapter" not in type(run.models[name]).model_fields:
        raise SetupError(
            f"{path}: {name!r} is of kind {run.models[name].kind!r}, which takes no adapter, so it cannot learn",
            hint="Kinds that take one: llama, transformers, vllm.",
        )
    if config.simulate.joins_as in run.responders or config.simulate.joins_as in run.models:
        raise SetupError(
            f"{path}: {config.simulate.file} has a {config.simulate.joins_as!r} already",
            hint="Give what was learnt another name: simulate.joins_as.",
        )
    return name


def _judge(run: RunConfig, training: Mapping[str, Any]) -> str:
    return str(training.get("data", {}).get("judge") or run.deciding_judge)


def _steps(config: RoundsConfig, run: RunConfig, judge: str) -> tuple[StepKind, ...]:
    """Of a round. A judge that looks ahead is silent while a run is played, so it is asked when the run is done."""
    kind = run.judges[judge].kind if judge in run.judges else judge
    looking: tuple[StepKind, ...] = ("judge",) if kind == "lookahead" else ()
    return ("simulate", *looking, "lint", *config.train.objectives, "benchmark")


def _baseline(config: RoundsConfig, bench: BenchmarkConfig, path: Path) -> str:
    """The tested model that learns. Raises SetupError."""
    named = config.benchmark.baseline
    deployed = [name for name, tested in bench.tested.items() if tested.how == "deploy" and tested.adapter is None]
    if named is not None and named not in bench.tested:
        known = ", ".join(bench.tested)
        raise SetupError(f"{path}: {config.benchmark.file} tests no {named!r}", hint=f"It tests {known}.")
    if named is None and not deployed:
        raise SetupError(
            f"{path}: {config.benchmark.file} tests no model as it is deployed and without an adapter",
            hint="Add one, such as [tested.base] with model = ...; each round is compared with it.",
        )
    name = named or deployed[0]
    model = bench.tested[name].model
    if model is None or "adapter" not in type(bench.models[model]).model_fields:
        raise SetupError(
            f"{path}: the model of tested.{name} in {config.benchmark.file} takes no adapter",
            hint="Kinds that take one: llama, transformers, vllm.",
        )
    return name


# What is frozen


def _own(section: FileSection) -> dict[str, Any]:
    """A section's own fields: where its file lies is nothing, and what is laid over it counts with the file."""
    return section.model_dump(mode="json", exclude={"file", "given"})


def _identity_of_run(run: RunConfig, folder: Path) -> dict[str, Any]:
    dumped = run.model_dump(mode="json", exclude={"name", "seed", "limits", "models"})
    prompts = {role: prompt.id for role, prompt in load_prompts(run, folder / "prompts").items()}
    return {**dumped, "models": _identity_of_models(run.models), "prompts": prompts}


def _identity_of_bench(bench: BenchmarkConfig, baseline: str, folder: Path) -> dict[str, Any]:
    dumped = bench.model_dump(mode="json", exclude={"name", "limits", "models", "tested"})
    prompts = {role: prompt.id for role, prompt in load_prompts(bench.run_of(baseline), folder / "prompts").items()}
    tested = bench.tested[baseline].model_dump(mode="json")
    return {**dumped, "models": _identity_of_models(bench.models), "prompts": prompts, "tested": tested}


def _identity_of_models(models: Mapping[str, ModelSettings]) -> dict[str, Any]:
    return {name: model.model_dump(mode="json", exclude=_operational(type(model))) for name, model in models.items()}


def _operational(kind: type[ModelSettings]) -> set[str]:
    """Fields of a model's entry that may change at any time."""
    marked = {
        name
        for name, field in kind.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("operational")
    }
    return marked | set(ModelSettings.model_fields)
