"""What a person writes to have something trained: a TOML file, and words of a command line over it.

The file holds the fields of `train.config.TrainingConfig` at its top, what of the store is trained on under `[data]`,
and under `[sft]` and `[dpo]` what holds for one objective alone; `lora = false` trains all weights. Words of the
command line come last.

Invariant: whatever is not a known field is an error that names it; nothing is read from anywhere else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agents.models.protocol import ModelFailure
from agents.overrides import over, overlaid
from train.adapters import StoredAdapters
from train.config import Section, TrainingConfig, read_training_config
from train.data import Fit, OwnFile, PairChoice, Selection, Weights
from trees.errors import SetupError
from trees.store import Store
from trees.values import Unit


class OwnRowsSection(Section):
    file: str = Field(description="JSONL rows of one's own, relative to the configuration.")
    share: float = Field(0.5, gt=0, le=1, description="Of all that is trained on.")


class DataSection(Section):
    """What of the store is trained on; what is left out leaves nothing out."""

    runs: tuple[str, ...] | None = Field(None, description="Ids of runs, or their beginnings; all if left out.")
    judge: str | None = Field(None, description="Whose verdicts, by name or id; the only judge's if left out.")
    min_margin: float | None = Field(None, ge=0, description="Smallest difference of scores, in the judge's unit.")
    unit: Unit | None = Field(None, description="What the margin is meant in.")
    turns: tuple[int, int] | None = Field(None, description="First and last turn, from 1.")
    people: tuple[str, ...] = Field((), description="Only who has one of these profiles or personalities.")
    models: tuple[str, ...] = Field((), description="Only replies of these models.")
    pairs: PairChoice = Field("all", description="All pairs of a turn, or its best reply against each it beats.")
    weights: Weights = Field("none", description="What a pair weighs in the loss: margin is its margin over the mean.")
    deploy: str | None = Field(None, description='Prompt version of all contexts; "" for no system message.')
    earlier: tuple[str, ...] = Field((), description="Further runs, of which only `earlier_share` is taken.")
    earlier_share: float = Field(0.5, ge=0, le=1, description="Of all that is trained on; 1 takes all of them.")
    own: tuple[OwnRowsSection, ...] = Field((), description="Rows of one's own files to be mixed in.")


@dataclass(frozen=True)
class Wanted:
    """What is to be trained on what."""

    config: TrainingConfig
    selection: Selection
    files: tuple[OwnFile, ...]


def read_wanted(path: Path | None, fit: Fit, given: Mapping[str, Any], store: Store) -> Wanted:
    """What a file wants for one objective; `given` are dotted keys with values that come over it. Raises SetupError."""
    values = {} if path is None else _read(path)
    both = {key: value for key, value in values.items() if key not in ("sft", "dpo")}
    merged = overlaid(over(both, values.get(fit, {})), given)
    data = _data(merged.pop("data", {}))
    runs = None if data.runs is None else tuple(store.find("runs", run) for run in data.runs)
    folder = Path() if path is None else path.parent
    files = tuple(OwnFile(folder / own.file, own.share) for own in data.own)
    chosen = data.model_dump(exclude={"runs", "own"})
    chosen["earlier"] = tuple(store.find("runs", run) for run in data.earlier)
    if merged.get("lora") is False:
        # TOML has no word for nothing.
        merged["lora"] = None
    config = read_training_config({**merged, "objective": fit})
    if config.start is not None:
        config = config.model_copy(update={"start": _found(store, config.start)})
    return Wanted(config, Selection(runs=runs, **chosen), files)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{path} is not TOML: {error}") from error


def _data(values: Mapping[str, Any]) -> DataSection:
    try:
        return DataSection.model_validate(values)
    except ValidationError as error:
        said = "\n".join(
            f"  data.{'.'.join(map(str, each['loc']))}: {each['msg']} (given: {each['input']!r:.80})"
            for each in error.errors()
        )
        raise SetupError(f"what is to be trained on cannot be read:\n{said}") from error


def _found(store: Store, start: str) -> str:
    try:
        return str(StoredAdapters(store.path).find(start).path)
    except ModelFailure as failure:
        raise SetupError(failure.message, hint="List adapters with `espalier train list`.") from failure
