"""The store at the size of the paper's pool, and at a tenth of it: does it slow down as it grows?

3,310 trees x 10 turns x (1 user message + 4 replies), with ledgers, judgements, scores, verdicts and calls, written
through the engine's writer. Then, on both stores in turns: a page of the list, opening a tree, search; and verify.

    python benchmarks/store.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from common import Bar, finish, say

from agents.judges.verdicts import judgement_id
from simulation.personas import seed_personalities, seed_profiles
from trees.ids import digest_of, node_id, run_id, tree_id
from trees.store import Store
from trees.values import Call, Continued, Judgement, Ledger, Node, Presentation, Score, Turn, Use, Verdict
from trees.verify import verify
from trees.writer import Writer
from trees.writes import (
    finish_tree,
    in_one,
    keep_call,
    keep_judge,
    keep_model,
    keep_personality,
    keep_profile,
    keep_prompt,
    keep_run,
    keep_tree,
    keep_turn,
    merge_words,
)

TURNS, REPLIES = 10, 4
MADE_UP = frozenset({"run id", "revision", "tree id", "call id", "model id", "judge id", "prompt id"})
"""What verify rightly says of a store that a benchmark wrote."""
PAGE = 30
"""Trees on a page of the list."""
WORDS = (
    "the a harbour morning bread train window cat rain phone sister market bicycle lamp tea paper bridge song".split()
)
MODEL = {"backend": "scripted", "model": "benchmark"}
JUDGE: dict[str, object] = {"kind": "likelihood"}


def sentence(draw: random.Random, number: int) -> str:
    """About 20 words, one of them found nowhere else within thousands of messages."""
    return " ".join(draw.choices(WORDS, k=19)) + f" token{number}."


async def fill(path: Path, trees: int, seed: int) -> float:
    """Write a run of this many trees; returns nodes a second."""
    draw = random.Random(seed)
    profiles, personalities = seed_profiles(), seed_personalities()
    prompt, model, judge = digest_of("prompt", "user", "x"), digest_of("model", MODEL), digest_of("judge", JUDGE)
    run = run_id({"trees": trees}, seed, [])
    with Store.open(path) as store:
        store.apply(
            in_one(
                [
                    keep_run(run, "play", "benchmark", seed, {}, {}),
                    keep_prompt(prompt, "user", "x"),
                    keep_model(model, "m", MODEL),
                    keep_judge(judge, "likelihood", "likelihood", JUDGE),
                    *(keep_profile(p, source="seeds") for p in profiles),
                    *(keep_personality(p, source="seeds") for p in personalities),
                ]
            )
        )
    writer = Writer(path)
    began = time.perf_counter()
    permits = asyncio.Semaphore(32)

    async def one(position: int) -> None:
        async with permits:
            profile = profiles[position % len(profiles)]
            personality = personalities[position // len(profiles) % len(personalities)]
            round_ = position // (len(profiles) * len(personalities))
            tree = tree_id(run, f"{profile.id}:{personality.id}" if round_ == 0 else f"{position}")
            await writer.commit(keep_tree(tree, run, position, profile.id, personality.id, title=f"Persona {position}"))
            above: Node | None = None
            for turn in range(1, TURNS + 1):
                above = await write_turn(writer, draw, run, tree, above, turn, prompt, model, judge)
            await writer.commit(finish_tree(tree))

    await asyncio.gather(*(one(position) for position in range(trees)))
    seconds = time.perf_counter() - began
    await writer.commit(merge_words())
    await writer.close()
    return trees * TURNS * (1 + REPLIES) / seconds


async def write_turn(
    writer: Writer,
    draw: random.Random,
    run: str,
    tree: str,
    above: Node | None,
    turn: int,
    prompt: str,
    model: str,
    judge: str,
) -> Node:
    """One turn with its calls, as the engine keeps it; returns the reply that goes on."""
    end = above.id if above else tree
    user = spoken(draw, run, tree, above, end, turn, "user", "user", model)
    replies = tuple(
        spoken(draw, run, tree, user, user.id, turn, "assistant", f"responder.{name}", model)
        for name in "abcd"[:REPLIES]
    )
    for node, place in [(user, end), *((reply, user.id) for reply in replies)]:
        await writer.commit(asked(run, tree, node, place, prompt, model))
    order = tuple(reply.id for reply in replies)
    made = Judgement(
        judgement_id(user.id, judge, 0),
        user.id,
        judge,
        0,
        order,
        (Presentation(order, None, "[]", {}, "with persona"),),
        tuple(Score(node, "nats", draw.random()) for node in order),
        tuple(Verdict(order[0], other, "win", 0.1, "nats") for other in order[1:]),
    )
    kept = Turn(
        user,
        Ledger(user.id, (f"fact {turn}",), False),
        replies,
        (made,),
        (Continued(order[0], "random", "drawn"),),
    )
    await writer.commit(keep_turn(kept))
    return replies[0]


def spoken(
    draw: random.Random,
    run: str,
    tree: str,
    above: Node | None,
    end: str,
    turn: int,
    speaker: Any,
    role: str,
    model: str,
) -> Node:
    identity = node_id(run, end, role, "0")
    text = sentence(draw, int(identity[:6], 16))
    call = digest_of("call", identity)
    parent = above.id if above else None
    return Node(identity, tree, parent, turn, speaker, role, "0", text, call_id=call, model_id=model)


def asked(run: str, tree: str, node: Node, place: str, prompt: str, model: str) -> list[Any]:
    assert node.call_id is not None
    answer = {"completions": [{"text": node.text}]}
    call = Call(node.call_id, "chat", model, {"n": 1}, "digest", "digest", answer, 300, 250, 25, 0.1, 0.5)
    return keep_call(call, Use(run, node.call_id, tree, place, node.role, "speak", prompt))


def timed(action: Callable[[], object], repeats: int) -> float:
    """Milliseconds, the median."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


