"""What a pool of people varies in: axes, their values, and what does not go together.

Data model: for each kind (profile, personality) named axes; each axis has named values with a weight or a quota, the
words that tell the value in a text, and for ages the years it spans. Rules rule out values of one axis beside values
of another. The shipped tables are simulation/data/persona_axes.toml; a plan of one's own is laid over them: it states
only what it changes.

Invariant: loaded axes are whole: every axis has a wanted value, and every rule names axes and values that exist.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trees.errors import SetupError
from trees.personas import Kind

OLDEST = 120
"""Years."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(_Table):
    says: str = Field(min_length=1, description="Completes 'a person who ...' where a model is asked for one.")
    weight: float = Field(1.0, ge=0, description="Share among the values of its axis; 0 leaves it out.")
    quota: int | None = Field(None, ge=0, description="A number of people, whatever the size of the pool.")
    words: tuple[str, ...] = Field((), description="What tells the value in a text; # stands for a digit.")
    facts: tuple[str, ...] = Field((), description="Sentences to compose it from, about 'he', his verbs marked ~.")
    overrides: bool = Field(False, description="Holds wherever it is found, whatever else is.")
    from_: int | None = Field(None, ge=0, le=OLDEST, alias="from", description="First year of an age.")
    to: int | None = Field(None, ge=0, le=OLDEST, description="Last year of an age.")

    @property
    def wanted(self) -> bool:
        return bool(self.weight if self.quota is None else self.quota)


class Axis(_Table):
    values: dict[str, Value] = Field(min_length=1)
    tagged_by: Literal["longest", "first"] = Field("longest", description="Which of several words found tells it.")

    @model_validator(mode="after")
    def _something_is_wanted(self) -> Axis:
        if not any(value.wanted for value in self.values.values()):
            raise ValueError("every value has the weight or quota 0: give one of them more, or leave the axis as it is")
        return self


class Rule(_Table):
    """Where the axes in `when` have one of these values, and the age fits, those in `never` have none of theirs."""

    kind: Kind
    why: str
    when: dict[str, tuple[str, ...]] = {}
    never: dict[str, tuple[str, ...]]
    from_: int = Field(0, alias="from", description="Age in years.")
    to: int = Field(OLDEST, description="Age in years.")

    def forbids(self, values: Mapping[str, str], age: int, axis: str, value: str) -> bool:
        """Whether the value may not stand beside these; an axis not yet in `values` rules out nothing."""
        applies = self.from_ <= age <= self.to and all(
            values.get(name) in allowed for name, allowed in self.when.items()
        )
        return applies and value in self.never.get(axis, ())


class Axes(_Table):
    profile: dict[str, Axis]
    personality: dict[str, Axis]
    rules: tuple[Rule, ...] = ()

    def of(self, kind: Kind) -> Mapping[str, Axis]:
        return self.profile if kind == "profile" else self.personality

    def clash(self, kind: Kind, values: Mapping[str, str], age: int) -> str | None:
        """Why these values do not go together; None if they do. For a personality the age is 0."""
        for rule in self.rules:
            if rule.kind == kind and any(rule.forbids(values, age, axis, value) for axis, value in values.items()):
                return rule.why
        return None

    @model_validator(mode="after")
    def _ages_span_years(self) -> Axes:
        for name, value in self.profile["age"].values.items():
            if value.from_ is None or value.to is None or value.from_ > value.to:
                raise ValueError(f"profile.age: {name!r} needs the years that it spans, from = ... and to = ...")
        return self

    @model_validator(mode="after")
    def _rules_name_what_exists(self) -> Axes:
        for rule in self.rules:
            for axis, values in [*rule.when.items(), *rule.never.items()]:
                for value in values:
                    require_value(self, rule.kind, axis, value)
        return self


@cache
def shipped_axes() -> Axes:
    return Axes.model_validate(_shipped_table())


def load_axes(text: str | None = None) -> Axes:
    """The shipped axes, with a plan in TOML laid over them. Raises SetupError, quoting what is wrong."""
    if text is None:
        return shipped_axes()
    try:
        plan = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"the plan is not TOML: {error}") from error
    _require_new_values_to_be_meant(plan)
    try:
        return Axes.model_validate(_laid_over(_shipped_table(), plan))
    except ValidationError as error:
        raise SetupError("the plan cannot be used:\n" + "\n".join(_in_words(error))) from error


def require_value(axes: Axes, kind: Kind, axis: str, value: str) -> None:
    """Raises SetupError, with the nearest name, if there is no such axis or no such value."""
    known = axes.of(kind)
    if axis not in known:
        raise SetupError(f"no axis {axis!r} of a {kind}", hint=_did_you_mean(axis, known))
    if value not in known[axis].values:
        raise SetupError(f"no value {value!r} of {kind}.{axis}", hint=_did_you_mean(value, known[axis].values))


def _shipped_table() -> dict[str, Any]:
    return tomllib.loads((resources.files("simulation") / "data" / "persona_axes.toml").read_text(encoding="utf-8"))


def _laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged key by key; the plan's rules stand beside the shipped ones; anything else is replaced."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _laid_over(old, value)
        elif key == "rules" and isinstance(old, list) and isinstance(value, list):
            merged[key] = [*old, *value]
        else:
            merged[key] = value
    return merged


def _require_new_values_to_be_meant(plan: Mapping[str, Any]) -> None:
    """A value that is neither shipped nor says what it is was misspelt."""
    kinds: tuple[Kind, Kind] = ("profile", "personality")
    for kind in kinds:
        for name, axis in _tables(plan.get(kind)).items():
            shipped = shipped_axes().of(kind).get(name)
            for value, table in _tables(axis.get("values")).items():
                if "says" not in table and (shipped is None or value not in shipped.values):
                    near = _did_you_mean(value, shipped.values) if shipped else ""
                    raise SetupError(
                        f"the plan's {kind}.{name} has a value {value!r} that is not a shipped one",
                        hint=f"{near} A new value says what it is: says = 'is ...'.".strip(),
                    )


def _tables(value: Any) -> dict[str, dict[str, Any]]:
    """The sub-tables of a table; what is none is left to validation."""
    return {key: below for key, below in value.items() if isinstance(below, dict)} if isinstance(value, dict) else {}


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."


def _in_words(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"]) or "plan"
        given = problem["input"]
        shown = "" if isinstance(given, dict | BaseModel) else f" (given: {given!r})"
        lines.append(f"  {where}: {problem['msg'].removeprefix('Value error, ')}{shown}")
    return lines
