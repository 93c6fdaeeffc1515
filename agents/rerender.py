"""Prompts rendered again from the store alone: what `verify` compares and what `show --prompt` prints.

The store keeps no prompts. A use names the prompt version, the node at which its path ends and what its
last part was given; from these and the tree, each role's own function builds the very messages that were
sent. Ledgers, hints and candidates are read from the tree, never from the use.

Invariant: the messages of a use whose turn is stored equal those that were sent. A use whose turn was never
committed (a crash came first) has no path to render.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from agents.calls import messages_digest
from agents.generator import check_messages, generator_messages
from agents.inducer import inducer_messages
from agents.judges.choice import choice_messages
from agents.judges.likelihood import likelihood_messages
from agents.judges.pairwise import pairwise_messages
from agents.judges.points import points_messages, seen
from agents.judges.rating import rating_messages
from agents.judges.reward import reward_messages
from agents.messages import Line, Person
from agents.models.protocol import Message
from agents.person import person_in
from agents.prompts import Prompt
from agents.responder import responder_messages
from agents.user import user_messages
from agents.window import KEPT_AT_START, Window
from trees.errors import NotFound
from trees.personas import Kind, sentences
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import Use
from trees.verify import USE_COLUMNS, use_from_row

Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """A tree with the persona it is played with."""

    tree: ConversationTree
    person: Person | None
    histories: dict[str, Sequence[Line]] = field(default_factory=dict)
    """By the node a path ends at, as they are asked for: a turn's prompts share one."""

    def history(self, node_id: str) -> Sequence[Line] | None:
        """The path to a node as everybody heard it; None if the node is not stored."""
        if node_id not in self.histories and node_id in self.tree:
            path = self.tree.path(node_id)
            # Not validated again: these texts are what validated requests carried.
            self.histories[node_id] = [Line.model_construct(speaker=n.speaker, text=n.text) for n in path]
        return self.histories.get(node_id)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a use's prompt is made of."""

    use: Use
    prompt: Prompt
    setting: Setting
    history: Sequence[Line]
    window: Window

    def person(self) -> Person | None:
        """The persona, if this prompt was given it."""
        told = self.use.tail.get("persona", self.use.tail.get("sees_persona"))
        return self.setting.person if told else None

    def revealed(self) -> list[str]:
        """What the person had revealed by the end of the path."""
        return self.setting.tree.revealed(self.use.node_id)

    def known_before(self) -> list[str]:
        """What they had revealed before the last message of the path."""
        above = self.setting.tree.parent(self.use.node_id)
        return [] if above is None else self.setting.tree.revealed(above.id)

    def candidates(self) -> list[str] | None:
        """The texts of the replies as shown; None if they are not all stored."""
        shown = self.use.tail["shown"]
        assert isinstance(shown, list)
        tree = self.setting.tree
        return [tree[node].text for node in shown] if all(node in tree for node in shown) else None


class RememberingPrompt(Prompt):
    """A prompt that renders what a persona alone decides (head, opening) once a persona, not once a call."""

    @cached_property
    def _rendered(self) -> dict[tuple[object, ...], str]:
        return {}

    def render(self, section: str, **values: object) -> str:
        if section == "tail":
            return super().render(section, **values)
        key = (section, *sorted(values.items()))
        if key not in self._rendered:
            self._rendered[key] = super().render(section, **values)
        return self._rendered[key]


class Rerender:
    """Renders the prompts of uses again. The last tree is kept: ask tree by tree."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._prompts: dict[str, Prompt] = {}
        self._last: Setting | None = None

    def __call__(self, use: Use) -> str | None:
        """The digest of a use's messages; None if they cannot be rendered."""
        messages = self.messages(use)
        return None if messages is None else messages_digest(messages)

    def messages(self, use: Use, under: Prompt | None = None) -> Messages | None:
        """The messages of a use, or what they would be under another prompt of its kind.

        None if the turn it was asked for is not stored.
        """
        prompt = under or self._prompt(use.prompt_id)
        if prompt is not None and prompt.kind in _OF_GROWING:
            return _OF_GROWING[prompt.kind](self._store, prompt, use.tail)
        setting = self._setting(use.tree_id)
        render = _RENDERERS.get(prompt.kind) if prompt is not None else None
        if prompt is None or setting is None or render is None:
            return None
        history = [] if use.node_id == use.tree_id else setting.history(use.node_id)
        if history is None:
            return None
        resume = int(str(use.tail.get("resume", KEPT_AT_START)))
        return render(Shown(use, prompt, setting, history, Window(use.epoch, resume)))

    def _prompt(self, prompt_id: str) -> Prompt | None:
        if prompt_id not in self._prompts:
            try:
                self._prompts[prompt_id] = RememberingPrompt(*self._store.prompt(prompt_id))
            except NotFound:
                return None
        return self._prompts[prompt_id]

    def _setting(self, tree_id: str) -> Setting | None:
        if self._last is None or self._last.tree.id != tree_id:
            self._last = self._load(tree_id)
        return self._last

    def _load(self, tree_id: str) -> Setting | None:
        try:
            row = self._store.tree_row(tree_id)
            tree = self._store.tree(tree_id)
        except (NotFound, ValueError):
            # A tree that is not one (a missing parent) is another finding of `verify`.
            return None
        return Setting(tree, person_in(self._store, row))


