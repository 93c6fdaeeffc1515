"""Write the map of files into the README: every file with the first sentence of its docstring.

python docs/make_map.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAYERS = {
    "trees": "what was said, judged and kept",
    "agents": "who speaks: roles, prompts, models, the one call path",
    "simulation": "the play",
    "train": "what is learnt",
    "tui": "everything the terminal shows",
}


def purpose(path: Path) -> str:
    """The first sentence of a module's docstring."""
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(said.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", first)[0].rstrip(".")


def drawn() -> str:
    lines: list[str] = []
    for layer, what in LAYERS.items():
        lines += [f"\n**`{layer}/`** {what}\n"]
        files = sorted(p for p in (ROOT / layer).rglob("*.py") if p.name != "__init__.py")
        lines += [f"- `{path.relative_to(ROOT)}`: {purpose(path)}" for path in files]
    return "\n".join(lines)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split("<!-- map -->")
    after = rest.split("<!-- /map -->")[1]
    readme.write_text(f"{before}<!-- map -->\n{drawn()}\n<!-- /map -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
