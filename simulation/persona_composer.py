"""Profiles and personalities composed without a model, from tables of sentences that go together.

Data model: a value of each axis is drawn (those wanted are given), by weight and within the rules; then a sentence for
each, out of persona_lives.toml, persona_places.toml and persona_traits.toml, among those that fit the age, the place
and the other values. Tables are written about "he"; a verb marked ~ is his and follows the pronoun.

Invariant: the same seed, axes and wishes give the same text; no rule is broken; `values` holds what the text tells.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulation.persona_axes import OLDEST, Axes, Axis, require_value
from trees.errors import SetupError
from trees.personas import Kind

PROFILE_WORDS = (42, 62)
"""Fewest and most words of a composed profile; those released with arXiv 2410.03642 have 36 to 73, half 47 to 55."""
PERSONALITY_WORDS = (50, 75)
"""Likewise; the released ones have 42 to 102, half 56 to 69."""
ROOM = (44, 52)
"""Words from which on a profile gets no further sentence; drawn for each."""
TRAITS = (7, 8)
"""Fewest and most sentences of a personality."""
MOST_WISHES: Mapping[Kind, int] = {"profile": 5, "personality": TRAITS[1] - 1}
"""What `compose_nearest` tries to meet at once; a personality's way of writing is told beside it."""
ATTEMPTS = 400
FEW_ATTEMPTS = 40
"""Before a wish is given up."""
PUPILS_TO = 18
RETIRED_FROM = 58
LATEST_CHANGE = 55
"""Ages in years."""
_NUMBERS = ("two", "three")
_FEW = ("three", "four", "five", "six", "seven", "eight", "nine")
_FORMS: Mapping[str, Mapping[str, str]] = {
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "they": {"he": "they", "him": "them", "his": "their", "himself": "themselves"},
}
_PARTNERS: Mapping[str, str] = {"he": "wife", "she": "husband", "they": "partner"}
_PLURALS: Mapping[str, str] = {"is": "are", "was": "were", "has": "have", "does": "do", "goes": "go"}
_HIS = re.compile(r"\b(he|him|his|himself)\b", re.IGNORECASE)
_VERB = re.compile(r"~([a-z'-]+)")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=(?:[aeio]|u(?!ni|s|k)|8\d*\b|11\b|18\b))")
_IF_ROOM = ("life", "possession")
_SECOND_INTEREST = "another interest"
_BY_FACTS = frozenset({"family", "interest", "life", "possession"})
"""Axes of profiles for which a value of one's own can be told by its `facts` alone."""
_NO_HABITS = frozenset({"~has", "~is", "~was", "~took", "~learned", "~inherited", "~knows", "~starts"})
_F = TypeVar("_F", bound="_Fragment")


@dataclass(frozen=True, slots=True)
class Composed:
    text: str
    values: Mapping[str, str]
    """Axis to value, for the axes that the text tells."""


class _Fragment(BaseModel):
    """What may be said, and of whom."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_: int = Field(0, alias="from")
    to: int = OLDEST
    near: Literal["", "sea", "water", "mountains", "forest", "snow"] = ""
    only: Literal["", "she", "he", "they"] = ""
    needs: dict[str, tuple[str, ...]] = {}
    never: dict[str, tuple[str, ...]] = {}


class Sentence(_Fragment):
    says: str

    @model_validator(mode="before")
    @classmethod
    def _a_plain_text_has_no_conditions(cls, data: object) -> object:
        return {"says": data} if isinstance(data, str) else data


class Job(_Fragment):
    job: str
    school: str
    """The schoolings that lead to it."""
    field: str = ""
    does: tuple[str, ...]


class Interest(_Fragment):
    ing: str
    facts: tuple[str, ...]


class Students(BaseModel):
    fields: tuple[str, ...]
    jobs: tuple[str, ...]


class Place(BaseModel):
    name: str
    country: str
    called: str = ""
    home: str
    near: tuple[str, ...]


class Region(BaseModel):
    girls: tuple[str, ...]
    boys: tuple[str, ...]
    places: tuple[Place, ...]


class Lives(BaseModel):
    model_config = ConfigDict(extra="forbid")

    pets: tuple[str, ...]
    jobs: dict[str, tuple[Job, ...]]
    students: Students
    interests: dict[str, tuple[Interest, ...]]
    family: dict[str, tuple[Sentence, ...]]
    life: dict[str, tuple[Sentence, ...]]
    possession: dict[str, tuple[Sentence, ...]]
    openings: tuple[Sentence, ...]
    homes: tuple[Sentence, ...]
    work: dict[str, tuple[str, ...]]


@cache
def lives() -> Lives:
    return Lives.model_validate(_table("persona_lives.toml"))


@cache
def regions() -> Mapping[str, Region]:
    return {name: Region.model_validate(table) for name, table in _table("persona_places.toml").items()}


@cache
def traits() -> Mapping[str, Mapping[str, tuple[Sentence, ...]]]:
    """Axis, value, sentences."""
    return {
        axis: {value: tuple(Sentence.model_validate(row) for row in rows) for value, rows in table.items()}
        for axis, table in _table("persona_traits.toml").items()
    }


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Who is to be composed."""

    values: Mapping[str, str]
    age: int
    """In years; 0 for a personality."""
    place: Place | None

    def fits(self, item: _Fragment) -> bool:
        return (
            (not self.age or item.from_ <= self.age <= item.to)
            and item.only in ("", self.values["pronouns"])
            and (not item.near or self._is_near(item.near))
            and all(self.values.get(axis) in wanted for axis, wanted in item.needs.items())
            and not any(self.values.get(axis) in ruled_out for axis, ruled_out in item.never.items())
        )

    def _is_near(self, what: str) -> bool:
        near = self.place.near if self.place else ()
        return what in near or (what == "water" and "sea" in near)


