"""How well drift is found on the labelled cases, and that nothing a model can say breaks it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.drift import find_drift

FIXTURES = Path(__file__).parents[1] / "fixtures" / "drift"
LABELS = (None, "empty", "echo", "persona_dump", "role_flip", "restart")
FACTS = (
    "Rosa is 52.",
    "She is a florist in Porto.",
    "She has a parrot named Zeca.",
    "She is learning to drive.",
    "Her knee hurts in winter.",
    "Her son works in Berlin.",
)
TALK = (
    ("user", "The parrot swore at the priest."),
    ("assistant", "What exactly did Zeca say?"),
    ("user", "I failed the driving test again, my knee hurt."),
    ("assistant", "Oh no. What did the examiner say?"),
)
LINES = st.lists(st.tuples(st.sampled_from(("user", "assistant")), st.text(max_size=40)), max_size=4)


def verdicts(half: str) -> Counter[tuple[str, str]]:
    """How often each label was given each verdict, `ok` for none."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in (FIXTURES / f"{half}.jsonl").read_text(encoding="utf-8").splitlines():
        case: dict[str, Any] = json.loads(line)
        history = [(said["speaker"], said["text"]) for said in case["history"]]
        counts[case["label"], find_drift(case["message"], history, case["facts"]) or "ok"] += 1
    return counts


def table(counts: Counter[tuple[str, str]]) -> str:
    return "\n".join(f"{label:>14} found as {found:<14} {n}" for (label, found), n in sorted(counts.items()))


@pytest.mark.parametrize("half", ["dev", "heldout"])
def test_drift_is_found_and_little_else_is(half: str) -> None:
    counts = verdicts(half)
    drifted = sum(n for (label, _), n in counts.items() if label != "ok")
    found = sum(n for (_, verdict), n in counts.items() if verdict != "ok")
    right = sum(n for (label, verdict), n in counts.items() if "ok" not in (label, verdict))
    assert right / found >= 0.9, table(counts)
    assert right / drifted >= 0.8, table(counts)


@pytest.mark.parametrize(
    "message",
    [
        "😭",
        "no",
        "42",
        "The examiner? The examiner said nothing, he only wrote.",
        "As an AI, do you ever get nervous?",
        "Is there anything else I should practise before next month?",
        "How can I help my son when he is so far away?",
        "I'm here for you, I said to Zeca, and he bit me.",
        'At work I say "how can I help you?" forty times a day.',
        "I work at the help desk on Mondays: hello, how may I assist you, goodbye.",
        "What do you think, would you go again? You should know.",
        "I am supposed to play the trumpet on Sunday, and with this arm!",
        "Hi again, sorry, a customer came in. He said to come back in May.",
        "Hey, that's not funny.",
        "My son in Berlin laughed at me, and my knee hurts still.",
    ],
)
def test_a_person_may_speak_so(message: str) -> None:
    assert find_drift(message, TALK, FACTS) is None


@pytest.mark.parametrize(
    ("message", "drift"),
    [
        ("—", "empty"),
        ("*nods*", "empty"),
        ("Rosa:", "empty"),
        ("[no response]", "empty"),
        ("\u200b", "empty"),
        ("Oh no! What did the examiner say to you?", "echo"),
        ("I failed the driving test again; my knee was hurting.", "echo"),
        ("As Rosa: my personality is blunt, and I sell flowers.", "persona_dump"),
        ("I'm 52, a florist in Porto, my son works in Berlin and my knee hurts in winter.", "persona_dump"),
        ("Assistant: He probably asked for more practice.", "role_flip"),
        ("Wie kann ich Ihnen heute weiterhelfen?", "role_flip"),
        ("That's wonderful that you keep trying! What motivates you to learn to drive?", "role_flip"),
        ("Hello, I'm Rosa, a florist from Porto.", "restart"),
        ("Hi! How are you today?", "restart"),
    ],
)
def test_a_drift_is_named(message: str, drift: str) -> None:
    assert find_drift(message, TALK, FACTS) == drift


def test_an_opening_may_greet_and_introduce() -> None:
    assert find_drift("Hello! How are you? I'm Rosa and I sell flowers, can you help me?", [], FACTS) is None


def test_an_opening_may_not_offer_help() -> None:
    assert find_drift("Hello! How can I assist you today?", [], FACTS) == "role_flip"


def test_an_echo_is_found_without_spaces_between_words() -> None:
    said = "今天我的膝盖又疼了,考试也没有通过"
    assert find_drift(said, [("user", said), ("assistant", "怎么了?")], []) == "echo"


@given(st.text(), LINES, st.lists(st.text(max_size=40), max_size=4))
def test_any_text_has_a_verdict(message: str, history: list[tuple[str, str]], facts: list[str]) -> None:
    assert find_drift(message, history, facts) in LABELS
