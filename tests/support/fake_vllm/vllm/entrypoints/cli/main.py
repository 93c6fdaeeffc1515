"""A stand-in for `vllm serve`: the few endpoints that the backend asks, on loopback, and faults on order.

Every character is a token (its code point), the special texts are one token each. The log-probability of a token
depends on it, on the token before it and on the model asked, see `logprob`. What it is to do wrong is a word in the
environment variable FAKE_VLLM: `dies`, `never_ready`, `forks`; a prompt with DIE in it kills it, one with HANG is never
answered. What it was asked goes to the file that FAKE_VLLM_LOG names, a JSON object a line.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

SPECIALS = {"<|im_start|>": 0x110001, "<|im_end|>": 0x110002}
SLEEPER = "import signal; signal.pause()"


def logprob(model: str, before: int, token: int) -> float:
    """A number in (-8, 0] that any part of the input changes."""
    return -((before * 31 + token * 17 + len(model)) % 64) / 8


def tokenize(text: str) -> list[int]:
    tokens = []
    while text:
        special = next((name for name in SPECIALS if text.startswith(name)), None)
        tokens.append(SPECIALS[special] if special else ord(text[0]))
        text = text[len(special or text[0]) :]
    return tokens


def readable(tokens: list[int]) -> str:
    return "".join(chr(token) for token in tokens if token < 0x110000)


class Server:
    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._key = os.environ["VLLM_API_KEY"]
        self._adapters: dict[str, str] = {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=64 * 1024 * 1024)
        app.router.add_get("/health", self._health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {self._key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        body = await request.json() if request.can_read_body else None
        note({"path": request.path, "body": body})
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if os.environ.get("FAKE_VLLM") == "never_ready" else 200)

    async def _models(self, request: web.Request) -> web.Response:
        size = self._args.max_model_len or 4096
        base = {"id": self._args.served_model_name, "root": self._args.model, "parent": None, "max_model_len": size}
        loaded = [{"id": name, "root": path, "parent": base["id"]} for name, path in self._adapters.items()]
        return web.json_response({"data": [base, *loaded]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"tokens": tokenize(body["prompt"])})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] in self._adapters:
            return web.json_response({"error": {"message": "already loaded"}}, status=400)
        self._adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        del self._adapters[(await request.json())["lora_name"]]
        return web.Response(text="Success")

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["model"] not in (self._args.served_model_name, *self._adapters):
            return web.json_response({"error": {"message": "The model does not exist.", "code": 404}}, status=404)
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        if any("DIE" in readable(prompt) for prompt in prompts):
            os.kill(os.getpid(), signal.SIGKILL)
        if any("HANG" in readable(prompt) for prompt in prompts):
            await asyncio.Event().wait()
        choices = [self._choice(index, prompt, body) for index, prompt in enumerate(prompts)]
        usage = {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": len(choices)}
        if not body.get("stream"):
            return web.json_response({"choices": choices, "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in choices[0]["text"]:
            event = {"choices": [{"index": 0, "text": piece, "finish_reason": None}]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        ending: dict[str, Any] = {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": usage}
        await response.write(f"data: {json.dumps(ending)}\n\ndata: [DONE]\n\n".encode())
        return response

    def _choice(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        model = str(body["model"])
        choice: dict[str, Any] = {"index": index, "text": f"{model}: {len(prompt)} tokens", "finish_reason": "stop"}
        if body.get("prompt_logprobs") is not None:
            pairs = itertools.pairwise(prompt)
            choice["prompt_logprobs"] = [None, *({str(b): {"logprob": logprob(model, a, b)}} for a, b in pairs)]
        if wanted := body.get("logprob_token_ids"):
            top = {f"token_id:{token}": logprob(model, prompt[-1], token) for token in wanted}
            choice["logprobs"] = {"top_logprobs": [top]}
        return choice


def note(entry: dict[str, Any]) -> None:
    if path := os.environ.get("FAKE_VLLM_LOG"):
        with Path(path).open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")


def fork() -> None:
    """A helper in the group, as vLLM's engine is, and one that has left it."""
    helpers = [
        subprocess.Popen([sys.executable, "-c", SLEEPER]),
        subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True),
    ]
    note({"helpers": [helper.pid for helper in helpers]})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("model")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    parser.add_argument("--max-model-len", type=int)
    args, _ = parser.parse_known_args()
    note({"argv": sys.argv[1:], "pid": os.getpid()})
    order = os.environ.get("FAKE_VLLM")
    if order == "dies":
        print("loading\n\x1b[31mtorch.OutOfMemoryError: no memory is left\x1b[0m", file=sys.stderr)
        sys.exit(1)
    if order == "forks":
        fork()
    web.run_app(Server(args).app(), host="127.0.0.1", port=args.port, print=None)


if __name__ == "__main__":
    main()