class _DeadEnd(Exception):
    """Nothing fits what was drawn so far."""


def compose_profile(seed: int, axes: Axes, wanted: Mapping[str, str] | None = None) -> Composed:
    """A profile of PROFILE_WORDS. Raises SetupError if a wish is unknown, or if the wishes do not go together."""
    return _compose("profile", seed, axes, wanted or {})


def compose_personality(seed: int, axes: Axes, wanted: Mapping[str, str] | None = None) -> Composed:
    """A personality of TRAITS sentences and PERSONALITY_WORDS. Raises SetupError as `compose_profile` does."""
    return _compose("personality", seed, axes, wanted or {})


def compose_nearest(kind: Kind, seed: int, axes: Axes, wanted: Mapping[str, str]) -> Composed:
    """As many of the wishes as go into one text, the first first. Raises SetupError if nothing can be composed at all.

    What is lacking names a value of nearly every axis, and no text has room for a sentence on each.
    """
    wishes = dict(list(wanted.items())[: MOST_WISHES[kind]])
    while True:
        try:
            return _compose(kind, seed, axes, wishes, FEW_ATTEMPTS if wishes else ATTEMPTS)
        except SetupError:
            if not wishes:
                raise
            wishes.popitem()


def _compose(kind: Kind, seed: int, axes: Axes, wanted: Mapping[str, str], attempts: int = ATTEMPTS) -> Composed:
    for axis, value in wanted.items():
        require_value(axes, kind, axis, value)
        if not composable(kind, axes, axis, value):
            raise SetupError(
                f"the composer has no words for {kind}.{axis} = {value!r}",
                hint="Give the value `facts` in the plan, or have a model write the pool.",
            )
    rng = random.Random(seed)
    fewest, most = PROFILE_WORDS if kind == "profile" else PERSONALITY_WORDS
    for _ in range(attempts):
        try:
            drawn = _draw(rng, kind, axes, wanted)
            made = _profile(rng, axes, drawn, wanted) if kind == "profile" else _personality(rng, axes, drawn, wanted)
        except _DeadEnd:
            continue
        if fewest <= len(made.text.split()) <= most:
            return made
    wishes = ", ".join(f"{axis} = {value!r}" for axis, value in wanted.items())
    raise SetupError(f"no {kind} could be composed with {wishes or 'this plan'}", hint=_why_not(kind, axes, wanted))


def _why_not(kind: Kind, axes: Axes, wanted: Mapping[str, str]) -> str:
    ages = range(1, OLDEST) if kind == "profile" and "age" not in wanted else (_first_year(axes, wanted),)
    clashes = [axes.clash(kind, wanted, age) for age in ages]
    if all(clashes):
        return f"They do not go together: {clashes[0]}."
    if mute := [axis for axis in axes.of(kind) if axis in _own_words(kind) and not _told_of(kind, axes, axis)]:
        return f"The composer has no words for any value wanted of {', '.join(mute)}: give one `facts` or more weight."
    return "No sentences of the tables fit all of it; ask for less at a time."


