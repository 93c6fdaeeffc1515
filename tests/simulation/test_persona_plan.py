"""A pool's plan, the people composed from it, and where texts stand in it."""

from __future__ import annotations

import re

import pytest

from simulation.persona_axes import load_axes
from simulation.persona_checks import check
from simulation.persona_composer import (
    PERSONALITY_WORDS,
    PROFILE_WORDS,
    Composed,
    compose_personality,
    compose_profile,
    in_voice,
    lives,
    traits,
)
from simulation.persona_plan import Lack, Plan, count, tag
from simulation.personas import seed_profiles
from trees.errors import SetupError
from trees.personas import pronouns_of

AXES = load_axes()
MANY = 200


@pytest.fixture(scope="module")
def profiles() -> list[Composed]:
    return [compose_profile(seed, AXES) for seed in range(MANY)]


@pytest.fixture(scope="module")
def personalities() -> list[Composed]:
    return [compose_personality(seed, AXES) for seed in range(MANY)]


def test_the_same_seed_composes_the_same_person_and_another_seed_another(profiles: list[Composed]) -> None:
    assert [compose_profile(seed, AXES) for seed in range(20)] == profiles[:20]
    assert len({made.text for made in profiles}) == MANY


def test_composed_people_pass_the_quality_rules(profiles: list[Composed], personalities: list[Composed]) -> None:
    assert [made.text for made in profiles if not check(made.text, "profile").accepted] == []
    assert [made.text for made in personalities if not check(made.text, "personality").accepted] == []


def test_composed_texts_keep_to_their_length(profiles: list[Composed], personalities: list[Composed]) -> None:
    assert all(PROFILE_WORDS[0] <= len(made.text.split()) <= PROFILE_WORDS[1] for made in profiles)
    assert all(PERSONALITY_WORDS[0] <= len(made.text.split()) <= PERSONALITY_WORDS[1] for made in personalities)


def test_nothing_of_the_tables_is_left_unfilled(profiles: list[Composed], personalities: list[Composed]) -> None:
    for made in [*profiles, *personalities]:
        assert not re.search(r"[{}~]|\ba [aeio]|\ban [^aeiouAEIOU81\s]|\s{2}|\.\.", made.text), made.text


def test_no_rule_is_broken(profiles: list[Composed], personalities: list[Composed]) -> None:
    for made in profiles:
        age = re.search(r"\b(\d+)-year-old", made.text)
        assert age is not None
        assert AXES.clash("profile", made.values, int(age.group(1))) is None
    assert [made for made in personalities if AXES.clash("personality", made.values, 0)] == []


def test_ages_fit_lives(profiles: list[Composed]) -> None:
    for made in profiles:
        years = int(re.findall(r"\b(\d+)-year-old", made.text)[0])
        children = [int(age) for age in re.findall(r"(\d+)-year-old (?:son|daughter)", made.text)]
        assert all(years - age >= 16 for age in children), made.text
        assert "grandchild" not in made.text or years >= 54, made.text
        assert "retired " not in made.text or years >= 58, made.text
        assert "high school student" not in made.text or years <= 18, made.text


def test_she_and_he_are_balanced_and_they_is_there(profiles: list[Composed]) -> None:
    shares = {pronouns: sum(made.values["pronouns"] == pronouns for made in profiles) for pronouns in ("she", "he")}
    assert 0.7 < shares["she"] / shares["he"] < 1.4
    assert any(made.values["pronouns"] == "they" for made in profiles)
    assert all(pronouns_of(made.text) == made.values["pronouns"] for made in profiles)


def test_verbs_of_they_are_plural(profiles: list[Composed]) -> None:
    they = [compose_profile(seed, AXES, {"pronouns": "they"}).text for seed in range(60)]
    assert not [text for text in they if re.search(r"\bThey (?:is|has|was|\w+[^s]s)\b", text)]


