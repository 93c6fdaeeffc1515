"""What is to be trained: a configuration over a selection of the store, named by what it is.

A plan's id digests the configuration, with base and start by the content of their weights, and the data. Runs and
judge that are left open are settled when it is made, so that what comes into the store later changes nothing.

Invariant: the same plan has the same id in every store and on every machine; a stored training goes on with the data
it began with, or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agents.models.model_folder import AdapterFolder, read_adapter
from agents.models.protocol import ModelFailure
from train.adapters import Lineage, LineageStep, base_digest, lineage_of_base, lora_of, read_lineage
from train.config import LoraSettings, Machine, TrainingConfig
from train.data import DataSet, OwnFile, Selection, select, stored_selection
from train.templates import TemplateReader
from train.token_tree import TokenTree
from train.tokenise import tokenise, within
from trees.errors import SetupError
from trees.ids import digest_of
from trees.pairs import runs_to_learn_from
from trees.store import Store
from trees.trainings import TrainingRow, keep_training, training, training_id
from trees.writes import keep_event

UNITS = {"sft": "targets", "dpo": "pairs"}
"""What each objective learns from."""


@dataclass(frozen=True)
class Plan:
    """A training that could be done."""

    id: str
    name: str
    config: TrainingConfig
    data: DataSet
    """What its objective needs."""
    lineage: Lineage
    """This training included."""
    start: AdapterFolder | None
    flat: bool = False
    """Whether TRL's own trainers do it, on flattened rows."""

    @property
    def configuration(self) -> dict[str, Any]:
        """The frozen half, with base and start by content."""
        start = None if self.start is None else self.start.digest
        return _resolved(self.config, self.lineage.base, start, self.flat)


@dataclass(frozen=True)
class TokenData:
    """What a training reads."""

    trained: tuple[TokenTree, ...]
    measured: tuple[TokenTree, ...]
    left_out: Mapping[str, int]
    """Number of targets or pairs by reason."""


def plan_training(
    store: Store, config: TrainingConfig, selection: Selection, files: Sequence[OwnFile] = (), *, flat: bool = False
) -> Plan:
    """What a configuration trains of a store. Blocks. Raises SetupError, NotFound, BadFilter or HeldOut.

    Runs and judge that are left open are settled here, so that what is added to the store later changes nothing; so are
    the settings of the adapter it starts from.
    """
    start = _start(config)
    if start is not None:
        config = config.model_copy(update={"lora": _lora_from(start, config)})
    return _planned(store, config, start, selection, files, flat)


def _planned(
    store: Store,
    config: TrainingConfig,
    start: AdapterFolder | None,
    selection: Selection,
    files: Sequence[OwnFile],
    flat: bool,
) -> Plan:
    """The plan of a configuration whose settings are taken as they stand."""
    everything = selection.runs if selection.runs is not None else runs_to_learn_from(store)
    wanted = replace(selection, runs=everything, evaluation=config.evaluation.share, seed=config.seed)
    found = select(store, wanted, files)
    if found.judge_id:
        found = replace(found, selection=replace(wanted, judge=found.judge_id))
    data = found.only(config.objective)
    _check_data(data, config)
    if flat and data.weighted:
        raise SetupError(
            "weights = 'margin' is nothing that TRL's trainers know", hint="Leave out --flat, or data.weights."
        )
    before = lineage_of_base(config.base) if start is None else read_lineage(start, config.base)
    if start is not None and start.base is not None and start.base != (own := base_digest(config.base)):
        raise SetupError(
            f"the adapter {start.digest} was trained on the base {start.base}, and {config.base!r} is {own}",
            hint="Name its own base with --model, or begin without --adapter.",
        )
    resolved = _resolved(config, before.base, None if start is None else start.digest, flat)
    own_id = training_id(resolved, data.digest)
    runs = tuple(dict.fromkeys((*everything, *selection.earlier)))
    step = LineageStep(own_id, config.objective, data.digest, digest_of("training configuration", resolved), runs)
    lineage = before.with_training(step, data.people, known=data.lineage == "store")
    name = _name(store, config, data, before if start is None else None)
    return Plan(own_id, name, config, data, lineage, start, flat)


def begin(store: Store, plan: Plan) -> TrainingRow:
    """Write a training's row unless it is there already."""
    if not store.rows("SELECT 1 FROM trainings WHERE id = ?", (plan.id,)):
        operation = operation_of(plan.config)
        store.apply(
            [
                *keep_training(
                    plan.id,
                    plan.name,
                    plan.configuration,
                    plan.data.digest,
                    _selection_json(plan.data),
                    plan.lineage.as_dict(),
                    operation,
                ),
                *keep_event(plan.id, "training.planned", {UNITS[plan.config.objective]: _amount(plan.data)}),
            ]
        )
    return training(store, plan.id)


def plan_of(store: Store, row: TrainingRow, machine: Machine | None = None) -> Plan:
    """The plan of a stored training. Blocks. Raises SetupError if store or base are no longer what it began with.

    Its configuration is what it began with, whatever would be settled today: its id is of that.
    """
    config = config_of(row, machine)
    selection, files = stored_selection(row.selection)
    plan = _planned(store, config, _start(config), selection, files, "flat" in row.configuration)
    if plan.id != row.id:
        changed = "its data" if plan.data.digest != row.data_digest else "its base or the adapter it starts from"
        raise SetupError(
            f"training {row.id[:8]} cannot go on: {changed} changed since it began (data {row.data_digest[:8]}, now "
            f"{plan.data.digest[:8]}; base {row.base[:8]}, now {plan.lineage.base[:8]})",
            hint="Begin another one with `espalier train`: what this one learnt so far is in its last checkpoint.",
        )
    return plan


