"""How much of the preference in the released code's labels is position: `paper-code` against `corrected`.

People with a planted taste (they like replies of a few words) talk under both presets. Under `paper-code` the
hinted reply is always shown first and once; the same replies are then shown to the same judge in both orders, rated one
by one as `corrected` does, and measured by the planted taste itself. A label is due to position as far as it changes
when the replies change places. What is right is what the planted taste says; where both replies are brief or
neither is, nothing is.

    python benchmarks/paper_code.py [--quick] [--model scripted embedded] [--people N] [--turns N]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import Bar, finish, say

from simulation.cast import close_models, load_prompts, make_cast, open_models
from simulation.config import make_config
from simulation.engine import close_engine, open_engine
from simulation.personas import seed_personalities, seed_profiles
from simulation.runs import Persona, begin, plan_run
from trees.personas import Personality
from trees.statistics import wilson
from trees.store import Store
from trees.tree import ConversationTree
from trees.values import Node, Presentation, Verdict

MODELS: dict[str, dict[str, Any]] = {
    "scripted": {"kind": "scripted"},
    "embedded": {"kind": "llama", "path": "embedded", "permits": 64, "deadline_s": 3600},
}
FEW = 15
"""Words that a reply may have to suit the planted taste."""
TASTE = "{} likes replies of a few words, fifteen at most, and is put off by longer ones."
ROTATED, RATING, RULE = "both_orders", "rating", "planted"
SAMPLING = {"max_tokens": 40, "temperature": 0.8, "min_p": 0.05}


def configuration(preset: str, model: dict[str, Any], turns: int) -> dict[str, Any]:
    """A preset with its own labels, and the other judges beside them; branching follows the preset's judge."""
    own: dict[str, dict[str, Any]] = {
        "paper-code": {"first_shown": {"kind": "choice", "hinted_first": True, "threshold": 0.0}},
        "corrected": {},
    }[preset]
    judges = {
        **own,
        ROTATED: {"kind": "choice", "threshold": 0.0},
        RATING: {"kind": "rating"},
        RULE: {"kind": "rules", "rules": {"max_words": FEW}},
    }
    responders = {"preferred": {"hint": True, "sampling": SAMPLING}, "rejected": {"hint": False, "sampling": SAMPLING}}
    return {
        "name": preset,
        "preset": preset,
        "turns": turns,
        "models": {"m": model},
        "user": {"rerolls": 0, "sampling": {**SAMPLING, "temperature": 0.9}},
        "inducer": {"sampling": {"max_tokens": 40, "temperature": 0.0}},
        "responders": responders,
        "judges": judges,
        "judge": next(iter(own), RATING),
    }


