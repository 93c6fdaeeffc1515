"""The benchmark: who is measured on whom, what is asked and what is not, scores as rows, failures with their cause."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.models.protocol import ChatAnswer, ChatRequest, Completion, Model, ModelIdentity, OnDelta
from agents.models.scripted import ScriptedConfig, ScriptedModel
from agents.rerender import Rerender
from agents.words import content_stems
from simulation.benchmark import (
    RESPONDER,
    Measured,
    Result,
    cases_of,
    crossed,
    find_benchmark,
    gaps_of,
    kinship,
    notes_of,
    plan,
    results,
    rows_of,
    start,
    too_few,
)
from simulation.benchmark_config import GENERIC, BenchmarkConfig, CasesConfig, load_benchmark, sample
from simulation.cast import open_models
from simulation.engine import close_engine, open_engine
from simulation.metrics import compare, different, summarise
from simulation.personas import held_out_personalities, held_out_profiles, seed_personalities, seed_profiles
from tests.support.play import cast_of, configuration, play
from trees.errors import NotFound, SetupError
from trees.ids import derive_seed
from trees.jobs import ask, command
from trees.pairs import Dropped, make_filter, targets, weigh_turns
from trees.store import Store
from trees.verify import USE_COLUMNS, use_from_row, verify
from trees.writes import keep_profile
from tui.benchview import document

BASE: dict[str, Any] = {
    "turns": 3,
    "models": {"model": {"kind": "scripted"}, "other": {"kind": "scripted", "variant": "other"}},
    "user": {"model": "other"},
    "inducer": {"model": "other"},
    "judges": {"points": {"kind": "points", "model": "other"}},
    "tested": {"base": {"model": "model"}},
    "cases": {"count": 10},
}


def config_of(**changes: Any) -> BenchmarkConfig:
    return BenchmarkConfig.model_validate({**BASE, **changes})


async def measure(
    path: Path, config: BenchmarkConfig, name: str, others: Mapping[str, Model] | None = None
) -> Measured:
    """Play one model's run to its end; `others` stand in for models of the configuration."""
    models = {**await open_models(config.run_of(name)), **(others or {})}
    measured = plan(config, name, models, cases_of(config.cases, None), None)
    with Store.open(path) as store:
        run = (await start(store, measured)).run
    engine = await open_engine(path, run.id, config=config.run_of(name), models=models)
    try:
        await engine.run()
        assert engine.failure is None
    finally:
        await close_engine(engine)
    return measured


def read(path: Path, judge: str = "points") -> Mapping[str, Result]:
    with Store.read(path) as store:
        found = find_benchmark(store, None)
        return {result.model: result for result in results(store, found[0], judge, found[3])}


def test_the_held_out_people_are_a_hundred_cases_unlike_the_seeds() -> None:
    people = cases_of(CasesConfig(), None)
    assert len(people) == len({(p.id, q.id) for p, q in people}) == 100
    assert (len(held_out_profiles()), len(held_out_personalities())) == (20, 5)
    for mine, seeds in ((held_out_profiles(), seed_profiles()), (held_out_personalities(), seed_personalities())):
        for item in mine:
            for seed in seeds:
                a, b = content_stems(item.text), content_stems(seed.text)
                assert len(a & b) / len(a | b) < 0.2


@given(st.integers(1, 21), st.integers(1, 8), st.data())
def test_a_sample_of_the_cases_is_of_as_many_people_as_it_can_be(p: int, q: int, data: st.DataObject) -> None:
    profiles, personalities = list(range(p)), list(range(q))
    whole = crossed(profiles, personalities, p * q)
    assert whole == [(a, b) for a in profiles for b in personalities]
    count = data.draw(st.integers(1, p * q))
    people = crossed(profiles, personalities, count)
    assert people == [each for each in whole if each in people], "in the order of the whole"
    for half, size in ((0, p), (1, q)):
        drawn = Counter(each[half] for each in people)
        assert len(drawn) == min(count, size)
        assert max(drawn.values()) - min(drawn.values()) <= 1
    assert set(people) <= set(crossed(profiles, personalities, count + 1)), "a longer trial is on the same and more"


