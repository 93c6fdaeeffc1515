"""The judge as an agent: makes the judge a specification names, turns failed calls into incomplete judgements."""

from __future__ import annotations

from typing import Protocol

from agents.calls import CallFailed
from agents.judges.choice import ChoiceJudge
from agents.judges.likelihood import LikelihoodJudge
from agents.judges.measured import RulesJudge, TreatmentJudge
from agents.judges.pairwise import PairwiseJudge
from agents.judges.points import PointsJudge
from agents.judges.rating import RatingJudge
from agents.judges.reward import RewardJudge
from agents.judges.verdicts import JudgeSpec, judgement, not_asked
from agents.messages import JudgeRequest, Reply
from agents.roles import Stage
from trees.values import Judgement


class Judging(Protocol):
    async def judge(self, request: JudgeRequest) -> Judgement: ...


def make_judge(stage: Stage, spec: JudgeSpec) -> Judging:
    """The judge of this kind."""
    match spec.kind:
        case "likelihood":
            return LikelihoodJudge(stage, spec)
        case "choice":
            return ChoiceJudge(stage, spec)
        case "pairwise":
            return PairwiseJudge(stage, spec)
        case "rating":
            return RatingJudge(stage, spec)
        case "points":
            return PointsJudge(stage, spec)
        case "reward":
            return RewardJudge(stage, spec)
        case "rules":
            return RulesJudge(spec)
        case "treatment":
            return TreatmentJudge(spec)
    raise ValueError(f"no judge of kind {spec.kind!r} acts on its own")


class JudgeAgent:
    """Carries a judge. A turn with a single reply has no pair: its judgement asks nothing and is empty, but for judges
    that score each reply on its own and are told to score lone ones too.
    """

    def __init__(self, stage: Stage, spec: JudgeSpec) -> None:
        self._spec = spec
        self._judge = make_judge(stage, spec)

    async def act(self, request: JudgeRequest) -> Reply:
        lone = len(request.candidates) == 1 and self._spec.settings.get("scores_lone") is True
        if len(request.candidates) < 2 and not lone:
            return Reply(judgement=judgement(self._spec, request, (), (), ()))
        try:
            return Reply(judgement=await self._judge.judge(request))
        except CallFailed as error:
            return Reply(judgement=not_asked(self._spec, request, f"{error.kind}: {error.message}"))
