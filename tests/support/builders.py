"""Stores made by hand, value by value: a run, its people, trees, turns and judgements, without any model.

What is written is what the engine would have written: ids are derived and every model's node has a call and a
use, so that a store made here is clean for `verify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from trees.ids import digest_of, node_id, run_id, tree_id
from trees.personas import Personality, Profile
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import (
    Call,
    Continued,
    Judgement,
    Ledger,
    Node,
    Outcome,
    Presentation,
    RunKind,
    Score,
    Turn,
    Unit,
    Use,
    Verdict,
)
from trees.writes import (
    in_one,
    keep_call,
    keep_judge,
    keep_judgement,
    keep_model,
    keep_personality,
    keep_profile,
    keep_prompt,
    keep_revision,
    keep_run,
    keep_tree,
    keep_turn,
)

MODEL: Mapping[str, object] = {"backend": "scripted", "model": "by hand"}
MODEL_ID = digest_of("model", MODEL)
DEPLOY = "[head]\n"
PROMPTS = {"user": "[head]\nYou are {{ profile }}\n", "deploy": DEPLOY}


def profile(name: str) -> Profile:
    return Profile((f"{name} lives here.",), "they", f"{name} lives here.")


def personality(name: str) -> Personality:
    return Personality((f"They are {name}.",), "they", f"They are {name}.")


def prompt_id(role: str, text: str) -> str:
    return digest_of("prompt", role, text)


@dataclass
class BuiltRun:
    """A run in a store, to which turns are added."""

    store: Store
    id: str
    trees: list[str]
    prompts: Mapping[str, str]
    """Prompt id by role."""
    asked: int = field(default=0)

    def user(self, tree: str, text: str, parent: Node | None = None, *, replica: str = "0", **more: Any) -> Node:
        """A user's message under a reply, or an opening."""
        above = tree if parent is None else parent.id
        turn = 1 if parent is None else parent.turn + 1
        node = node_id(self.id, above, "user", replica)
        return Node(
            node, tree, parent.id if parent else None, turn, "user", "user", replica, text,
            call_id=self.call(tree, above, "user", [text]), model_id=MODEL_ID, **more,
        )  # fmt: skip

    def replies(self, user: Node, *texts: str, role: str = "responder.plain", hinted: bool = False) -> list[Node]:
        """Replies of one responder under a user's message, from one call."""
        call = self.call(user.tree_id, user.id, role, list(texts))
        return [
            Node(
                node_id(self.id, user.id, role, str(i)), user.tree_id, user.id, user.turn, "assistant", role,
                str(i), text, call_id=call, answer=i, model_id=MODEL_ID, hinted=hinted,
            )
            for i, text in enumerate(texts)
        ]  # fmt: skip

    def call(self, tree: str, node: str, role: str, texts: Sequence[str], *, shared: str | None = None) -> str:
        """Keep a call that gave these texts, with its use; calls of the same `shared` name are one."""
        self.asked += 1
        request: dict[str, object] = {"n": len(texts)}
        prompt = shared or f"{self.id} {self.asked}"
        identity = digest_of("call", MODEL_ID, "chat", prompt, request)
        answer = {"completions": [{"text": text} for text in texts]}
        call = Call(identity, "chat", MODEL_ID, request, "", prompt, answer, 10, 4, 5, 0.1, 0.5)
        use = Use(self.id, identity, tree, node, role, "speak.0", self.prompts["user"], {"turn": 1})
        self.store.apply(keep_call(call, use))
        return identity

    def turn(
        self,
        user: Node,
        replies: Sequence[Node],
        judgements: Sequence[Judgement] = (),
        *,
        continued: Node | None = None,
        facts: Sequence[str] = (),
        new_user: bool = True,
    ) -> Turn:
        """Keep a turn."""
        marks = (Continued(continued.id, "winner", "by hand"),) if continued is not None else ()
        ledger = Ledger(user.id, tuple(facts), False) if new_user else None
        turn = Turn(user, ledger, tuple(replies), tuple(judgements), marks, new_user)
        self.store.apply(keep_turn(turn))
        return turn

    def tree(self, position: int = 0) -> ConversationTree:
        return self.store.tree(self.trees[position])


