"""A base model's chat template, as training reads conversations with it: token for token as its backends do.

The template and the cutting of hostile text are those of the backends (`agents.models.chat_template`,
`agents.models.prompt_parts`), so a context is what `chat`, a benchmark or a server's client would send. What a
template does that training must know is probed once and shown as repairs; a template that cannot be repaired is
refused with the text it writes.

Invariant: a reply is its own text and the end token, whatever it says; no text of a message becomes a control token,
and no message's text is lost or changed but for white space around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents.models.chat_template import TODAY, ChatTemplate
from agents.models.llama_prompts import PromptReader
from agents.models.prompt_parts import PartsReader, SpecialText
from agents.models.protocol import Message, ModelFailure
from agents.models.transformers_vocab import Vocab
from agents.models.weights import EMBEDDED, locate
from trees.errors import SetupError

INSTALL = "pip install 'espalier-lm[train]'"
_QUOTED = 400
_USER, _REPLY = Message("user", "probe-first"), Message("assistant", "probe-answer")
_NEXT = Message("user", "probe-second")


class TemplateRefused(SetupError):
    """A template, or what it makes of one conversation, cannot be trained on."""


@dataclass(frozen=True, slots=True)
class Repair:
    """Where training does more than render the template, so that a person can see it."""

    what: str
    """In a sentence."""
    shown: str
    """The template's text that it is about; "" if there is none."""


