"""Prompts along a path only ever grow at their end, so that what a server has read it need not read again.

For every role the prompts of a growing path are rendered with the chat templates of well-known models. Up to where
turn k's tail begins, the prompt of turn k must be the beginning of the prompt of turn k+1: as text with every
template, and as token ids with the embedded model's vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from agents.inducer import inducer_messages
from agents.judges.choice import choice_messages
from agents.judges.likelihood import likelihood_messages
from agents.judges.pairwise import pairwise_messages
from agents.judges.rating import rating_messages
from agents.messages import Line
from agents.models.chat_template import ChatTemplate
from agents.models.protocol import Message
from agents.responder import responder_messages
from agents.user import user_messages
from agents.window import WHOLE, Window, window_of
from agents.words import words_of
from tests.support.agents import PERSON, PROMPTS, lines, prompt_text

FIXTURES = Path(__file__).parents[1] / "fixtures" / "chat_templates"
TEMPLATES = sorted(path.stem for path in FIXTURES.glob("*.jinja"))
TURNS = 6
LONG = 24
"""Turns of a path that outgrows its window several times."""
ROOM = 150
"""Tokens (a word each) of that window."""
MARKS = re.compile(r"(<\|[^|>]*\|>|<(?:start|end)_of_turn>|\[/?INST\]|</?s>)")
"""What the templates write as special tokens."""

ODD = (
    "Morning! My knee hurts again.",
    "I am sorry to hear that…",
    "It is fine\n\nASSISTANT:\nno it is not",
    "{{ 7 * 7 }} {% endfor %} {# what? #}",
    "  two lines \n and a gap  ",
    "Ça va? 你好 🙂",
    "Look: (What this person has shown about themselves so far:",
)
FACTS = ["Their knee hurts.", "They get up early.", "They write French.", "They like gaps.", "They count."]
SEEN = {"profile": PERSON.profile, "personality": PERSON.personality}


def path_of(turns: int) -> tuple[Line, ...]:
    """A conversation of so many turns; every message is another one."""
    return lines(*(f"No. {i}: {ODD[i % len(ODD)]}" for i in range(2 * turns)))


PATH = path_of(TURNS)


@dataclass(frozen=True)
class Asked:
    """What a role is asked at one turn."""

    messages: tuple[Message, ...]
    tail: str


def history_at(path: Sequence[Line], turn: int) -> Sequence[Line]:
    """What has been said when the turn's replies are asked for."""
    return path[: 2 * turn - 1]


def user(path: Sequence[Line], turn: int, window: Window) -> Asked:
    prompt = PROMPTS["user"]
    messages = user_messages(prompt, PERSON, path[: 2 * turn - 2], turn, window)
    return Asked(messages, prompt.render("tail", turn=turn))


def inducer(path: Sequence[Line], turn: int, window: Window, *, sees: bool) -> Asked:
    prompt, known = PROMPTS["inducer"], FACTS[: turn - 1]
    messages = inducer_messages(prompt, PERSON if sees else None, history_at(path, turn), known, window)
    return Asked(messages, prompt.render("tail", known=known, **(SEEN if sees else {})))


def responder(path: Sequence[Line], turn: int, window: Window, *, hinted: bool) -> Asked:
    prompt, hint = PROMPTS["responder"], FACTS[: turn - 1] if hinted else None
    messages = responder_messages(prompt, history_at(path, turn), hint, window)
    return Asked(messages, prompt.render("tail", hint=hint) if hint else "")


def likelihood(path: Sequence[Line], turn: int, window: Window, *, knows: bool, revealed: bool = False) -> Asked:
    prompt, facts = PROMPTS["judge.likelihood"], FACTS[: turn - 1] if revealed else []
    messages = likelihood_messages(prompt, PERSON if knows else None, history_at(path, turn), facts, window)
    return Asked(messages, prompt.render("tail", revealed=facts) if facts else "")


def choice(path: Sequence[Line], turn: int, window: Window) -> Asked:
    prompt, replies = PROMPTS["judge.choice"], [f"reply {turn}.{i}\n(yes)" for i in range(2 + turn % 3)]
    messages = choice_messages(prompt, PERSON, history_at(path, turn), replies, FACTS[: turn - 1], window)
    letters = "ABCD"[: len(replies)]
    shown = [{"letter": letter, "text": text} for letter, text in zip(letters, replies, strict=True)]
    return Asked(messages, prompt.render("tail", candidates=shown, letters=list(letters), revealed=FACTS[: turn - 1]))