def read(path: Path, seed: int, repeats: int) -> dict[str, float]:
    """How long it takes to look at a store, in milliseconds."""
    draw = random.Random(seed)
    with Store.read(path) as store:
        run = store.runs()[0].id
        rows = store.trees(run)
        words = [r[0] for r in store.rows("SELECT text FROM nodes ORDER BY random() LIMIT ?", (repeats,))]
        queries = iter([text.rsplit(" ", 1)[1] for text in words])
        last = max(len(rows) - PAGE - 1, -1)
        return {
            "list_ms": timed(lambda: store.trees(run, after=draw.randint(-1, last), limit=PAGE), repeats),
            "list_all_ms": timed(lambda: store.trees(run), max(repeats // 10, 3)),
            "open_ms": timed(lambda: store.tree(draw.choice(rows).id), repeats),
            "search_ms": timed(lambda: store.search(next(queries)), repeats),
        }


def check(path: Path) -> float:
    """Seconds that verify takes."""
    with Store.read(path) as store:
        began = time.perf_counter()
        report = verify(store)
        seconds = time.perf_counter() - began
    # The run was not begun by an engine: its identity and the personas beyond the seeds' crossing are made up.
    unexpected = [f for f in report.findings if f.kind not in MADE_UP]
    assert not unexpected, unexpected[:3]
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of both sizes")
    args = parser.parse_args()
    large, repeats = (331, 60) if args.quick else (3_310, 200)
    small = large // 10
    with tempfile.TemporaryDirectory() as name:
        paths = {size: Path(name) / f"{size}.db" for size in (small, large)}
        rates = {size: asyncio.run(fill(path, size, 1)) for size, path in paths.items()}
        say(f"nodes a second: {rates[small]:.0f} with {small} trees, {rates[large]:.0f} with {large}")
        looks: dict[int, list[dict[str, float]]] = {small: [], large: []}
        for number in range(3):
            for size, path in paths.items():
                looks[size].append(read(path, number, repeats))
        seconds = check(paths[large])
        sizes = {size: path.stat().st_size for size, path in paths.items()}
    median = {
        size: {key: statistics.median(look[key] for look in found) for key in found[0]} for size, found in looks.items()
    }
    growth = {key: median[large][key] / median[small][key] for key in ("list_ms", "open_ms", "search_ms")}
    figures = {
        "nodes": {str(size): size * TURNS * (1 + REPLIES) for size in paths},
        "nodes_per_s": {str(size): rate for size, rate in rates.items()},
        "bytes": {str(size): n for size, n in sizes.items()},
        "read": {str(size): value for size, value in median.items()},
        "growth": growth,
        "verify_s": seconds,
    }
    bars = [
        *(
            Bar(f"{key.removesuffix('_ms')}: growth over ten times the trees", value, at_most=1.3)
            for key, value in growth.items()
        ),
        Bar("list of all trees, ms", median[large]["list_all_ms"], at_most=50),
        Bar("verify, s", seconds, at_most=60),
        Bar("bytes a node, against a tenth of the trees", sizes[large] / sizes[small] / (large / small), at_most=1.1),
    ]
    return finish("store", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
