"""The plan of a pool: how many people of which kind are wanted, what is still lacking, and where a text stands.

Data model: axes (simulation/persona_axes.py) for one kind; counts of values that a pool's texts were found to have;
their difference as lacks. `tag` reads values from anybody's text by word lists, so composed, imported and generated
items are counted alike. What rules cannot tell stays absent, and absent is not lacking: it is unknown.

Invariant: the same pool and plan give the same lacks in the same order, whatever order the pool was counted in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from simulation.persona_axes import Axes, Axis, shipped_axes
from simulation.persona_composer import Lives, lives, regions, traits
from trees.personas import Kind, pronouns_of

_AGE = re.compile(
    r"\b(\d{1,3})[- ]years?[- ]old\b|\b(?:is|are|aged|at|turned|'s|’s)\s+(?:an?\s+)?(\d{1,3})\b(?!\s*(?:%|years? ago))",
    re.IGNORECASE,
)
_NOT_LITERAL = re.compile(r"~[a-z'-]+|\{\w+\}|\b(?:he|him|his|himself)\b", re.IGNORECASE)
_LEAST_LITERAL = 9
"""Characters of a composed sentence that tell it from any other."""


class Lack(NamedTuple):
    """A value of which the pool has fewer than the plan wants."""

    axis: str
    value: str
    deficit: int
    """People, at least 1."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pool of one kind should be made of."""

    kind: Kind
    axes: Axes

    def targets(self, axis: str, size: int) -> dict[str, int]:
        """People of each value in a pool of `size`: quotas as they are, the rest by weight, in largest remainders."""
        values = self.axes.of(self.kind)[axis].values
        fixed = {name: value.quota for name, value in values.items() if value.quota is not None}
        weights = {name: value.weight for name, value in values.items() if name not in fixed}
        shared = _shares(weights, max(0, size - sum(fixed.values())))
        return {name: fixed.get(name, shared.get(name, 0)) for name in values}

    def drawn_by(self, counts: Mapping[str, Mapping[str, int]], size: int) -> Axes:
        """The axes as what no wish names is drawn in a pool counted so far: of a quota what is left of it.

        As weights, quotas would outweigh all the other values, whose weights are relative.
        """
        shared = {
            name: _quotas_as_weights(axis, counts.get(name, {}), size) for name, axis in self.axes.of(self.kind).items()
        }
        return self.axes.model_copy(update={self.kind: shared})

    def lacks(self, counts: Mapping[str, Mapping[str, int]], size: int) -> list[Lack]:
        """What a pool counted so far lacks of `size`: quotas, then the largest share of its target first; ties in
        file order.
        """
        found = []
        for axis in self.axes.of(self.kind):
            have, values = counts.get(axis, {}), self.axes.of(self.kind)[axis].values
            for value, target in self.targets(axis, size).items():
                if have.get(value, 0) < target:
                    lack = Lack(axis, value, target - have.get(value, 0))
                    found.append((values[value].quota is None, -lack.deficit / target, -lack.deficit, lack))
        return [lack for *_, lack in sorted(found, key=lambda row: row[:3])]

    def wanted(self, lacks: Sequence[Lack]) -> dict[str, str]:
        """Of what is lacking as much as goes together, the first first: what to compose, or ask for, next."""
        chosen: dict[str, str] = {}
        for lack in lacks:
            together = {**chosen, lack.axis: lack.value}
            if lack.axis not in chosen and self._goes_together(together):
                chosen = together
        return chosen

    def ask(self, lacks: Sequence[Lack], at_most: int = 4) -> str:
        """A sentence for a generator's prompt that names what lacks most, one value of an axis; empty if nothing."""
        chosen: dict[str, str] = {}
        for lack in lacks:
            if len(chosen) < at_most:
                chosen.setdefault(lack.axis, lack.value)
        if not chosen:
            return ""
        people = [f"somebody who {self.axes.of(self.kind)[axis].values[value].says}" for axis, value in chosen.items()]
        return f"The collection still lacks people of some kinds. Include {_and(people)}."

    def _goes_together(self, values: Mapping[str, str]) -> bool:
        if self.kind == "personality":
            return self.axes.clash(self.kind, values, 0) is None
        bounds = self.axes.profile["age"].values
        bands = [bounds[values["age"]]] if "age" in values else [band for band in bounds.values() if band.wanted]
        ages = [age for band in bands for age in range(band.from_ or 0, (band.to or 0) + 1)]
        return any(self.axes.clash(self.kind, values, age) is None for age in ages)


def count(texts: Sequence[str], kind: Kind, axes: Axes | None = None) -> dict[str, dict[str, int]]:
    """How many of the texts have which value, by axis; texts that do not tell an axis are counted under none."""
    axes = axes or shipped_axes()
    counts: dict[str, dict[str, int]] = {axis: dict.fromkeys(table.values, 0) for axis, table in axes.of(kind).items()}
    for text in texts:
        for axis, value in tag(text, kind, axes).items():
            counts[axis][value] += 1
    return counts