def _first_year(axes: Axes, wanted: Mapping[str, str]) -> int:
    return axes.profile["age"].values[wanted["age"]].from_ or 0 if "age" in wanted else 0


def composable(kind: Kind, axes: Axes, axis: str, value: str) -> bool:
    """Whether there are words for a value, in the tables or in the plan."""
    if axes.of(kind)[axis].values[value].facts:
        return axis in _BY_FACTS or kind == "personality" or axis not in _own_words(kind)
    shipped = _own_words(kind).get(axis)
    return shipped is not None and (axis == "age" or value in shipped)


@cache
def _own_words(kind: Kind) -> Mapping[str, frozenset[str]]:
    """The values of each axis that the tables have words for; of ages any."""
    pronouns = frozenset(("she", "he", "they"))
    if kind == "personality":
        return {"pronouns": pronouns} | {axis: frozenset(values) for axis, values in traits().items()}
    table = lives()
    return {
        "pronouns": pronouns,
        "age": frozenset(),
        "region": frozenset(regions()),
        "home": frozenset(place.home for region in regions().values() for place in region.places),
        "work": frozenset(table.jobs) | {"student", "retired", "out of work"},
        "schooling": frozenset(school for jobs in table.jobs.values() for job in jobs for school in job.school.split()),
        "family": frozenset(table.family),
        "interest": frozenset(table.interests),
        "life": frozenset(table.life),
        "possession": frozenset(table.possession),
    }


def _draw(rng: random.Random, kind: Kind, axes: Axes, wanted: Mapping[str, str]) -> _Drawn:
    """A value of every axis that can be told, the wanted ones given, by weight and within the rules."""
    values = dict(wanted)
    age = 0
    if kind == "profile":
        band = values.setdefault("age", _pick(rng, axes.profile["age"], list(axes.profile["age"].values)))
        bounds = axes.profile["age"].values[band]
        age = rng.randint(bounds.from_ or 0, bounds.to or OLDEST)
    for name, axis in axes.of(kind).items():
        if name not in values and (name in _own_words(kind) or _told_of(kind, axes, name)):
            open_ = [value for value in axis.values if _goes_with(kind, axes, values, age, name, value)]
            values[name] = _pick(rng, axis, open_)
    if axes.clash(kind, values, age):
        raise _DeadEnd
    places = _places(values) if kind == "profile" else []
    return _Drawn(values, age, rng.choice(places) if places else None)


def _told_of(kind: Kind, axes: Axes, axis: str) -> bool:
    """Whether there are words for any value that is wanted of an axis; a model's pool may vary in more."""
    return any(
        value.wanted and composable(kind, axes, axis, name) for name, value in axes.of(kind)[axis].values.items()
    )


def _goes_with(kind: Kind, axes: Axes, values: Mapping[str, str], age: int, axis: str, value: str) -> bool:
    return composable(kind, axes, axis, value) and not axes.clash(kind, {**values, axis: value}, age)


def _pick(rng: random.Random, axis: Axis, names: Sequence[str]) -> str:
    """By weight; a quota counts as a weight here, since who composes asks for quotas by name."""
    weights = [value.weight if value.quota is None else value.quota for value in (axis.values[name] for name in names)]
    if not sum(weights):
        raise _DeadEnd
    return rng.choices(names, weights)[0]


def _places(values: Mapping[str, str]) -> list[Place]:
    places = [place for place in regions()[values["region"]].places if place.home == values["home"]]
    if not places:
        raise _DeadEnd
    return places


def _profile(rng: random.Random, axes: Axes, drawn: _Drawn, wanted: Mapping[str, str]) -> Composed:
    table, values, place = lives(), drawn.values, drawn.place
    assert place is not None, "a profile is drawn with a place"
    job = _job(rng, drawn)
    interest = _interest(rng, axes, drawn)
    slots = _slots(rng, drawn, place) | {"ing": interest.ing, "field": job.field}
    openings = [opening for opening in table.openings if interest.ing or "{ing}" not in opening.says]
    lines = [_one(rng, drawn, openings).says]
    slots["job"] = _title(job, values["work"])
    slots["place"] = _where(place)
    if "{place}" not in lines[0]:
        named = "{country}" not in lines[0]
        lines.append(_one(rng, drawn, [home for home in table.homes if ("{place}" in home.says) == named]).says)
    work, family = _work(rng, drawn, job), [_sentence(rng, axes, drawn, "family")]
    lines += [*rng.choice([work + family, family + work]), rng.choice(interest.facts)]
    lines += [_sentence(rng, axes, drawn, axis) for axis in values if axis not in _own_words("profile")]
    told = {axis: value for axis, value in values.items() if axis not in _IF_ROOM}
    room = rng.randint(*ROOM)
    for axis in _extras(rng, wanted):
        if axis in wanted or _length(lines, slots) < room:
            lines.append(_extra(rng, axes, drawn, axis))
            told |= {axis: values[axis]} if axis in values else {}
    return Composed(" ".join(_told(line, values["pronouns"], slots) for line in lines), told)


