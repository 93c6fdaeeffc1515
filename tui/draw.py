"""A conversation tree as lines of styled text: pure, for any width, in Unicode or ASCII.

The marks of a reply say what one judge made of it; with several judgements of a turn, the latest complete one
counts. Lines are tuples of spans whose text is safe already; whoever prints them adds no markup of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rich.cells import cell_len, chop_cells

from trees.tree import ConversationTree
from trees.values import Judgement, Ledger, Node, Score, winner
from tui.sanitise import visible

Mark = Literal["winner", "loser", "tie", "unstable", "abstain", "both_bad", "none"]

_SIGNS: Mapping[str, tuple[str, str, str]] = {
    "winner": ("★", "*", "bold green"),
    "loser": ("○", "o", "red"),
    "tie": ("=", "=", "yellow"),
    "unstable": ("~", "~", "yellow"),
    "abstain": ("?", "?", "dim"),
    "both_bad": ("✗", "x", "bold red"),
    "continued": ("▶", ">", "bold cyan"),
    "none": ("·", ".", "dim"),
}
"""Per mark: its sign, the sign in ASCII, its style."""
_MEANINGS = {
    "winner": "winner",
    "loser": "loser",
    "tie": "tie",
    "unstable": "unstable (the order of showing changed it)",
    "abstain": "abstained",
    "both_bad": "both bad",
    "continued": "continued",
}
_ORIGINS = {"human": "  by a person", "import": "  imported"}
_GUIDES = {"fork": ("├─ ", "|- "), "last": ("└─ ", "`- "), "down": ("│  ", "|  "), "none": ("   ", "   ")}


@dataclass(frozen=True, slots=True)
class Span:
    """Some text in one style of rich's."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """How a tree is drawn."""

    width: int = 100
    ascii: bool = False
    ids: bool = False
    """Whether every message shows its id."""
    everything: bool = False
    """Whether branches that were not continued are followed too."""
    judge: str | None = None
    """Id of the judge whose marks and scores are shown."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Names of models by id."""

    def sign(self, mark: str) -> Span:
        shown, plain, style = _SIGNS[mark]
        return Span(plain if self.ascii else shown, style)

    def guide(self, name: str) -> str:
        return _GUIDES[name][1 if self.ascii else 0]


def draw_tree(tree: ConversationTree, look: Look) -> list[Line]:
    """The whole tree, or the conversation really played with the replies beside it."""
    drawing = _Drawing(tree, look)
    if look.everything:
        return list(drawing.grown([Branch(root) for root in tree.roots()]))
    users = [node for node in tree.continued_path() if node.speaker == "user"] or tree.roots()[:1]
    return [line for user in users for line in drawing.turn(Branch(user))]


def draw_below(tree: ConversationTree, node: Node, look: Look) -> list[Line]:
    """A node and all that grew from it."""
    drawing = _Drawing(tree, replace(look, everything=True))
    if node.speaker == "user":
        return list(drawing.grown([Branch(node)]))
    below = [Branch(user, look.guide("none")) for user in tree.children(node.id)]
    return [*drawing.reply(node, "", look.guide("last")), *drawing.grown(below)]


def legend(look: Look) -> Line:
    """What the marks mean."""
    spans: list[Span] = []
    for mark, meaning in _MEANINGS.items():
        spans += [Span("   " if spans else ""), look.sign(mark), Span(f" {meaning}", "dim")]
    return tuple(spans)


def mark_of(tree: ConversationTree, node: Node, judge: str | None) -> Mark:
    """What a judge made of a reply."""
    judgement = _judgement_of(tree, node, judge)
    if judgement is None:
        return "none"
    if winner(judgement) == node.id:
        return "winner"
    outcomes = {v.outcome for v in judgement.verdicts if node.id in (v.first_id, v.second_id)}
    if any(v.outcome == "win" and v.second_id == node.id for v in judgement.verdicts):
        return "loser"
    order: tuple[Mark, ...] = ("both_bad", "unstable", "abstain", "tie")
    return next((mark for mark in order if mark in outcomes), "none")


def wrapped(text: str, width: int) -> list[str]:
    """Safe text in lines of at most `width` cells, broken at spaces where there are any."""
    lines: list[str] = []
    for paragraph in visible(text).expandtabs(4).split("\n"):
        current = ""
        for word in paragraph.split(" "):
            joined = f"{current} {word}" if current else word
            if cell_len(joined) <= width:
                current = joined
                continue
            if current:
                lines.append(current)
            *full, current = chop_cells(word, width) or [""]
            lines += full
        lines.append(current)
    return lines


@dataclass(frozen=True, slots=True)
class Branch:
    """A user's message to draw from, how far to the right, and the reply it answers if that must be said."""

    user: Node
    indent: str = ""
    after: Node | None = None


