"""The loop: how one conversation tree is played. Read from top to bottom, this is the method.

Each level, for every end from which the conversation goes on: the user speaks, the inducer reads what was revealed,
the responders answer as siblings, the judges judge, and the branching policy picks which siblings go on. The level is
then committed whole. All model calls are committed before they are used (`agents.calls`), so a level that a crash cut
short is played again from the call log without asking anything twice.

Method: arXiv 2410.03642, section 2; the differences are told in docs/method.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from agents.bus import HALTED, Bus
from agents.calls import Halted
from agents.judges.measured import panel_judgement
from agents.judges.verdicts import JudgeSpec
from agents.messages import (
    Candidate,
    InduceRequest,
    JudgeRequest,
    Line,
    Person,
    Place,
    Reply,
    RespondRequest,
    Said,
    SpeakRequest,
)
from agents.permits import Permits
from agents.roles import Role
from simulation.branching import choose
from simulation.config import BranchingConfig
from trees.ids import node_id
from trees.tree import ConversationTree
from trees.values import BY_HAND, Continued, Judgement, Ledger, Node, Speaker, Turn
from trees.writer import Writer
from trees.writes import fail_tree, finish_tree, in_one, keep_turn


@dataclass(frozen=True)
class Scene:
    """What a tree is played with. The same for all trees of a run, but for the prompts' revision."""

    run_id: str
    run_seed: int
    turns: int
    roles: Mapping[str, Role]
    prompts: Mapping[str, str]
    """Prompt id by role name, as this tree's revision has them."""
    judges: Mapping[str, JudgeSpec]
    deciding_judge: str
    branching: BranchingConfig
    sees_persona: bool
    bus: Bus
    writer: Writer
    levels: Permits
    """Levels played at the same time: enough to keep the models busy. A tree that waits here holds little memory."""
    hold: Callable[[], Awaitable[None]]
    """Awaited before each level: waits while the run is paused, raises Halted when it stops."""

    def judging(self) -> list[str]:
        """Names of the judges that speak while a turn is played; of what grew later others are asked."""
        return [name for name, spec in self.judges.items() if spec.kind != "lookahead"]

    def responders(self) -> list[Role]:
        """By name: the order of a file is not part of what a run is."""
        return [role for name, role in sorted(self.roles.items()) if name.startswith("responder.")]


@dataclass(frozen=True)
class Branch:
    """Where to play from: the end of a path and, for what a person asked for, the operation and the replica's name."""

    end: Node | None
    """A reply, or None to open the conversation."""
    replica: str = "0"
    operation_id: str | None = None


class TurnFailed(Exception):
    """A turn cannot be completed; the tree ends here unless it is asked to try again."""

    def __init__(self, kind: str, message: str, turn: int) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.turn = turn


async def play_tree(scene: Scene, tree: ConversationTree, person: Person) -> None:
    """Play a tree to its last turn from wherever it stands, and record how it ended. Raises Halted if it must stop."""
    failure = await play_levels(scene, tree, person, open_branches(tree, scene.turns), scene.turns)
    if failure is None:
        await scene.writer.commit(finish_tree(tree.id))
    else:
        await scene.writer.commit(fail_tree(tree.id, failure.turn, failure.kind, failure.message))


async def play_levels(
    scene: Scene, tree: ConversationTree, person: Person, branches: Sequence[Branch], last_turn: int
) -> TurnFailed | None:
    """Play level after level down to a turn. A branch that fails ends there; the last such failure is returned."""
    failure = None
    while branches:
        async with scene.levels:
            await scene.hold()
            outcomes = await asyncio.gather(*(_try_turn(scene, tree, person, branch) for branch in branches))
        failure = next((o for o in outcomes if isinstance(o, TurnFailed)), failure)
        level = [turn for turn in outcomes if isinstance(turn, Turn)]
        marks = choose(scene.branching, [(t, _deciding(scene, t)) for t in level], scene.run_seed)
        await commit_level(scene, tree, level, marks)
        chosen = {mark.node_id for mark in marks}
        branches = [
            Branch(reply, operation_id=reply.operation_id)
            for turn in level
            for reply in turn.replies
            if reply.id in chosen and reply.turn < last_turn
        ]
    return failure


async def play_turn(scene: Scene, tree: ConversationTree, person: Person, branch: Branch) -> Turn:
    """One turn from one end. Raises TurnFailed or Halted."""
    path = tree.path(branch.end.id) if branch.end is not None else []
    known = tree.revealed(branch.end.id) if branch.end is not None else []

    user = await speak(scene, tree.id, person, path, branch)
    return await answer(scene, person, [*path, user], known, branch)


