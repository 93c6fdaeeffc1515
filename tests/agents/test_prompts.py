"""Prompts as files: what is refused and how it is said, what a version is, and that values are only text."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import TemplateError

from agents.messages import Person
from agents.prompts import SHIPPED_NAMES, VARIABLES, Prompt, check_prompt, load_prompt, shipped_prompts
from agents.words import content_stems
from tests.support.agents import PERSON, PROMPTS
from trees.errors import SetupError

FILLED: dict[str, object] = {
    "examples": ['{"facts": ["She is 40."]}'],
    "count": 4,
    "lacking": "Include somebody old.",
    "kind": "profile",
    "text": "She is 40.",
    "profile": PERSON.profile,
    "personality": PERSON.personality,
    "turn": 3,
    "known": ["She sleeps badly."],
    "hint": ["She sleeps badly."],
    "revealed": ["She sleeps badly."],
    "candidates": [{"letter": "A", "text": "one"}, {"letter": "B", "text": "two"}],
    "letters": ["A", "B"],
    "first": "one",
    "second": "two",
    "reply": "one",
    "situation": "You need a letter written.",
    "wants": "Short answers.",
}
OUTSIDERS = ["inducer", "judge.choice", "judge.pairwise", "judge.rating"]
"""Kinds of prompt for those who read the conversation from outside."""
HOSTILE = ["{{ 7*7 }}", "{% for x in y %}", "{# gone #}", "{> observer}", "[head]", "}}", "{%- endif %}", "{{"]
BARE: dict[str, dict[str, object]] = {
    "inducer": {"known": []},
    "responder": {"hint": []},
    "judge.likelihood": {"revealed": []},
    "judge.choice": {"candidates": [], "letters": [], "revealed": []},
    "judge.pairwise": {"first": "one", "second": "two", "revealed": []},
    "judge.rating": {"reply": "one"},
    "deploy": {},
}
"""What each kind's tail is given at the least: no persona, nothing known. The user's needs its persona."""


def own(folder: Path, name: str, text: str) -> Path:
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return folder


def checked(prompt: Prompt) -> Prompt:
    check_prompt(prompt, "here")
    return prompt


# ---- what is refused


def test_an_unknown_variable_names_file_line_and_the_variable_meant(tmp_path: Path) -> None:
    own(tmp_path, "user", "A comment.\n\n[head]\nYou live so:\n{{ profil }}\n")
    with pytest.raises(SetupError) as refused:
        load_prompt("user", folder=tmp_path)
    assert str(tmp_path / "user.md") in refused.value.message
    assert "line 5" in refused.value.message
    assert "'profil'" in refused.value.message
    assert "did you mean 'profile'?" in refused.value.message
    assert refused.value.hint == "Variables of this section: personality, profile."


def test_a_variable_of_another_section_is_unknown_in_this_one(tmp_path: Path) -> None:
    own(tmp_path, "user", "[head]\n{{ turn }}\n")
    with pytest.raises(SetupError, match=r"unknown variable 'turn' in \[head\]"):
        load_prompt("user", folder=tmp_path)


def test_a_variable_that_the_prompt_sets_itself_is_known() -> None:
    prompt = Prompt("user", "[head]\n{% set who = profile %}{% for word in [who] %}{{ word }}{% endfor %}\n")
    check_prompt(prompt, "here")
    assert prompt.render("head", profile="Ann") == "Ann"


def test_an_unknown_section_names_file_line_and_the_sections_there_are(tmp_path: Path) -> None:
    own(tmp_path, "responder", "[head]\nBe kind.\n\n[opening]\nHi\n")
    with pytest.raises(SetupError) as refused:
        load_prompt("responder", folder=tmp_path)
    assert f"{tmp_path / 'responder.md'}, line 4" in refused.value.message
    assert "no section [opening]; it has [head], [tail]" in refused.value.message


def test_a_syntax_error_names_file_and_line(tmp_path: Path) -> None:
    own(tmp_path, "responder", "[head]\nBe kind.\n{% if %}\n")
    with pytest.raises(SetupError) as refused:
        load_prompt("responder", folder=tmp_path)
    assert f"{tmp_path / 'responder.md'}, line 3" in refused.value.message


def test_an_error_is_found_where_it_stands_though_files_are_taken_in(tmp_path: Path) -> None:
    own(tmp_path, "long", "\n\n[head]\nOne.\nTwo.\n{{ wrong }}\n")
    own(tmp_path, "inducer", "\n\nA comment.\n{> observer}\n\n[tail]\n{{ knwon }}\n")
    own(tmp_path, "responder", "{> long}\n")
    with pytest.raises(SetupError) as outer:
        load_prompt("inducer", folder=tmp_path)
    with pytest.raises(SetupError) as inner:
        load_prompt("responder", folder=tmp_path)
    assert outer.value.message.startswith(f"{tmp_path / 'inducer.md'}, line 7: ")
    assert inner.value.message.startswith(f"{tmp_path / 'long.md'}, line 6: ")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as refused:
        load_prompt("user", "shy", tmp_path)
    assert str(tmp_path / "shy.md") in refused.value.message
    assert refused.value.hint is not None
    assert "user" in refused.value.hint


# ---- files


def test_an_own_folder_is_looked_into_before_the_shipped_prompts(tmp_path: Path) -> None:
    own(tmp_path, "responder", "[head]\nSpeak in riddles.\n")
    assert load_prompt("responder", folder=tmp_path).render("head") == "Speak in riddles."
    assert load_prompt("user", folder=tmp_path) == PROMPTS["user"]


def test_a_file_under_another_name_can_be_meant(tmp_path: Path) -> None:
    own(tmp_path, "terse", "[head]\nOne word.\n")
    assert load_prompt("responder", "terse", tmp_path).render("head") == "One word."


def test_what_is_taken_in_becomes_part_of_the_text(tmp_path: Path) -> None:
    own(tmp_path, "manners", "[head]\nBe kind.\n")
    own(tmp_path, "responder", "{> manners}\n\n[tail]\nNow answer.\n")
    prompt = load_prompt("responder", folder=tmp_path)
    assert (prompt.render("head"), prompt.render("tail")) == ("Be kind.", "Now answer.")
    assert "{>" not in prompt.text


def test_an_own_file_stands_in_for_one_that_shipped_prompts_take_in(tmp_path: Path) -> None:
    own(tmp_path, "observer", "[head]\nYou watch.\n")
    assert load_prompt("inducer", folder=tmp_path).render("head") == "You watch."


def test_files_that_take_in_each_other_are_refused(tmp_path: Path) -> None:
    own(tmp_path, "one", "{> two}\n")
    own(tmp_path, "two", "{> one}\n")
    with pytest.raises(SetupError, match="circle: one > two > one"):
        load_prompt("user", "one", tmp_path)


def test_a_file_may_be_taken_in_twice_side_by_side(tmp_path: Path) -> None:
    own(tmp_path, "rule", "Be kind.\n")
    own(tmp_path, "responder", "[head]\n{> rule}\n\n[tail]\n{> rule}\n")
    prompt = load_prompt("responder", folder=tmp_path)
    assert (prompt.render("head"), prompt.render("tail")) == ("Be kind.", "Be kind.")


# ---- versions


def test_an_id_follows_from_kind_and_text_alone() -> None:
    text = "[head]\nBe kind.\n"
    assert Prompt("responder", text).id == Prompt("responder", text).id
    assert Prompt("responder", text).id != Prompt("deploy", text).id
    assert Prompt("responder", text).id != Prompt("responder", text + " ").id


def test_a_change_in_a_file_that_is_taken_in_gives_a_new_version(tmp_path: Path) -> None:
    own(tmp_path, "manners", "[head]\nBe kind.\n")
    own(tmp_path, "responder", "{> manners}\n")
    before = load_prompt("responder", folder=tmp_path)
    own(tmp_path, "manners", "[head]\nBe blunt.\n")
    assert load_prompt("responder", folder=tmp_path).id != before.id


# ---- values are text


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("kind", ["user", "judge.likelihood", *OUTSIDERS])
def test_braces_in_a_persona_mean_nothing(kind: str, text: str) -> None:
    assert text in PROMPTS[kind].render("head", profile=text, personality="calm")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("inducer", lambda text: {"known": [text]}),
        ("responder", lambda text: {"hint": [text]}),
        ("judge.likelihood", lambda text: {"revealed": [text]}),
        ("judge.choice", lambda text: {"candidates": [{"letter": "A", "text": text}], "letters": ["A"]}),
        ("judge.pairwise", lambda text: {"first": text, "second": "b"}),
        ("judge.rating", lambda text: {"reply": text}),
    ],
)
def test_braces_in_what_a_model_wrote_mean_nothing(kind: str, values, text: str) -> None:  # type: ignore[no-untyped-def]
    assert text in PROMPTS[kind].render("tail", **values(text))


@pytest.mark.parametrize(
    "source",
    [
        "{{ profile.__class__ }}",
        "{{ profile.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.format.__globals__ }}",
        "{{ '{0.__class__}'.format(profile) }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_the_sandbox_lets_no_prompt_at_internals(source: str) -> None:
    with pytest.raises((TemplateError, SetupError)):
        checked(Prompt("user", f"[head]\n{source}\n")).render("head", profile="Ann")


def test_a_prompt_cannot_change_the_values_it_is_given() -> None:
    known = ["a"]
    with pytest.raises(TemplateError):
        Prompt("inducer", "[tail]\n{{ known.append('b') }}\n").render("tail", known=known)
    assert known == ["a"]


def test_a_section_that_a_prompt_lacks_is_empty() -> None:
    assert Prompt("responder", "[head]\nBe kind.\n").render("tail", hint=["x"]) == ""


# ---- the shipped ones


@pytest.mark.parametrize("kind", sorted(SHIPPED_NAMES))
def test_every_shipped_prompt_passes_its_own_check(kind: str) -> None:
    check_prompt(load_prompt(kind), kind)


def test_every_shipped_file_is_a_prompt_or_taken_in_by_one() -> None:
    files = shipped_prompts()
    taken_in = {name for text in files.values() for name in files if f"{{> {name}}}" in text}
    for_responders = {"memory", "think_first", "few_shot"}
    for_users = {"user_in_situation"}
    assert set(files) == set(SHIPPED_NAMES.values()) | taken_in | for_responders | for_users
    for name in for_responders:
        load_prompt("responder", name)
    told = str(FILLED["situation"])
    assert told in load_prompt("user", "user_in_situation").render("tail", turn=2, situation=told)


@pytest.mark.parametrize(
    ("kind", "section"), [(kind, section) for kind, sections in VARIABLES.items() for section in sections]
)
def test_every_shipped_section_says_all_that_it_is_given(kind: str, section: str) -> None:
    values = {name: FILLED[name] for name in VARIABLES[kind][section]}
    text = PROMPTS[kind].render(section, **values)
    assert "None" not in text
    if section == "head" and "profile" in values:
        assert PERSON.profile in text
        assert PERSON.personality in text


@pytest.mark.parametrize("kind", sorted(BARE))
def test_every_shipped_prompt_renders_without_what_is_optional(kind: str) -> None:
    prompt = PROMPTS[kind]
    rendered = [prompt.render("head"), prompt.render("tail", **BARE[kind])]
    assert not any("None" in text or "{" in text for text in rendered if "JSON" not in text)


@pytest.mark.parametrize("kind", ["judge.likelihood", *OUTSIDERS])
def test_a_blind_head_holds_no_word_of_a_persona(kind: str) -> None:
    blind = PROMPTS[kind].render("head")
    assert content_stems(blind).isdisjoint(persona_stems(PERSON))
    assert "Their life" not in blind


def test_readers_from_outside_share_their_head() -> None:
    seen = {"profile": PERSON.profile, "personality": PERSON.personality}
    for values in ({}, seen):
        heads = {PROMPTS[kind].render("head", **values) for kind in OUTSIDERS}
        assert len(heads) == 1


def persona_stems(person: Person) -> frozenset[str]:
    return content_stems(f"{person.profile} {person.personality}")
