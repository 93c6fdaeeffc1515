"""Figures of a benchmark: from scores of replies to curves, slopes, intervals and comparisons. Functions on arrays.

The data is a table of scores, a row a case and a column a turn, with NaN where a reply or its score is missing; every
case is one profile with one personality. AL(k) is the mean of column k. The cases are crossed (each profile with each
personality), so they are no independent sample: whatever has an interval here has one for both together.

What the figures cannot tell stands with each of them. The common traps: N-R2 is R2 of the same curve and no second
witness; N-IR throws away the size of the climb; curves that average fewer cases in late turns compare other people.

Invariant: nothing is imputed. A figure that its data does not define is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""From curves (..., turns) to one figure each (...), NaN where it is undefined."""

DRAWS = 2000
"""Bootstrap draws, and the seed below: the same scores always give the same interval."""
FLIPS = 9999
SEED = 20_241_003
LEVEL = 0.95
ALPHA = 0.05
LARGEST_UNDEFINED = 0.1
"""Above this share of bootstrap draws in which a figure is undefined it has no interval."""
_FLAT = 1e-12


@dataclass(frozen=True, slots=True)
class Table:
    """Scores of cases at turns, with what each case is made of."""

    scores: Array
    """(cases, turns); NaN: not scored."""
    profiles: tuple[str, ...]
    personalities: tuple[str, ...]

    def take(self, rows: Sequence[int]) -> Table:
        """Some of the cases."""
        chosen = list(rows)
        return Table(
            self.scores[chosen],
            tuple(self.profiles[i] for i in chosen),
            tuple(self.personalities[i] for i in chosen),
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval. None: undefined, or not to be had from these cases."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, slots=True)
class Summary:
    """What one model's scores come to."""

    cases: int
    n: tuple[int, ...]
    """Scored replies by turn."""
    levels: tuple[Estimate, ...]
    """AL(k) by turn, over the cases scored at that turn."""
    mean: Estimate
    ir: Estimate
    r2: Estimate
    n_ir: Estimate
    complete_cases: int
    """Cases that are scored at every turn."""
    complete_levels: tuple[float | None, ...]
    """AL(k) over those alone: the same people at every turn."""

    @property
    def equal_n(self) -> bool:
        return len(set(self.n)) <= 1


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a change of mood or taste did to the level."""

    change: int
    """The first turn under it."""
    before: Estimate
    """Mean level of the turns before it."""
    fall: Estimate
    """Level at the turn of the change, less that."""
    turns: int | None
    """Turns until the level is below what it was by no more than chance; 0 if it always was, None if it never is."""

    @property
    def fell(self) -> bool:
        """By more than chance, and by more than rounding."""
        return self.fall.high is not None and self.fall.high < -_FLAT


@dataclass(frozen=True, slots=True)
class Gap:
    """The share of the gap between a floor and a ceiling that a model closes."""

    cells: int
    """Cases x turns at which all three are scored."""
    turns: tuple[Estimate, ...]
    mean: Estimate
    """Of the mean levels over all turns."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Model A less model B, over replies to the same cases at the same turns."""

    cases: int
    cells: int
    """Pairs of scores: cases x turns where both are scored."""
    mean: Estimate
    ir: Estimate
    p_mean: float | None
    """Of the sign-flip test, before correction."""
    p_ir: float | None
    held_mean: float | None
    """The same after Holm's correction for all tests that were made together."""
    held_ir: float | None


# ---- curves


def alignment_levels(scores: Array) -> Array:
    """AL(k) = (1/N) sum over cases of the score at turn k (arXiv 2410.03642, section 4): the column means.

    Over the cases that are scored at that turn; NaN for a turn without any. Cannot tell: whether a late turn is lower
    because replies got worse or because other cases are left, unless every turn has the same n.
    """
    levels: Array = _weighted_levels(np.ones((1, len(scores))), scores)[0]
    return levels


def mean_level(curves: Array) -> Array:
    """(1/K) sum of AL(k): the average level, over the turns that have one.

    Cannot tell: whether the model learnt about the person. One that flatters everybody from turn 1 on scores high.
    """
    return _over_turns(curves)[0]


def slope(curves: Array) -> Array:
    """IR: b of the least-squares line b k + a through AL(k), in points a turn (arXiv 2505.15456, appendix C.3).

    b = sum (k - mean k) (AL(k) - mean AL) / sum (k - mean k)^2; the denominator is 82.5 for ten turns. NaN with fewer
    than two turns. Cannot tell: a straight climb from a jump, nor growth from a bad beginning; a model that begins at
    the ceiling has no room to climb.
    """
    return _fit(curves)[0]


def r_squared(curves: Array) -> Array:
    """R2 of the same line: 1 - residual / total sum of squares. NaN for a flat curve, which has nothing to
    explain, and with fewer than three turns, through which a line always goes.

    Cannot tell: up from down (a steady decline has R2 = 1), nor much from little. N-R2, the R2 of the line through the
    normalised curve, is this very number, since R2 does not change with scale and shift: it is never shown apart.
    """
    return _fit(curves)[1]


def normalised(curves: Array) -> Array:
    """N-AL(k) = (AL(k) - min) / (max - min) over the turns (arXiv 2505.15456). NaN for a flat curve."""
    low, high = np.fmin.reduce(curves, axis=-1, keepdims=True), np.fmax.reduce(curves, axis=-1, keepdims=True)
    span = high - low
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled: Array = (curves - low) / np.where(span > _flat_below(curves), span, np.nan)
    return scaled


def normalised_slope(curves: Array) -> Array:
    """N-IR: the slope of N-AL(k); equal to IR / (max - min). NaN for a flat curve and with fewer than three turns.

    Cannot tell: how much. A climb of 0.01 points and one of 2 points have the same N-IR if they have the same shape: a
    straight line over ten turns has 1/9, a step half-way 0.1515, and pure noise lies within about +-0.07. Read it only
    beside an IR whose interval excludes 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isfinite(curves).sum(axis=-1) >= 3, slope(normalised(curves)), np.nan)


def recovery_time(curve: Iterable[float | None], change: int, wanted: float) -> int | None:
    """Turns from a change until a curve is back: the first k >= change with curve(k) >= wanted, less change.

    0: it never fell below. None: not back by the end. Turns without a value are passed over.
    """
    back = (k for k, value in enumerate(curve, 1) if k >= change and value is not None and value >= wanted)
    found = next(back, None)
    return None if found is None else found - change


# ---- intervals


def estimate(table: Table, statistic: Statistic, *, draws: int = DRAWS, seed: int = SEED) -> Estimate:
    """A figure of the curve and its 95 % interval for new profiles and new personalities together.

    Scheme: three bootstraps resample cases, whole profiles and whole personalities, each with G/(G-1) for few clusters.
    The variance is that of the cases plus what each clustering adds to it (two-way clustering: Cameron, Gelbach and
    Miller, JBES 29, 2011, with the case term as the least it can be; why one way alone is too narrow: Owen, Ann. Appl.
    Stat. 1, 2007). The interval is value +- t x its root, with Satterthwaite's degrees of freedom: five personalities
    are a small sample, and the interval says so. Over 20 x 5 cases it covered in 93 to 97.5 % of simulations, with and
    without effects of profile and personality. A dimension with a single member has nothing to resample and counts as
    fixed; with both single there is no interval, nor where the figure is undefined in many draws. Cases without any
    score take no part, so that people who are not measured yet make no interval narrower.
    """
    table = _scored(table)
    if not len(table.scores):
        return Estimate(None)
    value = float(statistic(alignment_levels(table.scores)))
    if not math.isfinite(value):
        return Estimate(None)
    parts = [_variance(table.scores, ids, statistic, draws, seed + i) for i, ids in enumerate(_clusterings(table))]
    if any(math.isnan(variance) for variance, _ in parts):
        return Estimate(value)
    (by_profile, p), (by_personality, q), (by_case, n) = parts
    if p < 2 and q < 2:
        return Estimate(value)
    if p < 2 or q < 2:
        variance, freedom = max(by_profile, by_personality), max(p, q) - 1.0
    else:
        # What clusters add to the variance of independent cases; a negative sum of it is noise and counts as none.
        added = max(0.0, by_profile - by_case), max(0.0, by_personality - by_case)
        variance = by_case + sum(added)
        whole = (math.sqrt(added[0] * by_profile), p - 1), (math.sqrt(added[1] * by_personality), q - 1)
        freedom = _freedom(variance, ((by_case, n - 1), *whole))
    half = t_quantile((1 + LEVEL) / 2, freedom) * math.sqrt(variance)
    return Estimate(value, value - half, value + half)


def summarise(table: Table, *, draws: int = DRAWS) -> Summary:
    """The curve and the figures of one model."""
    scored = np.isfinite(table.scores)
    complete = table.scores[scored.all(axis=1)]
    turns = table.scores.shape[1]
    return Summary(
        cases=len(table.scores),
        n=tuple(int(count) for count in scored.sum(axis=0)),
        levels=tuple(estimate(_at(table, k), mean_level, draws=draws) for k in range(turns)),
        mean=estimate(table, mean_level, draws=draws),
        ir=estimate(table, slope, draws=draws),
        r2=_within(estimate(table, r_squared, draws=draws), 0.0, 1.0),
        n_ir=estimate(table, normalised_slope, draws=draws),
        complete_cases=len(complete),
        complete_levels=values_of(alignment_levels(complete) if len(complete) else np.full(turns, np.nan)),
    )


def values_of(curve: Array) -> tuple[float | None, ...]:
    """A curve as plain numbers, None for what is undefined."""
    return tuple(float(v) if math.isfinite(v) else None for v in curve)


def recovery(table: Table, change: int, *, draws: int = DRAWS) -> Recovery:
    """What a change at a turn (from 2) did, and how many turns the level took to be back where it was.

    before = (1 / (c-1)) sum of AL(k) over k < c; gap(k) = AL(k) - before, over the same resampled people, so that how
    much people differ from each other takes no part in it. The fall is gap(c); the level is back at the first k >= c at
    which the interval of gap(k) reaches 0. Without an interval (a single case) its value stands in, and nothing is
    called a fall. Cannot tell: back from too few people to see that it is not (the interval is wide then); nor a model
    that adapts at once from one that never took the old taste up and so had nothing to lose; read it with the level
    before, and with the ceiling's.
    """

    def gap(k: int) -> Estimate:
        return estimate(table, lambda curves: curves[..., k - 1] - mean_level(curves[..., : change - 1]), draws=draws)

    before = estimate(table, lambda curves: mean_level(curves[..., : change - 1]), draws=draws)
    fall = gap(change)
    later = (gap(k) for k in range(change + 1, table.scores.shape[1] + 1))
    highest = (one.value if one.high is None else one.high for one in chain([fall], later))
    back = recovery_time(chain([None] * (change - 1), highest), change, -_FLAT)
    return Recovery(change, before, fall, back)


# ---- comparisons


def compare(a: Table, b: Table, *, draws: int = DRAWS, seed: int = SEED) -> Comparison:
    """Two models on the same cases: only cells in which both are scored count, so that n is equal on both sides.

    The intervals are for new personas (see `estimate`); the p-values are of the sign-flip test, for these cases. Holm's
    correction is over the two tests; `hold` does it over several comparisons. Raises ValueError for unlike cases.
    """
    if _kind_of(a) != _kind_of(b):
        raise ValueError("the two tables are not of the same cases and turns")
    differences = Table(a.scores - b.scores, a.profiles, a.personalities)
    by_case = differences.scores
    p_mean = sign_flip_p(_row_statistic(by_case, mean_level), seed=seed)
    p_ir = sign_flip_p(_row_statistic(by_case, slope), seed=seed + 1)
    held_mean, held_ir = holm([p_mean, p_ir])
    scored = np.isfinite(by_case)
    return Comparison(
        cases=int(scored.any(axis=1).sum()),
        cells=int(scored.sum()),
        mean=estimate(differences, mean_level, draws=draws, seed=seed),
        ir=estimate(differences, slope, draws=draws, seed=seed),
        p_mean=p_mean,
        p_ir=p_ir,
        held_mean=held_mean,
        held_ir=held_ir,
    )


def gap_closed(own: Table, floor: Table, ceiling: Table, *, draws: int = DRAWS) -> Gap:
    """(AL - floor) / (ceiling - floor), by turn and of the mean level: 0 is the generic reply, 1 the model once told.

    Over the cells in which all three are scored, so that they are of the same people, and with the three side by side
    in one bootstrap, so that what people do to all of them takes no part in the interval. Not bounded: a model may be
    worse than the floor or better than the ceiling. Undefined where the ceiling is not above the floor by more than
    chance, since then there is no gap to close. Cannot tell: much where the gap is little more than its own noise; the
    interval is wide then. Raises ValueError for unlike cases.
    """
    three = (floor, ceiling, own)
    if any(_kind_of(each) != _kind_of(own) for each in three):
        raise ValueError("the tables are not of the same cases and turns")
    scored = np.logical_and.reduce([np.isfinite(each.scores) for each in three])
    masked = [np.where(scored, each.scores, np.nan) for each in three]

    def closed(turns: slice) -> Estimate:
        beside = Table(np.hstack([scores[:, turns] for scores in masked]), own.profiles, own.personalities)
        height = estimate(beside, lambda curves: _thirds(curves)[1] - _thirds(curves)[0], draws=draws)
        return Estimate(None) if height.low is None or height.low <= _FLAT else estimate(beside, _share, draws=draws)

    each_turn = tuple(closed(slice(k, k + 1)) for k in range(own.scores.shape[1]))
    return Gap(int(scored.sum()), each_turn, closed(slice(None)))


def sign_flip_p(differences: Array, *, flips: int = FLIPS, seed: int = SEED) -> float | None:
    """Two-sided p of paired differences (cases,): how often flipped signs give as large a mean.

    Under the null the two models' replies to a case are exchangeable, so each difference is as likely with the other
    sign (Fisher's randomisation test; (count + 1) / (flips + 1) by Phipson and Smyth, SAGMB 9, 2010). Differences of
    exactly 0 stay in and make it conservative. None without differences. Cannot tell: about other personas.
    """
    known = differences[np.isfinite(differences)]
    if not len(known):
        return None
    signs = _signs(len(known), flips, seed)
    observed = abs(known.sum())
    as_large = np.abs(signs @ known) >= observed - _FLAT * max(1.0, float(np.abs(known).sum()))
    return float((as_large.sum() + 1) / (flips + 1))


def least_p(cases: int, tests: int = 1) -> float:
    """The smallest p that `sign_flip_p` can give of so many cases, after `holm` for so many tests.

    Only the signs as they are and all of them turned round give as large a mean: 2 of 2^n, so 0.125 for four cases.
    """
    return min(1.0, tests * max(2.0 ** (1 - cases), 1 / (FLIPS + 1)))


def cases_needed(tests: int = 1) -> int | None:
    """The fewest cases with which a difference can be called one in so many tests; None if no number is enough."""
    return next((cases for cases in range(1, 64) if least_p(cases, tests) <= ALPHA), None)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for having made several tests (Holm, Scand. J. Stat. 6, 1979); None stays None."""
    order = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    held: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        held[place] = highest
    return held


def different(figure: Estimate, p: float | None) -> bool:
    """Whether a difference may be called one: p (corrected) and interval both say so."""
    return p is not None and p <= ALPHA and figure.excludes_zero()


def in_words(a: str, b: str, figure: Estimate, p: float | None, what: str) -> str:
    """A comparison as a sentence that claims no more than there is."""
    if figure.value is None or p is None:
        return f"{what}: nothing to compare"
    if not different(figure, p):
        return f"{what}: not distinguishable"
    better, worse = (a, b) if figure.value > 0 else (b, a)
    return f"{what}: {better} is above {worse}"


def noise_floor(repeats: Array) -> float | None:
    """How much a reply's score moves when the same judge is asked again: the standard deviation within a reply.

    `repeats` is (repeats, cases, turns); replies judged once say nothing. None if none was judged twice. What it adds
    to AL(k) is this over sqrt(n). Cannot tell: what all repeats share, such as a judge's taste.
    """
    often = np.isfinite(repeats).sum(axis=0)
    twice = often >= 2
    if not twice.any():
        return None
    replies = repeats[:, twice]
    centred = replies - np.nanmean(replies, axis=0)
    return float(math.sqrt(np.nansum(centred**2) / float((often[twice] - 1).sum())))


def t_quantile(p: float, freedom: float) -> float:
    """Student's t quantile for 0.5 < p < 1 (Hill, Algorithm 396, CACM 13, 1970; to about six digits above one degree of
    freedom). Fewer degrees than one count as one.
    """
    n, tails = max(freedom, 1.0), 2 * (1 - p)
    if n < 1.000001:
        return math.tan(math.pi * (p - 0.5))
    if abs(n - 2) < 1e-6:
        return math.sqrt(2 / (tails * (2 - tails)) - 2)
    a = 1 / (n - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * n
    y = (d * tails) ** (2 / n)
    if y > 0.05 + a:
        x = NormalDist().inv_cdf(tails / 2)
        y = x * x
        c += 0.3 * (n - 4.5) * (x + 0.6) if n < 5 else 0.0
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((n + 6) / (n * y) - 0.089 * d - 0.822) * (n + 2) * 3) + 0.5 / (n + 4)) * y - 1) * (n + 1) / (
            n + 2
        ) + 1 / y
    return math.sqrt(n * y)


