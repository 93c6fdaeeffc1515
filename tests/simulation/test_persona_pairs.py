"""The labelled pairs that calibrate when two invented people are one person told twice."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files

import pytest

LABELS = {"paraphrase", "same_kind", "different"}
AT_LEAST = {"profiles": 60, "personalities": 50}


def pairs(kind: str) -> list[dict[str, str]]:
    text = (files("simulation") / "data" / f"persona_pairs_{kind}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def plain(text: str) -> list[str]:
    return sorted("".join(c if c.isalnum() else " " for c in text.casefold()).split())


@pytest.mark.parametrize("kind", sorted(AT_LEAST))
def test_every_label_has_enough_pairs_to_set_a_threshold_by(kind: str) -> None:
    counts = Counter(pair["label"] for pair in pairs(kind))
    assert set(counts) == LABELS
    assert min(counts.values()) >= AT_LEAST[kind]


@pytest.mark.parametrize("kind", sorted(AT_LEAST))
def test_a_pair_is_two_texts_of_a_persona_s_length(kind: str) -> None:
    for pair in pairs(kind):
        assert set(pair) == {"a", "b", "label"}
        for text in (pair["a"], pair["b"]):
            assert text == text.strip()
            assert 30 <= len(text.split()) <= 110, text


@pytest.mark.parametrize("kind", sorted(AT_LEAST))
def test_no_text_is_counted_twice(kind: str) -> None:
    counts = Counter(text for pair in pairs(kind) for text in (pair["a"], pair["b"]))
    assert [text for text, times in counts.items() if times > 1] == []


@pytest.mark.parametrize("kind", sorted(AT_LEAST))
def test_a_paraphrase_is_more_than_a_reordering_of_words(kind: str) -> None:
    for pair in pairs(kind):
        if pair["label"] == "paraphrase":
            assert plain(pair["a"]) != plain(pair["b"])
