"""The file that `espalier init` writes: a commented configuration, valid as it stands, for each preset.

`quickstart.toml` is written for the preset `corrected`. Under another preset the sections that the preset
fills in are left out, and stand at the end as comments.
"""

from __future__ import annotations

import re
import tomllib
from importlib import resources

_COMMENT_OR_BLANK = re.compile(r"\s*(#|$)")
_TABLE = re.compile(r"\[([A-Za-z0-9_-]+)")
_KEY = re.compile(r"([A-Za-z0-9_-]+)\s*=")


def quickstart(preset: str = "corrected") -> str:
    """The configuration file for a preset."""
    text = (resources.files("simulation") / "quickstart.toml").read_text(encoding="utf-8")
    if preset == "corrected":
        return text
    filled = (resources.files("simulation") / "presets" / f"{preset}.toml").read_text(encoding="utf-8")
    keys = {*tomllib.loads(filled), "responders", "judges", "judge"}
    kept = [block for block in text.strip().split("\n\n") if not _sets(block) & keys]
    body = "\n\n".join(kept).replace('preset = "corrected"', f'preset = "{preset}"')
    shown = "\n".join(f"# {line}".rstrip() for line in filled.strip().splitlines())
    return f"{body}\n\n# What the preset fills in; write a section here to have it otherwise:\n#\n{shown}\n"


def _sets(block: str) -> set[str]:
    """The top-level keys that a paragraph of the file sets, or would set if its comment signs were taken
    away.
    """
    lines = block.splitlines()
    active = [line for line in lines if not _COMMENT_OR_BLANK.match(line)]
    shown = active or [line.removeprefix("# ") for line in lines]
    in_table = [match.group(1) for line in shown if (match := _TABLE.match(line))]
    if in_table:
        return set(in_table)
    return {match.group(1) for line in shown if active and (match := _KEY.match(line))}