def test_a_trial_is_on_people_of_the_whole_and_a_longer_one_than_there_are_cases_on_all() -> None:
    twenty, whole = cases_of(CasesConfig(count=20), None), cases_of(CasesConfig(), None)
    assert twenty == [each for each in whole if each in twenty]
    assert len(twenty) == len({profile.id for profile, _ in twenty}) == 20
    assert len({personality.id for _, personality in twenty}) == 5
    assert cases_of(CasesConfig(count=1000), None) == whole


async def test_the_shipped_benchmark_on_all_its_people_keeps_its_id() -> None:
    """Or what was measured already could not be compared with what is measured next."""
    config = BenchmarkConfig.model_validate({**tomllib.loads(sample()), "models": {"small": {"kind": "scripted"}}})
    models = await open_models(config.run_of("base"))
    measured = plan(config, "base", models, cases_of(config.cases, None), None)
    assert measured.benchmark_id == "300bb8202d9cbd7440035156b4dbe3c8"


async def test_every_reply_of_every_case_is_scored_and_the_store_is_sound(store_path: Path) -> None:
    await measure(store_path, config_of(), "base")
    result = read(store_path)["base"]
    assert result.table.scores.shape == (10, 3)
    assert np.isfinite(result.table.scores).all()
    assert ((result.table.scores >= 1) & (result.table.scores <= 5)).all()
    assert (result.unit, result.missing, result.state) == ("points", {}, "finished")
    with Store.read(store_path) as store:
        report = verify(store, rerender=Rerender(store))
        assert report.clean
        splits = store.rows("SELECT DISTINCT split FROM personas")
    assert [row[0] for row in splits] == ["held_out"]


async def test_only_the_told_baseline_is_shown_the_persona(store_path: Path) -> None:
    config = config_of(
        tested={"base": {"model": "model"}, "told": {"model": "model", "how": "told"}, "floor": {"how": "floor"}}
    )
    runs = {name: (await measure(store_path, config, name)).planned.id for name in config.tested}
    with Store.read(store_path) as store:
        shown = {name: _prompts(store, run) for name, run in runs.items()}
        said = {
            row[0] for row in store.rows(f"SELECT text FROM nodes WHERE role = '{RESPONDER}' {_OF}", (runs["floor"],))
        }
    fact = held_out_profiles()[0].facts[0]
    assert any(fact in prompt for prompt in shown["told"])
    assert all(not prompt.startswith("system") for prompt in shown["base"])
    assert said <= set(GENERIC)
    assert len(read(store_path)) == 3


_OF = "AND tree_id IN (SELECT id FROM trees WHERE run_id = ?)"


def _prompts(store: Store, run: str) -> list[str]:
    rendering = Rerender(store)
    uses = store.rows(f"SELECT {USE_COLUMNS} FROM uses u WHERE u.run_id = ? AND u.role = ?", (run, RESPONDER))
    rendered = [rendering.messages(use_from_row(row)) for row in uses]
    return ["\n".join(f"{m.role}: {m.content}" for m in messages) for messages in rendered if messages]


async def test_models_of_one_file_are_one_benchmark_and_other_judges_another(store_path: Path) -> None:
    first = await measure(store_path, config_of(), "base")
    second = await measure(store_path, config_of(tested={"new": {"model": "other"}}), "new")
    third = await measure(store_path, config_of(turns=2), "base")
    assert first.benchmark_id == second.benchmark_id != third.benchmark_id
    again = await measure(store_path, config_of(), "base")
    assert again.planned.id == first.planned.id


async def test_a_measurement_that_was_cut_short_goes_on_to_what_an_unbroken_one_gives(
    store_path: Path, tmp_path: Path
) -> None:
    cut = await measure(store_path, config_of(limits={"calls": 40}), "base")
    assert np.isnan(read(store_path)["base"].table.scores).any()
    resumed = await measure(store_path, config_of(limits={"calls": 0}), "base")
    assert resumed.planned.id == cut.planned.id
    unbroken = tmp_path / "unbroken.db"
    await measure(unbroken, config_of(), "base")
    assert np.array_equal(read(store_path)["base"].table.scores, read(unbroken)["base"].table.scores)


async def test_failures_are_missing_with_their_cause_and_are_not_filled_in(store_path: Path) -> None:
    failing = {"kind": "scripted", "attempts": 1, "failures": {"every": 7}}
    await measure(store_path, config_of(models={**BASE["models"], "model": failing}), "base")
    result = read(store_path)["base"]
    gaps = int(np.isnan(result.table.scores).sum())
    assert 0 < gaps < 30
    assert sum(result.missing.values()) == gaps
    assert all(cause.startswith("no reply: unavailable") for cause in result.missing)


