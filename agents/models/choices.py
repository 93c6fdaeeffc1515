"""A closed set of answers decided by their joint log-probabilities, for backends that can score each of them.

Invariant: the same log-probabilities, temperature and seed give the same answer, on every backend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from agents.models.protocol import ChatRequest, Completion
from trees.ids import digest_of


def answer_seed(seed: int, index: int) -> int:
    """The request's own seed for the first answer, 31 bits of H("answer", seed, index) for the others.

    So the first of n answers is drawn as a single one would be.
    """
    return seed if index == 0 else int(digest_of("answer", seed, index)[:8], 16) & 0x7FFF_FFFF


def chosen(request: ChatRequest, joint: Sequence[float]) -> tuple[Completion, ...]:
    """The request's n answers, given log p(choice | messages) of each choice in its order."""
    top = max(joint)
    total = top + math.log(math.fsum(math.exp(value - top) for value in joint))
    logprobs = {choice: value - total for choice, value in zip(request.choices, joint, strict=True)}
    seeds = [answer_seed(request.seed or 0, index) for index in range(request.n)]
    drawn = [draw_choice(logprobs, request.sampling.temperature, seed) for seed in seeds]
    return tuple(Completion(choice, choice_logprobs=logprobs) for choice in drawn)


def draw_choice(logprobs: Mapping[str, float], temperature: float, seed: int) -> str:
    """The most probable choice at temperature 0 (the first of equals), else one drawn by the seed."""
    best = max(logprobs, key=lambda choice: logprobs[choice])
    if temperature <= 0:
        return best
    weights = {choice: math.exp((value - logprobs[best]) / temperature) for choice, value in logprobs.items()}
    point = int(digest_of("choice", seed)[:13], 16) / 16**13 * math.fsum(weights.values())
    for choice, weight in weights.items():
        point -= weight
        if point < 0:
            return choice
    return best
