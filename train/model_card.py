"""The card of what was trained: README.md beside an adapter's weights or a model's, in the form that model hubs read.

It says what it was trained on and how, what was measured, whose words it saw, and how it is played. The digest of the
weights does not cover it.

Invariant: text that comes from a store or a configuration stands in it as text, never as markup.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.models.weights import EMBEDDED

if TYPE_CHECKING:
    from train.training_plan import Plan

_SHIPPED_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def model_card(plan: Plan, metrics: Mapping[str, Any]) -> str:
    """The card of what a plan trained."""
    return "\n".join(_lines(plan, metrics)) + "\n"


def _lines(plan: Plan, metrics: Mapping[str, Any]) -> Iterator[str]:
    config, lineage = plan.config, plan.lineage
    method = "preferences (DPO)" if config.objective == "dpo" else "winning replies (SFT)"
    whole = config.lora is None
    yield f"---\nlibrary_name: {'transformers' if whole else 'peft'}"
    if lineage.base_name:
        yield f"base_model: {json.dumps(_SHIPPED_BASE if config.base == EMBEDDED else lineage.base_name)}"
    kind = "" if whole else "- lora\n"
    yield f"tags:\n{kind}- {config.objective}\n- personalisation\n---\n"
    yield f"# {'A model' if whole else 'An adapter'} trained on {method}\n"
    yield "Trained on conversation trees between simulated people and assistants, with espalier.\n"
    yield "| | |\n| --- | --- |"
    yield f"| base | `{Path(config.base).name.replace('`', '')}`, weights `{lineage.base}` |"
    if lineage.origin:
        yield f"| which was trained from | weights `{lineage.origin}` |"
    yield f"| trees of | {len(plan.data.trees)} conversations, {len(plan.data.people)} people |"
    yield f"| trained on | {plan.data.targets} targets, {plan.data.pairs} pairs; data `{plan.data.digest}` |"
    yield f"| judge | `{plan.data.judge_id or 'none'}` |"
    yield f"| lineage | {'known from the base on' if lineage.known else 'unknown: something in it came from outside'} |"
    yield f"| optimiser steps | {metrics.get('steps', 0)} |"
    for kind in ("training", "evaluation"):
        measured = {name: value for name, value in (metrics.get(kind) or {}).items() if value is not None}
        if measured:
            yield f"| last {kind} | {', '.join(f'{name} {value:.4g}' for name, value in measured.items())} |"
    yield "\n## Trainings, from the base on\n"
    yield "| training | kind | data | runs |\n| --- | --- | --- | --- |"
    for step in lineage.trainings:
        yield f"| `{step.id}` | {step.kind} | `{step.data}` | {', '.join(f'`{run[:8]}`' for run in step.runs)} |"
    yield "\nWho was seen, as pairs of profile and personality, stands in `lineage.json`: no benchmark may measure on "
    yield "these people.\n\n## Configuration\n"
    settings = json.dumps(plan.configuration, indent=1, sort_keys=True).replace("`", "\\u0060")
    yield f"```json\n{settings}\n```\n"
    yield "## Playing it\n"
    played = "chat FOLDER" if whole else "chat MODEL --adapter ID\nespalier train export ID --to gguf-lora lora.gguf"
    yield f"```\nespalier {played}\n```\n"
    yield "It stands under the terms of its base, and of the models that wrote what it was trained on."
