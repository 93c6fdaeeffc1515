"""Content words and their stems: which texts speak of the same things."""

from __future__ import annotations

import pytest

from agents.words import content_stems, stem, words_of


def test_words_are_folded_and_keep_their_order() -> None:
    assert words_of("Tea, please — TWO cups! (it's late)") == ["tea", "please", "two", "cups", "it's", "late"]


@pytest.mark.parametrize("text", ["", "…", "!?", "___", "🙂"])
def test_a_text_without_letters_has_no_words(text: str) -> None:
    assert words_of(text) == []


@pytest.mark.parametrize(
    "words",
    [
        ("cook", "cooks", "cooked", "cooking"),
        ("bake", "bakes", "baked", "baking"),
        ("city", "cities"),
        ("worry", "worries", "worried"),
        ("painting", "paintings", "paint"),
        ("quiet", "quietly"),
    ],
)
def test_forms_of_a_word_meet(words: tuple[str, ...]) -> None:
    assert len({stem(word) for word in words}) == 1


@pytest.mark.parametrize(("one", "other"), [("cat", "car"), ("sing", "sin"), ("bus", "bu"), ("garden", "guard")])
def test_different_words_stay_apart(one: str, other: str) -> None:
    assert stem(one) != stem(other)


def test_words_that_carry_nothing_are_left_out() -> None:
    assert content_stems("She says that it is very much their own thing") == frozenset()


def test_a_possessive_is_its_noun() -> None:
    assert content_stems("Ottilie's tortoise’s shell") == content_stems("Ottilie tortoise shell")


def test_letters_of_other_scripts_are_letters() -> None:
    assert content_stems("Мой КОТ спит") == content_stems("мой кот спит")
    assert "кот" in content_stems("Мой КОТ спит")


def test_scripts_without_spaces_meet_in_pairs_of_characters() -> None:
    assert content_stems("她在养猫。") & content_stems("我养猫已经三年了")
    assert content_stems("猫を飼っています") & content_stems("うちでは猫を二匹")
    assert not content_stems("她喜欢咖啡") & content_stems("我住在海边")
