"""What the inference benchmark says could have served a workload, since its bars are shares of that."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.models.protocol import ChatRequest, Message, ScoreRequest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
HELLO = (Message("user", "Hi"),)


class Letters:
    """Every character is a token."""

    def prompt(self, asked: Any) -> list[int]:
        return [ord(letter) for message in asked.messages for letter in message.content]

    def paths(self, asked: Any) -> list[list[int]]:
        return [self.prompt(asked), *(self.prompt(asked) + [ord(c) for c in reply[:-1]] for reply in asked.scored)]


@pytest.mark.parametrize(
    ("request_", "again"),
    [
        (ChatRequest(HELLO), 1),
        (ChatRequest(HELLO, n=3), 3),
        (ChatRequest(HELLO, choices=("A", "B", "C", "D")), 1),
        (ScoreRequest(HELLO, ("yes", "no", "never", "why")), 1),
    ],
)
def test_a_request_may_read_the_prompts_last_token_once_more(
    request_: Any, again: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    workload = importlib.import_module("workload")
    need = workload.Need()
    need.ask(Letters(), workload.Asked(request_, 0.0))
    assert need.branches == again
    assert need.quiet == len("Hi")
