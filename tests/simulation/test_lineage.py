"""What a model may have seen of a benchmark's people: lineages read and obeyed, people who say the same refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.models.llama import LlamaConfig
from agents.models.protocol import ModelIdentity
from agents.models.scripted import ScriptedConfig
from simulation.benchmark import cases_of
from simulation.benchmark_config import CasesConfig
from simulation.embedders import LexicalEmbedder
from simulation.lineage import Seen, alike, halves, refuse_alike, refuse_known, seen_by
from simulation.personas import held_out_personalities, held_out_profiles, seed_personalities, seed_profiles
from simulation.pool import calibrated
from simulation.runs import Persona
from trees.errors import SetupError
from trees.personas import Kind, Profile
from trees.pool import KINDS, Threshold, keep_threshold
from trees.store import Store
from trees.trainings import AdapterRow, keep_adapter, keep_training, set_training_result
from trees.writes import keep_personality, keep_profile

BASE = "ba5e" * 8
ADAPTER = "ada9" * 8
CASES = cases_of(CasesConfig(count=10), None)
OUTSIDE = Seen("unknown", {"profile": frozenset(), "personality": frozenset()})


def identity(adapter: str | None = ADAPTER) -> ModelIdentity:
    return ModelIdentity("llama", BASE, adapter=adapter)


def lineage(people: Sequence[Persona], *, known: bool = True) -> dict[str, Any]:
    steps = [
        {"id": kind * 16, "kind": name, "data": "da7a" * 8, "configuration": "c0f" * 8, "runs": ["r"]}
        for kind, name in (("5f", "sft"), ("d9", "dpo"))
    ]
    seen = [[profile.id, personality.id] for profile, personality in people]
    return {"base": BASE, "base_name": "", "trainings": steps, "people": seen, "known": known}


def copy_of(profile: Profile) -> Profile:
    """The same life with a few words changed."""
    return replace(profile, text=profile.text.replace(" and ", ", and also "))


def trained(store: Store, found: dict[str, Any]) -> None:
    """A training and its adapter, as `train` leaves them."""
    configuration = {"objective": "dpo", "base": BASE, "start": None}
    store.apply(keep_training("d9" * 16, "t", configuration, "da7a" * 8, {}, found, {}))
    row = AdapterRow(ADAPTER, "d9" * 16, BASE, None, "espalier-adapters/x", 8, found, {}, 1.0)
    store.apply(keep_adapter(row))


def test_a_lineage_is_told_from_its_base_to_its_last_training(store_path: Path) -> None:
    with Store.open(store_path) as store:
        trained(store, lineage([(seed_profiles()[0], seed_personalities()[0])]))
        store.apply(keep_profile(seed_profiles()[0], source="test"))
        store.apply(keep_personality(seed_personalities()[0], source="test"))
        seen = seen_by(store, identity(), LlamaConfig(adapter=ADAPTER))
        assert seen.not_compared == 0
        assert seen.words == "base ba5eba5e > sft 5f5f5f5f > dpo d9d9d9d9, 1 people"
        assert seen.people["profile"] == {seed_profiles()[0].id}
        assert seen.data == ("da7a" * 8,) * 2
        assert seen.known


def test_what_cannot_be_known_reads_unknown(store_path: Path) -> None:
    with Store.open(store_path) as store:
        assert seen_by(store, identity(None), LlamaConfig()).words == "unknown"
        assert seen_by(store, identity(), LlamaConfig(adapter="elsewhere")).words == "unknown"
        assert seen_by(store, ModelIdentity("scripted", "scripted"), ScriptedConfig(kind="scripted")).words == "none"
        trained(store, lineage([], known=False))
        assert seen_by(store, identity(), LlamaConfig(adapter=ADAPTER)).words.endswith("in part unknown")


def test_a_folder_from_elsewhere_brings_its_lineage(tmp_path: Path, store_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(json.dumps(lineage(CASES[:1])), encoding="utf-8")
    with Store.open(store_path) as store:
        for config in (LlamaConfig(adapter=str(tmp_path)), LlamaConfig(path=str(tmp_path))):
            seen = seen_by(store, identity(config.adapter and "0" * 32), config)
            with pytest.raises(SetupError, match="which saw them"):
                refuse_known(store, CASES, seen, "tuned")
    (tmp_path / "lineage.json").write_text("{}", encoding="utf-8")
    with pytest.raises(SetupError, match="cannot be read"):
        seen_by(None, identity(None), LlamaConfig(path=str(tmp_path)))


def test_people_of_a_lineage_who_are_not_in_the_store_are_counted(tmp_path: Path, store_path: Path) -> None:
    """An adapter from elsewhere names whom it saw by ids alone: what they say cannot be compared with anything."""
    people = list(zip(seed_profiles()[:3], seed_personalities()[:3], strict=True))
    config = LlamaConfig(adapter=str(tmp_path))
    for known, words in ((True, "3 people, 2 of them not compared"), (False, "in part unknown, 2 people not compared")):
        (tmp_path / "lineage.json").write_text(json.dumps(lineage(people, known=known)), encoding="utf-8")
        with Store.open(store_path) as store:
            for profile, personality in people[:1]:
                store.apply(keep_profile(profile, source="test"))
                store.apply(keep_personality(personality, source="test"))
            store.apply(keep_profile(people[1][0], source="test"))
            seen = seen_by(store, identity("0" * 32), config)
            assert seen.not_compared == 2, "one half is not enough"
            assert seen.words.endswith(words)
    assert seen_by(None, identity("0" * 32), config).not_compared == 3


def test_weights_that_were_trained_whole_are_known_by_their_folder(store_path: Path) -> None:
    with Store.open(store_path) as store:
        trained(store, lineage(CASES[:1]))
        store.apply(set_training_result("d9" * 16, "weights"))
        config = LlamaConfig(path=str(store_path.parent / "weights"))
        assert seen_by(store, identity(None), config).people["profile"] == {CASES[0][0].id}


@pytest.mark.parametrize(
    ("people", "what"),
    [
        ((held_out_profiles()[0], seed_personalities()[0]), "profiles were trained on"),
        ((seed_profiles()[0], held_out_personalities()[0]), "personalities were trained on"),
    ],
)
def test_a_model_that_saw_a_half_of_a_person_is_refused_and_told_which(
    store_path: Path, people: Persona, what: str
) -> None:
    with Store.open(store_path) as store:
        trained(store, lineage([people]))
        seen = seen_by(store, identity(), LlamaConfig(adapter=ADAPTER))
        with pytest.raises(SetupError, match=what) as refused:
            refuse_known(store, CASES, seen, "tuned")
    held = people[0] if "profiles" in what else people[1]
    assert held.id[:8] in str(refused.value)
    assert "'tuned' comes of base ba5eba5e > sft" in str(refused.value)


async def test_a_person_who_says_the_same_as_one_trained_on_is_refused(store_path: Path) -> None:
    copied = copy_of(held_out_profiles()[1])
    assert copied.id != held_out_profiles()[1].id
    with Store.open(store_path) as store:
        assert await refuse_alike(store, CASES, OUTSIDE, "tuned", {}), "nobody to compare with"
        store.apply(keep_profile(seed_profiles()[0], source="test"))
        assert not await refuse_alike(store, CASES, OUTSIDE, "tuned", {}), "words alone: the pool was not measured"
        store.apply(keep_profile(copied, source="test"))
        refuse_known(store, CASES, OUTSIDE, "tuned")
        with pytest.raises(SetupError, match="say the same") as refused:
            await refuse_alike(store, CASES, OUTSIDE, "tuned", {})
    assert held_out_profiles()[1].id[:8] in str(refused.value)
    assert copied.id[:8] in str(refused.value)


async def test_who_a_model_saw_is_compared_too_wherever_they_stand_now(store_path: Path) -> None:
    """The person trained on has left the training split since; the weights still saw them."""
    copied = copy_of(held_out_profiles()[1])
    with Store.open(store_path) as store:
        store.apply(keep_profile(copied, source="test", split="held_out"))
        store.apply(keep_personality(seed_personalities()[0], source="test", split="held_out"))
        await refuse_alike(store, CASES, OUTSIDE, "tuned", {})
        trained(store, lineage([(copied, seed_personalities()[0])]))
        seen = seen_by(store, identity(), LlamaConfig(adapter=ADAPTER))
        with pytest.raises(SetupError, match="say the same"):
            await refuse_alike(store, CASES, seen, "tuned", {})


@pytest.mark.parametrize(("threshold", "guard"), [(0.01, None), (0.99, 0.01)])
async def test_the_pools_own_guard_decides_where_there_is_one(
    store_path: Path, threshold: float, guard: float | None
) -> None:
    with Store.open(store_path) as store:
        store.apply(keep_profile(seed_profiles()[0], source="test"))
        for kind in KINDS:
            store.apply(keep_threshold(Threshold(kind, LexicalEmbedder.name, threshold, {"by": "hand"}, guard)))
        with pytest.raises(SetupError, match="say the same"):
            await refuse_alike(store, CASES, OUTSIDE, "tuned", {})


async def test_the_shipped_cases_say_the_same_as_none_of_the_seeds(store_path: Path) -> None:
    """By words; benchmarks/bench.py asks MiniLM too."""
    people = cases_of(CasesConfig(), None)
    seeds: dict[Kind, dict[str, str]] = {
        "profile": {p.id: p.text for p in seed_profiles()},
        "personality": {p.id: p.text for p in seed_personalities()},
    }
    words = LexicalEmbedder()
    with Store.open(store_path) as store:
        for kind, items in halves(people).items():
            assert await alike(store, words, await calibrated(words, kind), items, seeds[kind]) == []
