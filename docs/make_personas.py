"""Write docs/personas_composed.md: twenty composed personas, printed for reading.

python docs/make_personas.py
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from simulation.persona_axes import load_axes  # noqa: E402
from simulation.persona_composer import compose_personality, compose_profile  # noqa: E402

COUNT = 20
HEAD = """# Composed personas

Twenty personas that no model wrote: `simulation/persona_composer.py` draws a value of each axis
(`simulation/data/persona_axes.toml`) and a sentence for each value, among those that go together. The same seed gives
the same person. The language is plain on purpose: a composed pool is to be as likely to a small model as the pool
released with arXiv 2410.03642 is, and more varied. This page is written by `python docs/make_personas.py`.
"""


def persona(seed: int) -> str:
    axes = load_axes()
    profile = compose_profile(seed, axes)
    personality = compose_personality(seed, axes, {"pronouns": profile.values["pronouns"]})
    told = ", ".join(value for axis, value in profile.values.items() if axis != "pronouns")
    texts = (profile.text, personality.text, f"*{told}*")
    return f"## {seed + 1}\n\n" + "\n\n".join(textwrap.fill(text, 118) for text in texts) + "\n"


def main() -> None:
    pages = [HEAD, *(persona(seed) for seed in range(COUNT))]
    (ROOT / "docs" / "personas_composed.md").write_text("\n".join(pages), encoding="utf-8")


if __name__ == "__main__":
    main()
