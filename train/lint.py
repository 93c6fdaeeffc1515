"""What would be trained on, looked at before it is: counts, imbalances, lengths, and samples with what is predicted.

A finding is an error (there is nothing to train on), a warning (the data teaches something that was not meant) or a
note (what a person should know). A rate is given with its 95 % interval, and warned of only where the interval leaves
out what chance would give.

Invariant: nothing is changed, and nothing is left out of the data for being warned of.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from train.data import DataSet, MessageTree
from train.templates import TemplateReader
from train.token_tree import TokenTree
from train.tokenise import Lengths, LimitCost, Tokenised, cost_of, lengths
from trees.ids import canonical_json, digest_of, text_digest
from trees.statistics import Rate
from trees.store import Store

Severity = Literal["error", "warning", "note"]
PieceKind = Literal["context", "trained", "chosen", "rejected"]

SKEWED = 0.6
"""Share from which on a preference for length is worth a warning, if chance is excluded."""
ONE_SIDED = 0.9
"""Share of the wins from which on one responder is said to be all that is learnt."""
ENOUGH = 10
"""Pairs or replies below which a rate is not judged."""
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know before training."""

    severity: Severity
    kind: str
    """In one word, for programs: `length`, `duplicates`, `cut` ..."""
    what: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How much there is on one side of the split."""

    people: int
    trees: int
    targets: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a sample, and what training does with it."""

    text: str
    kind: PieceKind


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation as the model would read it, to a reply; of a pair, with the rejected reply at the end."""

    tree: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class TokenReport:
    """What only a tokenizer can tell."""

    end: str
    before: str
    """What the template writes before the first message."""
    repairs: tuple[tuple[str, str], ...]
    """What is done, and the template's text that it is about."""
    lengths: Lengths
    cost: LimitCost | None
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class LintReport:
    """All that was looked at."""

    counts: Mapping[str, Counts]
    """By side."""
    findings: tuple[Finding, ...]
    tokens: TokenReport | None

    @property
    def usable(self) -> bool:
        return not any(finding.severity == "error" for finding in self.findings)


def lint(
    store: Store,
    data: DataSet,
    reader: TemplateReader | None = None,
    tokenised: Tokenised | None = None,
    *,
    limit: int | None = None,
    samples: int = 0,
) -> LintReport:
    """Look at a data set; in tokens too, if it was tokenised. `limit` is in tokens."""
    found = [*_missing(data), *_people(data), *_replies(store, data), *_pairs(store, data), *_dropped(data)]
    tokens = None
    if reader is not None and tokenised is not None:
        tokens = _token_report(reader, tokenised, limit, samples, data.selection.seed)
        found += _token_findings(tokenised, tokens)
    found += [Finding("note", "file", note) for note in data.notes]
    order: Sequence[Severity] = ("error", "warning", "note")
    found.sort(key=lambda finding: order.index(finding.severity))
    return LintReport({side: _counts(data, side) for side in ("train", "evaluation")}, tuple(found), tokens)


def _counts(data: DataSet, side: Literal["train", "evaluation"]) -> Counts:
    trees = data.side(side)
    people = len({tree.persona for tree in trees if tree.profile_id is not None})
    return Counts(people, len(trees), sum(len(t.targets) for t in trees), sum(len(t.pairs) for t in trees))


# Counts


def _missing(data: DataSet) -> Iterator[Finding]:
    if not data.targets and not data.pairs:
        yield Finding("error", "nothing", "there is nothing to train on: no target and no pair is left")
    elif not data.pairs:
        yield Finding("warning", "no_pairs", "there is no pair, so only SFT can be trained")
    elif not data.targets:
        yield Finding("warning", "no_targets", "there is no target, so only DPO can be trained")


def _people(data: DataSet) -> Iterator[Finding]:
    if not data.trees:
        return
    people = {tree.persona for tree in data.trees if tree.profile_id is not None}
    if len(people) == 1:
        yield Finding("warning", "one_person", "all of it is one person's: a model would learn that person")
    if not data.side("evaluation"):
        yield Finding("warning", "no_evaluation", "nobody is kept for evaluation, so no loss tells when to stop")
    halves = Counter(tree.personality_id for tree in data.trees if tree.personality_id)
    both = {t.personality_id for t in data.side("train")} & {t.personality_id for t in data.side("evaluation")} - {None}
    if both and halves:
        yield Finding(
            "note", "shared_halves", f"{len(both)} personalities are on both sides of the split, with other profiles"
        )
    systems = {tree.system for tree in data.trees}
    if len(systems) > 1:
        yield Finding("warning", "deploy", f"contexts stand under {len(systems)} different system messages")