def tag(text: str, kind: Kind, axes: Axes | None = None) -> dict[str, str]:
    """The values that a text tells, by rules; an axis that it does not tell is absent."""
    axes = axes or shipped_axes()
    found: dict[str, str] = {}
    for name, axis in axes.of(kind).items():
        value = _special(name, kind, axis, text) if name in ("pronouns", "age") else _by_words(kind, name, axis, text)
        if value is not None:
            found[name] = value
    return found


def _special(name: str, kind: Kind, axis: Axis, text: str) -> str | None:
    if name == "pronouns":
        pronouns = pronouns_of(text)
        return pronouns if pronouns in axis.values else None
    if kind == "personality":
        return None
    years = next((int(age.group(1) or age.group(2)) for age in _AGE.finditer(text)), None)
    if years is None:
        return None
    spans = [value for value, band in axis.values.items() if (band.from_ or 0) <= years <= (band.to or 0)]
    return spans[0] if spans else None


def _by_words(kind: Kind, name: str, axis: Axis, text: str) -> str | None:
    """The value whose word is found: an overriding one, else the longest word or the first, as the axis says."""
    hits = []
    for value, table in axis.values.items():
        pattern = _pattern((*table.words, *_composed_words(kind, name, value), *_literals(table.facts)))
        for match in pattern.finditer(text) if pattern else ():
            hits.append((not table.overrides, match.start(), -len(match.group()), value))
    by_length = axis.tagged_by == "longest"
    best = min(hits, key=lambda hit: (hit[0], hit[2], hit[1]) if by_length else hit[:3], default=None)
    return best[3] if best else None


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    if not words:
        return None
    longest_first = sorted(set(words), key=lambda word: (-len(word), word))
    either = "|".join(re.escape(word).replace(r"\#", r"\d") for word in longest_first)
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)


@cache
def _composed_words(kind: Kind, axis: str, value: str) -> tuple[str, ...]:
    """What the composer's own sentences say for a value."""
    if kind == "personality":
        return tuple(_literals(sentence.says for sentence in traits().get(axis, {}).get(value, ())))
    return tuple(_words_of_lives(lives(), axis, value))


def _words_of_lives(table: Lives, axis: str, value: str) -> Iterator[str]:
    if axis == "work":
        yield from (job.job for job in table.jobs.get(value, ()))
    elif axis == "interest":
        yield from (interest.ing for interest in table.interests.get(value, ()))
        yield from _literals(fact for interest in table.interests.get(value, ()) for fact in interest.facts)
    elif axis == "region" and value in regions():
        for place in regions()[value].places:
            yield from (place.name, place.country.removeprefix("the "))
    elif axis == "home":
        yield from (
            place.called or place.name
            for region in regions().values()
            for place in region.places
            if place.home == value and value != "village"
        )
        yield from ("a village in", "rural") if value == "village" else ()
    elif axis in ("life", "possession"):
        sentences = (table.life if axis == "life" else table.possession).get(value, ())
        yield from _literals(sentence.says for sentence in sentences)


def _literals(sentences: Iterator[str] | Sequence[str]) -> Iterator[str]:
    """The longest part of each sentence that reads the same whoever it is about."""
    for sentence in sentences:
        longest = max((part.strip(" .,") for part in _NOT_LITERAL.split(sentence)), key=len)
        if len(longest) >= _LEAST_LITERAL:
            yield longest


def _quotas_as_weights(axis: Axis, counts: Mapping[str, int], size: int) -> Axis:
    quotas = {name: value.quota for name, value in axis.values.items() if value.quota is not None}
    if not quotas:
        return axis
    left = {name: float(max(0, quota - counts.get(name, 0))) for name, quota in quotas.items()}
    others = {name: value.weight for name, value in axis.values.items() if name not in quotas}
    scale = max(0, size - sum(quotas.values())) / (sum(others.values()) or 1)
    weights = left | {name: weight * scale for name, weight in others.items()}
    if not any(weights.values()):
        weights = {name: float(quotas.get(name, 0)) for name in axis.values}
    drawn = {n: v.model_copy(update={"weight": weights[n], "quota": None}) for n, v in axis.values.items()}
    return axis.model_copy(update={"values": drawn})


def _shares(weights: Mapping[str, float], size: int) -> dict[str, int]:
    total = sum(weights.values())
    if not total:
        return dict.fromkeys(weights, 0)
    exact = {name: size * weight / total for name, weight in weights.items()}
    whole = {name: int(share) for name, share in exact.items()}
    left = size - sum(whole.values())
    for name in sorted(exact, key=lambda name: whole[name] - exact[name])[:left]:
        whole[name] += 1
    return whole


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
