"""What is held out stays out of training at every door, copies and near-copies included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulation.embedders import LexicalEmbedder, Vectors, lexical
from simulation.growing import item_of
from simulation.guarding import guard_joining, guard_training
from simulation.persona_axes import load_axes
from simulation.persona_calibration import LEAST_RECALL, found_at
from simulation.persona_composer import compose_personality, compose_profile
from simulation.pool import calibrated, load_pool
from simulation.splits import MOST_TAKEN, keep_settled, refresh_blocks, split_pool
from tests.support.builders import small_store
from trees.errors import SetupError
from trees.pairs import make_filter, weigh_verdicts
from trees.personas import Kind
from trees.pool import Threshold, blocks, keep_item, keep_threshold, pool, thresholds
from trees.store import Store
from trees.writes import in_one

AXES = load_axes()
PROFILES = [compose_profile(seed, AXES).text for seed in range(30)]
PERSONALITIES = [compose_personality(seed, AXES).text for seed in range(12)]
BY_HAND: Mapping[Kind, float] = {"profile": 0.8, "personality": 0.8}


@pytest.fixture
def store(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "pool.db") as opened:
        items = [item_of("profile", text) for text in PROFILES]
        items += [item_of("personality", text) for text in PERSONALITIES]
        opened.apply(in_one(keep_item(item, source="file") for item in items))
        yield opened


async def settled(store: Store) -> dict[Kind, Threshold]:
    return {kind: Threshold(kind, LexicalEmbedder.name, value, {"by": "hand"}) for kind, value in BY_HAND.items()}


def ids(store: Store, split: Any) -> set[str]:
    return {item.id for item in pool(store, split=split)}


async def test_a_split_holds_out_what_was_asked_for_and_is_the_same_again(store: Store) -> None:
    done = await split_pool(store, LexicalEmbedder(), await settled(store), {"profile": 5, "personality": 2}, 1)
    assert done.held_out == {"profile": 5, "personality": 2}
    held = ids(store, "held_out")
    again = await split_pool(store, LexicalEmbedder(), await settled(store), {"profile": 5, "personality": 2}, 1)
    assert again.newly == {"profile": 0, "personality": 0}
    more = await split_pool(store, LexicalEmbedder(), await settled(store), {"profile": 7, "personality": 2}, 9)
    assert more.held_out == {"profile": 7, "personality": 2}
    assert held < ids(store, "held_out")


async def test_the_draw_does_not_depend_on_the_order_in_which_items_came(tmp_path: Path, store: Store) -> None:
    await split_pool(store, LexicalEmbedder(), await settled(store), {"profile": 5, "personality": 2}, 1)
    with Store.open(tmp_path / "other.db") as other:
        items = [item_of("personality", text) for text in reversed(PERSONALITIES)]
        items += [item_of("profile", text) for text in reversed(PROFILES)]
        other.apply(in_one(keep_item(item, source="file") for item in items))
        await split_pool(other, LexicalEmbedder(), await settled(other), {"profile": 5, "personality": 2}, 1)
        assert ids(other, "held_out") == ids(store, "held_out")


async def test_near_copies_of_held_out_items_are_blocked_or_moved(store: Store) -> None:
    copies = [item_of("profile", f"{text} It is so.") for text in PROFILES]
    store.apply(in_one(keep_item(item, source="file") for item in copies))
    done = await split_pool(store, LexicalEmbedder(), await settled(store), {"profile": 5, "personality": 2}, 1)
    assert len(done.blocked) >= 3  # a copy is blocked with its original held out, unless it was drawn itself
    assert {block.item_id for block in done.blocked} == ids(store, "blocked")
    moved = await split_pool(
        store, LexicalEmbedder(), await settled(store), {"profile": 5, "personality": 2}, 1, "move"
    )
    assert moved.blocked == []
    assert not ids(store, "blocked")
    assert len(ids(store, "held_out")) == 7 + len(done.blocked)


async def test_something_has_to_be_left_to_train_on(store: Store) -> None:
    with pytest.raises(SetupError, match="30 profiles cannot be held out: the pool has 30"):
        await split_pool(store, LexicalEmbedder(), await settled(store), {"profile": 30}, 1)


async def test_copies_and_near_copies_are_refused_where_items_join(store: Store) -> None:
    await split_pool(store, LexicalEmbedder(), await settled(store), {"profile": 5, "personality": 2}, 1)
    held = pool(store, "profile", "held_out")[0].text
    new = compose_profile(99, AXES).text
    found = await guard_joining(store, [item_of("profile", t) for t in (held, f"{held} It is so.", new)])
    assert [(one.item.text, one.verbatim) for one in found.refused] == [(held, True), (f"{held} It is so.", False)]


async def test_without_a_measured_pool_only_the_same_words_are_refused_and_it_is_said(store: Store) -> None:
    held = item_of("profile", compose_profile(98, AXES).text)
    store.apply(keep_item(held, source="file", split="held_out"))
    assert not thresholds(store)
    found = await guard_joining(store, [held, item_of("profile", f"{held.text} It is so.")])
    assert [one.verbatim for one in found.refused] == [True]
    assert not found.paraphrases


def test_trees_of_blocked_and_of_unchecked_people_leave_training(tmp_path: Path) -> None:
    store, _ = small_store(tmp_path / "run.db")
    with store:
        wanted = make_filter(store)

        def reasons() -> set[str]:
            return {getattr(one, "reason", "pair") for one in weigh_verdicts(store, wanted)}

        before = reasons()
        assert "pair" in before
        store.apply(keep_item(item_of("profile", PROFILES[0]), source="file", split="held_out"))
        assert reasons() == before
        columns = "kind, embedder, threshold, measured, at"
        threshold = f"INSERT INTO thresholds ({columns}) VALUES ('profile', 'lexical-1', 0.8, '{{}}', 0)"
        store.apply([(threshold, ())])
        assert "pair" not in reasons()
        assert "unchecked" in reasons()
        profiles = [row[0] for row in store.rows("SELECT DISTINCT profile_id FROM trees")]
        vectors = "INSERT INTO vectors VALUES ('lexical-1', ?, x'00')"
        store.apply([(vectors, (one,)) for one in profiles])
        assert reasons() == before
        block = "INSERT INTO blocks VALUES (?, 'profile', 'x', 0.9, 'lexical-1', 0)"
        store.apply([(block, (one,)) for one in profiles])
        assert "pair" not in reasons()
        assert "blocked" in reasons()
        assert {row[0] for row in store.rows("SELECT DISTINCT split FROM personas")} == {"unused"}


async def test_the_guard_compares_everything_before_training(store: Store) -> None:
    await split_pool(store, LexicalEmbedder(), await settled(store), {"profile": 5, "personality": 2}, 1)
    late = item_of("profile", f"{pool(store, 'profile', 'held_out')[0].text} It is so.")
    store.apply(keep_item(late, source="run"))
    assert late.id in ids(store, "train")
    await guard_training(store)
    assert late.id in ids(store, "blocked")
    assert [block.item_id for block in blocks(store)] == [late.id]


async def test_blocks_go_when_the_threshold_rises(store: Store) -> None:
    near = item_of("profile", f"{PROFILES[0]} It is so.")
    store.apply(keep_item(near, source="file"))
    store.apply([("UPDATE profiles SET split = 'held_out' WHERE id = ?", (item_of("profile", PROFILES[0]).id,))])
    assert await refresh_blocks(store, LexicalEmbedder(), await settled(store))
    raised = {kind: replace(threshold, threshold=1.0) for kind, threshold in (await settled(store)).items()}
    assert await refresh_blocks(store, LexicalEmbedder(), raised) == []


class OtherWords(LexicalEmbedder):
    """Another embedder than the lexical one, by name alone."""

    name = "other-1"

    async def vectors(self, texts: Sequence[str]) -> Vectors:
        return lexical(texts)


async def measured(embedder: LexicalEmbedder) -> dict[Kind, Threshold]:
    return {kind: await calibrated(embedder, kind) for kind in BY_HAND}


async def test_another_embedder_brings_its_own_blocks_with_it(store: Store) -> None:
    near = item_of("profile", f"{PROFILES[0]} It is so.")
    store.apply(keep_item(near, source="file"))
    store.apply([("UPDATE profiles SET split = 'held_out' WHERE id = ?", (item_of("profile", PROFILES[0]).id,))])
    await keep_settled(store, LexicalEmbedder(), await settled(store))
    await refresh_blocks(store, LexicalEmbedder(), await settled(store))
    other = {kind: replace(one, embedder="other-1") for kind, one in (await settled(store)).items()}
    await keep_settled(store, OtherWords(), other)
    assert [(block.item_id, block.embedder) for block in blocks(store)] == [(near.id, "other-1")]
    assert {one.embedder for one in thresholds(store).values()} == {"other-1"}


async def test_the_guard_finds_most_paraphrases_where_the_pool_can_bear_it(store: Store) -> None:
    found = await measured(LexicalEmbedder())
    done = await split_pool(store, LexicalEmbedder(), found, {"profile": 4, "personality": 2}, 1)
    for kind, kept in thresholds(store).items():
        assert kept.threshold == found[kind].threshold
        assert kept.guarding <= kept.threshold
        items = pool(store, kind)
        open_items = [item for item in items if item.split != "held_out"]
        taken = sum(item.split == "blocked" for item in items)
        told = found_at(kept.measured, kept.guarding)
        assert told is not None
        assert taken <= MOST_TAKEN * len(open_items) or kept.guarding == kept.threshold
        assert told.recall >= LEAST_RECALL or kept.guarding > min(kept.measured["similarities"]["paraphrase"])
    assert done.train["profile"] > 0


async def test_a_guard_set_by_hand_stays_until_it_is_chosen_again(store: Store) -> None:
    asked: Mapping[Kind, int] = {"profile": 4, "personality": 2}
    found = await measured(LexicalEmbedder())
    await split_pool(store, LexicalEmbedder(), found, asked, 1, guards={"profile": 0.9})
    assert thresholds(store)["profile"].guarding == 0.9
    await split_pool(store, LexicalEmbedder(), thresholds(store), asked, 1)
    assert thresholds(store)["profile"].guarding == 0.9
    await split_pool(store, LexicalEmbedder(), thresholds(store), asked, 1, guards={"profile": None})
    assert thresholds(store)["profile"].guarding < 0.9


@pytest.mark.parametrize("near", ["block", "move"])
async def test_a_split_that_would_leave_nothing_changes_nothing(store: Store, near: Any) -> None:
    guards: Mapping[Kind, float] = {"personality": 0.001}
    with pytest.raises(SetupError, match="nothing to train on"):
        await split_pool(store, LexicalEmbedder(), await settled(store), {"personality": 3}, 1, near, guards)
    assert ids(store, "held_out") == set()
    assert not thresholds(store)


async def test_a_pool_never_measured_is_measured_before_training(store: Store) -> None:
    held = item_of("profile", compose_profile(98, AXES).text)
    near = item_of("profile", f"{held.text} It is so.")
    store.apply([*keep_item(held, source="file", split="held_out"), *keep_item(near, source="file")])
    await guard_training(store)
    assert near.id in ids(store, "blocked")
    assert thresholds(store).keys() == {"profile", "personality"}


async def test_where_everything_has_its_vector_no_embedder_is_opened(store: Store) -> None:
    for kind in BY_HAND:
        await load_pool(store, OtherWords(), kind)
        store.apply(keep_threshold(Threshold(kind, "other-1", 0.8, {"by": "hand"}, choice={"name": "/nowhere/at/all"})))
    near = item_of("profile", f"{PROFILES[0]} It is so.")
    store.apply([("UPDATE profiles SET split = 'held_out' WHERE id = ?", (item_of("profile", PROFILES[0]).id,))])
    assert await guard_training(store) == []
    store.apply(keep_item(near, source="file"))
    with pytest.raises(SetupError, match="nowhere") as refused:
        await guard_training(store)
    assert "--change-embedder" in (refused.value.hint or "")
