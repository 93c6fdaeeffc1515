"""Rounds: which step comes next, by which command line, and what came of it.

Round 0 measures what is there. Every further round plays people with the responders of a file, looks at what would be
trained on, trains on it and on a share of the rounds before, and measures the adapter on the same held-out people.
From round 2 on what was learnt is one more responder. A round whose adapter is worse than the best so far, beyond the
interval, is not gone on from; after `patience` rounds in a row that are not better, rounds are over.

Playing and training meet in the store alone: each step is a command line, which a person could type, and a process of
its own. So its models are gone before the next step loads any, and one GPU serves them all.

Invariant: the next step follows from the configuration and the steps that are done, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

from pydantic import BaseModel

from agents.overrides import as_word
from simulation.benchmark import Result, find_benchmark, results, too_few
from simulation.metrics import Estimate, compare, different, summarise
from simulation.rounds_config import Objective, Rounds
from trees.errors import SetupError
from trees.rounds import StepKind, StepRow, keep_rounds
from trees.store import Store
from trees.writes import Write, keep_event

TRAINED: tuple[StepKind, ...] = ("sft", "dpo")


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done next."""

    round: int
    place: int
    """Within the round, from 0."""
    kind: StepKind
    words: tuple[str, ...]
    """Of the command line, without the store."""


@dataclass(frozen=True, slots=True)
class Over:
    """Nothing is to be done any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What rounds have come to."""

    best: str
    """Name of the tested model that nothing later is above."""
    best_adapter: str | None
    """None: what was there before."""
    carried: str | None
    """The adapter that joins the next round, and that its training goes on from."""
    without_gain: int
    """Rounds in a row until now that were not above the best."""


@dataclass(frozen=True, slots=True)
class Came:
    """What came of a step."""

    made: str | None
    """Id of the run, judge, training or benchmark."""
    figures: Mapping[str, Any]
    wrong: str | None = None
    """Why the step is not done after all; None if it is."""


def planned(plan: Rounds, at: float) -> list[Write]:
    """The rows with which rounds begin; of those that are there already what may change is brought up to date."""
    data = {"rounds": plan.config.rounds, "patience": plan.config.patience}
    return [
        *keep_rounds(plan.id, plan.config.name, plan.configuration, plan.operation, at),
        *keep_event(plan.id, "rounds.planned", data),
    ]


# What comes next


def kinds_of(plan: Rounds, round_: int) -> tuple[StepKind, ...]:
    """The steps of a round, in order."""
    return ("benchmark",) if round_ == 0 else plan.steps


def next_step(plan: Rounds, rows: Sequence[StepRow]) -> Step | Over:
    """The first step that is not done, or why there is none."""
    done = {(row.round, row.place) for row in rows if row.state == "done"}
    for round_ in range(plan.config.rounds + 1):
        for place, kind in enumerate(kinds_of(plan, round_)):
            if (round_, place) not in done:
                return Step(round_, place, kind, tuple(_words(plan, round_, kind, rows)))
        known = standing(plan, [row for row in rows if row.round <= round_])
        if 0 < plan.config.patience <= known.without_gain:
            reason = f"{_rounds(known.without_gain)} not above {known.best}, after round {round_}"
            return Over(reason + _whether_told(rows))
    return Over(f"all {plan.config.rounds} rounds are done{_whether_told(rows)}")


def _whether_told(rows: Sequence[StepRow]) -> str:
    """Of the last comparison: that it had too few cases to come out in any way but one."""
    compared = [row.figures for row in rows if row.kind == "benchmark" and "outcome" in row.figures]
    few = too_few(compared[-1]["cases"], 1) if compared and "cases" in compared[-1] else None
    return "" if few is None else f"; {few}"


