"""What a person does to a stored tree: re-roll, edit, extend a node, or have turns judged again.

An operation gives new siblings their place and id; the old branch stays as it is, and an earlier judgement stays
beside the new one. Everything an operation grows carries its id, and a run never goes on with it by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agents.judges.lookahead import changes, look_ahead
from agents.judges.verdicts import JudgeSpec
from agents.messages import Person
from agents.roles import Role
from simulation.episode import (
    Branch,
    Scene,
    TurnFailed,
    answer,
    commit_level,
    judge,
    play_levels,
    play_turn,
    respond,
)
from trees.errors import EspalierError
from trees.ids import node_id
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import BY_HAND, Continued, Judgement, Node, Turn
from trees.writes import in_one, keep_continued, keep_judgement, keep_operation


@dataclass(frozen=True)
class Operation:
    """An operation that has its number and its row."""

    id: str
    kind: str
    number: int
    args: Mapping[str, Any]

    def replica(self, sample: int = 0) -> str:
        return f"{self.kind}.{self.number}.{sample}"


class CannotOperate(EspalierError):
    """The operation does not fit the node."""

    exit_code = 2


async def record(
    scene: Scene, store: Store, node: Node, kind: str, args: Mapping[str, Any], asked_by: str
) -> Operation:
    """Give an operation its number among those of its kind on this node, and keep it."""
    sql = "SELECT count(*) FROM operations WHERE node_id = ? AND kind = ?"
    number = int(store.rows(sql, (node.id, kind))[0][0]) + 1
    identity, writes = keep_operation(scene.run_id, node.tree_id, node.id, kind, number, args, asked_by)
    await scene.writer.commit(writes)
    return Operation(identity, kind, number, args)


async def operate(scene: Scene, tree: ConversationTree, person: Person, node: Node, operation: Operation) -> list[str]:
    """Carry an operation out; returns the ids of the new nodes next to (or under) the one pointed at.

    Raises CannotOperate, TurnFailed or Halted.
    """
    match operation.kind:
        case "reroll":
            return await _reroll(scene, tree, person, node, operation)
        case "edit":
            return await _edit(scene, tree, person, node, operation)
        case "extend":
            return await _extend(scene, tree, person, node, operation)
    raise CannotOperate(f"there is no operation {operation.kind!r}", hint="Operations: reroll, edit, extend.")


async def judge_again(
    scene: Scene, tree: ConversationTree, person: Person, name: str, *, repeat_existing: bool = False
) -> int:
    """One judge over all turns of a stored tree that it has not judged (or over all); returns how many it judged.

    A judgement that a failed call left incomplete is none. A panel asks those of its members that have not judged.
    """
    spec = scene.judges[name]
    if spec.kind == "lookahead":
        return await _look_ahead(scene, tree, spec)
    judged = 0
    for user, replies in tree.turns():
        done = tree.judgement_of(user.id, spec.id, *(r.id for r in replies))
        if not replies or (done is not None and not repeat_existing):
            continue
        await scene.hold()
        known = {} if repeat_existing else _members_word(scene, tree, spec, user, replies)
        names = [*(member for member in _members(spec) if member not in known), name]
        judgements = await _judge_turn(scene, tree, person, user, replies, names, known)
        await scene.writer.commit(in_one(keep_judgement(j) for j in judgements))
        tree.judgements.setdefault(user.id, []).extend(judgements)
        judged += 1
    return judged


def _members(spec: JudgeSpec) -> list[str]:
    """Names of the judges that a panel is made of; none for any other judge."""
    members = spec.settings.get("members")
    return list(members) if isinstance(members, Mapping) else []


def _members_word(
    scene: Scene, tree: ConversationTree, panel: JudgeSpec, user: Node, replies: Sequence[Node]
) -> dict[str, Judgement]:
    """What members of a panel have said of a turn already, by name."""
    ids = [reply.id for reply in replies]
    found = {name: tree.judgement_of(user.id, scene.judges[name].id, *ids) for name in _members(panel)}
    return {name: judgement for name, judgement in found.items() if judgement is not None}


async def _look_ahead(scene: Scene, tree: ConversationTree, spec: JudgeSpec) -> int:
    """What lookahead says of every turn where it says something new: a tree that has grown is looked at again."""
    judged = 0
    for user, replies in tree.turns():
        if len(replies) < 2:
            continue
        earlier = [j for j in tree.judgements.get(user.id, ()) if j.judge_id == spec.id]
        before = max(earlier, key=lambda j: j.repeat, default=None)
        new = look_ahead(tree, user, spec, 0 if before is None else before.repeat + 1)
        if not changes(new, before):
            continue
        await scene.hold()
        await scene.writer.commit(keep_judgement(new))
        judged += 1
    return judged


async def mend(scene: Scene, tree: ConversationTree, person: Person) -> int:
    """Ask again for replies that failed in turns that went on without them; returns how many came."""
    mended = 0
    for user, replies in tree.turns():
        if user.origin != "model" or not replies:
            continue
        present = {reply.role for reply in replies if reply.operation_id is None}
        missing = [role for role in scene.responders() if role.name not in present]
        if not missing or user.operation_id is not None:
            continue
        try:
            new = await respond(scene, tree.path(user.id), tree.revealed(user.id), person=person, roles=missing)
        except TurnFailed:
            continue
        await _commit_siblings(scene, tree, person, user, new)
        mended += len(new)
    return mended


async def _reroll(scene: Scene, tree: ConversationTree, person: Person, node: Node, operation: Operation) -> list[str]:
    count = int(operation.args.get("count", 1))
    if node.speaker == "user":
        end = tree.parent(node.id)
        branches = [Branch(end, operation.replica(i), operation.id) for i in range(count)]
        turns = [await play_turn(scene, tree, person, branch) for branch in branches]
        await commit_level(scene, tree, turns, [])
        return [turn.user.id for turn in turns]
    user = _user_above(tree, node)
    role = _responder_of(scene, node)
    path, revealed = tree.path(user.id), tree.revealed(user.id)
    prefix = f"{operation.kind}.{operation.number}"
    new = await respond(
        scene,
        path,
        revealed,
        person=person,
        roles=[role],
        replica=prefix,
        operation_id=operation.id,
        samples=count,
    )
    return await _commit_siblings(scene, tree, person, user, new)


async def _edit(scene: Scene, tree: ConversationTree, person: Person, node: Node, operation: Operation) -> list[str]:
    text = str(operation.args["text"]).strip()
    if not text:
        raise CannotOperate("an edit needs a text", hint="Give it with --edit TEXT.")
    parent = node.parent_id or tree.id
    edited = replace(
        node,
        id=node_id(scene.run_id, parent, node.role, operation.replica()),
        replica=operation.replica(),
        text=text,
        origin="human",
        reasoning=None,
        call_id=None,
        answer=0,
        model_id=None,
        drift=None,
        rerolls=0,
        operation_id=operation.id,
    )
    if node.speaker == "assistant":
        return await _commit_siblings(scene, tree, person, _user_above(tree, node), [edited])
    above = tree.path(node.parent_id) if node.parent_id else []
    known = tree.revealed(node.parent_id) if node.parent_id else []
    turn = await answer(scene, person, [*above, edited], known, Branch(None, operation_id=operation.id))
    await commit_level(scene, tree, [turn], [])
    return [edited.id]


async def _extend(scene: Scene, tree: ConversationTree, person: Person, node: Node, operation: Operation) -> list[str]:
    if node.speaker != "assistant":
        raise CannotOperate(
            f"node {node.id[:8]} is the user's; a conversation is extended from a reply",
            hint="Name one of the replies under it, or re-roll it.",
        )
    turns = int(operation.args.get("turns", 1))
    before = {child.id for child in tree.children(node.id)}
    branch = Branch(node, operation.replica(), operation.id)
    failure = await play_levels(scene, tree, person, [branch], node.turn + turns)
    if failure is not None:
        raise failure
    if node.id not in tree.continued:
        mark = Continued(node.id, BY_HAND, f"extended by a person, {turns} turns")
        await commit_mark(scene, tree, mark)
    return [child.id for child in tree.children(node.id) if child.id not in before]


async def commit_mark(scene: Scene, tree: ConversationTree, mark: Continued) -> None:
    """Note that a conversation was continued from a node by hand."""
    await scene.writer.commit([keep_continued(mark)])
    tree.continued[mark.node_id] = mark


async def _commit_siblings(
    scene: Scene, tree: ConversationTree, person: Person, user: Node, new: Sequence[Node]
) -> list[str]:
    """Keep new replies under a stored user node, with the judges' word on all of its replies."""
    replies = [*tree.children(user.id), *new]
    judgements = await _judge_turn(scene, tree, person, user, replies, scene.judging())
    turn = Turn(user, None, tuple(new), judgements, new_user=False)
    await commit_level(scene, tree, [turn], [])
    return [node.id for node in new]


async def _judge_turn(
    scene: Scene,
    tree: ConversationTree,
    person: Person,
    user: Node,
    replies: Sequence[Node],
    names: Sequence[str],
    known: Mapping[str, Judgement] | None = None,
) -> tuple[Judgement, ...]:
    earlier = tree.judgements.get(user.id, ())
    repeats = {
        spec.id: 1 + max((j.repeat for j in earlier if j.judge_id == spec.id), default=-1)
        for spec in scene.judges.values()
    }
    path, revealed = tree.path(user.id), tree.revealed(user.id)
    return await judge(scene, person, path, replies, revealed, names=names, repeats=repeats, known=known)


def _user_above(tree: ConversationTree, reply: Node) -> Node:
    user = tree.parent(reply.id)
    assert user is not None, "a reply has a user node above it"
    return user


def _responder_of(scene: Scene, node: Node) -> Role:
    role = scene.roles.get(node.role)
    if role is None or not node.role.startswith("responder."):
        raise CannotOperate(
            f"node {node.id[:8]} was not written by a responder of this run but by {node.role!r}",
            hint="Edit it, or re-roll another reply of that turn.",
        )
    return role