def config_of(row: TrainingRow, machine: Machine | None = None) -> TrainingConfig:
    """A training's configuration as the store has it."""
    where = {"base": row.operation["base"], "start": row.operation["start"]}
    frozen = {key: value for key, value in row.configuration.items() if key != "flat"}
    kept = TrainingConfig.model_validate({**frozen, **where, "machine": row.operation["machine"]})
    return kept if machine is None else kept.model_copy(update={"machine": machine})


def token_data(plan: Plan, reader: TemplateReader) -> TokenData:
    """The plan's data in tokens. Raises SetupError if nothing of it can be read within the limit."""
    tokenised = tokenise(plan.data.trees, reader)
    kind = plan.config.objective
    refused = sum(each.targets + each.pairs for each in tokenised.refused)
    sides = {tree.id: tree.side for tree in plan.data.trees}
    found: dict[str, list[TokenTree]] = {"train": [], "evaluation": []}
    for tree in tokenised.trees:
        if (kept := within(tree, plan.config.tokens_per_row)) is not None:
            found[sides[tree.id]].append(kept)
    held = sum(len(getattr(tree, UNITS[kind])) for trees in found.values() for tree in trees)
    left_out = {"refused by the chat template": refused, "too long": _amount(plan.data) - refused - held}
    if not found["train"]:
        why = tokenised.refused[0].reason if refused else f"all are longer than {plan.config.tokens_per_row} tokens"
        raise SetupError(
            f"none of {_amount(plan.data)} {UNITS[kind]} can be trained on: {why}",
            hint="Raise tokens_per_row, or see each with `espalier data lint --samples 3`.",
        )
    return TokenData(
        tuple(found["train"]),
        tuple(found["evaluation"]),
        {reason: number for reason, number in left_out.items() if number},
    )


# What a plan is made of


def _check_data(data: DataSet, config: TrainingConfig) -> None:
    """Raise SetupError for data that teach nothing, or leave nobody to measure on."""
    unit = UNITS[config.objective]
    if not data.side("train"):
        dropped = data.dropped.get(unit, {})
        reasons = ", ".join(f"{number} {reason}" for reason, number in dropped.items()) or "nothing was judged"
        raise SetupError(
            f"there are no {unit} to train on: {reasons}",
            hint="See what is left out with `espalier data lint`; judge the runs again, or lower the margin.",
        )
    if config.evaluation.share > 0 and not data.side("evaluation"):
        people = sorted({tree.profile_id or tree.source for tree in data.trees})
        raise SetupError(
            f"all {_amount(data)} {unit} are of one person ({people[0][:8]}): nobody is left to measure on",
            hint="Play more personas, or train without measuring: --set evaluation.share=0.",
        )


def _start(config: TrainingConfig) -> AdapterFolder | None:
    if config.start is None:
        return None
    try:
        return read_adapter(config.start)
    except ModelFailure as failure:
        raise SetupError(failure.message, hint="Name an adapter: espalier train list.") from failure


def _lora_from(start: AdapterFolder, config: TrainingConfig) -> LoraSettings:
    """The settings of the adapter that is trained on. Raises SetupError for one that is asked to be another."""
    own, asked = lora_of(start), config.lora or LoraSettings()
    for field in sorted(asked.model_fields_set):
        wanted, is_so = _plain(getattr(asked, field)), _plain(getattr(own, field))
        # What all linear layers of a base are is known to PEFT alone, which wrote them down as names.
        if wanted not in (is_so, "all-linear"):
            raise SetupError(
                f"lora.{field} is {wanted}, and the adapter {start.digest} was made with {is_so}",
                hint=f"Leave lora.{field} out to go on with that adapter, or begin without it (`start`, --adapter).",
            )
    return own


def _plain(value: Any) -> Any:
    """Names of layers in whatever order."""
    return sorted(value) if isinstance(value, tuple) else value


def _resolved(config: TrainingConfig, base: str, start: str | None, flat: bool) -> dict[str, Any]:
    found = {**config.identity(), "base": base, "start": start}
    return {**found, "flat": True} if flat else found


def operation_of(config: TrainingConfig) -> dict[str, Any]:
    """The half of a training that may change at any time."""
    return {"base": config.base, "start": config.start, "machine": config.machine.model_dump(mode="json")}


def _amount(data: DataSet) -> int:
    return data.targets + data.pairs


def _name(store: Store, config: TrainingConfig, data: DataSet, before: Lineage | None) -> str:
    """What is trained on what, for lists; a base that was trained itself is named by its last training."""
    last = before.trainings[-1] if before is not None and before.trainings else None
    base = Path(config.base).name if last is None else f"the model of {last.kind} {last.id[:8]}"
    sources = sorted({tree.source for tree in data.trees})
    runs = [store.run(source).name for source in sources if store.rows("SELECT 1 FROM runs WHERE id = ?", (source,))]
    named = list(dict.fromkeys(runs)) + [file.path.name for file in data.files]
    shown = ", ".join(named[:3]) + (f" and {len(named) - 3} more" if len(named) > 3 else "")
    return f"{base} on {shown}"


def _selection_json(data: DataSet) -> dict[str, Any]:
    """What of the store is trained on; who is held back to measure stands in the configuration."""
    chosen = asdict(data.selection)
    kept = {key: value for key, value in chosen.items() if key not in ("evaluation", "seed")}
    return {**kept, "files": [[str(file.path.resolve()), file.share] for file in data.files]}
