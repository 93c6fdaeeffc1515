"""What the detail pane tells of a message: who said it and how it was judged, the judgements, the persona, the call.

Each view is a function from an opened tree to drawn lines, so that the same words can be shown, copied and exported.

Invariant: the two marks are told apart everywhere: what a judge preferred, and what the conversation went on from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from trees.store import Store
from trees.values import Judgement, Node, Presentation, Verdict
from tui.app.notes import Notes
from tui.app.opened import Opened
from tui.canonical import full_tree
from tui.draw import Line, Look, Span, mark_of, score_of
from tui.prompting import Rendered
from tui.sanitise import visible

BLANK: Line = ()


def turn_of(opened: Opened, node_id: str) -> tuple[Node, list[Node]]:
    """The user's message of the turn that a message belongs to, and the replies under it."""
    node = opened.tree[node_id]
    user = node if node.speaker == "user" else opened.tree.parent(node_id) or node
    return user, opened.tree.children(user.id)


def side_by_side(opened: Opened, node_id: str, most: int) -> list[Node]:
    """The replies of a turn that are shown together: the one pointed at among them, in their order."""
    _, replies = turn_of(opened, node_id)
    if len(replies) <= most:
        return replies
    at = next((place for place, reply in enumerate(replies) if reply.id == node_id), 0)
    start = min(max(at - 1, 0), len(replies) - most)
    return replies[start : start + most]


def heading(opened: Opened, reply: Node, look: Look) -> Line:
    """Marks, role, model and score of a reply."""
    tree = opened.tree
    score = score_of(tree, reply, opened.judge)
    return (
        look.sign(mark_of(tree, reply, opened.judge)),
        look.sign("continued") if reply.id in tree.continued else Span(""),
        Span(f" {visible(reply.role.removeprefix('responder.'))}", "bold"),
        Span(f" {score.value:+.3f}" if score is not None else "", "green"),
        Span(" hinted" if reply.hinted else "", "dim"),
        Span(f" {visible(opened.labels.get(reply.model_id or '', '')) or 'by a person'}", "dim"),
    )


def decided(opened: Opened, node_id: str) -> list[Line]:
    """What the judge said of a turn, and which reply went on and why, in a line each."""
    user, replies = turn_of(opened, node_id)
    names = {reply.id: _name(reply, replies) for reply in replies}
    lines: list[Line] = []
    judgement = opened.tree.judgement_of(user.id, opened.judge or "", *names)
    if judgement is not None:
        said = "; ".join(_verdict(v, names) for v in judgement.verdicts[:4])
        lines.append((Span(f"{visible(opened.judges[judgement.judge_id])}: ", "bold"), Span(said)))
    for reply in replies:
        if (mark := opened.tree.continued.get(reply.id)) is not None:
            lines.append((Span("went on from ", "bold"), Span(f"{names[reply.id]}: {visible(mark.reason)}")))
    if (notes := opened.notes.get(node_id, Notes())).note:
        lines.append((Span("note: ", "bold"), Span(visible(notes.note))))
    return lines


def judgements(opened: Opened, node_id: str) -> list[Line]:
    """Everything that judges said of a turn: verdicts, scores, every showing with its order and raw answer."""
    user, replies = turn_of(opened, node_id)
    names = {reply.id: _name(reply, replies) for reply in replies}
    made = opened.tree.judgements.get(user.id, [])
    if not made:
        return [(Span("No judge has judged this turn. "), Span("espalier judge RUN --judge NAME", "bold"))]
    return [line for judgement in made for line in (*_judgement(opened, judgement, names), BLANK)]


def _judgement(opened: Opened, judgement: Judgement, names: dict[str, str]) -> Iterator[Line]:
    again = f", judged again {judgement.repeat}x" if judgement.repeat else ""
    yield (Span(visible(opened.judges.get(judgement.judge_id, "?")), "bold"), Span(again, "dim"))
    if not judgement.complete:
        yield (Span(f"incomplete: {visible(judgement.cause or 'a call failed')}", "red"),)
    for verdict in judgement.verdicts:
        yield (Span("  "), Span(_verdict(verdict, names)))
    for score in sorted(judgement.scores, key=lambda s: -s.value):
        yield (Span(f"  {names.get(score.node_id, '?'):<12} {score.value:+.4f} {score.unit}", "green"),)
    for number, shown in enumerate(judgement.presentations, 1):
        yield from _presentation(number, shown, names)