def use_of_node(store: Store, node_id: str) -> Use | None:
    """The use behind a node's text; None for what a person wrote. Raises NotFound without such a node."""
    store.tree_of(node_id)
    rows = store.rows(
        f"SELECT {USE_COLUMNS} "
        "FROM nodes n JOIN uses u ON u.call_id = n.call_id AND u.tree_id = n.tree_id AND u.role = n.role "
        "AND u.node_id = coalesce(n.parent_id, n.tree_id) WHERE n.id = ? ORDER BY u.purpose LIMIT 1",
        (node_id,),
    )
    return use_from_row(rows[0]) if rows else None


def _speak(shown: Shown) -> Messages | None:
    if shown.setting.person is None:
        return None
    turn = int(str(shown.use.tail["turn"]))
    return user_messages(shown.prompt, shown.setting.person, shown.history, turn, shown.window)


def _induce(shown: Shown) -> Messages:
    return inducer_messages(shown.prompt, shown.person(), shown.history, shown.known_before(), shown.window)


def _respond(shown: Shown) -> Messages:
    hint = shown.revealed() if shown.use.tail.get("hint") else None
    return responder_messages(shown.prompt, shown.history, hint, shown.window, shown.person())


def _likelihood(shown: Shown) -> Messages:
    revealed = shown.revealed() if shown.use.tail["revealed"] else []
    return likelihood_messages(shown.prompt, shown.person(), shown.history, revealed, shown.window)


def _choice(shown: Shown) -> Messages | None:
    texts = shown.candidates()
    if texts is None:
        return None
    return choice_messages(shown.prompt, shown.person(), shown.history, texts, shown.revealed(), shown.window)


def _pairwise(shown: Shown) -> Messages | None:
    texts = shown.candidates()
    if texts is None:
        return None
    first, second = texts
    person, revealed = shown.person(), shown.revealed()
    return pairwise_messages(shown.prompt, person, shown.history, (first, second), revealed, shown.window)


def _rating(shown: Shown) -> Messages | None:
    texts = shown.candidates()
    return (
        None if texts is None else rating_messages(shown.prompt, shown.person(), shown.history, texts[0], shown.window)
    )


def _points(shown: Shown) -> Messages | None:
    texts = shown.candidates()
    history = seen(shown.history, dialogue=bool(shown.use.tail["dialogue"]))
    if texts is None:
        return None
    turn = shown.setting.tree[shown.use.node_id].turn
    return points_messages(shown.prompt, shown.person(), history, texts[0], shown.window, turn)


def _reward(shown: Shown) -> Messages | None:
    return reward_messages(shown.prompt, shown.history, shown.window)


def _invent(store: Store, prompt: Prompt, tail: Mapping[str, object]) -> Messages | None:
    kind: Kind = "profile" if prompt.kind == "persona.profile" else "personality"
    shown, count = tail["shown"], int(str(tail["count"]))
    assert isinstance(shown, list)
    try:
        found = [store.profile(i) if kind == "profile" else store.personality(i) for i in shown]
    except NotFound:
        return None
    return generator_messages(prompt, kind, [sentences(item.text) for item in found], count, str(tail["lacking"]))


def _look(_: Store, prompt: Prompt, tail: Mapping[str, object]) -> Messages | None:
    return check_messages(prompt, "profile" if tail["kind"] == "profile" else "personality", str(tail["text"]))


_OF_GROWING: Mapping[str, Callable[[Store, Prompt, Mapping[str, object]], Messages | None]] = {
    "persona.profile": _invent,
    "persona.personality": _invent,
    "persona.check": _look,
}
"""By kind of prompt, for the calls of a growing: these have no tree."""

_RENDERERS: Mapping[str, Callable[[Shown], Messages | None]] = {
    "user": _speak,
    "inducer": _induce,
    "responder": _respond,
    "told": _respond,
    "deploy": _respond,
    "judge.likelihood": _likelihood,
    "judge.choice": _choice,
    "judge.pairwise": _pairwise,
    "judge.rating": _rating,
    "judge.reward": _reward,
    "judge.points": _points,
}
"""By kind of prompt: the function of the role that is asked with it."""
