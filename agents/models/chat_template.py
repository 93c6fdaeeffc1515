"""Chat templates: messages become the one text that a model was trained to read.

A `ChatTemplate` is the Jinja source that a model carries, rendered as the Hugging Face tokenizers render it,
in a sandbox. Templates differ in what they do with a system message: some refuse it, some drop it, some put
it into the *last* user message, so that every turn changes what stands before it. A probe at construction
finds out, and where the template cannot be trusted with one the system text leads the first user message
instead.

Invariant: a conversation cut after a user message is rendered as a prefix of the whole conversation's
rendering (without the generation prompt), whatever the template does with system messages; so what was read
stays read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agents.models.protocol import Message, ModelFailure
from trees.ids import digest_of

SystemStrategy = Literal["role", "folded"]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""What a model without a template of its own is asked with."""

TODAY = datetime(2024, 7, 26)
"""The date that templates asking for today's are given: a prompt must not change by the day. It is the one
that
Llama 3's template falls back to."""

_PROBE_HEAD = (Message("system", "probe-system"), Message("user", "probe-first"))
_PROBE_WHOLE = (*_PROBE_HEAD, Message("assistant", "probe-answer"), Message("user", "probe-second"))


class ChatTemplate:
    """One template, ready to render. Raises ModelFailure("setup") if the source is no template."""

    def __init__(self, source: str | None, *, bos: str = "", eos: str = "") -> None:
        self.source = source or CHATML
        self._special = {"bos_token": bos, "eos_token": eos}
        self._template = _compile(self.source)
        self.system: SystemStrategy = "role" if self._keeps_system() else "folded"
        self.digest = digest_of("template", self.source, self.system)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, as_is: bool = False) -> str:
        """The prompt's text. Raises ModelFailure("refused") if the template takes no such conversation.

        `as_is` leaves a system message where it stands, to see what the template does with it.
        """
        try:
            return self._render(messages if as_is else self._fold(messages), add_generation_prompt)
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise ModelFailure(
                "refused", f"the model's chat template refuses these messages ({roles}): {error}"
            ) from error

    def _fold(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.system == "role" or not messages or messages[0].role != "system":
            return messages
        head, rest = messages[0].content, messages[1:]
        if not rest or rest[0].role != "user":
            return [Message("user", head), *rest]
        opening = f"{head}\n\n{rest[0].content}" if head else rest[0].content
        return [Message("user", opening), *rest[1:]]

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        return self._template.render(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
            tools=None,
            documents=None,
            **self._special,
        )

    def _keeps_system(self) -> bool:
        """Whether the template writes a system message first and leaves it there as turns follow."""
        try:
            head = self._render(_PROBE_HEAD, add_generation_prompt=False)
            whole = self._render(_PROBE_WHOLE, add_generation_prompt=False)
        except TemplateError:
            return False
        marks = [whole.find(message.content) for message in _PROBE_WHOLE]
        return whole.startswith(head) and -1 not in marks and marks == sorted(marks)


def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = TODAY.strftime
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise ModelFailure("setup", f"the model's chat template cannot be read: {error}") from error


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """JSON as chat templates mean it: Jinja's own filter would escape it for HTML."""
    known: Mapping[str, Any] = {name: options[name] for name in ("separators", "sort_keys") if name in options}
    return json.dumps(value, ensure_ascii=options.get("ensure_ascii", False), indent=indent, **known)