# ---- inside


def _kind_of(table: Table) -> tuple[object, ...]:
    """Of which cases and turns it is."""
    return table.profiles, table.personalities, table.scores.shape


def _thirds(curves: Array) -> list[Array]:
    """Mean levels of three curves that stand side by side: floor, ceiling, own."""
    turns = curves.shape[-1] // 3
    return [mean_level(curves[..., i * turns : (i + 1) * turns]) for i in range(3)]


def _share(curves: Array) -> Array:
    low, high, own = _thirds(curves)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Array = (own - low) / np.where(high - low > _FLAT, high - low, np.nan)
    return found


def _over_turns(curves: Array) -> tuple[Array, Array]:
    """Mean over the turns that have a value, and how many they are."""
    known = np.isfinite(curves)
    count = known.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Array = np.where(known, curves, 0.0).sum(axis=-1) / np.where(count, count, np.nan)
    return means, count.astype(np.float64)


def _fit(curves: Array) -> tuple[Array, Array]:
    """Slope and R2 of the least-squares line through each curve, by turn number from 1."""
    known = np.isfinite(curves)
    turns = np.where(known, np.arange(1.0, curves.shape[-1] + 1), np.nan)
    middle, count = _over_turns(turns)
    level, _ = _over_turns(curves)
    x = np.where(known, turns - middle[..., None], 0.0)
    y = np.where(known, curves - level[..., None], 0.0)
    xx, xy, yy = (x * x).sum(-1), (x * y).sum(-1), (y * y).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        b: Array = np.where(count >= 2, xy / xx, np.nan)
        flat = np.sqrt(yy) <= _flat_below(curves)[..., 0]
        r2: Array = np.where((count >= 3) & ~flat, xy * xy / (xx * yy), np.nan)
    return b, r2


