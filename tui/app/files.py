"""What the app keeps between two sessions, and the keys a person wants otherwise: two small TOML files.

`state.toml` is written by the app: theme, store, screen. `keys.toml` is written by a person: binding ids to keys,
checked when the app starts, with line and meaning in the message. Both lie in the user's configuration folder.

Invariant: a file that is missing or broken never keeps the app from starting; what is wrong is said once.
"""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

_NEVER = frozenset({"ctrl+i", "ctrl+j", "ctrl+m", "ctrl+h", "tab", "enter", "escape"})
"""Keys that a terminal cannot tell from others, or that every screen needs."""


RECENT = 9
"""Stores that are remembered."""


@dataclass(frozen=True, slots=True)
class State:
    """What the app remembers."""

    theme: str = "textual-dark"
    mode: str = "home"
    stores: tuple[str, ...] = ()
    """Stores that were looked at, the latest first."""

    def after(self, store: Path, theme: str, mode: str) -> State:
        """What is remembered once a store was looked at under a theme and a screen."""
        others = [each for each in self.stores if each != str(store)]
        return State(theme, mode, tuple([str(store), *others][:RECENT]) if store.is_file() else self.stores)


def folder() -> Path:
    """Where the app's files lie."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "espalier"


def read_state(path: Path) -> State:
    """What was remembered; the defaults where nothing usable was."""
    with contextlib.suppress(OSError, ValueError):
        kept = tomllib.loads(path.read_text(encoding="utf-8"))
        known: dict[str, Any] = {
            key: value for key, value in kept.items() if key in ("theme", "mode") and isinstance(value, str)
        }
        stores = kept.get("stores", [])
        named = tuple(each for each in stores if isinstance(each, str)) if isinstance(stores, list) else ()
        return replace(State(), stores=named, **known)
    return State()


def write_state(path: Path, state: State) -> None:
    """Remember. A folder that cannot be written to is no reason to bother anybody."""
    # JSON's strings and lists of strings are TOML's too.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in asdict(state).items()]
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_keys(path: Path, known: Collection[str]) -> tuple[Mapping[str, str], list[str]]:
    """Keys by binding id, and what is wrong with the file, a sentence each."""
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        return {}, [f"{path}: {error}"]
    keys: dict[str, str] = {}
    problems: list[str] = []
    for name, key in given.items():
        wrong = _wrong(name, key, known)
        if wrong is None:
            keys[name] = key
        else:
            problems.append(f"{path}, line {_line_of(name, text)}: {wrong}")
    return keys, problems


def _wrong(name: str, key: object, known: Collection[str]) -> str | None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        return f"there is no action {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    if not isinstance(key, str) or not key.strip():
        return f"{name} needs a key as text, and {key!r} is none"
    taken = sorted(set(key.split(",")) & _NEVER)
    return f"{taken[0]!r} cannot be given away: terminals or screens need it" if taken else None


def _line_of(name: str, text: str) -> int:
    found = (
        number for number, line in enumerate(text.splitlines(), 1) if line.split("=")[0].strip().strip('"') == name
    )
    return next(found, 1)