def _dropped(data: DataSet) -> Iterator[Finding]:
    for what, counts in data.dropped.items():
        held = sum(counts.get(reason, 0) for reason in ("held_out", "unused", "blocked", "unchecked"))
        if held and what != "rows":
            yield Finding("note", "held_out", f"{held} {_unit(what)} touch held-out people and are left out")
    undecided = sum(data.dropped["pairs"].get(reason, 0) for reason in ("unstable", "abstain"))
    rate = Rate(undecided, undecided + data.pairs + data.dropped["pairs"].get("tie", 0))
    if rate.of >= ENOUGH and rate.interval[0] > 0.5:
        yield Finding(
            "warning",
            "undecided",
            f"judge {data.judge!r} could not decide {_share(rate)} of its verdicts (unstable or abstained): the rest "
            "may be little better than chance",
        )


def _unit(what: str) -> str:
    return "turns" if what == "targets" else "verdicts"


# Replies


def _replies(store: Store, data: DataSet) -> Iterator[Finding]:
    trained = [(tree, index) for tree in data.trees for index in tree.targets]
    replies = Counter(" ".join(tree.messages[i].text.split()).casefold() for tree, i in trained)
    again = sum(count - 1 for count in replies.values())
    if again and len(trained) >= ENOUGH and again / len(trained) > 0.02:
        text, count = replies.most_common(1)[0]
        yield Finding(
            "warning",
            "duplicates",
            f"{again} of {len(trained)} targets say what another one says; {text[:80]!r} stands there {count} times",
        )
    rows = Counter(_row_digest(tree, index) for tree, index in trained)
    whole = sum(count - 1 for count in rows.values())
    if whole:
        yield Finding("warning", "duplicate_rows", f"{whole} targets are there twice, with the same context")
    yield from _cut(store, data)
    yield from _one_speaker(store, data)


def _row_digest(tree: MessageTree, index: int) -> str:
    return digest_of("row", tree.system, [text_digest(message.text) for message in tree.path(index)])


def _cut(store: Store, data: DataSet) -> Iterator[Finding]:
    """Replies that ended because their tokens were used up."""
    nodes = [tree.messages[i].node for tree in data.trees for i in _learnt(tree)]
    finishes = _finishes(store, [node for node in nodes if node])
    cut = sum(finishes.get(node) == "length" for node in nodes)
    if cut:
        yield Finding(
            "warning",
            "cut",
            f"{cut} of {len(nodes)} replies that would be learnt were cut at their longest length: a model trained on "
            "them learns to stop in the middle; play with a larger max_tokens",
        )


def _learnt(tree: MessageTree) -> list[int]:
    """Replies that training makes likelier."""
    return sorted({*tree.targets, *(pair.chosen for pair in tree.pairs)})


