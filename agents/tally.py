"""What the call path saw of one model since somebody last looked: sums and samples, no history."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agents.models.protocol import Usage

SAMPLES = 4096
"""Latest times to a first token that are remembered."""


def _samples() -> deque[float]:
    return deque(maxlen=SAMPLES)


@dataclass(slots=True)
class Tally:
    """Whoever looks takes it away and leaves an empty one."""

    answered: int = 0
    failed: int = 0
    """Calls that got no answer in the end."""
    retries: int = 0
    """Attempts beyond the first of each call."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    first_token_s: deque[float] = field(default_factory=_samples)

    @property
    def empty(self) -> bool:
        return not (self.answered or self.failed or self.retries)

    def add_answer(self, usage: Usage, retries: int) -> None:
        self.answered += 1
        self.retries += retries
        self.prompt_tokens += usage.prompt_tokens or 0
        self.cached_tokens += usage.cached_tokens or 0
        self.output_tokens += usage.output_tokens or 0
        if usage.first_token_s is not None:
            self.first_token_s.append(usage.first_token_s)

    def add_failure(self, retries: int) -> None:
        self.failed += 1
        self.retries += retries
