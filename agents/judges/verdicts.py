"""From what a judge saw to verdicts for two siblings: the rules that all judges share.

A verdict is one of win, tie, both_bad, unstable (the order of presentation changed it), abstain (the judge could not
be read, or not asked). A listwise judge that picks one reply gives it a win against each other and is silent among
those. Presentation orders are cyclic rotations of a seeded order, so every reply stands at every place once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

from agents.messages import Candidate, JudgeRequest
from agents.roles import Role
from trees.ids import derive_seed, digest_of
from trees.values import Judgement, Outcome, Presentation, Score, Unit, Verdict


@dataclass(frozen=True)
class JudgeSpec:
    """A judge as configured. Its id digests everything that can change a verdict."""

    name: str
    kind: str
    role: Role
    model_id: str | None
    """The identity of the model it asks; None for judges that ask none."""
    prompt_id: str
    settings: Mapping[str, object] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "model": self.model_id,
            "prompt": self.prompt_id,
            "sampling": self.role.sampling.as_dict() if self.model_id else None,
            "settings": dict(self.settings),
        }

    @cached_property
    def id(self) -> str:
        return digest_of("judge", self.as_dict())

    def number(self, name: str, default: float) -> float:
        """A numeric setting."""
        return float(str(self.settings.get(name, default)))


def judgement_id(turn: str, judge_id: str, repeat: int) -> str:
    return digest_of("judgement", turn, judge_id, repeat)


def judgement(
    spec: JudgeSpec,
    request: JudgeRequest,
    presentations: Sequence[Presentation],
    scores: Sequence[Score],
    verdicts: Sequence[Verdict],
) -> Judgement:
    """A complete judgement of this request."""
    turn = request.place.node_id
    return Judgement(
        judgement_id(turn, spec.id, request.repeat),
        turn,
        spec.id,
        request.repeat,
        tuple(c.node_id for c in request.candidates),
        tuple(presentations),
        tuple(scores),
        tuple(verdicts),
    )


def not_asked(spec: JudgeSpec, request: JudgeRequest, cause: str) -> Judgement:
    """The judgement where a call failed: it abstains on every pair and counts for none."""
    turn = request.place.node_id
    covers = tuple(c.node_id for c in request.candidates)
    return Judgement(
        judgement_id(turn, spec.id, request.repeat),
        turn,
        spec.id,
        request.repeat,
        covers,
        verdicts=tuple(Verdict(a, b, "abstain") for a, b in combinations(covers, 2)),
        complete=False,
        cause=cause,
    )


def by_scores(
    candidates: Sequence[Candidate], values: Mapping[str, float], threshold: float, unit: Unit
) -> tuple[Verdict, ...]:
    """A win where two scores differ by more than the threshold, a tie elsewhere; equal texts always tie."""
    verdicts = []
    for a, b in combinations(candidates, 2):
        better, worse = (a, b) if values[a.node_id] >= values[b.node_id] else (b, a)
        margin = values[better.node_id] - values[worse.node_id]
        wins = margin > threshold and a.text != b.text
        verdicts.append(Verdict(better.node_id, worse.node_id, "win" if wins else "tie", margin, unit))
    return tuple(verdicts)


def by_picks(
    node_ids: Sequence[str], picks: Sequence[str | None], values: Mapping[str, float], threshold: float
) -> tuple[Verdict, ...]:
    """Verdicts of a listwise judge from the reply it picked in each presentation.

    All presentations agree: that reply wins against each other one, or ties with those within the threshold. They
    disagree: the replies picked are unstable among each other. One could not be read: every pair is an abstention.
    """
    if any(pick is None for pick in picks):
        return tuple(Verdict(a, b, "abstain") for a, b in combinations(node_ids, 2))
    picked = set(picks)
    if len(picked) > 1:
        among = [node for node in node_ids if node in picked]
        return tuple(Verdict(a, b, "unstable") for a, b in combinations(among, 2))
    top = next(iter(picked))
    assert top is not None
    others = [node for node in node_ids if node != top]
    return tuple(_against(top, other, values, threshold) for other in others)


def _against(top: str, other: str, values: Mapping[str, float], threshold: float) -> Verdict:
    margin = values[top] - values[other]
    outcome: Outcome = "win" if margin > threshold else "tie"
    return Verdict(top, other, outcome, abs(margin), "probability")


def equal_texts_tie(candidates: Sequence[Candidate], verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts, where no reply wins against another that says the same."""
    texts = {c.node_id: c.text for c in candidates}
    return tuple(
        replace(v, outcome="tie") if v.outcome == "win" and texts[v.first_id] == texts[v.second_id] else v
        for v in verdicts
    )


def rotations(candidates: Sequence[Candidate], run_seed: int, judge: str, repeat: int) -> list[list[Candidate]]:
    """The orders in which replies are shown: a seeded order and its cyclic rotations."""
    order = sorted(candidates, key=lambda c: derive_seed(run_seed, c.node_id, judge, "order", repeat))
    return [order[i:] + order[:i] for i in range(len(order))]
