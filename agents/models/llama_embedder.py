"""Embeddings from a chat model: the mean of its last layer over a text's tokens, scaled to length one.

They come from a context of their own, made at first use, so that the cache of prefixes is left alone. The
mean is taken here rather than by llama.cpp, whose pooling sees only what was decoded in one go.

Invariant: a text's vector depends on that text alone; the context is cleared before each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agents.models.llama_native import Context, ContextOptions, NativeFailure, Weights


class Embedder:
    def __init__(self, weights: Weights, options: ContextOptions) -> None:
        self._weights = weights
        self._options = options

    @cached_property
    def _context(self) -> Context:
        return Context(self._weights, self._options)

    def embed(self, tokens: Sequence[int]) -> list[float]:
        """The vector of a text of at least one token and at most the context's cells."""
        self._context.clear()
        size = self._context.capacity
        sums = [self._decode(tokens[start : start + size], start) for start in range(0, len(tokens), size)]
        total = np.sum(sums, axis=0)
        length = float(np.linalg.norm(total)) or 1.0
        return [float(value) / length for value in total]

    def _decode(self, tokens: Sequence[int], start: int) -> NDArray[np.float64]:
        context = self._context
        context.clear_batch()
        places = [context.add(token, start + offset, 0, output=True) for offset, token in enumerate(tokens)]
        if not context.decode():
            raise NativeFailure("an empty cache has no room for a text that fits it")
        rows = np.stack([context.embedding(place) for place in places])
        total: NDArray[np.float64] = rows.sum(axis=0, dtype=np.float64)
        return total