def _extras(rng: random.Random, wanted: Mapping[str, str]) -> list[str]:
    """What is added while there is room, what is wanted first."""
    extras = rng.sample(_IF_ROOM, len(_IF_ROOM))
    return [*sorted(extras, key=lambda axis: axis not in wanted), _SECOND_INTEREST]


def _extra(rng: random.Random, axes: Axes, drawn: _Drawn, axis: str) -> str:
    if axis != _SECOND_INTEREST:
        return _sentence(rng, axes, drawn, axis)
    table = lives().interests
    others = [one for name in table if name != drawn.values["interest"] for one in table[name]]
    return f"He also ~enjoys {_one(rng, drawn, others).ing}."


def _sentence(rng: random.Random, axes: Axes, drawn: _Drawn, axis: str) -> str:
    """One that tells the value drawn for an axis: the plan's own facts, else the tables' sentences."""
    value = drawn.values[axis]
    if own := axes.profile[axis].values[value].facts:
        return rng.choice(own)
    table = lives()
    sentences = {"family": table.family, "life": table.life, "possession": table.possession}[axis]
    return _one(rng, drawn, sentences[value]).says


def _interest(rng: random.Random, axes: Axes, drawn: _Drawn) -> Interest:
    value = drawn.values["interest"]
    if own := axes.profile["interest"].values[value].facts:
        return Interest(ing="", facts=own)
    return _one(rng, drawn, lives().interests[value])


def _one(rng: random.Random, drawn: _Drawn, items: Sequence[_F]) -> _F:
    fitting = [item for item in items if drawn.fits(item)]
    if not fitting:
        raise _DeadEnd
    return rng.choice(fitting)


def _job(rng: random.Random, drawn: _Drawn) -> Job:
    """A job that fits person and schooling; of who has none (any more), the one that was left."""
    work, schooling = drawn.values["work"], drawn.values["schooling"]
    table = lives()
    if work == "student":
        pupil = schooling == "secondary"
        if pupil == (drawn.age > PUPILS_TO):
            raise _DeadEnd
        field = "" if pupil else rng.choice(table.students.fields)
        return Job(job="high school student" if pupil else "student", school=schooling, field=field, does=())
    open_ = table.jobs.get(work) or [job for jobs in table.jobs.values() for job in jobs]
    then = replace(drawn, age=min(drawn.age, RETIRED_FROM)) if work == "retired" else drawn
    return _one(rng, then, [job for job in open_ if schooling in job.school.split()])


def _title(job: Job, work: str) -> str:
    return {"retired": "retired ", "out of work": "former "}.get(work, "") + job.job


def _work(rng: random.Random, drawn: _Drawn, job: Job) -> list[str]:
    """Schooling and work, mostly in one sentence."""
    work, schooling, frames = drawn.values["work"], drawn.values["schooling"], lives().work
    if work == "student":
        frame = rng.choice(frames["pupil" if schooling == "secondary" else "student"])
        return [frame, rng.choice(lives().students.jobs)]
    fitting = [frame for frame in frames[schooling] if job.field or "{field}" not in frame]
    return [rng.choice(fitting).replace("{does}", _does(rng, work, job)).replace("{job}", job.job)]


def _does(rng: random.Random, work: str, job: Job) -> str:
    """What the person does, as a verb phrase. What was done habitually, "runs a shop", becomes "used to run a shop"."""
    if work not in ("retired", "out of work"):
        return rng.choice(job.does)
    frame = rng.choice(lives().work["retired" if work == "retired" else "searching"])
    habits = [does for does in job.does if does.split()[0] not in _NO_HABITS]
    if "{do}" in frame and not habits:
        raise _DeadEnd
    return (
        frame.replace("{do}", _VERB.sub(lambda verb: _plural(verb.group(1)), rng.choice(habits))) if habits else frame
    )


