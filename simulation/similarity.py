"""How alike the items of a pool are: nearest neighbours and diversity, over vectors of length 1.

Invariant: a `Neighbourhood` holds each item's vector once, in the order in which items joined; similarity is the
cosine, which for such vectors is their product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.embedders import Vectors

_ROWS = 1024
"""Rows compared with everything at once, so that memory grows with the pool and not with its square."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The item most like another."""

    id: str
    similarity: float


class Neighbourhood:
    """Items with their vectors, for asking which is nearest. Grows at its end."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self._vectors: Vectors = np.zeros((0, 0), dtype=np.float32)
        self._greatest: NDArray[np.float32] = np.zeros(0, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def vectors(self) -> Vectors:
        """One row an item, in order of `ids`."""
        return self._vectors[: len(self.ids)]

    def add(self, ids: Sequence[str], vectors: Vectors) -> None:
        """Let items join."""
        needed = len(self.ids) + len(ids)
        if needed > len(self._vectors):
            grown = np.zeros((max(needed, 2 * len(self._vectors), 64), vectors.shape[1]), dtype=np.float32)
            if self.ids:
                grown[: len(self.ids)] = self.vectors
            self._vectors = grown
        self._vectors[len(self.ids) : needed] = vectors
        self.ids += ids

    def greatest(self) -> NDArray[np.float32]:
        """Each item's greatest similarity to another, 0 for one that is alone.

        Kept, so that only what joined since the last time is compared with the others.
        """
        known, size = len(self._greatest), len(self.ids)
        if known < size:
            self._greatest = np.concatenate([self._greatest, np.full(size - known, -2, dtype=np.float32)])
        for begin in range(known, size, _ROWS):
            alike = self.vectors[begin : begin + _ROWS] @ self.vectors.T
            rows = np.arange(len(alike))
            alike[rows, rows + begin] = -2
            self._greatest[begin : begin + _ROWS] = alike.max(axis=1)
            self._greatest[:known] = np.maximum(self._greatest[:known], alike[:, :known].max(axis=0))
        return self._greatest if size > 1 else np.zeros(size, dtype=np.float32)

    def nearest(self, vectors: Vectors) -> list[Nearest | None]:
        """The most similar item to each row; None while nobody is there. Of equals the one that joined first."""
        if not self.ids:
            return [None] * len(vectors)
        found: list[Nearest | None] = []
        for begin in range(0, len(vectors), _ROWS):
            alike = vectors[begin : begin + _ROWS] @ self.vectors.T
            best = alike.argmax(axis=1)
            found += [Nearest(self.ids[at], float(alike[row, at])) for row, at in enumerate(best)]
        return found


def nearest_similarities(vectors: Vectors) -> NDArray[np.float32]:
    """Each row's greatest similarity to another row; 0 for a row that is alone."""
    nearest = np.zeros(len(vectors), dtype=np.float32)
    if len(vectors) < 2:
        return nearest
    for begin in range(0, len(vectors), _ROWS):
        alike = vectors[begin : begin + _ROWS] @ vectors.T
        rows = np.arange(len(alike))
        alike[rows, rows + begin] = -2
        nearest[begin : begin + _ROWS] = alike.max(axis=1)
    return nearest


def closest_pairs(vectors: Vectors, count: int | None, least: float = -2.0) -> list[tuple[int, int, float]]:
    """The pairs of rows that are most alike, the most similar first: `count` of them (None: all) from `least` on."""
    alike = vectors @ vectors.T
    first, second = np.triu_indices(len(vectors), k=1)
    values = alike[first, second]
    order = np.argsort(-values, kind="stable")[:count]
    order = order[values[order] >= least]
    return [(int(first[at]), int(second[at]), float(values[at])) for at in order]


def vendi_score(vectors: Vectors) -> float:
    """The effective number of different items: exp of the entropy of the eigenvalues of K/n.

    K is the matrix of cosines (Friedman & Dieng 2023, The Vendi Score, arXiv 2210.02410, equation 2). Its nonzero
    eigenvalues are those of the smaller Gram matrix, whichever way round. 0 for no items, 1 if all are the same.
    """
    if not len(vectors):
        return 0.0
    rows = vectors.astype(np.float64)
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    shares = np.linalg.eigvalsh(gram / len(rows))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def plane(vectors: Vectors) -> NDArray[np.float64]:
    """Coordinates of each row in the plane that keeps most of the spread (principal components), signs fixed."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    if len(vectors) < 3:
        return np.zeros((len(vectors), 2))
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[:2][np.arange(2), np.abs(right[:2]).argmax(axis=1)])
    coordinates: NDArray[np.float64] = left[:, :2] * sizes[:2] * signs
    return coordinates