def standing(plan: Rounds, rows: Sequence[StepRow]) -> Standing:
    """What the rounds that were measured came to."""
    known = Standing(plan.baseline, None, None, 0)
    for row in rows:
        if row.kind != "benchmark" or row.round == 0 or row.state != "done":
            continue
        adapter, outcome = str(row.figures["adapter"]), row.figures["outcome"]
        if outcome == "gain":
            known = Standing(row.figures["model"], adapter, adapter, 0)
        else:
            carried = known.best_adapter if outcome == "loss" else adapter
            known = Standing(known.best, known.best_adapter, carried, known.without_gain + 1)
    return known


def _rounds(count: int) -> str:
    return "a round was" if count == 1 else f"{count} rounds in a row were"


# Command lines


def _words(plan: Rounds, round_: int, kind: StepKind, rows: Sequence[StepRow]) -> Iterator[str]:
    before = [row for row in rows if row.state == "done" and row.round < round_]
    own = {row.kind: row for row in rows if row.state == "done" and row.round == round_}
    carried = standing(plan, before).carried
    if kind == "simulate":
        yield from simulate_words(plan, round_, {} if carried is None else {"adapter": carried})
    elif kind == "judge":
        yield from ("judge", str(own["simulate"].made), "--judge", plan.judge, "--json")
    elif kind == "lint":
        yield from _lint_words(plan, str(own["simulate"].made))
    elif kind == "benchmark":
        yield from _benchmark_words(plan, round_, _adapter_of(plan, own))
    else:
        trained = list(takewhile(lambda each: each != kind, plan.config.train.objectives))
        start = str(own[trained[-1]].figures["adapter"]) if trained else carried
        if not trained and plan.config.train.start == "base":
            start = None
        earlier = [str(row.made) for row in before if row.kind == "simulate"]
        yield from _train_words(plan, kind, str(own["simulate"].made), earlier, start)


def simulate_words(plan: Rounds, round_: int, learnt: Mapping[str, Any]) -> Iterator[str]:
    """The command line that plays a round. From round 2 on the learner joins, with what is `learnt` in its entry."""
    config = plan.config.simulate
    yield from ("run", str(plan.file.parent / config.file), "--seed", str(plan.config.seed + max(round_, 1) - 1))
    yield from _sets(config.given)
    if round_ > 1:
        yield from _sets(_joining(plan, learnt))
    yield "--json"


def dry_words(plan: Rounds) -> dict[str, tuple[str, ...]]:
    """Command lines that tell what rounds would take: `measuring`, the `first` play, and `later` ones."""
    measuring = (
        "bench",
        "run",
        str(plan.file.parent / plan.config.benchmark.file),
        *_sets(plan.config.benchmark.given),
    )
    found = {"measuring": (*measuring, "--json"), "first": tuple(simulate_words(plan, 1, {}))}
    if plan.config.rounds > 1:
        # Before anything is learnt its responder is the learner as it is, which takes as long.
        found["later"] = tuple(simulate_words(plan, 2, {}))
    return {name: (*words, "--dry-run") for name, words in found.items()}


def _joining(plan: Rounds, learnt: Mapping[str, Any]) -> dict[str, Any]:
    """What is laid over the run's file so that the learner joins it as one more responder."""
    run, config = plan.run, plan.config.simulate
    first = next(iter(run.responders.values()))
    sampling = _plain(config.sampling or first.sampling)
    joins = {"model": config.joins_as, "sampling": sampling, "samples": config.samples}
    responders = {name: _speaking(plan, _plain(role)) for name, role in run.responders.items()}
    found: dict[str, Any] = {
        f"models.{config.joins_as}": {**_plain(run.models[plan.learner]), **learnt},
        "responders": {**responders, config.joins_as: joins},
    }
    if len(run.models) == 1:
        # The only model goes without saying; beside a second one every role has to name it.
        judges = {name: _speaking(plan, _plain(judge)) for name, judge in run.judges.items()}
        people = {f"{role}.model": plan.learner for role in ("user", "inducer") if not getattr(run, role).names()}
        found |= {"judges": judges, "judge": run.deciding_judge, **people}
    return found