class TemplateReader:
    """Contexts and replies as token ids. Raises TemplateRefused for a template that cannot be trained with.

    `end` is the token after a reply, `before` the text a template writes before the first message by itself.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.vocab = Vocab(tokenizer)
        self.template = ChatTemplate(self.vocab.template, bos=self.vocab.bos_text, eos=self.vocab.eos_text)
        self._prompts = PromptReader(self.template, self.vocab)
        specials = [SpecialText(text, not self.vocab.is_user_defined(token)) for token, text in self.vocab.specials]
        self._parts = PartsReader(self.template, specials)
        self._ends = {
            token
            for token, text in self.vocab.specials
            if text == self.vocab.eos_text or not self.vocab.is_user_defined(token)
        }
        self._refuse_open_reasoning()
        written = self._written_end()
        self._writes_end = written is not None
        self.end = self._own_end() if written is None else written
        self.wants_turns_in_order = self._refuses([_USER, _NEXT])
        self.before = self.text([_USER]).partition(_USER.content)[0]
        self.repairs = tuple(self._repairs())

    @property
    def digest(self) -> str:
        """Of the template and what is done with a system message; the tokenizer is the base model's."""
        return self.template.digest

    def context(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """What the model reads before a reply, the generation prompt included. Raises TemplateRefused."""
        self._check_words(messages)
        return tuple(self._read(messages, add_generation_prompt=True))

    def reply(self, messages: Sequence[Message], context: Sequence[int], text: str) -> tuple[int, ...]:
        """What the model has to say after a context, the end token included. Raises TemplateRefused."""
        spoken = [*messages, Message("assistant", text)]
        self._check_words(spoken)
        whole = self._read(spoken, add_generation_prompt=False)
        if self._writes_end and tuple(whole[: len(context)]) == tuple(context):
            said = whole[len(context) :]
            return tuple(said[: said.index(self.end) + 1])
        # The reply does not begin where the generation prompt ends (a template that writes its history in another
        # way, or a reply that begins with white space): it is what the backends score, the text on its own.
        return (*self.vocab.tokenize(text, special=False), self.end)

    def text(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """A conversation as the template writes it. Raises TemplateRefused."""
        try:
            return "".join(self._parts.read(messages, add_generation_prompt=add_generation_prompt).texts)
        except ModelFailure as error:
            raise TemplateRefused(error.message) from error

    def shown(self, tokens: Sequence[int]) -> str:
        """Tokens as text, control tokens included."""
        return self.vocab.shown(tokens)

    def _read(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        try:
            return self._prompts.read(messages, add_generation_prompt=add_generation_prompt).tokens
        except ModelFailure as error:
            raise TemplateRefused(error.message) from error

    def _check_words(self, messages: Sequence[Message]) -> None:
        """Raise TemplateRefused if the template leaves something out of a message or changes it."""
        text, at = self.text(messages, add_generation_prompt=False), 0
        for message in messages:
            words = message.content.strip()
            found = text.find(words, at)
            if found < 0:
                raise TemplateRefused(
                    f"the chat template changes a message: {words[:_QUOTED]!r} is not in what it writes"
                )
            at = found + len(words)

    def _refuse_open_reasoning(self) -> None:
        prompt = self.text([_USER])
        if self._parts.read([_USER]).reasons:
            raise TemplateRefused(
                f"the chat template opens a block of reasoning before each reply: {prompt[-_QUOTED:]!r}",
                hint="Replies are trained without reasoning: take a model that can answer without it.",
            )

    def _written_end(self) -> int | None:
        """The first control token that the template writes after a reply."""
        after = self.text([_USER, _REPLY], add_generation_prompt=False).partition(_REPLY.content)[2]
        tokens = self.vocab.tokenize(after, special=True)
        return next((token for token in tokens if token in self._ends), None)

    def _own_end(self) -> int:
        ends = [token for token, text in self.vocab.specials if text == self.vocab.eos_text]
        if not ends:
            after = self.text([_USER, _REPLY], add_generation_prompt=False)
            raise TemplateRefused(
                f"nothing ends a reply: the chat template writes no control token after it, and the tokenizer has no "
                f"end token: {after[-_QUOTED:]!r}",
                hint="Give the tokenizer an eos_token.",
            )
        return ends[0]

    def _refuses(self, messages: Sequence[Message]) -> bool:
        try:
            self.text(messages)
        except TemplateRefused:
            return True
        return False

    def _repairs(self) -> list[Repair]:
        found: list[Repair] = []
        if not self.vocab.template:
            found.append(Repair("The tokenizer has no chat template: ChatML is taken.", self.template.source))
        if self.template.system == "folded":
            found.append(
                Repair("A system message leads the first user message: see its place.", self._done_to_system())
            )
        if "strftime_now" in self.template.source:
            found.append(Repair(f"The date is pinned to {TODAY:%d %b %Y}: contexts must not change by the day.", ""))
        if self.wants_turns_in_order:
            found.append(Repair("Messages of one speaker in a row are joined, since the template wants turns.", ""))
        if not self._writes_end:
            found.append(Repair("The tokenizer's end token follows each reply: the template writes none.", ""))
        return found + self._history_repair()

    def _done_to_system(self) -> str:
        """What the template makes of a system message by itself."""
        raw = Message("system", "probe-system")
        try:
            return self.template.render([raw, _USER, _REPLY, _NEXT], as_is=True)[:_QUOTED]
        except ModelFailure as error:
            return error.message[:_QUOTED]

    def _history_repair(self) -> list[Repair]:
        """Whether a later turn's context goes on from the reply that was trained."""
        first = self.context([_USER])
        spoken = (*first, *self.reply([_USER], first, _REPLY.content))
        later = self.context([_USER, _REPLY, _NEXT])
        if later[: len(spoken)] == spoken:
            return []
        same = next((i for i, (a, b) in enumerate(zip(spoken, later, strict=False)) if a != b), 0)
        if same == 0:
            text = self.text([_USER, _REPLY, _NEXT])
            raise TemplateRefused(f"the chat template writes each turn's context anew: {text[:_QUOTED]!r}")
        what = "History is read as the template writes it, beside the replies that are trained: it leaves this out."
        return [Repair(what, self.shown(spoken[same : max(len(first), same + 1)]))]


def joined(messages: Sequence[Message]) -> list[Message]:
    """Messages of one speaker in a row as one, an empty line between them."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1].role == message.role:
            found[-1] = replace(found[-1], content=f"{found[-1].content}\n\n{message.content}")
        else:
            found.append(message)
    return found


def open_reader(base: str) -> TemplateReader:
    """The reader of a base: `embedded`, a GGUF file, a folder, or a name on the hub. Blocks. Raises SetupError."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise SetupError(f"a tokenizer is loaded by the package transformers: {INSTALL}") from error
    try:
        if base == EMBEDDED or base.lower().endswith(".gguf"):
            file = locate(base).path
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        else:
            tokenizer = AutoTokenizer.from_pretrained(_folder_or_name(base))
    except ModelFailure as error:
        raise SetupError(error.message) from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise SetupError(f"the tokenizer of {base!r} cannot be loaded: {error}") from error
    return TemplateReader(tokenizer)


def _folder_or_name(base: str) -> str:
    """Of a model on the hub its name, so that no weights are fetched for a tokenizer. Raises SetupError."""
    if (folder := Path(base).expanduser()).is_dir():
        return str(folder)
    name = base.removeprefix("hf://")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise SetupError(f"there is no folder {base!r}", hint="Give a model's folder, or a hub's owner/repo.")
    return name