def _slots(rng: random.Random, drawn: _Drawn, place: Place) -> dict[str, str]:
    """What stands in braces, by name."""
    age = drawn.age
    region = regions()[drawn.values["region"]]
    jobs = [job.job for category in lives().jobs.values() for job in category if not job.only]
    elsewhere = {other.country for name, there in regions().items() for other in there.places} - {place.country}
    latest_past = max(age // 2 + 8, min(age - 3, LATEST_CHANGE))
    return {
        "age": str(age),
        "country": place.country,
        "girl": rng.choice(region.girls),
        "boy": rng.choice(region.boys),
        "n": rng.choice(_NUMBERS),
        "few": rng.choice(_FEW),
        "wife": _PARTNERS[drawn.values["pronouns"]],
        "age_small": str(rng.randint(3, max(3, min(9, age - 20)))),
        "age_teen": str(rng.randint(13, 17)),
        "years": str(rng.randint(25, max(25, min(45, age - 24)))),
        "past": str(rng.randint(min(age // 2 + 8, latest_past), latest_past)),
        "abroad": rng.choice(sorted(elsewhere)),
        "spouse": rng.choice(jobs),
        "pet": rng.choice(lives().pets),
    }


def _where(place: Place) -> str:
    name = place.called or (f"a village in {place.name}" if place.home == "village" else place.name)
    return f"{name}, {place.country}" if not place.called and place.country not in name else name


def _personality(rng: random.Random, axes: Axes, drawn: _Drawn, wanted: Mapping[str, str]) -> Composed:
    """Its way of writing is always told."""
    axes_told = [
        axis for axis in axes.personality if axis in drawn.values and axis not in ("pronouns", "register", *wanted)
    ]
    must = [axis for axis in (*wanted, "register") if axis in axes.personality and axis != "pronouns"]
    told = list(dict.fromkeys(must))
    told += rng.sample(axes_told, min(len(axes_told), max(0, rng.randint(*TRAITS) - len(told))))
    rng.shuffle(told)
    lines = [_trait(rng, axes, drawn, axis) for axis in told]
    values = {axis: drawn.values[axis] for axis in ("pronouns", *told)}
    return Composed(" ".join(_told(line, drawn.values["pronouns"], {}) for line in lines), values)


def _trait(rng: random.Random, axes: Axes, drawn: _Drawn, axis: str) -> str:
    value = drawn.values[axis]
    own = axes.personality[axis].values[value].facts
    return rng.choice(own) if own else _one(rng, drawn, traits()[axis][value]).says


def _length(lines: Sequence[str], slots: Mapping[str, str]) -> int:
    return sum(len(_told(line, "he", slots).split()) for line in lines)


def _told(line: str, pronouns: str, slots: Mapping[str, str]) -> str:
    """A sentence of the tables about this person."""
    voiced = in_voice(line, pronouns)
    filled = _SLOT.sub(lambda slot: slots[slot.group(1)], _closed(voiced, slots))
    return _ARTICLE.sub(r"\1n ", filled)


def _closed(line: str, slots: Mapping[str, str]) -> str:
    """With a comma after a place that has one, where the sentence goes on: `in Naples, Italy, and ...`."""
    comma = "," if "," in slots.get("place", "") else ""
    return re.sub(r"(\{place\})(?= \w)", r"\1" + comma, line)


def in_voice(line: str, pronouns: str) -> str:
    """A sentence about "he", his verbs marked ~, with other pronouns: `He ~has his dog` as `They have their dog`."""
    they = pronouns == "they"
    line = _VERB.sub(lambda verb: _plural(verb.group(1)) if they else verb.group(1), line)
    forms = _FORMS.get(pronouns, {})
    return _HIS.sub(lambda his: _cased(forms.get(his.group().lower(), his.group()), his.group()), line)


def _cased(word: str, model: str) -> str:
    return word.capitalize() if model[0].isupper() else word


def _plural(verb: str) -> str:
    """A verb in the third person without its ending; past forms, which have none, stay."""
    if verb in _PLURALS:
        return _PLURALS[verb]
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    if verb.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return verb[:-2]
    return verb.removesuffix("s")


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("simulation") / "data" / name).read_text(encoding="utf-8"))