async def answer(
    scene: Scene, person: Person, path: Sequence[Node], known: Sequence[str], branch: Branch, *, new_user: bool = True
) -> Turn:
    """What follows a user's message: the ledger, the replies, the judgements. `path` ends with that message."""
    user = path[-1]
    ledger = await induce(scene, person, path, known)
    revealed = list(dict.fromkeys([*known, *ledger.facts]))
    replies = await respond(scene, path, revealed, person=person, operation_id=branch.operation_id)
    judgements = await judge(scene, person, path, replies, revealed)
    return Turn(user, ledger, replies, judgements, new_user=new_user)


async def speak(scene: Scene, tree_id: str, person: Person, path: Sequence[Node], branch: Branch) -> Node:
    """The persona user's next message."""
    end = path[-1].id if path else tree_id
    turn = path[-1].turn + 1 if path else 1
    request = SpeakRequest(
        place=_place(scene, tree_id, end, turn),
        prompt_id=scene.prompts["user"],
        person=person,
        history=lines_of(path),
        replica=branch.replica,
    )
    said = _checked(await scene.bus.call("user", request), turn).said[0]
    node = Node(
        id=node_id(scene.run_id, end, "user", branch.replica),
        tree_id=tree_id,
        parent_id=path[-1].id if path else None,
        turn=turn,
        speaker="user",
        role="user",
        replica=branch.replica,
        text=said.text,
        operation_id=branch.operation_id,
    )
    return _as_said(node, said)


async def induce(scene: Scene, person: Person, path: Sequence[Node], known: Sequence[str]) -> Ledger:
    """What the last message revealed, as the inducer reads it."""
    user = path[-1]
    request = InduceRequest(
        place=_place(scene, user.tree_id, user.id, user.turn),
        prompt_id=scene.prompts["inducer"],
        person=person if scene.sees_persona else None,
        history=lines_of(path),
        known=tuple(known),
    )
    ledger = _checked(await scene.bus.call("inducer", request), user.turn).ledger
    assert ledger is not None
    return ledger


async def respond(
    scene: Scene,
    path: Sequence[Node],
    revealed: Sequence[str],
    *,
    person: Person | None,
    roles: Sequence[Role] | None = None,
    replica: str = "",
    operation_id: str | None = None,
    samples: int | None = None,
) -> tuple[Node, ...]:
    """The replies of all responders, as siblings in the order of their names.

    A responder that fails is missing among them (its failure is kept). Raises TurnFailed if none answers.
    """
    asked = scene.responders() if roles is None else roles
    answers = await asyncio.gather(
        *(_ask_responder(scene, path, revealed, person, role, replica, samples) for role in asked)
    )
    nodes = [
        _reply_node(scene, path[-1], role, said, replica, operation_id)
        for role, reply in zip(asked, answers, strict=True)
        for said in reply.said
    ]
    if not nodes:
        failed = next(reply.failed for reply in answers if reply.failed is not None)
        raise TurnFailed(failed.kind, f"no responder answered: {failed.message}", path[-1].turn)
    return tuple(nodes)


async def judge(
    scene: Scene,
    person: Person,
    path: Sequence[Node],
    replies: Sequence[Node],
    revealed: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    repeats: Mapping[str, int] | None = None,
    known: Mapping[str, Judgement] | None = None,
) -> tuple[Judgement, ...]:
    """What the judges say of a turn: those that ask or measure first, then the panels made of them.

    `known`: judgements that panels may count without asking for them, by name.
    """
    wanted = scene.judging() if names is None else names
    repeat = {name: (repeats or {}).get(scene.judges[name].id, 0) for name in wanted}
    members = [name for name in wanted if scene.judges[name].kind != "panel"]
    user = path[-1]
    requests = [
        JudgeRequest(
            place=_place(scene, user.tree_id, user.id, user.turn),
            judge=name,
            prompt_id=scene.judges[name].prompt_id,
            person=person,
            history=lines_of(path),
            candidates=tuple(Candidate(node_id=r.id, text=r.text, hinted=r.hinted) for r in replies),
            revealed=tuple(revealed),
            repeat=repeat[name],
        )
        for name in members
    ]
    answers = await asyncio.gather(*(scene.bus.call("judge", request) for request in requests))
    made = dict(known or {})
    for name, reply in zip(members, answers, strict=True):
        judgement = _checked(reply, user.turn).judgement
        assert judgement is not None
        made[name] = judgement
    for name in wanted:
        spec = scene.judges[name]
        if spec.kind == "panel":
            names_of_members = spec.settings["members"]
            assert isinstance(names_of_members, Mapping)
            voting = {member: made[member] for member in names_of_members}
            made[name] = panel_judgement(spec.id, user.id, repeat[name], voting)
    return tuple(made[name] for name in wanted)