def _speaking(plan: Rounds, role: dict[str, Any]) -> dict[str, Any]:
    """A role that names its model."""
    return role if role.get("model") or role.get("models") else {**role, "model": plan.learner}


def _lint_words(plan: Rounds, run_id: str) -> Iterator[str]:
    data = plan.training.get("data", {})
    yield from ("data", "lint", run_id, "--judge", plan.judge, "--base", str(plan.training.get("base", "embedded")))
    if "min_margin" in data:
        yield from ("--min-margin", str(data["min_margin"]))
    if "pairs" in data:
        yield from ("--pairs", str(data["pairs"]))
    yield from ("--samples", "0", "--json")


def _train_words(plan: Rounds, kind: StepKind, run_id: str, earlier: Sequence[str], start: str | None) -> Iterator[str]:
    config = plan.config.train
    yield from ("train", kind, str(plan.file.parent / config.file))
    yield from _sets(config.given)
    yield from ("--run", run_id, "--judge", plan.judge)
    if earlier and config.earlier_share > 0:
        yield from _sets({"data.earlier": list(earlier), "data.earlier_share": config.earlier_share})
    if start is not None:
        yield from ("--adapter", start)
    yield "--json"


def _benchmark_words(plan: Rounds, round_: int, adapter: str | None) -> Iterator[str]:
    config = plan.config.benchmark
    yield from ("bench", "run", str(plan.file.parent / config.file))
    yield from _sets(config.given)
    if adapter is not None:
        name = tested_name(round_, adapter)
        yield from _sets({f"tested.{name}": plan.bench.table_with(plan.baseline, adapter)})
        yield from ("--model", name)
    yield "--json"


def tested_name(round_: int, adapter: str) -> str:
    """What a round's adapter is called in the benchmark."""
    return f"round {round_} {adapter[:8]}"


def _adapter_of(plan: Rounds, own: Mapping[StepKind, StepRow]) -> str | None:
    """What a round has trained last; None in round 0."""
    last = own.get(plan.config.train.objectives[-1])
    return None if last is None else str(last.figures["adapter"])


def _sets(given: Mapping[str, Any]) -> Iterator[str]:
    for key, value in given.items():
        yield from ("--set", as_word(key, value))


def _plain(section: BaseModel) -> dict[str, Any]:
    """What a file said of a section, for another file."""
    return section.model_dump(mode="json", exclude_unset=True, exclude_none=True)


# What came of it


def what_came(store: Store, plan: Rounds, step: Step, said: Any, rows: Sequence[StepRow]) -> Came:
    """What a step came to, from what its command printed and from the store. Raises SetupError for other words."""
    try:
        if step.kind == "simulate":
            return _played(said)
        if step.kind == "judge":
            return _judged(said)
        if step.kind == "lint":
            return _linted(plan, said)
        if step.kind == "benchmark":
            return _measured(store, plan, step, said, rows)
        return _trained(said)
    except (KeyError, TypeError, IndexError) as error:
        raise SetupError(
            f"`espalier {' '.join(step.words[:2])}` printed something else than its facts: {error!r}"
        ) from error


def _played(said: Any) -> Came:
    run, trees = said["run"], said["trees"]
    figures = {
        "trees": trees["done"],
        "failed": trees["failed"],
        "messages": said["nodes"],
        "calls": said["calls"]["answered"],
        "tokens_out": said["calls"]["tokens_out"],
    }
    if run["state"] != "finished":
        reason = f"the run {run['id'][:8]} is {run['state']}: {run['reason'] or 'it is not finished'}"
        return Came(run["id"], figures, reason)
    return Came(run["id"], figures)


def _judged(said: Any) -> Came:
    figures = {"turns": said["turns"], "compared": said["looked_ahead"]}
    if not said["looked_ahead"]:
        return Came(
            said["judge"], figures, f"no two replies of any turn went on, so nothing can be compared\n{_MORE_BRANCHES}"
        )
    return Came(said["judge"], figures)


