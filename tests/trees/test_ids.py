"""Ids and seeds as a contract: these literals are in people's stores, so they may never change."""

from __future__ import annotations

import pytest

from trees.ids import ID_LENGTH, canonical_json, derive_seed, digest_of, node_id, run_id, text_digest, tree_id

RUN = run_id({"turns": 2, "models": {"m": {"backend": "scripted"}}}, 1, [["p1", "q1"], [None, None]])
TREE = tree_id(RUN, "p1:q1")
NODE = node_id(RUN, TREE, "user", "0")


def test_ids_are_these() -> None:
    assert [RUN, TREE, NODE] == [
        "6cfcc2ee5a8b3ef25e0c17f7ab507024",
        "acc88b611e0c0671167dc0d428c48b70",
        "184a6ac926ac535ffb23f49c489793c6",
    ]
    assert digest_of("judgement", NODE, "judge", 0) == "5b59f93fbfc0744cce31fb9f61a479ae"
    assert text_digest("Grüße, 世界") == "e65cb4c853d3125efaa2e0f009c6173b"
    assert text_digest("\ud800") == "b4fe3de0239399efbfffc79686f435f9"


def test_seeds_are_these() -> None:
    seeds = [derive_seed(1, NODE, "user", "speak.0"), derive_seed(1, NODE, "user", "speak.0", reroll=1)]
    assert seeds == [520698376, 526971250]
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_every_part_of_an_id_counts() -> None:
    others = [
        node_id("other", TREE, "user", "0"),
        node_id(RUN, "other", "user", "0"),
        node_id(RUN, TREE, "responder.warm", "0"),
        node_id(RUN, TREE, "user", "1"),
    ]
    assert len({NODE, *others}) == 5
    assert all(len(identity) == ID_LENGTH for identity in [RUN, TREE, NODE, *others])


def test_canonical_json_is_ascii_sorted_and_never_holds_nan() -> None:
    assert canonical_json({"b": ["é", "\ud800"], "a": 1.5}) == '{"a":1.5,"b":["\\u00e9","\\ud800"]}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json(float("nan"))
