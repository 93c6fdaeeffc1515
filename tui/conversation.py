"""A person's conversation with a model, kept as a tree in a run of kind `human`.

The run is one model under one system message with one way of sampling; each conversation is a tree of it.
Replies go through the same agent and call path as in a played run, so an answer is on disk before it counts
as said, and a turn is kept whole: what the person said, with the reply.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agents.calls import Calls, DeltaSink, Seat
from agents.messages import Line, Place, RespondRequest
from agents.models.protocol import Model, Sampling
from agents.permits import Permits
from agents.prompts import Prompt
from agents.responder import Responder
from agents.retries import RetryPolicy
from agents.roles import Role, Stage
from trees.call_log import StoreCallLog
from trees.errors import StoreError
from trees.ids import node_id, run_id, tree_id
from trees.jobs import whoami
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import Continued, Node, Turn
from trees.writer import Writer
from trees.writes import (
    finish_tree,
    in_one,
    keep_model,
    keep_prompt,
    keep_revision,
    keep_run,
    keep_tree,
    keep_turn,
    set_run_state,
)
from tui.sanitise import one_line

ROLE = "responder.chat"
SEED = 0
DEADLINE_S = 300.0
"""Longest wait for a reply, in seconds."""


@dataclass(frozen=True)
class Partner:
    """Whom the person talks with."""

    model: Model
    prompt: Prompt
    sampling: Sampling

    def identity(self) -> dict[str, object]:
        return {
            "chat": {"sampling": self.sampling.as_dict()},
            "models": {self.model.name: self.model.identity.as_dict()},
            "prompts": {ROLE: self.prompt.id},
        }


class _OpenGate:
    """A person at the keyboard is limit enough."""

    async def enter(self) -> None:
        """Never waits."""

    async def halting(self) -> None:
        """Never comes."""
        await asyncio.Event().wait()

    def spent(self, *_: object) -> None:
        """Nothing to account for."""

    def broke(self, error: StoreError) -> None:
        """What cannot be kept is not said: the conversation ends here."""
        raise error


class Conversation:
    """One tree while it is being talked. Make it with `begin`, end it with `close`."""

    def __init__(self, reader: Store, partner: Partner, run: str, tree: str, deltas: DeltaSink) -> None:
        self._reader = reader
        self._writer = Writer(reader.path)
        self._run = run
        self._end: Node | None = None
        self.tree = ConversationTree(tree)
        model = partner.model
        seat = Seat(model, model.identity.id, Permits(1), DEADLINE_S, RetryPolicy())
        calls = Calls({model.name: seat}, StoreCallLog(reader, self._writer, run), _OpenGate(), deltas)
        role = Role(ROLE, (model.name,), partner.sampling, settings={"hint": False})
        self._prompt_id = partner.prompt.id
        self._responder = Responder(Stage(calls, {partner.prompt.id: partner.prompt}), role)

    async def say(self, text: str) -> Node:
        """The reply to what the person says. Raises CallFailed; then nothing of it is part of the tree."""
        above = self._end
        parent = above.id if above is not None else self.tree.id
        siblings = self.tree.roots() if above is None else self.tree.children(above.id)
        replica = f"say.{len(siblings)}"
        user = Node(
            id=node_id(self._run, parent, "human", replica),
            tree_id=self.tree.id,
            parent_id=None if above is None else above.id,
            turn=1 if above is None else above.turn + 1,
            speaker="user",
            role="human",
            replica=replica,
            text=text,
            origin="human",
        )
        reply = await self._ask(user, "")
        await self._keep(Turn(user, None, (reply,), continued=self._mark(above)))
        return reply

    async def retry(self) -> Node | None:
        """Another reply beside the last one; None if nothing was said yet. Raises CallFailed."""
        if self._end is None:
            return None
        user = self.tree.parent(self._end.id)
        assert user is not None, "a reply has a user's message above it"
        reply = await self._ask(user, f"retry.{len(self.tree.children(user.id))}")
        await self._keep(Turn(user, None, (reply,), new_user=False))
        return reply

    def undo(self) -> bool:
        """Take the last exchange back; it stays in the tree as a branch. False if there is none."""
        if self._end is None:
            return False
        user = self.tree.parent(self._end.id)
        self._end = self.tree.parent(user.id) if user is not None else None
        return True

    async def close(self) -> None:
        await self._writer.commit([*finish_tree(self.tree.id), *set_run_state(self._run, "finished")])
        await self._writer.close()
        self._reader.close()

    def _mark(self, above: Node | None) -> tuple[Continued, ...]:
        """That the person went on from this reply."""
        if above is None or above.id in self.tree.continued:
            return ()
        return (Continued(above.id, "human", "the person went on from it"),)

    async def _ask(self, user: Node, replica: str) -> Node:
        above = self.tree.path(user.parent_id) if user.parent_id is not None else []
        request = RespondRequest(
            place=Place(run_id=self._run, run_seed=SEED, tree_id=self.tree.id, node_id=user.id, turn=user.turn),
            role=ROLE,
            prompt_id=self._prompt_id,
            history=tuple(Line(speaker=node.speaker, text=node.text) for node in (*above, user)),
            hint=None,
            replica=replica,
        )
        said = (await self._responder.act(request)).said[0]
        name = f"{replica}.{said.answer}" if replica else str(said.answer)
        return Node(
            id=node_id(self._run, user.id, ROLE, name),
            tree_id=self.tree.id,
            parent_id=user.id,
            turn=user.turn,
            speaker="assistant",
            role=ROLE,
            replica=name,
            text=said.text,
            reasoning=said.reasoning,
            call_id=said.call_id,
            answer=said.answer,
            model_id=said.model_id,
        )

    async def _keep(self, turn: Turn) -> None:
        await self._writer.commit(keep_turn(turn))
        self.tree.add_turn(turn)
        self._end = turn.replies[0]


def begin(store: Store, partner: Partner, first_words: str, deltas: DeltaSink) -> Conversation:
    """A new conversation in the store."""
    model, prompt = partner.model, partner.prompt
    run = run_id(partner.identity(), SEED, [])
    store.apply(
        in_one(
            [
                keep_prompt(prompt.id, prompt.kind, prompt.text),
                keep_model(model.identity.id, model.name, model.identity.as_dict()),
                keep_run(run, "human", f"chat with {model.name}", SEED, partner.identity(), {}),
                keep_revision(run, 0, {ROLE: prompt.id}, whoami()),
                set_run_state(run, "running"),
            ]
        )
    )
    with store.transaction():
        position = store.rows("SELECT coalesce(max(position) + 1, 0) FROM trees WHERE run_id = ?", (run,))[0][0]
        tree = tree_id(run, f"chat.{position}")
        title = one_line(first_words, 60)
        for sql, values in keep_tree(tree, run, position, None, None, title=title):
            store.connection.execute(sql, values)
    return Conversation(Store.read(store.path), partner, run, tree, deltas)