def _flat_below(curves: Array) -> Array:
    """What counts as no difference, with the size of the numbers: rounding is no climb."""
    largest: Array = np.max(np.where(np.isfinite(curves), np.abs(curves), 0.0), axis=-1, keepdims=True)
    return 8 * np.finfo(np.float64).eps * np.maximum(largest, _FLAT) * math.sqrt(curves.shape[-1])


def _weighted_levels(weights: Array, scores: Array) -> Array:
    """AL(k) under case weights (draws, cases): (draws, turns)."""
    known = np.isfinite(scores)
    total = weights @ np.where(known, scores, 0.0)
    count = weights.sum(axis=1, keepdims=True) if known.all() else weights @ known.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        levels: Array = total / np.where(count > 0, count, np.nan)
    return levels


def _scored(table: Table) -> Table:
    """The cases that have a score at all."""
    rows = np.flatnonzero(np.isfinite(table.scores).any(axis=1))
    return table if len(rows) == len(table.scores) else table.take(rows.tolist())


def _clusterings(table: Table) -> tuple[tuple[int, ...], ...]:
    """For each case: number of its profile, of its personality, and its own."""
    return _numbered(table.profiles), _numbered(table.personalities), tuple(range(len(table.scores)))


def _numbered(names: Sequence[str]) -> tuple[int, ...]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return tuple(numbers[name] for name in names)