def _presentation(number: int, shown: Presentation, names: dict[str, str]) -> Iterator[Line]:
    order = ", ".join(names.get(node, "?") for node in shown.order)
    label = "unreadable" if shown.label is None else visible(shown.label)
    yield (Span(f"  showing {number}: ", "dim"), Span(order), Span(f"  read: {names.get(label, label)}", "dim"))
    if shown.probabilities:
        odds = ", ".join(f"{names.get(k, visible(k))} {v:.3f}" for k, v in shown.probabilities.items())
        yield (Span(f"    {odds}", "dim"),)
    for line in visible(shown.raw).splitlines():
        yield (Span("    "), Span(line))


def _verdict(verdict: Verdict, names: dict[str, str]) -> str:
    first, second = names.get(verdict.first_id, "?"), names.get(verdict.second_id, "?")
    margin = f" by {verdict.margin:.3f} {verdict.unit}" if verdict.margin is not None and verdict.unit else ""
    if verdict.outcome == "win":
        return f"{first} beats {second}{margin}"
    words = {
        "tie": "are even",
        "both_bad": "are both bad",
        "unstable": "changed with the order",
        "abstain": "abstained",
    }
    return f"{first}, {second}: {words[verdict.outcome]}"


def _name(reply: Node, replies: Sequence[Node]) -> str:
    """What to call a reply among its siblings."""
    role = visible(reply.role.removeprefix("responder."))
    alike = [other for other in replies if other.role == reply.role]
    return role if len(alike) == 1 else f"{role} {alike.index(reply) + 1}"


def persona(opened: Opened, node_id: str) -> list[Line]:
    """Who speaks, and what they had revealed by this turn, with the turn in which they did."""
    lines: list[Line] = []
    if opened.person is None:
        lines.append((Span("A person spoke here; nobody is simulated."),))
    else:
        lines += [(Span("profile", "bold"),), (Span(visible(opened.person.profile)),), BLANK]
        lines += [(Span("personality", "bold"),), (Span(visible(opened.person.personality)),), BLANK]
    user, _ = turn_of(opened, node_id)
    lines.append((Span(f"revealed by turn {user.turn}", "bold"),))
    for node in opened.tree.path(user.id):
        ledger = opened.tree.ledgers.get(node.id)
        if ledger is None:
            continue
        lines += [(Span(f"{node.turn:>3}  ", "dim"), Span(visible(fact))) for fact in ledger.facts]
        if ledger.failure:
            lines.append((Span(f"{node.turn:>3}  ", "dim"), Span(visible(ledger.failure), "yellow")))
    return lines


def prompts(found: Sequence[Rendered]) -> list[Line]:
    """What was asked for a message, word for word, and the tokens that it took."""
    lines: list[Line] = []
    for use, messages, tokens in found:
        head = f"{visible(use.role)}, {visible(use.purpose)}  prompt {use.prompt_id[:8]}  call {use.call_id[:8]}"
        lines += [(Span(head, "bold"),), (Span(str(tokens), "dim"),)]
        for message in messages:
            lines.append((Span(f"[{message.role}]", "bold cyan"),))
            lines += [(Span(line),) for line in visible(message.content, longest=None).splitlines()]
        lines.append(BLANK)
    return lines


def raw(store: Store, opened: Opened, node_id: str) -> str:
    """A message as JSON, with the calls asked for it."""
    document = full_tree(store, opened.row, opened.tree)
    node = next(node for node in document["nodes"] if node["id"] == node_id)
    calls = [call for call in document["calls"] if call["id"] == node["call"] or call["node"] == node_id]
    return json.dumps({"node": node, "calls": calls}, ensure_ascii=False, indent=1)


def transcript(opened: Opened) -> str:
    """The conversation really played with the replies beside it, as Markdown."""
    lines = [f"# {visible(opened.row.title)}", "", f"Tree `{opened.row.id}`", ""]
    for user, replies in _played(opened):
        lines += [f"## Turn {user.turn}", "", visible(user.text, longest=None), ""]
        for reply in replies:
            marks: list[str] = [mark_of(opened.tree, reply, opened.judge)]
            marks += ["continued"] if reply.id in opened.tree.continued else []
            told = ", ".join(mark for mark in marks if mark != "none")
            lines += [f"**{visible(reply.role)}**{f' ({told})' if told else ''}", ""]
            lines += [f"> {line}" for line in visible(reply.text, longest=None).splitlines()] + [""]
    return "\n".join(lines) + "\n"


def _played(opened: Opened) -> list[tuple[Node, list[Node]]]:
    users = [node for node in opened.tree.continued_path() if node.speaker == "user"] or opened.tree.roots()[:1]
    return [(user, opened.tree.children(user.id)) for user in users]
