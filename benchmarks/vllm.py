"""Trees played through `kind = "vllm"`, against the same requests sent to the same server by bare aiohttp.

The play: trees of 10 turns with four responders, two of them hinted, an inducer and the likelihood judge, answers of up
to 60 tokens. The peer sends the recorded bodies again, generating and scoring ones, after the server's prefix cache
was emptied. A request of a tree waits for what it waited for in the play (the requests of that tree that were answered
before it was sent), so that both sides have the same number in flight but for what Espalier adds.

Prefix cache: what the server says it hit, against what it could have: the longest beginning, in whole blocks, that a
prompt has in common with anything sent or written before. vLLM takes nothing from its cache for scoring requests;
the tokens that it therefore reads again are a figure of their own.

    make test-vllm && python benchmarks/vllm.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["AUTOGEN_DISABLE_RUNTIME_TRACING"] = "true"
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import aiohttp
from common import Bar, finish, say
from workload import NAME, configuration

from agents.models.openai_http import Http
from agents.models.protocol import Model
from agents.models.vllm import VllmConfig, VllmModel
from agents.models.vllm_metrics import figures_in
from simulation.cast import load_prompts, make_cast
from simulation.config import RunConfig, make_config
from simulation.engine import Engine, open_engine
from simulation.runs import begin, draw_personas, plan_run
from tests.support.hf_folder import embedded_folder
from tests.support.real_vllm import ENVIRONMENT, MISSING, PYTHON, real_config
from trees.store import Store

TREE: ContextVar[str] = ContextVar("tree", default="")


@dataclass(frozen=True)
class Sent:
    """One request as the server got it."""

    tree: str
    body: Mapping[str, Any]
    began: float
    ended: float
    answer: Mapping[str, Any]

    @property
    def prompts(self) -> list[list[int]]:
        prompt = self.body["prompt"]
        return prompt if isinstance(prompt[0], list) else [prompt]

    @property
    def scores(self) -> bool:
        return "prompt_logprobs" in self.body


class Body:
    """An answer that was read already, for who reads it next."""

    content_type = "application/json"

    def __init__(self, data: bytes) -> None:
        self.content = self
        self._data = data

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._data


class Recorder:
    """Notes what goes to the server, and for which tree."""

    def __init__(self, http: Http) -> None:
        self.sent: list[Sent] = []
        self._posted = http.posted
        http.posted = self._recording  # type: ignore[method-assign, assignment]

    @asynccontextmanager
    async def _recording(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Any]:
        began = time.perf_counter()
        async with self._posted(path, body) as response:
            data = await response.read()
        if path == "/v1/completions":
            self.sent.append(Sent(TREE.get(), body, began, time.perf_counter(), json.loads(data)))
        yield Body(data)


def naming_trees(engine: Engine) -> None:
    """Let the recorder know whose request it sees."""
    for name in ("chat", "score"):
        asked = getattr(engine._calls, name)

        async def ask(model: str, request: Any, asking: Any, asked: Any = asked) -> Any:
            TREE.set(asking.tree_id)
            return await asked(model, request, asking)

        setattr(engine._calls, name, ask)


async def play(path: Path, config: RunConfig, models: Mapping[str, Model]) -> tuple[float, float]:
    """Play a run; returns the seconds it took, by the wall and on this process's CPU."""
    cast = make_cast(config, models, load_prompts(config, None))
    with Store.open(path) as store:
        run = begin(store, plan_run(cast, draw_personas(config.personas, config.seed, None, store), None))
    engine = await open_engine(path, run.id, models=models)
    naming_trees(engine)
    wall, cpu = time.perf_counter(), time.process_time()
    state = await engine.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    failures = engine._store.rows("SELECT role, kind, message FROM failures LIMIT 3")
    engine._store.close()
    if state != "finished" or failures:
        raise SystemExit(f"the run ended as {state}: {failures}")
    return wall, cpu


# ---- the peer


async def send_again(sent: Sequence[Sent], http: Http) -> tuple[list[Sent], float, float]:
    """The same requests by bare aiohttp, each after those it waited for."""
    url = http.endpoints[0].url + "/v1/completions"
    headers = {"Authorization": f"Bearer {http._key}", "Content-Type": "application/json"}
    bodies = [json.dumps(one.body).encode() for one in sent]
    awaited = waits(sent)
    done = [asyncio.Event() for _ in sent]
    again: list[Sent] = []

    async def send(session: aiohttp.ClientSession, number: int) -> None:
        for other in awaited[number]:
            await done[other].wait()
        began = time.perf_counter()
        async with session.post(url, data=bodies[number]) as response:
            data = await response.read()
        answer = json.loads(data)
        again.append(Sent(sent[number].tree, sent[number].body, began, time.perf_counter(), answer))
        done[number].set()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(send(session, number) for number in range(len(sent))))
        return again, time.perf_counter() - wall, time.process_time() - cpu


def waits(sent: Sequence[Sent]) -> list[list[int]]:
    """Which requests of its tree each request was sent after the end of."""
    by_tree: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(sent):
        by_tree[one.tree].append(number)
    return [[other for other in by_tree[one.tree] if sent[other].ended <= one.began] for one in sent]


# ---- the prefix cache


