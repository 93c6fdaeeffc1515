"""Requests to OpenAI-compatible servers: one session with kept-alive connections, several endpoints balanced.

What the requests mean is their askers' business (`agents.models.openai`, `agents.models.vllm`).

Invariant: nothing is asked twice here (an endpoint that failed is avoided for a while, so the retry goes to
another), nothing is read without a bound, cancelling closes the connection, and the key is in no message,
value or log.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from agents.models.openai_wire import MAX_BYTES, AnswerReader, EventParser, failure_of, parse_json
from agents.models.protocol import ChatAnswer, ModelFailure

AVOID_S = 5.0
"""Seconds for which an endpoint that failed is asked only if all others failed too."""
CONNECT_S = 10.0
DRAIN_S = 1.0
"""Seconds for which the end of a stream is awaited after its last event, to keep the connection."""
MAX_ERROR_BYTES = 64 * 1024


@dataclass(slots=True)
class Endpoint:
    """One base URL, with how busy and how well it is."""

    url: str
    in_flight: int = 0
    avoided_until: float = 0.0
    """On the monotonic clock."""


def least_busy(endpoints: Sequence[Endpoint], now: float) -> Endpoint:
    """The endpoint to ask next: one that is not avoided, with the fewest calls in flight."""
    return min(endpoints, key=lambda e: (e.avoided_until if e.avoided_until > now else 0.0, e.in_flight))


class Http:
    """The way to the endpoints of one model."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.endpoints = [Endpoint(url) for url in urls]
        self._session: aiohttp.ClientSession | None = None
        self._key = ""

    def open(self, key: str) -> None:
        """Begin a session; an empty key is not sent. Nothing is asked yet."""
        self._key = key
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )

    async def close(self) -> None:
        """End the session with all that is in flight. Safe to call twice."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, path: str, body: Mapping[str, object]) -> Mapping[str, Any]:
        """Post a body; the JSON object that comes back. Raises ModelFailure."""
        async with self.posted(path, body) as response:
            return parse_json(await read_bounded(response))

    async def answer(self, path: str, body: Mapping[str, object], reader: AnswerReader) -> ChatAnswer:
        """Post a body; the answer that comes back, streamed or whole, through its reader. Raises ModelFailure."""
        async with self.posted(path, body) as response:
            streamed = response.content_type == "text/event-stream"
            if streamed:
                await _read_stream(response, reader)
            else:
                reader.take_whole(await read_bounded(response))
            return reader.answer(streamed=streamed)

    @asynccontextmanager
    async def posted(self, path: str, body: Mapping[str, object]) -> AsyncIterator[aiohttp.ClientResponse]:
        endpoint = least_busy(self.endpoints, time.monotonic())
        async with self.response(endpoint, "POST", path, json.dumps(body).encode("ascii")) as response:
            yield response

    @asynccontextmanager
    async def response(
        self,
        endpoint: Endpoint,
        method: str,
        path: str,
        data: bytes | None = None,
        *,
        may_lack: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with status 2xx, or 404 where the path may be lacking. What goes wrong here or in the
        body is a ModelFailure without the key.
        """
        if self._session is None:
            raise RuntimeError("the model is not open")
        endpoint.in_flight += 1
        try:
            async with self._session.request(method, endpoint.url + path, data=data, allow_redirects=False) as response:
                if not (200 <= response.status < 300 or (may_lack and response.status == 404)):
                    raise await _failure_response(response)
                yield response
        except (aiohttp.ClientError, OSError) as error:
            # asyncio's own TimeoutError is an OSError too: the socket's, since no other timeout runs in here.
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise self._blamed(endpoint, ModelFailure("unavailable", what)) from error
        except ModelFailure as failure:
            raise self._blamed(endpoint, failure) from failure.__cause__
        finally:
            endpoint.in_flight -= 1

    def _blamed(self, endpoint: Endpoint, failure: ModelFailure) -> ModelFailure:
        """The failure with its endpoint named and the key struck out; the endpoint is avoided if it is to
        blame.
        """
        if failure.kind in ("unavailable", "rate_limited"):
            endpoint.avoided_until = time.monotonic() + max(AVOID_S, failure.retry_after_s or 0.0)
        message = f"{endpoint.url}: {failure.message}"
        if self._key:
            message = _struck_out(message, self._key)
        return ModelFailure(failure.kind, message, retry_after_s=failure.retry_after_s, status=failure.status)


def _struck_out(message: str, key: str) -> str:
    """The message without the key, and without a beginning of it that was left when the message was cut."""
    for length in range(len(key), min(len(key), 8) - 1, -1):
        message = message.replace(key[:length], "[key]")
    return message


async def read_bounded(response: aiohttp.ClientResponse, limit: int = MAX_BYTES) -> bytes:
    """The body, or a failure as soon as it is longer than the limit."""
    pieces = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > limit:
            raise ModelFailure("bad_answer", f"the server's answer is longer than {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _read_stream(response: aiohttp.ClientResponse, reader: AnswerReader) -> None:
    parser = EventParser()
    async for piece in response.content.iter_any():
        for event in parser.feed(piece):
            if event == b"[DONE]":
                return await _drain(response)
            reader.take_event(event)
    for event in parser.finish():
        if event == b"[DONE]":
            return None
        reader.take_event(event)
    if not reader.finished:
        raise ModelFailure("unavailable", "the stream was cut before the answer ended")
    return None


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read to the end, so that the connection can be used again; the answer is complete whatever happens
    here.
    """
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in response.content.iter_any():
                pass


async def _failure_response(response: aiohttp.ClientResponse) -> ModelFailure:
    """The failure that a response other than 2xx stands for, whatever its body looks like."""
    retry_after_s = retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
    try:
        body: object = parse_json(await read_bounded(response, MAX_ERROR_BYTES))
    except ModelFailure as failure:
        body = failure.message
    return failure_of(response.status, body, retry_after_s)


def retry_after(header: str, now: datetime) -> float | None:
    """Seconds to wait by a Retry-After header (seconds or an HTTP date); None if it says nothing readable."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header.strip()):
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())