async def test_a_judge_that_fails_costs_its_scores_and_not_the_conversation(store_path: Path) -> None:
    failing = {"kind": "scripted", "attempts": 1, "failures": {"every": 5}}
    models = {**BASE["models"], "judge": failing}
    await measure(store_path, config_of(models=models, judges={"points": {"kind": "points", "model": "judge"}}), "base")
    result = read(store_path)["base"]
    assert sum(result.missing.values()) == int(np.isnan(result.table.scores).sum()) > 0
    with Store.read(store_path) as store:
        assert store.rows("SELECT count(*) FROM trees WHERE state = 'done'")[0][0] == 10


@pytest.mark.parametrize(
    ("judge", "unit"),
    [({"kind": "likelihood", "model": "other"}, "nats"), ({"kind": "rules", "rules": {"question": 1}}, "points")],
)
async def test_other_judges_score_in_their_own_unit(store_path: Path, judge: dict[str, Any], unit: str) -> None:
    await measure(store_path, config_of(judges={"other": judge}), "base")
    result = read(store_path, "other")["base"]
    assert result.unit == unit
    assert np.isfinite(result.table.scores).all()


async def test_people_of_the_training_split_are_refused(store_path: Path) -> None:
    with Store.open(store_path) as store:
        store.apply(keep_profile(held_out_profiles()[1], source="test"))
    with pytest.raises(SetupError, match="training split"):
        await measure(store_path, config_of(), "base")
    with Store.read(store_path) as store:
        assert store.runs() == []