def _linted(plan: Rounds, said: Any) -> Came:
    sides = said["sides"].values()
    figures = {
        "targets": sum(side["targets"] for side in sides),
        "pairs": sum(side["pairs"] for side in sides),
        "people": sum(side["people"] for side in sides),
        "warnings": [finding["what"] for finding in said["findings"]],
    }
    lacking = [unit for kind, unit in _UNITS.items() if kind in plan.config.train.objectives and not figures[unit]]
    if not lacking:
        return Came(None, figures)
    dropped = ", ".join(f"{number} {reason}" for reason, number in said["dropped"][lacking[0]].items())
    return Came(
        None, figures, f"there are no {lacking[0]} to train on: {dropped or 'nothing was judged'}\n{_MORE_DATA}"
    )


_UNITS: Mapping[Objective, str] = {"sft": "targets", "dpo": "pairs"}
"""What each objective learns from."""
_MORE_BRANCHES = 'Play with branching policy "all" or "beam", or train by the verdicts of another judge.'
_MORE_DATA = "Play more personas or turns, lower the judge's threshold or the margin, or leave that objective out."


def _trained(said: Any) -> Came:
    points = [point for point in said["points"] if point["kind"] == "training"]
    last = points[-1] if points else {}
    figures = {
        "adapter": said["adapter"],
        "steps": last.get("step", 0),
        **{key: last.get(key) for key in ("loss", "margin", "accuracy")},
        "alarms": [alarm["text"] for alarm in said["alarms"]],
    }
    if said["state"] != "finished":
        return Came(said["training"], figures, f"the training {said['training'][:8]} is {said['state']}")
    if said["adapter"] is None:
        return Came(said["training"], figures, "all weights were trained: rounds go on from adapters, which lora gives")
    return Came(said["training"], figures)


def _measured(store: Store, plan: Rounds, step: Step, said: Any, rows: Sequence[StepRow]) -> Came:
    benchmark, name, judge, turns = find_benchmark(store, said["benchmark"])
    found = {result.model: result for result in results(store, benchmark, judge, turns)}
    before = [row for row in rows if row.round < step.round]
    own = {row.kind: row for row in rows if row.round == step.round and row.state == "done"}
    adapter = _adapter_of(plan, own)
    tested = plan.baseline if adapter is None else tested_name(step.round, adapter)
    mine = _result(found, tested, name)
    figures: dict[str, Any] = {
        "model": tested,
        "adapter": adapter,
        "run": mine.run_id,
        "unit": mine.unit,
        "mean": _figure(summarise(mine.table).mean),
        "missing": sum(mine.missing.values()),
    }
    if mine.state != "finished":
        return Came(benchmark, figures, f"the run {mine.run_id[:8]}, which measures {tested!r}, is {mine.state}")
    if adapter is not None:
        figures |= _against(mine, _result(found, standing(plan, before).best, name))
    return Came(benchmark, figures)


def _result(found: Mapping[str, Result], model: str, benchmark: str) -> Result:
    if model not in found:
        raise SetupError(
            f"the benchmark {benchmark!r} has no model {model!r} in this store, only {', '.join(found)}",
            hint="It was measured before under another name: call it so, or measure in another store.",
        )
    return found[model]


def _against(mine: Result, best: Result) -> dict[str, Any]:
    """The paired comparison with the best so far, over replies that both were scored on."""
    one = compare(mine.table, best.table)
    told = different(one.mean, one.p_mean)
    assert not told or one.mean.value is not None
    gained = one.mean.value is not None and one.mean.value > 0
    outcome = ("gain" if gained else "loss") if told else "same"
    found = {"against": best.model, "difference": _figure(one.mean), "p": one.p_mean, "outcome": outcome}
    return {**found, "cases": one.cases}


def _figure(figure: Estimate) -> dict[str, float | None]:
    return asdict(figure)