def could_be_shared(sent: Sequence[Sent], written: Sequence[list[int]], block: int) -> int:
    """Tokens of generating prompts that stood in whole blocks at the server when they were sent."""
    events = [(one.began, 1, one.prompts, one.scores) for one in sent]
    events += [(one.ended, 0, [tokens], True) for one, tokens in zip(sent, written, strict=True) if not one.scores]
    known: set[int] = set()
    shared = 0
    for _, _, sequences, counts_not in sorted(events, key=lambda event: event[:2]):
        for tokens in sequences:
            blocks = [hash(tuple(tokens[: end * block])) for end in range(1, len(tokens) // block + 1)]
            # At least one token is always read, since it is what the first answer token follows from.
            usable = blocks[: (len(tokens) - 1) // block]
            found = next((place for place, key in enumerate(usable) if key not in known), len(usable))
            shared += 0 if counts_not else found * block
            known.update(blocks)
    return shared


async def metrics_of(http: Http) -> dict[str, int]:
    async with http.response(http.endpoints[0], "GET", "/metrics") as response:
        text = (await response.read()).decode()
    found = re.search(r'cache_config_info\{.*?block_size="(\d+)"', text)
    assert found is not None
    return {"block": int(found[1]), "hits": figures_in(text).prompt_reused}


async def empty_cache(http: Http) -> None:
    """Blocks that were just in use may still be held for a moment."""
    async with asyncio.timeout(20):
        while (await http.ask("/reset_prefix_cache", {})).get("success") is False:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def in_flight(sent: Sequence[Sent], wall: float) -> float:
    return sum(one.ended - one.began for one in sent) / wall


def tokens_of(sent: Sequence[Sent], name: str) -> int:
    return sum(int(one.answer["usage"][name]) for one in sent)


# ---- both


def on_gpu() -> str:
    """What the figure `gpu` says: which vLLM it was."""
    code = "from importlib.metadata import version; print(version('vllm'))"
    version = subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return f"not run: vLLM {version} is built for CPUs" if "+cpu" in version else f"run, on vLLM {version}"


async def measure(turns: int, trees: int, rounds: int, dtype: str) -> dict[str, Any]:
    cache = Path(tempfile.gettempdir()) / "espalier-benchmarks"
    cache.mkdir(exist_ok=True)
    told = {**ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_SERVER_DEV_MODE": "1"}
    entry = real_config(embedded_folder(cache), environment=told, permits=64, dtype=dtype)
    model = VllmModel(NAME, entry)
    say("starting vLLM")
    await model.open()
    try:
        assert model._serving.running is not None
        http = model._serving.running.http
        results = [await one_round(model, http, entry, turns, trees, number) for number in range(rounds)]
    finally:
        await model.close()
    return {name: statistics.median(result[name] for result in results) for name in results[0]}


async def one_round(
    model: VllmModel, http: Http, entry: VllmConfig, turns: int, trees: int, number: int
) -> dict[str, Any]:
    """The play, and its requests again, each from an empty cache."""
    asked = configuration(entry.model_dump(), "likelihood", turns, trees)
    config = make_config({**asked, "personas": {"count": trees}, "seed": number + 1}, "the benchmark")
    posted = http.posted
    recorder = Recorder(http)
    await empty_cache(http)
    before = await metrics_of(http)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = await play(Path(folder) / "vllm.db", config, {NAME: model})
    after = await metrics_of(http)
    http.posted = posted  # type: ignore[method-assign]
    sent = sorted(recorder.sent, key=lambda one: one.began)
    written = [one.prompts[0] + list(await model._tokens(one.answer["choices"][0]["text"])) for one in sent]
    await empty_cache(http)
    again, peer_wall, peer_cpu = await send_again(sent, http)
    generating = [one for one in sent if not one.scores]
    scoring = [one for one in sent if one.scores]
    hits = after["hits"] - before["hits"]
    shareable = could_be_shared(sent, written, int(before["block"]))
    result = {
        "requests": len(sent),
        "generating_requests": len(generating),
        "seconds": wall,
        "peer_seconds": peer_wall,
        "requests_per_s": len(sent) / wall,
        "peer_requests_per_s": len(again) / peer_wall,
        "ratio": peer_wall / wall,
        "in_flight": in_flight(sent, wall),
        "peer_in_flight": in_flight(again, peer_wall),
        "answer_tokens": tokens_of(generating, "completion_tokens"),
        "peer_answer_tokens": tokens_of([one for one in again if not one.scores], "completion_tokens"),
        "cpu_ms_per_request": 1000 * cpu / len(sent),
        "peer_cpu_ms_per_request": 1000 * peer_cpu / len(sent),
        "block_tokens": before["block"],
        "generating_prompt_tokens": tokens_of(generating, "prompt_tokens"),
        "cache_hit_tokens": hits,
        "could_be_shared_tokens": shareable,
        "cache_share": hits / max(shareable, 1),
        "scoring_prompt_tokens_read": tokens_of(scoring, "prompt_tokens"),
    }
    say(", ".join(f"{name} {value:.4g}" for name, value in result.items()))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer turns and trees; the server's start comes on top")
    parser.add_argument("--trees", type=int, default=2, help="played at once, a number")
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="of the weights"
    )
    args = parser.parse_args()
    if not PYTHON.exists():
        raise SystemExit(MISSING)
    turns, trees, rounds = (2, 2, 1) if args.quick else (10, args.trees, 1)
    figures = asyncio.run(measure(turns, trees, rounds, args.dtype))
    bars = [
        Bar("requests a second, against the same requests by bare aiohttp", figures["ratio"], at_least=0.9),
        Bar(
            "prefix cache hits of generating requests, against what could be shared",
            figures["cache_share"],
            at_least=0.9,
        ),
    ]
    told = {"turns": turns, "trees": trees, "rounds": rounds, "dtype": args.dtype, "gpu": on_gpu()}
    return finish("vllm", {**told, **figures}, bars)


if __name__ == "__main__":
    sys.exit(main())