def _variance(
    scores: Array, clusters: tuple[int, ...], statistic: Statistic, draws: int, seed: int
) -> tuple[float, int]:
    """Bootstrap variance of a figure when whole clusters are resampled, and how many clusters there are.

    NaN where the figure is undefined in more than `LARGEST_UNDEFINED` of the draws; 0 for a single cluster.
    """
    several = len(set(clusters))
    if several < 2:
        return 0.0, several
    found = statistic(_drawn_levels(scores.tobytes(), scores.shape, clusters, draws, seed))
    known = found[np.isfinite(found)]
    if len(known) < (1 - LARGEST_UNDEFINED) * len(found):
        return math.nan, several
    return float(known.var() * several / (several - 1)), several


@lru_cache(maxsize=8)
def _drawn_levels(scores: bytes, shape: tuple[int, ...], clusters: tuple[int, ...], draws: int, seed: int) -> Array:
    """The curve of each draw: the same for every figure of one table."""
    return _weighted_levels(_weights(clusters, draws, seed), np.frombuffer(scores).reshape(shape))


@lru_cache(maxsize=16)
def _weights(clusters: tuple[int, ...], draws: int, seed: int) -> Array:
    """How often each case is in each draw: (draws, cases)."""
    several = len(set(clusters))
    drawn = np.random.default_rng(seed).multinomial(several, np.full(several, 1 / several), size=draws)
    weights: Array = drawn[:, list(clusters)].astype(np.float64)
    return weights


@lru_cache(maxsize=8)
def _signs(count: int, flips: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 2, size=(flips, count)).astype(np.float64) * 2 - 1


def _freedom(variance: float, parts: Sequence[tuple[float, int]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of variances (Biometrics Bulletin 2, 1946)."""
    spread = sum(part**2 / freedom for part, freedom in parts)
    return variance**2 / spread if spread > 0 else math.inf if variance > 0 else 1.0


def _at(table: Table, k: int) -> Table:
    """One turn alone: its level needs no other turn, and a bootstrap of one column costs a fraction of all."""
    return Table(table.scores[:, k : k + 1], table.profiles, table.personalities)


def _row_statistic(scores: Array, statistic: Statistic) -> Array:
    return statistic(scores) if len(scores) else np.empty(0)


def _within(figure: Estimate, low: float, high: float) -> Estimate:
    """The interval cut to where the figure can lie."""
    if figure.low is None or figure.high is None:
        return figure
    return Estimate(figure.value, max(low, figure.low), min(high, figure.high))