def planted(count: int) -> list[Persona]:
    """People whose temperament says what they like in a reply."""
    profiles, personalities = seed_profiles(), seed_personalities()
    return [
        (profiles[i % len(profiles)], _with_taste(personalities[(i + i // len(profiles)) % len(personalities)]))
        for i in range(count)
    ]


def _with_taste(personality: Personality) -> Personality:
    taste = TASTE.format({"she": "She", "he": "He"}.get(personality.pronouns, "This person"))
    return replace(personality, text=f"{personality.text} {taste}", traits=(*personality.traits, taste))


async def play(config: dict[str, Any], people: Sequence[Persona]) -> tuple[list[ConversationTree], dict[str, str]]:
    """The trees of a run, and its judges' ids by name."""
    made = make_config(config, "the comparison")
    models = await open_models(made)
    try:
        cast = make_cast(made, models, load_prompts(made, None))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "espalier.db"
            with Store.open(path) as store:
                run = begin(store, plan_run(cast, people, None))
            engine = await open_engine(path, run.id, models=models)
            await engine.run()
            await close_engine(engine)
            with Store.read(path) as store:
                failed = store.rows("SELECT count(*) FROM failures")[0][0]
                trees = [store.tree(row.id) for row in store.trees(run.id)]
        assert not failed, f"{failed} calls failed"
        return trees, {name: spec.id for name, spec in cast.judges.items()}
    finally:
        await close_models(models)


def labels(trees: Sequence[ConversationTree], judge: str, rule: str) -> dict[str, Any]:
    """What a judge's verdicts between the hinted and the unhinted reply come to."""
    outcomes: Counter[str] = Counter()
    right = told = 0
    for tree in trees:
        for user, replies in tree.turns():
            verdict, truth = (_verdict(tree, user, judge), _verdict(tree, user, rule))
            if verdict is None:
                continue
            outcomes[_outcome(verdict, replies)] += 1
            if verdict.outcome == "win" and truth is not None and truth.outcome == "win":
                told += 1
                right += verdict.first_id == truth.first_id
    turns = sum(outcomes.values())
    pairs = outcomes["hinted"] + outcomes["unhinted"]
    return {
        "turns": turns,
        **{name: outcomes[name] for name in ("hinted", "unhinted", "unstable", "tie", "abstain")},
        "pairs_a_turn": pairs / turns if turns else None,
        "hinted_of_pairs": outcomes["hinted"] / pairs if pairs else None,
        "right": right,
        "of": told,
        "right_interval": wilson(right, told) if told else None,
    }


def position(trees: Sequence[ConversationTree], judge: str) -> dict[str, int]:
    """Whether a judge that is shown both orders picks a reply wherever it stands, or a place whatever stands there."""
    found: Counter[str] = Counter()
    for tree in trees:
        for user, _ in tree.turns():
            for judgement in tree.judgements.get(user.id, ()):
                if judgement.judge_id != judge:
                    continue
                picked = [_place(shown) for shown in judgement.presentations if shown.label is not None]
                if len(picked) == 2:
                    found["a place" if picked[0] == picked[1] else "a reply"] += 1
                    found["the first place"] += picked == [0, 0]
    return dict(found)


def _place(shown: Presentation) -> int:
    """Where the reply stood that was picked: 0 is first."""
    return max(range(len(shown.order)), key=lambda at: shown.probabilities[shown.order[at]])


def _verdict(tree: ConversationTree, user: Node, judge: str) -> Verdict | None:
    made = [j for j in tree.judgements.get(user.id, ()) if j.judge_id == judge and j.complete]
    return made[-1].verdicts[0] if made and made[-1].verdicts else None


def _outcome(verdict: Verdict, replies: Sequence[Node]) -> str:
    if verdict.outcome != "win":
        return verdict.outcome
    return "hinted" if next(r for r in replies if r.id == verdict.first_id).hinted else "unhinted"


async def measure(model: str, people: int, turns: int) -> dict[str, Any]:
    """Both presets on one model."""
    found: dict[str, Any] = {}
    for preset in ("paper-code", "corrected"):
        say(f"{model}: {preset}, {people} people, {turns} turns")
        trees, judges = await play(configuration(preset, MODELS[model], turns), planted(people))
        found[preset] = {name: labels(trees, spec, judges[RULE]) for name, spec in judges.items()}
        found[preset]["picked"] = position(trees, judges[ROTATED])
    return found


def table(figures: dict[str, Any]) -> str:
    """The figures as the table of docs/method.md."""
    head = "| model | labels | turns | hinted : unhinted | changed with the order | right by the planted taste |"
    lines = [head, "|---|---|---|---|---|---|"]
    rows = (
        ("paper-code", "first_shown", "`paper-code`: hinted first, once"),
        ("paper-code", ROTATED, "the same replies, same judge, both orders"),
        ("paper-code", RATING, "the same replies, each rated alone"),
        ("corrected", RATING, "`corrected`"),
    )
    for model, found in figures.items():
        for preset, judge, words in rows:
            cells = (model, words, *_cells(found[preset], judge))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(found: dict[str, Any], judge: str) -> tuple[str, str, str, str]:
    one, picked = found[judge], found["picked"]
    changed = "not looked" if judge == "first_shown" else "shown alone"
    if judge == ROTATED:
        place = picked.get("a place", 0)
        changed = f"{place}; to whichever stood first {picked.get('the first place', 0)}"
    right = "-" if not one["of"] else f"{one['right']} of {one['of']}"
    return str(one["turns"]), f"{one['hinted']} : {one['unhinted']}", changed, right


async def run(args: argparse.Namespace) -> int:
    people, turns = (4, 2) if args.quick else (args.people, args.turns)
    figures = {model: await measure(model, people, turns) for model in args.model}
    say(table(figures))
    bars = [
        Bar(f"{model}: turns labelled under both presets", float(found["corrected"][RATING]["turns"]), at_least=1)
        for model, found in figures.items()
    ]
    return finish("paper_code", figures, bars)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 people, 2 turns")
    parser.add_argument("--model", nargs="*", choices=sorted(MODELS), default=sorted(MODELS))
    parser.add_argument("--people", type=int, default=20, help="default: 20")
    parser.add_argument("--turns", type=int, default=5, help="default: 5")
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