def _finishes(store: Store, nodes: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start in range(0, len(nodes), _BATCH):
        sql = (
            "SELECT n.id, n.answer, c.answer FROM nodes n JOIN calls c ON c.id = n.call_id "
            "WHERE n.id IN (SELECT value FROM json_each(?))"
        )
        for node, index, answer in store.rows(sql, (canonical_json(list(nodes[start : start + _BATCH])),)):
            completions = json.loads(answer).get("completions", [])
            if index < len(completions):
                found[node] = completions[index].get("finish", "stop")
    return found


def _one_speaker(store: Store, data: DataSet) -> Iterator[Finding]:
    """Whether the simulated people and the replies are one model's words."""
    nodes = [message.node for tree in data.trees for message in tree.messages if message.node]
    users: set[str] = set()
    replies: set[str] = set()
    for start in range(0, len(nodes), _BATCH):
        sql = "SELECT DISTINCT speaker, model_id FROM nodes WHERE id IN (SELECT value FROM json_each(?))"
        for speaker, model in store.rows(sql, (canonical_json(nodes[start : start + _BATCH]),)):
            if model is not None:
                (users if speaker == "user" else replies).add(model)
    if len(users) == 1 and users == replies:
        yield Finding("note", "one_model", "one model speaks all people and all replies: its habits are on both sides")


# Pairs


def _pairs(store: Store, data: DataSet) -> Iterator[Finding]:
    compared = [(tree, pair.chosen, pair.rejected) for tree in data.trees for pair in tree.pairs]
    if not compared:
        return
    texts = [(tree.messages[a].text, tree.messages[b].text) for tree, a, b in compared]
    yield from _length_bias(texts)
    alike = sum(" ".join(a.split()).casefold() == " ".join(b.split()).casefold() for a, b in texts)
    if alike:
        yield Finding("warning", "equal_text", f"{alike} pairs differ in white space or capitals only")
    yield from _weights(data)
    ids = [(tree.messages[a].node, tree.messages[b].node) for tree, a, b in compared]
    yield from _responders(store, [pair for pair in ids if all(pair)])
    yield from _other_judges(store, data, [pair for pair in ids if all(pair)])


def _weights(data: DataSet) -> Iterator[Finding]:
    """How unevenly pairs count, where they are weighed."""
    if not data.weighted:
        return
    weights = sorted((pair.weight for tree in data.trees for pair in tree.pairs), reverse=True)
    heaviest = weights[: max(1, len(weights) // 10)]
    share = sum(heaviest) / sum(weights)
    yield Finding(
        "warning" if share > ONE_SIDED / 2 and len(weights) >= ENOUGH else "note",
        "weights",
        f"pairs weigh {weights[-1]:.3g} to {weights[0]:.3g} by their margins; the heaviest {len(heaviest)} of "
        f"{len(weights)} carry {share:.0%} of the loss",
    )


def _length_bias(texts: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    unlike = [(len(a), len(b)) for a, b in texts if len(a) != len(b)]
    longer = Rate(sum(a > b for a, b in unlike), len(unlike))
    if longer.of < ENOUGH:
        return
    middle = f"{median(a for a, _ in unlike):.0f} characters against {median(b for _, b in unlike):.0f}"
    low, high = longer.interval
    if (longer.value or 0) > SKEWED and low > 0.5:
        said = f"the chosen reply is the longer one in {_share(longer)}"
        yield Finding("warning", "length", f"{said} ({middle} in the middle): a model may learn length")
    if 1 - (longer.value or 0) > SKEWED and high < 0.5:
        said = f"the chosen reply is the shorter one in {_share(Rate(longer.of - longer.count, longer.of))}"
        yield Finding("warning", "length", f"{said} ({middle} in the middle): a model may learn brevity")


def _responders(store: Store, pairs: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Whether one responder's wins, or the hint's, are all there is to learn."""
    about = _about(store, [node for pair in pairs for node in pair])
    unlike = [(about[a][0], about[b][0]) for a, b in pairs if a in about and b in about and about[a][0] != about[b][0]]
    won = Counter(winner for winner, _ in unlike)
    for role, count in won.most_common(1):
        rate = Rate(count, sum(role in pair for pair in unlike))
        if len(unlike) >= ENOUGH and count / len(unlike) > ONE_SIDED and rate.of > rate.count * ONE_SIDED:
            said = f"{role} won {_share(Rate(count, len(unlike)))} of the pairs between responders"
            yield Finding("warning", "one_responder", f"{said}: a model may learn its manner, not the person's")
    hinted = [(about[a][1], about[b][1]) for a, b in pairs if a in about and b in about]
    decided = [(a, b) for a, b in hinted if a != b]
    rate = Rate(sum(a for a, _ in decided), len(decided))
    if rate.of >= ENOUGH and rate.interval[1] < 0.5:
        yield Finding(
            "warning", "hints_lose", f"replies that knew the person won {_share(rate)} against those that did not"
        )


def _about(store: Store, nodes: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Role and hint of replies."""
    found: dict[str, tuple[str, int]] = {}
    for start in range(0, len(nodes), _BATCH):
        sql = "SELECT id, role, hinted FROM nodes WHERE id IN (SELECT value FROM json_each(?))"
        for node, role, hinted in store.rows(sql, (canonical_json(list(nodes[start : start + _BATCH])),)):
            found[node] = (role, hinted)
    return found


def _other_judges(store: Store, data: DataSet, pairs: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """How far other judges of the same replies agree."""
    agreed: dict[str, Counter[bool]] = {}
    for start in range(0, len(pairs), _BATCH):
        wanted = canonical_json([list(pair) for pair in pairs[start : start + _BATCH]])
        for judge, first_is_chosen in store.rows(_OTHERS, (wanted, data.judge_id)):
            agreed.setdefault(judge, Counter())[bool(first_is_chosen)] += 1
    if pairs and not agreed:
        yield Finding("note", "one_judge", f"only judge {data.judge!r} decided these pairs: no other judge was asked")
    for judge, said in sorted(agreed.items()):
        rate = Rate(said[True], said.total())
        severity: Severity = "warning" if rate.of >= ENOUGH and rate.interval[0] <= 0.5 else "note"
        yield Finding(
            severity, "other_judge", f"judge {judge!r} decided {rate.of} of them, and agrees in {_share(rate)}"
        )


_OTHERS = """
WITH wanted(chosen, rejected) AS (SELECT value ->> 0, value ->> 1 FROM json_each(?))
SELECT v.judge, 1 FROM wanted w JOIN current_verdicts v ON v.first_id = w.chosen AND v.second_id = w.rejected
WHERE v.outcome = 'win' AND v.judge_id <> ?2
UNION ALL
SELECT v.judge, 0 FROM wanted w JOIN current_verdicts v ON v.first_id = w.rejected AND v.second_id = w.chosen
WHERE v.outcome = 'win' AND v.judge_id <> ?2
"""


def _share(rate: Rate) -> str:
    low, high = rate.interval
    return (
        f"{rate.count} of {rate.of} ({100 * (rate.value or 0):.0f} %, 95 % interval {100 * low:.0f}-{100 * high:.0f})"
    )


# Tokens


def _token_report(
    reader: TemplateReader, tokenised: Tokenised, limit: int | None, samples: int, seed: int
) -> TokenReport:
    return TokenReport(
        end=reader.shown([reader.end]),
        before=reader.before,
        repairs=tuple((repair.what, repair.shown) for repair in reader.repairs),
        lengths=lengths(tokenised.trees),
        cost=None if limit is None else cost_of(tokenised.trees, limit),
        samples=tuple(_samples(reader, tokenised.trees, samples, seed)),
    )


def _token_findings(tokenised: Tokenised, report: TokenReport) -> Iterator[Finding]:
    if tokenised.refused:
        first = tokenised.refused[0]
        targets, pairs = (sum(getattr(each, what) for each in tokenised.refused) for what in ("targets", "pairs"))
        yield Finding(
            "warning",
            "refused",
            f"the chat template refuses conversations of {len(tokenised.refused)} trees: {targets} targets and {pairs} "
            f"pairs are left out; tree {first.tree[:8]}: {first.reason}",
        )
    if tokenised.joined:
        yield Finding("note", "joined", f"{tokenised.joined} trees have messages of one speaker in a row, joined")
    cost = report.cost
    if cost is not None and (cost.targets or cost.pairs):
        yield Finding(
            "warning",
            "too_long",
            f"a limit of {cost.limit} tokens leaves out {cost.targets} targets and {cost.pairs} pairs, and nothing is "
            f"left of {cost.trees} trees",
        )


def _samples(reader: TemplateReader, trees: Sequence[TokenTree], number: int, seed: int) -> Iterator[Sample]:
    ordered = sorted(trees, key=lambda tree: digest_of("sample", seed, tree.id))
    for tree in ordered[:number]:
        deepest = max([*tree.targets, *(pair.chosen for pair in tree.pairs)], key=lambda i: (tree.depths[i], -i))
        yield Sample(tree.id, tuple(_pieces(reader, tree, deepest)))


def _pieces(reader: TemplateReader, tree: TokenTree, end: int) -> Iterator[Piece]:
    for index in tree.path(end):
        yield Piece(reader.shown(tree.segments[index].tokens), _kind(tree, index))
    for pair in tree.pairs:
        if pair.chosen == end:
            yield Piece(reader.shown(tree.segments[pair.rejected].tokens), "rejected")


def _kind(tree: TokenTree, index: int) -> PieceKind:
    if index in tree.targets:
        return "trained"
    if any(pair.chosen == index for pair in tree.pairs):
        return "chosen"
    return "rejected" if any(pair.rejected == index for pair in tree.pairs) else "context"