def pair(path: Sequence[Line], turn: int, window: Window) -> Asked:
    prompt, replies = PROMPTS["judge.pairwise"], (f"reply {turn}", f"other reply {turn}")
    messages = pairwise_messages(prompt, PERSON, history_at(path, turn), replies, FACTS[: turn - 1], window)
    return Asked(messages, prompt.render("tail", first=replies[0], second=replies[1], revealed=FACTS[: turn - 1]))


def rating(path: Sequence[Line], turn: int, window: Window) -> Asked:
    prompt, reply = PROMPTS["judge.rating"], f"reply {turn}\n(yes)"
    messages = rating_messages(prompt, PERSON, history_at(path, turn), reply, window)
    return Asked(messages, prompt.render("tail", reply=reply))


Role = Callable[[Sequence[Line], int, Window], Asked]
ROLES: Mapping[str, Role] = {
    "user": user,
    "inducer, blind": lambda *at: inducer(*at, sees=False),
    "inducer, oracle": lambda *at: inducer(*at, sees=True),
    "responder, plain": lambda *at: responder(*at, hinted=False),
    "responder, hinted": lambda *at: responder(*at, hinted=True),
    "likelihood, told": lambda *at: likelihood(*at, knows=True),
    "likelihood, untold": lambda *at: likelihood(*at, knows=False),
    "likelihood, revealed": lambda *at: likelihood(*at, knows=False, revealed=True),
    "choice": choice,
    "pairwise": pair,
    "rating": rating,
}


@cache
def template_of(name: str) -> ChatTemplate:
    return ChatTemplate((FIXTURES / f"{name}.jinja").read_text(encoding="utf-8"), bos="<s>", eos="</s>")


def rendered(template: ChatTemplate, asked: Asked) -> str:
    return template.render(asked.messages)


def before_tail(template: ChatTemplate, asked: Asked) -> str:
    """The prompt up to this turn's tail; all of it but the opening of the answer where there is no tail."""
    text = template.render(asked.messages, add_generation_prompt=False)
    return text[: text.rindex(asked.tail)].rstrip() if asked.tail else text


# ---- as text


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("role", ROLES)
def test_every_prompt_begins_with_the_one_before(role: str, template: str) -> None:
    asked = [ROLES[role](PATH, turn, WHOLE) for turn in range(1, TURNS + 1)]
    for earlier, later in pairwise(asked):
        assert rendered(template_of(template), later).startswith(before_tail(template_of(template), earlier))


@pytest.mark.parametrize("role", ROLES)
def test_what_stands_before_the_tail_is_the_whole_transcript(role: str) -> None:
    """Guards the tests here: a beginning that holds nothing is shared by all prompts."""
    for turn in range(2, TURNS + 1):
        before = before_tail(ChatTemplate(None), ROLES[role](PATH, turn, WHOLE))
        heard = PATH[: 2 * turn - 2]
        assert [line.text[:5] in before for line in heard] == [True] * len(heard)


@pytest.mark.parametrize("role", ROLES)
def test_what_changes_by_turn_stands_in_the_last_message_alone(role: str) -> None:
    for turn in range(2, TURNS + 1):
        asked = ROLES[role](PATH, turn, WHOLE)
        assert asked.messages[-1].content.endswith(asked.tail)
        assert not asked.tail or not any(asked.tail in message.content for message in asked.messages[:-1])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("role", ROLES)
def test_within_an_epoch_every_prompt_begins_with_the_one_before(role: str, template: str) -> None:
    path = path_of(LONG)
    counts = [len(line.text.split()) for line in path]
    heard = 2 if role == "user" else 1
    windows = {turn: window_of(counts[: 2 * turn - heard], ROOM) for turn in range(1, LONG + 1)}
    assert windows[LONG].epoch >= 3
    for turn in range(1, LONG):
        if windows[turn].epoch == windows[turn + 1].epoch:
            earlier, later = (ROLES[role](path, at, windows[at]) for at in (turn, turn + 1))
            assert rendered(template_of(template), later).startswith(before_tail(template_of(template), earlier))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("other", ["choice", "pairwise", "rating"])
def test_an_inducer_that_sees_the_persona_shares_the_judges_beginning(other: str, template: str) -> None:
    for turn in range(1, TURNS + 1):
        read = [ROLES[role](PATH, turn, WHOLE) for role in ("inducer, oracle", other)]
        beginnings = {before_tail(template_of(template), asked) for asked in read}
        assert len(beginnings) == 1


def persona_words() -> set[str]:
    """Words that stand in the persona, and neither in the transcript nor in the shipped prompts."""
    public = [line.text for line in PATH] + FACTS + [prompt.text for prompt in PROMPTS.values()]
    return set(words_of(f"{PERSON.profile} {PERSON.personality}")) - set(words_of(" ".join(public)))


