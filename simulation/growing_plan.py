"""A growing that is planned: its configuration, what its id digests, and its beginning in the store.

Identity is who invents, with which prompts and sampling, what is compared how, the plan and the seeds; sizes and
budgets are operational. So the same command with a larger size goes on with the same growing.

Invariant: the id is known before anything is asked; the items that stood in the pool when it began are frozen with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agents.generator import PROMPT_OF
from agents.models.config import ModelConfig
from agents.models.protocol import Model
from agents.prompts import Prompt, load_prompt
from simulation.config import LimitsConfig, SamplingConfig, Section
from simulation.embedders import Embedder
from simulation.persona_axes import Axes
from simulation.persona_composer import composable, compose_nearest
from simulation.persona_plan import Plan
from simulation.personas import seed_personalities, seed_profiles
from trees.errors import SetupError
from trees.ids import digest_of
from trees.personas import Kind, Personality, Profile
from trees.pool import (
    KINDS,
    GrowingRow,
    Threshold,
    growing,
    grown_ids,
    keep_growing,
    keep_item,
    pool,
    set_growing_operation,
)
from trees.store import Store
from trees.writes import in_one, keep_model, keep_prompt

TOKENS_AN_ITEM = 150
"""Longest answer, for each item asked: twice what a profile of the usual length takes as JSON."""


class GrowingConfig(Section):
    """What a growing is frozen with, but for its models, prompts and thresholds."""

    generator: Literal["model", "plan"] = Field("model", description="Who invents: models, or the axis tables.")
    per_call: int = Field(4, ge=1, le=50, description="New items asked for in one call.")
    examples: int = Field(5, ge=1, le=50, description="Items of the pool shown in one call.")
    calls: int = Field(4, ge=1, le=64, description="Calls of one generation, all over the same pool.")
    window: int = Field(100, ge=10, description="Candidates over which the accept rate is taken.")
    saturation: float = Field(0.05, ge=0, lt=1, description="Stop when fewer than this share of them is kept.")
    sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=4 * TOKENS_AN_ITEM, temperature=1.0, min_p=0.05), description="How answers are drawn."
    )


class Sizes(Section):
    """How large the pool shall be; operational."""

    profile: int = Field(0, ge=0, description="Profiles in the training split, those there are already included.")
    personality: int = Field(0, ge=0, description="Personalities, in the same way.")


@dataclass(frozen=True)
class Growing:
    """A growing that is planned: everything its id digests, and what it needs to go on."""

    config: GrowingConfig
    seed: int
    sizes: Sizes
    limits: LimitsConfig
    embedder: Embedder
    thresholds: Mapping[Kind, Threshold]
    models: Mapping[str, Model]
    entries: Mapping[str, ModelConfig]
    """How each model may be asked."""
    generators: Sequence[str]
    """Those of the models that invent, in turn; none where the axis tables do."""
    checker: str | None
    """The model that takes a second look."""
    axes: Axes
    """What people vary in; the shipped tables unless a plan changes them."""
    steered: bool
    """Whether prompts ask for what the axes lack: with a plan of one's own."""
    prompts: Mapping[str, Prompt]

    def identity(self, seeds: Mapping[Kind, Sequence[str]]) -> dict[str, Any]:
        """What the id digests. Sizes and budgets are not among it."""
        return {
            "config": self.config.model_dump(mode="json"),
            "models": {name: model.identity.as_dict() for name, model in sorted(self.models.items())},
            "checker": self.checker,
            "prompts": {kind: prompt.id for kind, prompt in sorted(self.prompts.items())},
            "embedder": self.embedder.name,
            "thresholds": {kind: self.thresholds[kind].threshold for kind in KINDS},
            "axes": self._axes_digest() if self.steered or self.config.generator == "plan" else None,
            "steered": self.steered,
            "seeds": digest_of("seeds", {kind: sorted(seeds[kind]) for kind in KINDS}),
        }

    def _axes_digest(self) -> str:
        return digest_of("axes", self.axes.model_dump(mode="json", by_alias=True))

    def operation(self) -> dict[str, Any]:
        return {"sizes": self.sizes.model_dump(), "limits": self.limits.model_dump()}


def load_growing_prompts(folder: Path | None = None) -> dict[str, Prompt]:
    """The prompts of generator and checker, from `prompts/` beside the configuration or the shipped ones."""
    return {kind: load_prompt(kind, None, folder) for kind in (*PROMPT_OF.values(), "persona.check")}


def begin_growing(store: Store, planned: Growing) -> GrowingRow:
    """The growing's row, made unless it is there. An empty pool begins with the shipped seeds. Raises SetupError."""
    _seed_empty_pool(store)
    grown = grown_ids(store)
    standing = {kind: [item.id for item in pool(store, kind, "train")] for kind in KINDS}
    seeds: dict[Kind, list[str]] = {kind: [i for i in standing[kind] if i not in grown] for kind in KINDS}
    identity = planned.identity(seeds)
    growing_id = digest_of("growing", identity, planned.seed)
    base: dict[str, list[str]] = {kind: standing[kind] for kind in KINDS}
    row = GrowingRow(growing_id, planned.seed, identity, planned.operation(), base, "new", None, 0, 0)
    models = in_one(keep_model(m.identity.id, name, m.identity.as_dict()) for name, m in planned.models.items())
    prompts = in_one(keep_prompt(p.id, p.kind, p.text) for p in planned.prompts.values())
    store.apply([*keep_growing(row), *models, *prompts, *set_growing_operation(growing_id, planned.operation())])
    kept = growing(store, growing_id)
    assert kept is not None
    return kept


def _seed_empty_pool(store: Store) -> None:
    shipped: Mapping[Kind, Sequence[Profile | Personality]] = {
        "profile": seed_profiles(),
        "personality": seed_personalities(),
    }
    for kind in KINDS:
        if not pool(store, kind):
            store.apply(in_one(keep_item(item, source="seeds") for item in shipped[kind]))


def left_out(planned: Growing) -> list[str]:
    """What a plan asks of the composer that it has no words for, so that no one waits for it."""
    if planned.config.generator == "model" or not planned.steered:
        return []
    return [
        f"the composer has no words for {kind}.{axis} = {name!r}: it is left out (give the value `facts` in the plan)"
        for kind in KINDS
        if getattr(planned.sizes, kind)
        for axis, table in planned.axes.of(kind).items()
        for name, value in table.values.items()
        if value.wanted and not composable(kind, planned.axes, axis, name)
    ]


def check_growing(planned: Growing) -> None:
    """Raise SetupError where a growing cannot work as asked."""
    if not planned.sizes.profile and not planned.sizes.personality:
        raise SetupError("nothing is asked for", hint="Say how many: --profiles 300 --personalities 80.")
    if planned.config.generator == "model" and not planned.generators:
        raise SetupError("no model is there to invent people", hint="Name one with --model, or use --generator plan.")
    for kind in KINDS:
        if planned.config.generator == "plan" and (size := getattr(planned.sizes, kind)):
            compose_nearest(kind, planned.seed, Plan(kind, planned.axes).drawn_by({}, size), {})
    for name, model in planned.models.items():
        if not model.capabilities.chat:
            raise SetupError(f"the model {name!r} does not chat, so it cannot invent people")
