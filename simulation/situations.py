"""Situations: what brings a person to talk beside small talk, drawn for each tree and recorded on it.

A situation says how a person begins, what goes on with them after that, and perhaps that something changes on the way:
their mood, or what they like in a reply. Openings and changes are several, and a run's seed draws one of each for each
tree. Situations are dealt in turn, each block of trees every situation once in a drawn order, so that each is played as
often as the others. The shipped ones are data (`data/situations.toml`); a configuration may hold its own.

Invariant: what is drawn depends on the seed, the persona and its place in the run alone: models that are measured on
the same people meet them in the same situations.
"""

from __future__ import annotations

import difflib
import random
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agents.prompts import Prompt
from trees.errors import SetupError
from trees.ids import derive_seed
from trees.situations import Situation, Step


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChangeConfig(_Section):
    """Something that is otherwise from a turn on."""

    before: str = Field("", description="What the person is told until then, beside how the situation goes.")
    wants_before: str = Field("", description="What suits them until then, for a judge of kind points.")
    when: str = Field(min_length=1, description="What the person is told at the turn of the change.")
    after: str = Field(min_length=1, description="What they are told from the turn after it on.")
    wants: str = Field("", description="What suits them from the change on, for a judge of kind points.")


class SituationConfig(_Section):
    """What brings a person to talk, as data."""

    name: str = Field(min_length=1, max_length=40, description="What tables call it.")
    openings: tuple[str, ...] = Field(min_length=1, description="What the person is told at first; one is drawn.")
    then: str = Field("", description="What they are told with each later message.")
    at: float = Field(0.5, gt=0, lt=1, description="After which share of the turns something changes.")
    changes: tuple[ChangeConfig, ...] = Field((), description="What changes; one is drawn.")


def named_situations(given: Any) -> Any:
    """A configuration's list with the shipped situations put in for their names. Raises ValueError for another name."""
    if not isinstance(given, (list, tuple)):
        return given
    read = [_shipped(item) if isinstance(item, str) else item for item in given]
    names = [item.name if isinstance(item, SituationConfig) else str(dict(item).get("name")) for item in read]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"situations: {twice!r} stands there twice")
    return read


@cache
def shipped_situations() -> Mapping[str, SituationConfig]:
    """The situations that come with the package, by name."""
    file = resources.files("simulation") / "data" / "situations.toml"
    read = tomllib.loads(file.read_text(encoding="utf-8"))
    return {name: SituationConfig(name=name, **given) for name, given in read.items()}


def _shipped(name: str) -> SituationConfig:
    known = shipped_situations()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"situations: there is no {name!r}, only {', '.join(known)}{meant}")
    return known[name]


def draw_situations(
    configured: Sequence[SituationConfig], keys: Sequence[str], turns: int, seed: int
) -> list[Situation | None]:
    """The situation of each persona (by key) of a run, in their order; None for all if none is configured."""
    if not configured:
        return [None] * len(keys)
    return [_drawn(_dealt(configured, place, seed), key, turns, seed) for place, key in enumerate(keys)]


def _dealt(configured: Sequence[SituationConfig], place: int, seed: int) -> SituationConfig:
    """Which situation is whose: each block of as many trees as there are situations has every one of them once."""
    block, within = divmod(place, len(configured))
    order = list(configured)
    random.Random(derive_seed(seed, str(block), "situation", "order")).shuffle(order)
    return order[within]


def _drawn(config: SituationConfig, key: str, turns: int, seed: int) -> Situation:
    opening = config.openings[derive_seed(seed, key, "situation", "opening") % len(config.openings)]
    if not config.changes or turns < 2:
        return Situation(config.name, _joined(Step(1, opening), Step(2, config.then)))
    change = config.changes[derive_seed(seed, key, "situation", "change") % len(config.changes)]
    turn = max(2, min(turns, 1 + int(turns * config.at)))
    steps = _joined(
        Step(1, f"{opening} {change.before}".strip(), change.wants_before),
        Step(2, f"{config.then} {change.before}".strip(), change.wants_before),
        Step(turn, change.when, change.wants),
        Step(turn + 1, f"{config.then} {change.after}".strip(), change.wants),
    )
    return Situation(config.name, steps, turn)


def _joined(*steps: Step) -> tuple[Step, ...]:
    """One step a turn: of two of the same turn the later one holds."""
    return tuple({step.turn: step for step in steps}.values())


def check_user_prompt(prompt: Prompt, configured: Sequence[SituationConfig]) -> None:
    """Raise SetupError if there are situations and the user's prompt has no place for them."""
    if configured and not prompt.uses("tail", "situation"):
        raise SetupError(
            "situations are configured, and the prompt of the user has no {{ situation }} in its [tail]: nobody would "
            "be told of theirs",
            hint="Leave the prompt out for the shipped one, or put {{ situation }} where `espalier prompts show "
            "user_in_situation` has it.",
        )