async def commit_level(scene: Scene, tree: ConversationTree, level: Sequence[Turn], marks: Sequence[Continued]) -> None:
    """Keep a level in one transaction, then let the tree in memory hold what going on needs of it.

    That is the messages that were continued from and the ledgers: thousands of trees may be in flight, and the store
    holds the rest.
    """
    chosen = {mark.node_id: mark for mark in marks}
    turns = [replace(turn, continued=tuple(chosen[r.id] for r in turn.replies if r.id in chosen)) for turn in level]
    await scene.writer.commit(in_one(keep_turn(turn) for turn in turns))
    for turn in turns:
        went_on = tuple(reply for reply in turn.replies if reply.id in chosen)
        tree.add_turn(replace(turn, replies=went_on, judgements=()))


def open_branches(tree: ConversationTree, last_turn: int) -> list[Branch]:
    """The ends from which a run still has to play: nothing yet, or replies that it went on from and has not answered.

    What a person's operation grew is never gone on with by itself, and does not stand in for what the run owes.
    """
    if not any(root.operation_id is None for root in tree.roots()):
        return [Branch(None)]
    return [Branch(node) for node in tree if node.turn < last_turn and _owes_an_answer(tree, node)]


def _owes_an_answer(tree: ConversationTree, node: Node) -> bool:
    """Whether the run's own branching went on from a reply, and no message of the run's own follows it."""
    mark = tree.continued.get(node.id)
    if mark is None or mark.policy == BY_HAND or node.operation_id is not None:
        return False
    return all(child.operation_id is not None for child in tree.children(node.id))


def lines_of(path: Sequence[Node]) -> tuple[Line, ...]:
    """A path as everybody hears it."""
    return tuple(_line(node.speaker, node.text) for node in path)


@lru_cache(2048)
def _line(speaker: Speaker, text: str) -> Line:
    """Each message is heard by every role of every later turn: made once."""
    return Line(speaker=speaker, text=text)


async def _try_turn(scene: Scene, tree: ConversationTree, person: Person, branch: Branch) -> Turn | TurnFailed:
    try:
        return await play_turn(scene, tree, person, branch)
    except TurnFailed as failure:
        return failure


async def _ask_responder(
    scene: Scene,
    path: Sequence[Node],
    revealed: Sequence[str],
    person: Person | None,
    role: Role,
    replica: str,
    samples: int | None,
) -> Reply:
    user = path[-1]
    request = RespondRequest(
        place=_place(scene, user.tree_id, user.id, user.turn),
        role=role.name,
        prompt_id=scene.prompts[role.name],
        history=lines_of(path),
        hint=tuple(revealed) if role.settings["hint"] else None,
        person=person if role.settings.get("told") else None,
        replica=replica,
        samples=samples,
    )
    reply = await scene.bus.call("responder", request)
    if reply.failed is not None and reply.failed.kind == HALTED:
        raise Halted(reply.failed.message)
    return reply


def _reply_node(scene: Scene, user: Node, role: Role, said: Said, replica: str, operation_id: str | None) -> Node:
    name = f"{replica}.{said.answer}" if replica else str(said.answer)
    node = Node(
        id=node_id(scene.run_id, user.id, role.name, name),
        tree_id=user.tree_id,
        parent_id=user.id,
        turn=user.turn,
        speaker="assistant",
        role=role.name,
        replica=name,
        text=said.text,
        hinted=bool(role.settings["hint"]),
        operation_id=operation_id,
    )
    return _as_said(node, said)


def _as_said(node: Node, said: Said) -> Node:
    return replace(
        node,
        reasoning=said.reasoning,
        call_id=said.call_id,
        answer=said.answer,
        model_id=said.model_id,
        drift=said.drift,
        rerolls=said.rerolls,
    )


def _place(scene: Scene, tree_id: str, end: str, turn: int) -> Place:
    return Place(run_id=scene.run_id, run_seed=scene.run_seed, tree_id=tree_id, node_id=end, turn=turn)


def _deciding(scene: Scene, turn: Turn) -> Judgement | None:
    wanted = scene.judges[scene.deciding_judge].id
    return next((j for j in turn.judgements if j.judge_id == wanted), None)


def _checked(reply: Reply, turn: int) -> Reply:
    """A reply that is a result. Raises Halted or TurnFailed for one that is not."""
    if reply.failed is None:
        return reply
    if reply.failed.kind == HALTED:
        raise Halted(reply.failed.message)
    raise TurnFailed(reply.failed.kind, reply.failed.message, turn)
