"""Prompts as files: sections of Jinja text, versioned by content, rendered in a sandbox.

A prompt file has sections, each begun by a line such as `[head]`; what stands before the first is a comment. `head`
is the stable beginning (instructions, persona), `opening` what the persona user answers first, `tail` this turn's end.
A line `{> NAME}` takes in another file whole, section by section, so a version's text explains itself.

A folder `prompts/` beside the configuration is looked into first, then the shipped ones. The variables are a closed
set per kind of prompt and section; another one is an error that names file, line and the variable meant. Values are
plain text: braces in what a model wrote mean nothing.

Invariant: a version's id is the digest of kind and text, and a version never changes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Literal

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trees.errors import SetupError
from trees.ids import digest_of

PromptKind = Literal[
    "user",
    "inducer",
    "responder",
    "told",
    "judge.likelihood",
    "judge.choice",
    "judge.pairwise",
    "judge.rating",
    "judge.reward",
    "judge.points",
    "deploy",
    "persona.profile",
    "persona.personality",
    "persona.check",
]

_PERSON = frozenset({"profile", "personality"})
VARIABLES: Mapping[str, Mapping[str, frozenset[str]]] = {
    "user": {"head": _PERSON, "opening": _PERSON, "tail": frozenset({"turn", "situation"})},
    "inducer": {"head": _PERSON, "tail": _PERSON | {"known"}},
    "responder": {"head": frozenset(), "tail": frozenset({"hint"})},
    "told": {"head": _PERSON, "tail": frozenset({"hint"})},
    "judge.likelihood": {"head": _PERSON, "tail": frozenset({"revealed"})},
    "judge.choice": {"head": _PERSON, "tail": frozenset({"candidates", "letters", "revealed"})},
    "judge.pairwise": {"head": _PERSON, "tail": frozenset({"first", "second", "revealed"})},
    "judge.rating": {"head": _PERSON, "tail": frozenset({"reply"})},
    "judge.reward": {"head": frozenset()},
    "judge.points": {"head": _PERSON, "tail": frozenset({"reply", "wants"})},
    "deploy": {"head": frozenset()},
    "persona.profile": {"head": frozenset(), "tail": frozenset({"examples", "count", "lacking"})},
    "persona.personality": {"head": frozenset(), "tail": frozenset({"examples", "count", "lacking"})},
    "persona.check": {"head": frozenset(), "tail": frozenset({"kind", "text"})},
}
"""Per kind of prompt: its sections, and the variables each may use."""

SHIPPED_NAMES: Mapping[str, str] = {
    "user": "user",
    "inducer": "inducer",
    "responder": "responder",
    "told": "told",
    "judge.likelihood": "judge_likelihood",
    "judge.choice": "judge_choice",
    "judge.pairwise": "judge_pairwise",
    "judge.rating": "judge_rating",
    "judge.reward": "judge_reward",
    "judge.points": "judge_points",
    "deploy": "deploy",
    "persona.profile": "persona_profile",
    "persona.personality": "persona_personality",
    "persona.check": "persona_check",
}
"""The file that a kind of prompt is read from unless the configuration names another."""

_SECTION = re.compile(r"^\[([a-z]+)\]\s*$")
_INCLUDE = re.compile(r"^\{>\s*([\w.-]+)\s*\}\s*$")
_SANDBOX = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True)
class Prompt:
    """One version of a prompt."""

    kind: str
    text: str

    @cached_property
    def id(self) -> str:
        return digest_of("prompt", self.kind, self.text)

    @cached_property
    def _templates(self) -> dict[str, Template]:
        return {name: _SANDBOX.from_string(source) for name, (_, source) in _sections(self.text).items()}

    @cached_property
    def _constant(self) -> dict[str, str]:
        """What each section is when nothing is filled in, as far as that can be rendered at all."""
        constant = {}
        for name, template in self._templates.items():
            with suppress(TemplateError, TypeError):
                constant[name] = template.render(dict.fromkeys(VARIABLES[self.kind].get(name, ()))).strip()
        return constant

    def uses(self, section: str, variable: str) -> bool:
        """Whether a section asks for a variable."""
        _, source = _sections(self.text).get(section, (0, ""))
        return variable in find_undeclared_variables(_SANDBOX.parse(source))

    def render(self, section: str, **values: object) -> str:
        """A section with its variables filled in; empty if the prompt lacks it. Variables not given are None."""
        template = self._templates.get(section)
        if template is None:
            return ""
        if not values and section in self._constant:
            return self._constant[section]
        known = dict.fromkeys(VARIABLES[self.kind].get(section, ())) | values
        return template.render(known).strip()


def load_prompt(kind: str, name: str | None = None, folder: Path | None = None) -> Prompt:
    """Read a prompt and check it. Raises SetupError naming file, line and what is wrong."""
    return _checked(kind, _read(name or SHIPPED_NAMES[kind], folder))


def prompt_of(kind: str, text: str, folder: Path | None = None, origin: str = "the draft") -> Prompt:
    """A prompt that is in no file yet, checked as if it were. Raises SetupError naming line and what is wrong."""
    return _checked(kind, _expanded(text, origin, folder, ()))


def _checked(kind: str, read: list[_ReadLine]) -> Prompt:
    while read and not read[0].text.strip():
        del read[0]
    prompt = Prompt(kind, "\n".join(line.text for line in read).strip() + "\n")
    check_prompt(prompt, [f"{line.origin}, line {line.number}" for line in read])
    return prompt


def check_prompt(prompt: Prompt, places: str | Sequence[str]) -> None:
    """Raise SetupError for a section or variable that this kind of prompt does not have, or a template error.

    `places` says where each line of the text is from; one name is that of the file that holds them all.
    """
    if isinstance(places, str):
        places = [f"{places}, line {number}" for number, _ in enumerate(prompt.text.splitlines(), 1)]
    allowed = VARIABLES[prompt.kind]
    for section, (line, source) in _sections(prompt.text).items():
        if section not in allowed:
            raise SetupError(
                f"{places[line - 1]}: a {prompt.kind} prompt has no section [{section}]; it has "
                + ", ".join(f"[{known}]" for known in allowed)
            )
        _check_variables(source, allowed[section], places[line:] or places[-1:], section)


def _check_variables(source: str, allowed: frozenset[str], places: Sequence[str], section: str) -> None:
    try:
        parsed = _SANDBOX.parse(source)
        _SANDBOX.from_string(source)
        unknown = find_undeclared_variables(parsed) - allowed
    except TemplateSyntaxError as error:
        raise SetupError(f"{places[min(error.lineno, len(places)) - 1]}: {error.message}") from error
    except TemplateError as error:
        raise SetupError(f"{places[0]}: {error}") from error
    for used in parsed.find_all(nodes.Name):
        if used.name in unknown:
            near = difflib.get_close_matches(used.name, allowed, n=1, cutoff=0.5)
            known = ", ".join(sorted(allowed)) or "none"
            raise SetupError(
                f"{places[used.lineno - 1]}: unknown variable {used.name!r} in [{section}]"
                + (f"; did you mean {near[0]!r}?" if near else ""),
                hint=f"Variables of this section: {known}.",
            )


def _sections(text: str) -> dict[str, tuple[int, str]]:
    """Section name to (line of its header, source). Lines are counted from 1 in the expanded text."""
    found: dict[str, tuple[int, list[str]]] = {}
    lines: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if header := _SECTION.match(line):
            lines = found.setdefault(header.group(1), (number, []))[1]
        elif lines is not None:
            lines.append(line)
    return {name: (number, "\n".join(body)) for name, (number, body) in found.items()}


@dataclass(frozen=True, slots=True)
class _ReadLine:
    text: str
    origin: str
    """What to call the file in messages."""
    number: int


def _read(name: str, folder: Path | None, seen: tuple[str, ...] = ()) -> list[_ReadLine]:
    """The lines of a prompt file with everything it takes in."""
    if name in seen:
        raise SetupError(f"prompt files take in each other in a circle: {' > '.join((*seen, name))}")
    raw, origin = _find(name, folder)
    return _expanded(raw, origin, folder, (*seen, name))


def _expanded(raw: str, origin: str, folder: Path | None, seen: tuple[str, ...]) -> list[_ReadLine]:
    """The lines of a text with what it takes in."""
    read = []
    for number, line in enumerate(raw.splitlines(), 1):
        if include := _INCLUDE.match(line):
            read += [*_read(include.group(1), folder, seen), _ReadLine("", origin, number)]
        else:
            read.append(_ReadLine(line, origin, number))
    return read


def _find(name: str, folder: Path | None) -> tuple[str, str]:
    own = folder / f"{name}.md" if folder is not None else None
    if own is not None and own.is_file():
        return own.read_text(encoding="utf-8"), str(own)
    shipped = resources.files("agents") / "prompts" / f"{name}.md"
    if shipped.is_file():
        return shipped.read_text(encoding="utf-8"), f"{name}.md (shipped)"
    looked = f"{own} and " if own is not None else ""
    raise SetupError(
        f"there is no prompt file {name}.md (looked for {looked}among the shipped ones)",
        hint=f"Shipped prompts: {', '.join(sorted(shipped_prompts()))}.",
    )


def shipped_prompts() -> dict[str, str]:
    """Name to text of every prompt file in the package."""
    folder = resources.files("agents") / "prompts"
    return {
        f.name.removesuffix(".md"): f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith(".md")
    }