def make_run(
    store: Store,
    people: Sequence[tuple[str, str]] = (("Ada", "calm"),),
    *,
    seed: int = 1,
    kind: RunKind = "play",
    deploy: str = DEPLOY,
    held_out: Sequence[str] = (),
    prompts: Mapping[str, str] = PROMPTS,
) -> BuiltRun:
    """A run with one tree for each pair of names; those in `held_out` are kept from training."""
    texts = {**prompts, "deploy": deploy}
    ids = {role: prompt_id(role, text) for role, text in texts.items()}
    halves = [(profile(a), personality(b)) for a, b in people]
    identity = {"play": {"turns": 2}, "prompts": ids}
    run = run_id(identity, seed, [[a.id, b.id] for a, b in halves])
    trees = [tree_id(run, f"{a.id}:{b.id}") for a, b in halves]

    def split(name: str) -> str:
        return "held_out" if name in held_out else "train"

    store.apply(
        in_one(
            [
                keep_model(MODEL_ID, "hand", MODEL),
                *(keep_prompt(ids[role], role, text) for role, text in texts.items()),
                keep_run(run, kind, "by hand", seed, identity, {}),
                keep_revision(run, 0, ids, "test"),
                *(keep_profile(profile(a), source="test", split=split(a)) for a, _ in people),
                *(keep_personality(personality(b), source="test", split=split(b)) for _, b in people),
                *(
                    keep_tree(tree, run, position, a.id, b.id, title="by hand")
                    for position, (tree, (a, b)) in enumerate(zip(trees, halves, strict=True))
                ),
            ]
        )
    )
    return BuiltRun(store, run, trees, ids)


def make_judge(store: Store, name: str = "judge", *, threshold: float = 0.0, kind: str = "likelihood") -> str:
    """A judge; another threshold is another judge under the same name."""
    spec: dict[str, object] = {"kind": kind, "settings": {"threshold": threshold}}
    identity = digest_of("judge", spec)
    store.apply(keep_judge(identity, name, kind, spec))
    return identity


def judged(
    user: Node,
    judge: str,
    verdicts: Sequence[tuple[Node, Node, str] | tuple[Node, Node, str, float]],
    *,
    covers: Sequence[Node] | None = None,
    repeat: int = 0,
    unit: Unit | None = "nats",
    scores: Mapping[str, float] | None = None,
    presentations: Sequence[Presentation] = (),
    complete: bool = True,
) -> Judgement:
    """A judgement over a turn; each verdict is (first, second, outcome) with a margin of 1 unless it says."""
    said = tuple(
        Verdict(
            v[0].id,
            v[1].id,
            cast(Outcome, v[2]),
            None if unit is None else float(v[3] if len(v) > 3 else 1.0),
            unit,
        )
        for v in verdicts
    )
    named = [node for v in verdicts for node in v[:2]] if covers is None else list(covers)
    shown = tuple(dict.fromkeys(node.id for node in named))
    values = tuple(Score(node, unit or "points", value) for node, value in (scores or {}).items())
    identity = digest_of("judgement", user.id, judge, repeat)
    return Judgement(
        identity, user.id, judge, repeat, shown, tuple(presentations), values, said, complete,
        None if complete else "timeout: by hand",
    )  # fmt: skip


def judge_again(store: Store, judgement: Judgement) -> None:
    """Keep a judgement of a turn that is stored already."""
    store.apply(keep_judgement(judgement))


def small_store(path: Path, **options: Any) -> tuple[Store, BuiltRun]:
    """A store with one run of one tree: two turns, two replies each, the first better and continued."""
    store = Store.open(path)
    run = make_run(store, **options)
    judge = make_judge(store)
    parent = None
    for number in (1, 2):
        user = run.user(run.trees[0], f"hello {number}", parent)
        good = run.replies(user, f"good {number}", role="responder.warm", hinted=True)[0]
        plain = run.replies(user, f"plain {number}")[0]
        run.turn(
            user,
            [good, plain],
            [judged(user, judge, [(good, plain, "win")])],
            continued=good,
            facts=[f"f{number}"],
        )
        parent = good
    return store, run