def test_the_sample_is_valid_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "bench.toml").write_text(sample(), encoding="utf-8")
    config = load_benchmark(tmp_path / "bench.toml")
    assert {tested.how for tested in config.tested.values()} == {"deploy", "floor", "told"}
    for name in config.tested:
        assert all(judge.scores_lone for judge in config.run_of(name).judges.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judges": {"c": {"kind": "choice"}}}, "no score to a reply on its own"),
        ({"tested": {"a": {"model": "nobody"}}}, "there is no 'nobody'"),
        ({"tested": {"a": {"how": "told"}}}, "name its model"),
        ({"tested": {"a": {"how": "floor", "model": "model"}}}, "takes no model"),
        ({"tested": {"a": {"model": "model", "adapter": "x"}}}, "takes none"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of(**changes)


async def test_a_measurement_is_no_training_data(store_path: Path) -> None:
    played = await play(store_path, configuration())
    measured = await measure(store_path, config_of(), "base")
    with Store.read(store_path) as store:
        assert make_filter(store).runs == (played,)
        named = make_filter(store, [measured.planned.id], "points")
        assert [dropped.reason for dropped in weigh_turns(store, named) if isinstance(dropped, Dropped)] == [
            "held_out"
        ] * 30
        assert list(targets(store, [measured.planned.id], "points")) == []


async def test_keys_that_came_later_are_no_part_of_earlier_runs() -> None:
    identity = json.dumps((await cast_of(configuration())).identity())
    assert not any(key in identity for key in ("told", "sees_dialogue", "scores_lone"))


async def test_scores_by_situation_and_what_a_change_did(store_path: Path) -> None:
    config = config_of(situations=["small_talk", "taste"], turns=4)
    await measure(store_path, config, "base")
    result = read(store_path)["base"]
    parts = result.by_situation()
    assert {name: len(part.table.scores) for name, part in parts.items()} == {"small_talk": 5, "taste": 5}
    assert (parts["taste"].change, parts["small_talk"].change) == (3, None)
    assert np.isfinite(parts["taste"].table.scores).all()
    assert sum(part.table.scores.sum() for part in parts.values()) == pytest.approx(result.table.scores.sum())
    with Store.read(store_path) as store:
        rows = rows_of(result)
        assert {row["situation"] for row in rows} == {"small_talk", "taste"}
        assert verify(store, rerender=Rerender(store)).clean


async def test_thirty_turns_in_a_small_context_are_played_and_scored_to_the_end(store_path: Path) -> None:
    """All windows were cut and the ledger has outgrown its part by then; prompts are rendered again with theirs."""
    small = {"kind": "scripted", "context": 1024}
    models = {"model": small, "other": {**small, "variant": "other"}}
    tested = {"base": {"model": "model", "how": "memory"}}
    config = config_of(models=models, turns=30, cases={"count": 2}, situations=["taste"], tested=tested)
    await measure(store_path, config, "base")
    result = read(store_path)["base"]
    assert result.missing == {}
    assert np.isfinite(result.table.scores).all()
    with Store.read(store_path) as store:
        epochs = dict(store.rows("SELECT role, max(epoch) FROM uses GROUP BY role"))
        assert min(epochs["user"], epochs[RESPONDER], epochs["judge.points"]) >= 1
        assert verify(store, rerender=Rerender(store)).clean


class Improving(ScriptedModel):
    """Ends in a question the more often the longer it has talked: by `slope` of all replies more each turn."""

    slope = 0.15

    async def chat(self, request: ChatRequest, on_delta: OnDelta | None = None) -> ChatAnswer:
        answer = await super().chat(request, on_delta)
        turn = sum(message.role == "user" for message in request.messages)
        draw = derive_seed(request.seed or 0, "", "question", "")
        asks = draw / 2**31 < 0.1 + self.slope * (turn - 1)
        return replace(answer, completions=(Completion("And then?" if asks else "I see."),))


async def test_a_planted_improvement_is_recovered_at_a_hundred_cases(store_path: Path) -> None:
    config = config_of(cases={}, turns=4, judges={"rules": {"kind": "rules", "rules": {"question": 1}}})
    improving = Improving("model", ScriptedConfig(kind="scripted", variant="improving"))
    await measure(store_path, config, "base", {"model": improving})
    summary = summarise(read(store_path, "rules")["base"].table)
    planted = 4 * Improving.slope
    assert summary.ir.low is not None
    assert summary.ir.high is not None
    assert summary.ir.low < planted < summary.ir.high
    assert summary.ir.high - summary.ir.low < planted


async def test_one_model_measured_again_and_again_is_seldom_called_different_from_itself(store_path: Path) -> None:
    """A/A through the whole path: nine draws of the same model, 36 comparisons; benchmarks/bench.py has more."""
    tested = {f"draw{i}": {"model": "model", "repeat": i} for i in range(9)}
    config = config_of(tested=tested, cases={"count": 8}, turns=2)
    for name in tested:
        await measure(store_path, config, name)
    found = list(read(store_path).values())
    assert len({result.run_id for result in found}) == len(tested)
    called = sum(
        different(one.mean, one.held_mean) or different(one.ir, one.held_ir)
        for one in (compare(a.table, b.table, draws=300) for a, b in combinations(found, 2))
    )
    assert called <= 3


def test_a_measurement_that_stands_there_twice_says_how_it_is_measured_again() -> None:
    with pytest.raises(ValidationError, match=r"tested.again and tested.base are one measurement; .* repeat = 1"):
        config_of(tested={"base": {"model": "model"}, "again": {"model": "model"}})


@pytest.mark.parametrize("cases", [{"profiles": "store"}, {"personalities": "store"}])
async def test_without_held_out_people_there_is_nobody_to_measure_on(store_path: Path, cases: dict[str, Any]) -> None:
    with Store.open(store_path) as store:
        store.apply(keep_profile(seed_profiles()[0], source="test"))
        with pytest.raises(SetupError, match=r"holds out no .*, so there is nobody to measure on"):
            cases_of(CasesConfig.model_validate(cases), None, store)


def test_an_empty_file_of_people_holds_nobody(tmp_path: Path) -> None:
    (tmp_path / "nobody.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(SetupError, match=r"nobody\.jsonl holds nobody to measure on"):
        cases_of(CasesConfig(profiles="nobody.jsonl"), tmp_path)


async def test_the_people_that_a_store_holds_out_can_be_measured_on(store_path: Path) -> None:
    with Store.open(store_path) as store:
        store.apply(keep_profile(seed_profiles()[0], source="test", split="held_out"))
        people = cases_of(CasesConfig(profiles="store"), None, store)
    assert [profile.id for profile, _ in people] == [seed_profiles()[0].id] * 5


async def test_a_single_case_is_measured_and_said_to_tell_little(store_path: Path) -> None:
    await measure(store_path, config_of(cases={"count": 1}), "base")
    result = read(store_path)["base"]
    assert summarise(result.table).mean.low is None
    with Store.read(store_path) as store:
        assert any("a single case: no figure has an interval" in note for note in notes_of(store, [result]))


class Templated(ScriptedModel):
    """Says that it is weights under a chat template."""

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity("llama", "5a3e" * 8, template=self._variant * 8)


async def test_the_same_weights_under_other_templates_are_said_to_be_so(store_path: Path) -> None:
    others = {
        "user": {"model": "third"},
        "inducer": {"model": "third"},
        "judges": {"p": {"kind": "points", "model": "third"}},
    }
    config = config_of(
        **{**others, "models": {**BASE["models"], "third": {"kind": "scripted"}}},
        tested={"base": {"model": "model"}, "new": {"model": "other"}},
        cases={"count": 2},
        turns=1,
    )
    for name, model, template in (("base", "model", "aaaa"), ("new", "other", "bbbb")):
        await measure(
            store_path, config, name, {model: Templated(model, ScriptedConfig(kind="scripted", variant=template))}
        )
    with Store.read(store_path) as store:
        found = results(store, find_benchmark(store, None)[0], "p", 1)
        *_, note = notes_of(store, found)
    assert note.startswith("base and new are the same weights under other chat templates (aaaaaaaa and bbbbbbbb)")


class Named(ScriptedModel):
    """Says that it is other weights than a script."""

    @property
    def identity(self) -> ModelIdentity:
        return ModelIdentity("openai", self._variant)


async def test_kin_of_a_model_under_test_are_told_with_the_figures(store_path: Path) -> None:
    named = {"model": "Qwen/Qwen2.5-7B", "other": "Qwen/Qwen2.5-72B"}
    others = {name: Named(name, ScriptedConfig(kind="scripted", variant=said)) for name, said in named.items()}
    config = config_of(tested={"base": {"model": "model"}, "same": {"model": "other"}}, cases={"count": 2}, turns=1)
    for name in config.tested:
        await measure(store_path, config, name, others)
    with Store.read(store_path) as store:
        benchmark = find_benchmark(store, None)
        notes = document(store, benchmark, "points", results(store, benchmark[0], "points", 1))["notes"]
    assert any(note.startswith("base: judge.points (other) and the model under test") for note in notes)
    assert any(note.startswith("base: user (other) and the model under test") for note in notes)
    assert any(note.startswith("same: judge.points asks the same weights") for note in notes)


def test_weights_from_a_file_are_kin_of_a_served_model_by_what_the_file_is_called() -> None:
    """A file's weights are known by their digest, which has no family."""
    identity = {
        "play": {
            "responders": {"tested": {"model": "mine"}},
            "user": {"model": "mine", "models": []},
            "judges": {"points": {"model": "served", "models": []}, "strict": {"model": "other", "models": []}},
        },
        "models": {
            "mine": {"backend": "llama", "model": "5a3e" * 16},
            "served": {"backend": "openai", "model": "Llama-3.3-70B"},
            "other": {"backend": "openai", "model": "o3-mini"},
        },
        "prompts": {"judge.points": "p", "judge.strict": "q"},
    }
    mine = {"kind": "llama", "path": "/models/Meta-Llama-3.1-8B.Q4_K_M.gguf"}
    configured = {"mine": mine, "served": {"model": "Llama-3.3-70B"}, "other": {"model": "o3-mini"}}
    assert kinship(identity, configured) == ["judge.points (served) and the model under test look like kin (llama)"]
    assert kinship(identity, {**configured, "mine": {**mine, "path": "embedded"}}) == []


async def test_so_few_cases_that_nothing_can_be_told_are_said_to_be_so(store_path: Path) -> None:
    config = config_of(tested={"base": {"model": "model"}, "told": {"model": "model", "how": "told"}}, turns=2)
    few = config.model_copy(update={"cases": CasesConfig(count=4)})
    for name in config.tested:
        await measure(store_path, few, name)
    with Store.read(store_path) as store:
        found = results(store, find_benchmark(store, None)[0], "points", 2)
        (note,) = notes_of(store, found)
    assert note == (
        "with 4 cases the smallest p there can be is 0.25, corrected for 2 tests: no difference can be told; "
        "from 7 cases on one could be"
    )
    # However far apart they are, it is so.
    apart = replace(found[1], table=replace(found[1].table, scores=found[0].table.scores + 3.0))
    one = compare(apart.table, found[0].table)
    assert one.held_mean is not None
    assert one.held_mean >= 0.2
    assert too_few(7, 2) is None
    with Store.read(store_path) as store:
        assert notes_of(store, found[:1]) == [], "one model alone is compared with nothing"


async def test_a_name_that_was_measured_twice_is_the_latest_and_the_earlier_one_says_its_run(store_path: Path) -> None:
    first = await measure(store_path, config_of(tested={"tuned": {"model": "model"}}), "tuned")
    hotter = {"max_tokens": 60, "temperature": 1.2}
    second = await measure(store_path, config_of(tested={"tuned": {"model": "model", "sampling": hotter}}), "tuned")
    assert first.benchmark_id == second.benchmark_id
    found = read(store_path)
    earlier = f"tuned ({first.planned.id[:8]})"
    assert {name: result.run_id for name, result in found.items()} == {
        earlier: first.planned.id,
        "tuned": second.planned.id,
    }
    with Store.read(store_path) as store:
        assert notes_of(store, list(found.values())) == [
            f"{earlier} was measured under the name tuned before tuned was: it is another run"
        ]


async def judged_by_another(path: Path, run: str, name: str, **config: Any) -> None:
    """What `espalier judge RUN --judge NAME --set ...` does."""
    with Store.open(path) as store:
        number = ask(store, run, "judge", {"name": name, "config": config})
    engine = await open_engine(path, run, models=await open_models(config_of().run_of("base")))
    try:
        await engine.run()
    finally:
        await close_engine(engine)
    with Store.read(path) as store:
        assert command(store, number).state == "done", command(store, number).result


async def test_the_scores_are_those_of_the_judge_the_run_was_configured_with(store_path: Path) -> None:
    measured = await measure(store_path, config_of(), "base")
    before = read(store_path)["base"]
    rules = {"kind": "rules", "scores_lone": True}
    for name, words in (("namesake", 3), ("other", 6), ("other", 9)):
        await judged_by_another(store_path, measured.planned.id, name, rules={"max_words": words}, **rules)
    with Store.open(store_path) as store:  # an engine refuses one like it today, and stores have some
        store.apply([("UPDATE judges SET name = 'points' WHERE name = 'namesake'", ())])
    after = read(store_path)["base"]
    assert np.array_equal(before.table.scores, after.table.scores)
    assert (after.repeats.shape[0], after.missing) == (1, {})
    with pytest.raises(NotFound, match=r"several judges of run .* are called 'other': \w{12}, \w{12}"):
        read(store_path, "other")
    with Store.read(store_path) as store:
        ids = [row[0] for row in store.rows("SELECT id FROM judges WHERE name = 'other'")]
    assert len(ids) == 2
    assert all(np.isfinite(read(store_path, each[:12])["base"].table.scores).all() for each in ids)


async def test_each_model_is_measured_against_its_own_ceiling(store_path: Path) -> None:
    """Of two models under test and both told; and against the other's, in words, where its own was not measured."""
    tested = {
        "a": {"model": "model"},
        "b": {"model": "third"},
        "floor": {"how": "floor"},
        "a told": {"model": "model", "how": "told"},
        "b told": {"model": "third", "how": "told"},
    }
    models = {**BASE["models"], "third": {"kind": "scripted", "variant": "third"}}
    for name in tested:
        await measure(store_path, config_of(models=models, tested=tested, cases={"count": 6}), name)
    found = read(store_path)
    assert [(each.model, each.floor, each.ceiling, each.own) for each in gaps_of(list(found.values()))] == [
        ("a", "floor", "a told", True),
        ("b", "floor", "b told", True),
    ]
    fewer = [result for name, result in found.items() if name != "b told"]
    assert [(each.ceiling, each.own) for each in gaps_of(fewer)] == [("a told", True), ("a told", False)]
    with Store.read(store_path) as store:
        (note,) = [note for note in notes_of(store, fewer) if "ceiling" in note]
    assert note == "the ceiling of b is a told, another model: b itself was not measured told"
    assert gaps_of([result for result in fewer if result.how != "told"]) == []