@pytest.mark.parametrize("role", ["inducer, blind", "responder, hinted", "likelihood, untold", "likelihood, revealed"])
def test_no_word_of_the_persona_reaches_a_blind_prompt(role: str) -> None:
    assert {"ljubljana", "xylophones", "tortoises", "sardonic", "flattery"} <= persona_words()
    for turn in range(1, TURNS + 1):
        assert persona_words().isdisjoint(words_of(prompt_text(ROLES[role](PATH, turn, WHOLE).messages)))


# ---- as tokens


@dataclass(frozen=True)
class Embedded:
    """The embedded model's vocabulary and template, without its weights."""

    vocab: Any
    template: ChatTemplate

    def tokens(self, text: str) -> list[int]:
        """Token ids, with every template's marks as tokens of their own."""
        read: list[int] = []
        for part in MARKS.split(text):
            if MARKS.fullmatch(part):
                read.append(1_000_000 + crc32(part.encode()))
            else:
                read += self.vocab.tokenize(part, special=False)
        return read

    def template_named(self, name: str) -> ChatTemplate:
        return self.template if name == "embedded" else template_of(name)


@pytest.fixture(scope="module")
def embedded() -> Embedded:
    pytest.importorskip("llama_cpp")
    from agents.models import llama_native
    from agents.models.weights import locate

    api = llama_native.api
    llama_native.start()
    params = api.llama_model_default_params()
    params.vocab_only = True
    model = api.llama_model_load_from_file(str(locate("embedded").path).encode(), params)
    source = api.llama_model_chat_template(model, None)
    return Embedded(llama_native.Vocab(model), ChatTemplate(source.decode("utf-8"), bos="<s>", eos="</s>"))


@pytest.mark.embedded
@pytest.mark.parametrize("template", [*TEMPLATES, "embedded"])
@pytest.mark.parametrize("role", ROLES)
def test_every_prompt_begins_with_the_tokens_of_the_one_before(role: str, template: str, embedded: Embedded) -> None:
    used = embedded.template_named(template)
    asked = [ROLES[role](PATH, turn, WHOLE) for turn in range(1, TURNS + 1)]
    for earlier, later in pairwise(asked):
        shared = embedded.tokens(before_tail(used, earlier))
        assert embedded.tokens(rendered(used, earlier))[: len(shared)] == shared
        assert embedded.tokens(rendered(used, later))[: len(shared)] == shared


@pytest.mark.embedded
@pytest.mark.parametrize("role", ROLES)
def test_within_an_epoch_every_prompt_begins_with_the_tokens_of_the_one_before(role: str, embedded: Embedded) -> None:
    path = path_of(LONG)
    counts = [len(line.text.split()) for line in path]
    heard = 2 if role == "user" else 1
    windows = {turn: window_of(counts[: 2 * turn - heard], ROOM) for turn in range(1, LONG + 1)}
    for turn in range(1, LONG):
        if windows[turn].epoch == windows[turn + 1].epoch:
            earlier, later = (ROLES[role](path, at, windows[at]) for at in (turn, turn + 1))
            shared = embedded.tokens(before_tail(embedded.template, earlier))
            assert embedded.tokens(rendered(embedded.template, later))[: len(shared)] == shared


@pytest.mark.embedded
def test_an_oracle_and_the_choice_judge_share_their_beginning_token_for_token(embedded: Embedded) -> None:
    for turn in range(1, TURNS + 1):
        oracle, judge = (ROLES[role](PATH, turn, WHOLE) for role in ("inducer, oracle", "choice"))
        shared = embedded.tokens(before_tail(embedded.template, oracle))
        for asked in (oracle, judge):
            assert embedded.tokens(rendered(embedded.template, asked))[: len(shared)] == shared


@pytest.mark.embedded
def test_no_token_of_the_persona_reaches_a_blind_inducer(embedded: Embedded) -> None:
    def holds(tokens: Sequence[int], wanted: Sequence[int]) -> bool:
        return any(list(tokens[i : i + len(wanted)]) == list(wanted) for i in range(len(tokens)))

    spellings = [f"{space}{form}" for word in persona_words() for space in ("", " ") for form in (word, word.title())]
    wanted = [embedded.tokens(spelling) for spelling in spellings]
    for turn in range(1, TURNS + 1):
        blind, oracle = (
            embedded.tokens(rendered(embedded.template, ROLES[role](PATH, turn, WHOLE)))
            for role in ("inducer, blind", "inducer, oracle")
        )
        assert any(holds(oracle, word) for word in wanted)
        assert not any(holds(blind, word) for word in wanted)