@pytest.mark.parametrize(
    ("line", "pronouns", "said"),
    [
        ("He ~is single and ~lives with his dog.", "they", "They are single and live with their dog."),
        ("He ~carries it himself and ~watches him.", "they", "They carry it themselves and watch them."),
        ("He ~has been there; his sister lives abroad.", "she", "She has been there; her sister lives abroad."),
        ("He ~goes home.", "he", "He goes home."),
    ],
)
def test_a_sentence_follows_the_pronoun(line: str, pronouns: str, said: str) -> None:
    assert in_voice(line, pronouns) == said


@pytest.mark.parametrize(
    "wanted",
    [
        {"age": "80+", "family": "grandchildren", "region": "Caribbean"},
        {"work": "land", "home": "village", "pronouns": "she"},
        {"work": "student", "age": "16-19"},
        {"life": "belief", "possession": "plants", "interest": "sport"},
        {"work": "out of work", "schooling": "postgraduate"},
    ],
)
def test_wishes_are_met_and_told(wanted: dict[str, str]) -> None:
    made = compose_profile(7, AXES, wanted)
    assert wanted.items() <= made.values.items()
    assert wanted.items() <= tag(made.text, "profile").items()


def test_every_single_value_can_be_composed() -> None:
    for axis, table in AXES.profile.items():
        for value in table.values:
            assert compose_profile(1, AXES, {axis: value}).values[axis] == value
    for axis, table in AXES.personality.items():
        for value in table.values:
            assert compose_personality(1, AXES, {axis: value}).values[axis] == value


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"age": "16-19", "family": "grandchildren"}, "a teenager has no career"),
        ({"hair": "red"}, "no axis 'hair'"),
        ({"region": "West Afrika"}, "Did you mean 'West Africa'?"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused_with_the_reason(wanted: dict[str, str], said: str) -> None:
    with pytest.raises(SetupError, match=re.escape(said)):
        compose_profile(1, AXES, wanted)


def test_what_composed_texts_tell_is_read_back(profiles: list[Composed], personalities: list[Composed]) -> None:
    right = [tag(made.text, "profile").get(axis) == value for made in profiles for axis, value in made.values.items()]
    assert sum(right) / len(right) > 0.97
    own = [
        tag(made.text, "personality").get(axis) == value
        for made in personalities
        for axis, value in made.values.items()
    ]
    assert sum(own) / len(own) > 0.99


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "She is 72 and a retired judge in Jaipur. She never married.",
            {"pronouns": "she", "age": "65-79", "region": "South Asia", "work": "retired", "family": "single"},
        ),
        (
            "He is a 40-year-old chef. He is married and has a 6-year-old son named Ken. He has a degree in physics.",
            {"age": "40-49", "work": "food", "family": "young children", "schooling": "university"},
        ),
        ("He is a 58-year-old nurse with a 17-year-old son.", {"age": "50-64", "family": "teenage children"}),
    ],
)
def test_texts_of_others_are_tagged_by_rules(text: str, told: dict[str, str]) -> None:
    found = tag(text, "profile")
    assert told.items() <= found.items()


def test_what_a_text_does_not_tell_is_absent() -> None:
    assert tag("They water the roses.", "profile").keys() <= {"pronouns", "interest"}
    assert tag("She is curious.", "personality") == {"pronouns": "she", "openness": "curious"}


def test_the_seeds_can_be_counted() -> None:
    counts = count([seed.text for seed in seed_profiles()], "profile")
    assert sum(counts["age"].values()) == 20
    assert sum(counts["region"].values()) >= 15


def test_targets_add_up_and_quotas_stand() -> None:
    axes = load_axes('[profile.age.values]\n"80+" = { quota = 7 }\n')
    targets = Plan("profile", axes).targets("age", 100)
    assert targets["80+"] == 7
    assert sum(targets.values()) == 100


def test_what_lacks_most_comes_first_whatever_the_order_of_counting() -> None:
    plan = Plan("profile", AXES)
    full = {axis: plan.targets(axis, 50) for axis in AXES.profile}
    assert plan.lacks(full, 50) == []
    full["region"]["Caribbean"] = 0
    full["age"]["20-29"] -= 1
    lacks = plan.lacks(full, 50)
    assert lacks == [Lack("region", "Caribbean", 2), Lack("age", "20-29", 1)]
    assert plan.lacks({axis: dict(reversed(values.items())) for axis, values in full.items()}, 50) == lacks


