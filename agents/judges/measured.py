"""Judges that ask no model: `rules` measures, `treatment` knows what was tried, `panel` counts other judges.

`rules` is for planted studies, where the preference is known: each rule holds of a reply or not, and the score is
1 + 4 x the share of the rules' weight that holds, in points. `treatment` is the paper's labelling: the reply that was
given the hint is preferred. `panel` takes the verdict that most of its members give; without one it is a tie.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from agents.judges.verdicts import JudgeSpec, by_scores, judgement, judgement_id
from agents.messages import JudgeRequest
from agents.words import words_of
from trees.errors import SetupError
from trees.ids import canonical_json
from trees.values import Judgement, Presentation, Score, Verdict

_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_CLOSING = " \n\t\"'”’」）)*_"
"""What may stand after the last mark of a sentence."""
_SECOND_PERSON = frozenset({"you", "your", "yours", "yourself"})

RULES: Mapping[str, Callable[[str, float], bool]] = {
    "max_words": lambda text, n: len(words_of(text)) <= n,
    "min_words": lambda text, n: len(words_of(text)) >= n,
    "question": lambda text, wanted: ("?" in text or "？" in text) == bool(wanted),
    "ends_with_question": lambda text, wanted: text.rstrip(_CLOSING).endswith(("?", "？")) == bool(wanted),
    "emoji": lambda text, wanted: bool(_EMOJI.search(text)) == bool(wanted),
    "exclamation": lambda text, wanted: ("!" in text) == bool(wanted),
    "list": lambda text, wanted: bool(_LIST_ITEM.search(text)) == bool(wanted),
    "addresses": lambda text, wanted: (not _SECOND_PERSON.isdisjoint(words_of(text))) == bool(wanted),
}
"""Rules by name; each takes a reply and its argument (a number of words, or 1 for wanted and 0 for unwanted)."""


class RulesJudge:
    """`settings["rules"]` maps a rule's name to its argument."""

    def __init__(self, spec: JudgeSpec) -> None:
        self._spec = spec
        self._rules = check_rules(spec.settings.get("rules"))

    async def judge(self, request: JudgeRequest) -> Judgement:
        held = {c.node_id: self._held(c.text) for c in request.candidates}
        points = {node: 1 + 4 * sum(rules.values()) / len(rules) for node, rules in held.items()}
        shown = Presentation(tuple(held), None, canonical_json(list(held.values())), {}, "measured")
        scores = [Score(node, "points", value) for node, value in points.items()]
        verdicts = by_scores(request.candidates, points, self._spec.number("threshold", 0), "points")
        return judgement(self._spec, request, [shown], scores, verdicts)

    def _held(self, text: str) -> dict[str, bool]:
        return {name: RULES[name](text, argument) for name, argument in self._rules.items()}


def check_rules(rules: object) -> dict[str, float]:
    """The rules of a configuration. Raises SetupError for one that does not exist."""
    if not isinstance(rules, Mapping) or not rules:
        raise SetupError("a judge of kind 'rules' needs rules", hint=f"Rules: {', '.join(RULES)}.")
    unknown = [name for name in rules if name not in RULES]
    if unknown:
        raise SetupError(f"unknown rule {unknown[0]!r}", hint=f"Rules: {', '.join(RULES)}.")
    return {str(name): float(str(argument)) for name, argument in rules.items()}


class TreatmentJudge:
    """Hinted beats unhinted; silent between replies that were treated alike."""

    def __init__(self, spec: JudgeSpec) -> None:
        self._spec = spec

    async def judge(self, request: JudgeRequest) -> Judgement:
        verdicts = []
        for a, b in combinations(request.candidates, 2):
            if a.hinted == b.hinted:
                continue
            better, worse = (a, b) if a.hinted else (b, a)
            outcome: Verdict = Verdict(better.node_id, worse.node_id, "tie" if a.text == b.text else "win")
            verdicts.append(outcome)
        raw = canonical_json({c.node_id: "hinted" if c.hinted else "unhinted" for c in request.candidates})
        shown = Presentation(tuple(c.node_id for c in request.candidates), None, raw, {}, "treatment")
        return judgement(self._spec, request, [shown], (), verdicts)


def panel_judgement(panel_id: str, turn: str, repeat: int, members: Mapping[str, Judgement]) -> Judgement:
    """The judgement of a panel, derived from its members' judgements of the same turn (by member name)."""
    covers = tuple(dict.fromkeys(node for j in members.values() for node in j.covers))
    votes = {frozenset(pair): [_vote(j, *pair) for j in members.values()] for pair in combinations(covers, 2)}
    verdicts = tuple(_majority(a, b, votes[frozenset((a, b))]) for a, b in combinations(covers, 2))
    split = {name: [[v.first_id, v.second_id, v.outcome] for v in j.verdicts] for name, j in members.items()}
    shown = Presentation(covers, None, canonical_json(split), {}, "panel")
    incomplete = [name for name, j in members.items() if not j.complete]
    cause = f"not asked: {', '.join(incomplete)}" if incomplete else None
    identity = judgement_id(turn, panel_id, repeat)
    return Judgement(identity, turn, panel_id, repeat, covers, (shown,), (), verdicts, not incomplete, cause)


def _vote(member: Judgement, a: str, b: str) -> tuple[str, str]:
    """How a member sees a and b: (outcome, winner or nothing)."""
    for v in member.verdicts:
        if {v.first_id, v.second_id} == {a, b}:
            return v.outcome, v.first_id if v.outcome == "win" else ""
    return "abstain", ""


def _majority(a: str, b: str, votes: Sequence[tuple[str, str]]) -> Verdict:
    (outcome, first), count = Counter(votes).most_common(1)[0]
    if 2 * count <= len(votes):
        return Verdict(a, b, "tie")
    if outcome == "win":
        return Verdict(first, b if first == a else a, "win")
    return Verdict(a, b, outcome)  # type: ignore[arg-type]
