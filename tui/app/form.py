"""A configuration as a form: its fields with the schema's sentences, and its text, of which either changes the other.

The text is the truth: the form shows what the text means, and a change in the form is written into the text at its
place, comments and order kept. A field that the file leaves out shows what the preset or the default gives.

Invariant: nothing is lost by going through the form: a text that no field was changed in stays as it is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomlkit
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from tomlkit.exceptions import TOMLKitError

from simulation.cast import Cast, load_prompts, roles_of
from simulation.config import RunConfig, make_config
from simulation.estimate import Estimate, estimate
from simulation.runs import draw_personas
from trees.errors import SetupError
from trees.store import Store

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the form."""

    path: tuple[str, ...]
    """Keys from the top of the file."""
    value: Value
    about: str
    choices: tuple[str, ...] = ()
    written: bool = False
    """Whether the file says it; otherwise it is a default."""

    @property
    def section(self) -> str:
        return ".".join(self.path[:-1])

    @property
    def name(self) -> str:
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text means."""

    config: RunConfig | None
    problems: tuple[str, ...]
    """`key: what is wrong`, one a line; empty if the configuration is valid."""


def read(text: str) -> Reading:
    """A text as a configuration, or what is wrong with it."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return Reading(None, (str(error),))
    try:
        return Reading(make_config(given, "the configuration"), ())
    except SetupError as error:
        lines = error.message.splitlines()
        return Reading(None, tuple(line.strip() for line in lines[1:] or lines))


def fields(text: str, config: RunConfig) -> list[Field]:
    """The fields of a configuration, in the order of its schema."""
    return list(_fields(config, (), tomllib.loads(text)))


def _fields(section: BaseModel, path: tuple[str, ...], given: Mapping[str, Any]) -> Iterator[Field]:
    below: list[tuple[str, Any]] = []
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel | Mapping):
            below.append((name, value))
        elif value is None or isinstance(value, str | int | float | bool):
            yield Field((*path, name), value, info.description or "", _choices(info), name in given)
    for name, value in below:
        inner = given.get(name, {})
        if isinstance(value, BaseModel):
            yield from _fields(value, (*path, name), inner if isinstance(inner, Mapping) else {})
            continue
        for key, each in value.items():
            of = inner.get(key, {}) if isinstance(inner, Mapping) else {}
            if isinstance(each, BaseModel):
                yield from _fields(each, (*path, name, key), of if isinstance(of, Mapping) else {})


def _choices(info: FieldInfo) -> tuple[str, ...]:
    annotation = info.annotation
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(str(choice) for choice in get_args(annotation))
    return ()


def changed(text: str, path: tuple[str, ...], typed: str) -> str:
    """The text with one field set to what a person typed; nothing typed takes the field out. Raises ValueError.

    What looks like a number is one, unless the configuration is valid only with it as a text.
    """
    word = typed.strip()
    candidates = [_set(text, path, value) for value in dict.fromkeys((value_of(word), word or None))]
    return next((each for each in candidates if not read(each).problems), candidates[0])


def _set(text: str, path: tuple[str, ...], value: Value) -> str:
    try:
        document = tomlkit.parse(text)
    except TOMLKitError as error:
        raise ValueError(f"the text is no TOML: {error}") from error
    table: Any = document
    for key in path[:-1]:
        if key not in table:
            table[key] = tomlkit.table()
        table = table[key]
    if value is not None:
        table[path[-1]] = value
    elif path[-1] in table:
        del table[path[-1]]
    return tomlkit.dumps(document)


def value_of(word: str) -> Value:
    """What a word would be in TOML: nothing, true or false, a number, else a text."""
    if word in ("", "true", "false"):
        return word == "true" if word else None
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def shown(value: Value) -> str:
    """A value as the form shows it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def why_not(reading: Reading, path: Path | None) -> str | None:
    """Why a run cannot be started yet, in words for the button; None if it can."""
    if reading.problems:
        number = len(reading.problems)
        return f"blocked: {number} problem{'s' if number > 1 else ''}"
    return "blocked: it has no file yet, ctrl+s saves it" if path is None else None


def guessed(config: RunConfig, folder: Path, store: Store | None) -> Estimate:
    """What a run of this configuration would take, without opening a model. Raises SetupError."""
    prompts = load_prompts(config, folder / "prompts")
    personas = draw_personas(config.personas, config.seed, folder, store)
    return estimate(Cast(config, roles_of(config), prompts, {}, {}), personas)


def text_of(config: RunConfig) -> str:
    """A configuration as TOML, in full: what a stored run was played with."""
    return toml_of(config.model_dump(mode="json"))


def toml_of(values: Mapping[str, Any]) -> str:
    """Values of JSON's kinds as a TOML file. What is None is left out: TOML has no word for it."""
    return tomlkit.dumps(_without_none(dict(values)))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return value
