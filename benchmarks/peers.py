"""The same requests by other means: llama-cpp-python's `Llama` one call at a time, and xllamacpp's server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import aiohttp
from common import say
from workload import Asked, Tokens

from agents.models.protocol import ChatRequest

SLOTS = 16
CELLS_A_SLOT = 4096


def turns_of(asked: Sequence[Asked], lane: str, turns: int) -> list[list[Asked]]:
    """A tree's requests by turn: a turn ends with its judging, and each has as many judging requests."""
    own = sorted((each for each in asked if each.lane == lane), key=lambda each: each.started)
    per_turn = sum(bool(each.scored) for each in own) // turns
    split: list[list[Asked]] = [[] for _ in range(turns)]
    judged = 0
    for each in own:
        split[min(judged // per_turn, turns - 1)].append(each)
        judged += bool(each.scored)
    return split


class OneAtATime:
    """`Llama.create_chat_completion`, and a second `Llama` that scores by `eval` with logits."""

    def __init__(self, path: str, tokens: Tokens, context: int, gpu_layers: int) -> None:
        from llama_cpp import Llama

        settings = {
            "n_ctx": context,
            "n_batch": 512,
            "n_threads": os.cpu_count(),
            "flash_attn": True,
            "n_gpu_layers": gpu_layers,
            "verbose": False,
        }
        self._writer = Llama(path, **settings)
        self._scorer = Llama(path, logits_all=True, **settings)
        self._tokens = tokens

    def seconds(self, turn: Sequence[Asked]) -> float:
        """Of one tree's turn, siblings back to back."""
        began = time.perf_counter()
        for asked in turn:
            if asked.scored:
                self._score(asked)
            else:
                self._write(asked)
        return time.perf_counter() - began

    def _write(self, asked: Asked) -> None:
        assert isinstance(asked.request, ChatRequest)
        sampling = asked.request.sampling
        self._writer.create_chat_completion(
            [{"role": message.role, "content": message.content} for message in asked.messages],
            max_tokens=asked.tokens_out,
            temperature=sampling.temperature,
            min_p=sampling.min_p or 0.0,
            top_k=0,
            top_p=1.0,
            repeat_penalty=1.0,
            # As many tokens as were written in the run it is compared with.
            logit_bias={self._writer.token_eos(): -1000.0},
        )

    def _score(self, asked: Asked) -> None:
        prompt, *paths = self._tokens.paths(asked)
        for path in paths:
            held = self._scorer.input_ids[: self._scorer.n_tokens].tolist()
            known = next(
                (i for i, (a, b) in enumerate(zip(held, path, strict=False)) if a != b), min(len(held), len(path))
            )
            self._scorer.n_tokens = min(known, len(prompt) - 1)
            self._scorer._ctx.kv_cache_seq_rm(-1, self._scorer.n_tokens, -1)
            self._scorer.eval(path[self._scorer.n_tokens :])


SERVER = """
import json, sys
import xllamacpp
settings = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path = settings.pop("path")
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.pop("threads")
for name, value in settings.items():
    setattr(params, name, value)
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


def server_settings(path: str, cells: int, gpu_layers: int, *, unified: bool) -> dict[str, Any]:
    """What the server is given: enough cells for every slot, its own cache of prompts in host memory too.

    `unified`: all slots share the cells; otherwise each has its part of them to itself.
    """
    return {
        "path": path,
        "threads": os.cpu_count(),
        "n_parallel": SLOTS,
        "n_ctx": cells,
        "n_batch": 512,
        "n_ubatch": 512,
        "n_gpu_layers": gpu_layers,
        "kv_unified": unified,
        "cache_prompt": True,
        "cache_ram_mib": 8192,
        "cont_batching": True,
        "port": 0,
    }


async def tuned(
    python: str, path: str, gpu_layers: int, tokens: Tokens, asked: Sequence[Asked], turns: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings under which the server is faster on the first turns, and the seconds each way took."""
    lanes = sorted({each.lane for each in asked})
    some = [each for lane in lanes for turn in turns_of(asked, lane, turns)[: max(turns // 5, 1)] for each in turn]
    found, sweep = [], []
    for unified in (True, False):
        settings = server_settings(path, SLOTS * CELLS_A_SLOT, gpu_layers, unified=unified)
        seconds = await replay(python, settings, tokens, some)
        say(f"  xllamacpp's server, kv_unified {unified}: {seconds:.1f} s for {len(some)} requests")
        found.append((seconds, settings))
        sweep.append({"kv_unified": unified, "cells": settings["n_ctx"], "requests": len(some), "seconds": seconds})
    return min(found, key=lambda each: each[0])[1], sweep


async def replay(python: str, settings: dict[str, Any], tokens: Tokens, asked: Sequence[Asked]) -> float:
    """Seconds that xllamacpp's server takes for the same requests, each tree in its own order, all trees at once."""
    server = await asyncio.create_subprocess_exec(
        *(python, "-c", SERVER, json.dumps(settings)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        address = (await server.stdout.readline()).decode().strip()
        if not address:
            raise RuntimeError(f"{python} cannot start xllamacpp's server: is the package installed there?")
        lanes: dict[str, list[Asked]] = defaultdict(list)
        for each in sorted(asked, key=lambda each: each.started):
            lanes[each.lane].append(each)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for lane in lanes.values():
                    group.create_task(_replay_lane(session, address, tokens, lane))
            return time.perf_counter() - began
    finally:
        server.kill()
        await server.wait()


async def _replay_lane(session: aiohttp.ClientSession, address: str, tokens: Tokens, lane: Sequence[Asked]) -> None:
    for together in _phases(lane):
        await asyncio.gather(*(_complete(session, address, tokens, each) for each in together))


def _phases(lane: Sequence[Asked]) -> list[list[Asked]]:
    """Requests that were with the model at the same time; each such group waited for the one before."""
    found: list[list[Asked]] = []
    for each in lane:
        if not found or each.started >= max(other.ended for other in found[-1]):
            found.append([])
        found[-1].append(each)
    return found


async def _complete(session: aiohttp.ClientSession, address: str, tokens: Tokens, asked: Asked) -> None:
    assert isinstance(asked.request, ChatRequest)
    body: dict[str, Any] = {
        "prompt": tokens.prompt(asked),
        "n_predict": asked.tokens_out or 1,
        "ignore_eos": True,
        "temperature": asked.request.sampling.temperature,
        "min_p": asked.request.sampling.min_p or 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "cache_prompt": True,
    }
    if asked.scored:
        body |= {"n_probs": len(asked.scored)}
    async with session.post(f"{address}/completion", json=body) as response:
        if response.status != 200:
            raise RuntimeError(f"xllamacpp's server answers {response.status}: {(await response.text())[:200]}")
        await response.read()


def xllamacpp_version(python: str) -> str:
    code = "from importlib.metadata import version; print(version('xllamacpp'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