def test_a_plan_asks_in_a_sentence_for_what_lacks() -> None:
    plan = Plan("profile", AXES)
    lacks = [Lack("region", "Caribbean", 2), Lack("region", "Oceania", 1), Lack("work", "land", 1)]
    assert plan.ask(lacks) == (
        "The collection still lacks people of some kinds. "
        "Include somebody who lives in the Caribbean and somebody who works on the land or at sea."
    )
    assert plan.ask([]) == ""


def test_composing_what_lacks_fills_the_plan() -> None:
    plan, size = Plan("profile", AXES), 60
    counts = count([], "profile")
    for seed in range(size):
        made = compose_profile(seed, AXES, plan.wanted(plan.lacks(counts, size)[:3]))
        for axis, value in made.values.items():
            counts[axis][value] += 1
    for axis in ("age", "region", "work"):
        targets = plan.targets(axis, size)
        assert sum(min(counts[axis][value], target) for value, target in targets.items()) >= 0.75 * size, axis


def test_a_plan_of_ones_own_changes_only_what_it_states() -> None:
    axes = load_axes(
        "[profile.region.values]\nCaribbean = { weight = 0 }\n[profile.eyes.values]\n"
        'green = { says = "has green eyes", words = ["green eyes"], facts = ["He ~has green eyes."] }\n'
    )
    assert axes.profile["age"] == AXES.profile["age"]
    made = [compose_profile(seed, axes) for seed in range(40)]
    assert all("green eyes" in one.text and one.values["region"] != "Caribbean" for one in made)
    assert tag(made[0].text, "profile", axes)["eyes"] == "green"


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("[profile", "the plan is not TOML"),
        ('[profile.region.values]\n"West Afrika" = { weight = 2 }', "Did you mean 'West Africa'?"),
        ("[profile.region.values]\nOceania = { weight = -1 }", "profile.region.values.Oceania.weight"),
        ("[profile.region.values]\nOceania = { wieght = 1 }", "wieght"),
        ('[profile.eyes.values]\ngreen = { says = "has green eyes", weight = 0 }', "weight or quota 0"),
        ('[profile.age.values]\nold = { says = "is old" }', "needs the years"),
        (
            '[[rules]]\nkind = "profile"\nwhy = "x"\nwhen = { wrk = ["land"] }\nnever = { home = ["city"] }',
            "no axis 'wrk'",
        ),
    ],
)
def test_a_plan_that_cannot_be_used_is_refused_with_what_is_wrong(plan: str, said: str) -> None:
    with pytest.raises(SetupError, match=re.escape(said)):
        load_axes(plan)


def test_a_value_that_has_no_sentences_is_refused_by_the_composer_alone() -> None:
    axes = load_axes('[profile.region.values]\nMars = { says = "lives on Mars" }')
    assert "somebody who lives on Mars" in Plan("profile", axes).ask([Lack("region", "Mars", 1)])
    with pytest.raises(SetupError, match="no words for"):
        compose_profile(1, axes, {"region": "Mars"})
    assert all(compose_profile(seed, axes).values["region"] != "Mars" for seed in range(20))


def test_conditions_in_the_tables_name_axes_and_values_that_exist() -> None:
    table = lives()
    fragments = [item for group in (table.jobs, table.interests, table.family, table.life, table.possession)
                 for items in group.values() for item in items]  # fmt: skip
    for item in [*fragments, *table.openings, *table.homes]:
        for axis, values in [*item.needs.items(), *item.never.items()]:
            assert set(values) <= AXES.profile[axis].values.keys(), item
    for sentences in traits().values():
        for sentence in [one for group in sentences.values() for one in group]:
            for axis, values in sentence.never.items():
                assert set(values) <= AXES.personality[axis].values.keys(), sentence
