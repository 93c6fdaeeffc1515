"""Answers of the generator are read item by item: a broken item costs itself alone."""

from __future__ import annotations

import json

import pytest

from agents.generator import MOST_PARTS, check_messages, generator_messages, read_items, schema_of
from agents.prompts import load_prompt

GOOD = {"facts": ["She is 40.", "She mends nets."]}
OTHER = {"facts": ["He is 61.", "He keeps bees."]}


def profiles(*items: object) -> str:
    return json.dumps({"profiles": list(items)})


def test_items_are_read_in_order() -> None:
    found = read_items(profiles(GOOD, OTHER), "profile")
    assert [item.parts for item in found] == [tuple(GOOD["facts"]), tuple(OTHER["facts"])]
    assert [item.broken for item in found] == [None, None]
    assert found[0].text == "She is 40. She mends nets."


@pytest.mark.parametrize(
    "broken",
    [
        "a text",
        17,
        {"facts": "She is 40."},
        {"facts": []},
        {"facts": ["  "]},
        {"facts": [1, 2]},
        {"facts": ["She is 40."], "name": "Ann"},
        {"traits": ["She is kind."]},
        {"facts": ["x."] * (MOST_PARTS + 1)},
    ],
)
def test_an_item_of_another_shape_costs_itself_alone(broken: object) -> None:
    found = read_items(profiles(GOOD, broken, OTHER), "profile")
    assert [item.broken for item in found] == [None, "wrong_shape", None]


def test_an_answer_cut_at_its_length_keeps_the_items_before_the_cut() -> None:
    whole = profiles(GOOD, OTHER)
    found = read_items(whole[: whole.index("He is 61") + 4], "profile")
    assert [item.broken for item in found] == [None, "cut"]


def test_a_broken_object_in_the_middle_is_stepped_over() -> None:
    text = '{"profiles": [{"facts": ["She is 40."]}, {"facts": ["He", }, {"facts": ["They sing."]}]}'
    assert [item.broken for item in read_items(text, "profile")] == [None, "no_json", None]


@pytest.mark.parametrize("answer", ['{"profiles": []}', '{"profiles": [', "[]", '{"profiles": [,,]}'])
def test_an_empty_list_is_one_broken_item(answer: str) -> None:
    assert [(item.broken, item.text) for item in read_items(answer, "profile")] == [("empty", answer)]


@pytest.mark.parametrize("answer", ["Sure! Here are some people:\n1. Ann, 40.", "", "{}", '{"people": []}'])
def test_an_answer_without_a_list_is_one_broken_item(answer: str) -> None:
    found = read_items(answer, "profile")
    assert [(item.broken, item.parts) for item in found] == [("no_json", ())]


@pytest.mark.parametrize("form", ["{}", "```json\n{}\n```", "Here they are:\n{}"])
def test_fences_and_words_around_the_list_are_allowed(form: str) -> None:
    found = read_items(form.format(profiles(GOOD)) if "{}" in form else form, "profile")
    assert [item.broken for item in found] == [None]


def test_white_space_inside_a_sentence_is_one_space() -> None:
    assert read_items(profiles({"facts": [" She\n is  40. "]}), "profile")[0].parts == ("She is 40.",)


def test_braces_in_examples_mean_nothing() -> None:
    prompt = load_prompt("persona.profile")
    messages = generator_messages(prompt, "profile", [["She likes {{ templates }} and {% raw %}."]], 2, "")
    assert "{{ templates }} and {% raw %}" in messages[1].content
    assert "Invent 2 new people" in messages[1].content


def test_the_check_quotes_the_text_as_it_is() -> None:
    prompt = load_prompt("persona.check")
    assert "{{ x }}" in check_messages(prompt, "profile", "She says {{ x }}.")[1].content


def test_the_schema_asks_for_the_number_of_items() -> None:
    several = json.loads(schema_of("personality", 3))["properties"]["personalities"]
    assert (several["minItems"], several["maxItems"]) == (3, 3)
    assert several["items"]["required"] == ["traits"]
