"""Answers in a form: read exactly, or refused with the reason."""

from __future__ import annotations

import pytest

from agents.parsing import Unreadable, read_label, read_object, read_strings

LABELS = ("A", "B", "tie", "both_bad")


@pytest.mark.parametrize(
    "text",
    ['{"facts": []}', '  {"facts": []}\n', '```json\n{"facts": []}\n```', '```\n{"facts": []}\n```'],
)
def test_an_object_alone_or_in_a_fence_is_read(text: str) -> None:
    assert read_object(text) == {"facts": []}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("A", "not JSON"),
        ('Sure! {"facts": []}', "not JSON"),
        ('{"facts": []} I hope this helps.', "not JSON"),
        ('{"facts": []}{"facts": []}', "not JSON"),
        ('{"facts": ["cut off', "not JSON"),
        ('{"facts": [],}', "not JSON"),
        ("```json\n```", "not JSON"),
        ('["a"]', "a JSON list, not an object"),
        ('"a"', "a JSON str, not an object"),
        ("null", "a JSON NoneType, not an object"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_anything_else_is_unreadable_and_says_why(text: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        read_object(text)


def test_texts_are_stripped_and_empty_ones_left_out() -> None:
    assert read_strings('{"facts": [" a ", "", "  ", "b"]}', "facts") == ["a", "b"]


@pytest.mark.parametrize("value", ['"a"', "null", "[1]", '["a", null]', '[["a"]]', '{"0": "a"}'])
def test_a_field_that_is_no_list_of_texts_is_unreadable(value: str) -> None:
    with pytest.raises(Unreadable, match="'facts' is not a list of texts"):
        read_strings(f'{{"facts": {value}}}', "facts")


def test_a_missing_field_is_unreadable() -> None:
    with pytest.raises(Unreadable):
        read_strings("{}", "facts")


@pytest.mark.parametrize("label", LABELS)
def test_a_label_of_the_closed_set_is_read(label: str) -> None:
    assert read_label(f'{{"reason": "because", "verdict": "{label}"}}', "verdict", LABELS) == label


@pytest.mark.parametrize(
    "value", ['"a"', '"A."', '"A or B"', '" A"', '"C"', '""', "null", "1", "true", '["A"]', '{"A": 1}']
)
def test_a_label_outside_the_closed_set_is_never_guessed(value: str) -> None:
    with pytest.raises(Unreadable, match="'verdict'"):
        read_label(f'{{"verdict": {value}}}', "verdict", LABELS)


def test_what_a_reason_says_is_not_read_as_the_verdict() -> None:
    with pytest.raises(Unreadable):
        read_label('{"reason": "A is better, so the verdict is A"}', "verdict", LABELS)