class _Drawing:
    """One tree being drawn. Nothing here recurses: conversations may be longer than Python's stack."""

    def __init__(self, tree: ConversationTree, look: Look) -> None:
        self._tree = tree
        self._look = look
        self._played = frozenset(node.id for node in tree.continued_path())

    def grown(self, branches: Sequence[Branch]) -> Iterator[Line]:
        """Everything from these messages on. Side branches come first and further right, so that the longest
        conversation stays at the margin however many turns it has.
        """
        waiting = list(reversed(branches))
        while waiting:
            branch = waiting.pop()
            yield from self.turn(branch)
            waiting += reversed(self._onward(branch))

    def _onward(self, branch: Branch) -> list[Branch]:
        replies = self._tree.children(branch.user.id)
        answers = [(user, reply) for reply in replies for user in self._tree.children(reply.id)]
        if len(answers) < 2:
            return [Branch(user, branch.indent) for user, _ in answers]
        answers.sort(key=lambda pair: pair[1].id in self._played)
        inward = branch.indent + self._look.guide("down")
        sides = [Branch(user, inward, reply) for user, reply in answers[:-1]]
        return [*sides, Branch(answers[-1][0], branch.indent, answers[-1][1])]

    def turn(self, branch: Branch) -> Iterator[Line]:
        """A user's message, what it revealed, and the replies under it."""
        user, look, indent = branch.user, self._look, branch.indent
        after = f" after {visible(branch.after.role)} {branch.after.id[:8]}" if branch.after is not None else ""
        yield (Span(indent, "dim"), Span(f"turn {user.turn}{after}  ", "bold"), *_about(user, look))
        yield from _text(user.text, look, indent + look.guide("down"), "")
        if (ledger := self._tree.ledgers.get(user.id)) is not None:
            yield from _text(_told(ledger), look, indent + look.guide("down"), "italic magenta")
        replies = self._tree.children(user.id)
        for number, reply in enumerate(replies, 1):
            yield from self.reply(reply, indent, look.guide("last" if number == len(replies) else "fork"))

    def reply(self, reply: Node, indent: str, arm: str) -> Iterator[Line]:
        """A reply with its marks."""
        tree, look = self._tree, self._look
        below = indent + look.guide("down" if arm == look.guide("fork") else "none")
        sign = look.sign(mark_of(tree, reply, look.judge))
        continued = (Span(" "), look.sign("continued")) if reply.id in tree.continued else ()
        yield (
            Span(indent + arm, "dim"),
            sign,
            *continued,
            Span(" "),
            *_about(reply, look),
            *_score(tree, reply, look),
        )
        yield from _text(reply.text, look, below, "")
        if not look.everything and reply.id not in self._played and tree.children(reply.id):
            more = len(tree.subtree(reply.id)) - 1
            yield (Span(below, "dim"), Span(f"{more} more messages below: --path all", "dim"))


def _told(ledger: Ledger) -> str:
    """What a ledger says, in a line."""
    oracle = " (the inducer saw the persona)" if ledger.sees_persona else ""
    facts = "; ".join(ledger.facts) or "nothing new"
    dropped = f" ({ledger.dropped} unsupported, dropped)" if ledger.dropped else ""
    failure = f" ({ledger.failure})" if ledger.failure else ""
    return f"revealed{oracle}: {facts}{dropped}{failure}"


def _about(node: Node, look: Look) -> Iterator[Span]:
    """Who wrote a message, and what is particular about it."""
    yield Span(visible(node.role), "bold blue" if node.speaker == "user" else "bold")
    if node.origin != "model":
        yield Span(_ORIGINS[node.origin] if node.role != "human" else "", "cyan")
    elif node.model_id is not None:
        yield Span(f"  {visible(look.labels.get(node.model_id, node.model_id[:8]))}", "dim")
    if node.hinted:
        yield Span("  hinted", "dim")
    if node.drift is not None:
        yield Span(f"  drift: {visible(node.drift)}", "yellow")
    if node.rerolls:
        yield Span(f"  re-rolled {node.rerolls}x", "dim")
    if node.operation_id is not None:
        yield Span(f"  {visible(node.replica)}", "cyan")
    if look.ids:
        yield Span(f"  {node.id}", "dim")


def score_of(tree: ConversationTree, reply: Node, judge: str | None) -> Score | None:
    """A judge's number for a reply, if it gives numbers."""
    judgement = _judgement_of(tree, reply, judge)
    return next((s for s in judgement.scores if s.node_id == reply.id), None) if judgement is not None else None


def _score(tree: ConversationTree, reply: Node, look: Look) -> Sequence[Span]:
    score = score_of(tree, reply, look.judge)
    return () if score is None else (Span(f"  {score.value:+.3f} {score.unit}", "green"),)


def _judgement_of(tree: ConversationTree, reply: Node, judge: str | None) -> Judgement | None:
    if judge is None or reply.parent_id is None:
        return None
    made = [j for j in tree.judgements.get(reply.parent_id, ()) if j.judge_id == judge and reply.id in j.covers]
    return max(made, key=lambda j: (j.complete, j.repeat), default=None)


def _text(text: str, look: Look, indent: str, style: str) -> Iterator[Line]:
    for line in wrapped(text, max(look.width - cell_len(indent), 20)):
        yield (Span(indent, "dim"), Span(line, style))
