"""People composed from the axis tables against a released pool of the same size: how varied, how plausible, how sound.

Five samples of the pool's size: mean similarity to the nearest neighbour and Vendi score (MiniLM), against the pool's
own. Perplexity of whole texts under the embedded model, de-quantised: the composed median has to lie between the
pool's quartiles. The checks must find no contradiction. The pools released with arXiv 2410.03642 are two files,
profile.jsonl and personality.jsonl, in the folder that is given.

    python benchmarks/composed.py FOLDER [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from common import Bar, finish, say
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.models.weights import locate
from simulation.embedders import open_embedder
from simulation.persona_axes import load_axes
from simulation.persona_checks import check
from simulation.persona_composer import compose_personality, compose_profile
from simulation.similarity import nearest_similarities, vendi_score
from trees.personas import Kind, parse_personas

SAMPLES = 5
SEEDS_APART = 100_000
AT_ONCE = 16
COMPOSERS: dict[Kind, Callable[..., Any]] = {"profile": compose_profile, "personality": compose_personality}


class Perplexity:
    """exp of the mean negative log-probability of a text's tokens under the embedded model, in float32."""

    def __init__(self) -> None:
        path = locate("embedded").path
        self._tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        self._model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)

    def of(self, texts: Sequence[str]) -> np.ndarray:
        values: list[float] = []
        for begin in range(0, len(texts), AT_ONCE):
            values += self._batch(texts[begin : begin + AT_ONCE])
            say(f"  perplexity of {len(values)} of {len(texts)}")
        return np.array(values)

    def _batch(self, texts: Sequence[str]) -> list[float]:
        first = self._tokenizer.bos_token_id or 0
        rows = [[first, *self._tokenizer(text, add_special_tokens=False).input_ids] for text in texts]
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with torch.inference_mode():
            logits = self._model(tokens, attention_mask=mask).logits[:, :-1].log_softmax(-1)
        losses = -logits.gather(2, tokens[:, 1:, None])[..., 0] * mask[:, 1:]
        return torch.exp(losses.sum(1) / mask[:, 1:].sum(1)).tolist()


async def variety(kind: Kind, released: Sequence[str], samples: int) -> dict[str, Any]:
    """Of the pool, and of samples of the same size."""
    axes, embedder = load_axes(), await open_embedder("minilm")
    try:
        own = await embedder.vectors(released)
        found: dict[str, Any] = {
            "size": len(released),
            "released_nearest": float(nearest_similarities(own).mean()),
            "released_vendi": vendi_score(own),
            "nearest": [],
            "vendi": [],
            "broken": {},
        }
        for sample in range(samples):
            say(f"{kind}: sample {sample + 1} of {samples}")
            seeds = range(sample * SEEDS_APART, sample * SEEDS_APART + len(released))
            texts = [COMPOSERS[kind](seed, axes).text for seed in seeds]
            for text in texts:
                if (reason := check(text, kind).reason) is not None:
                    found["broken"][str(reason)] = found["broken"].get(str(reason), 0) + 1
            vectors = await embedder.vectors(texts)
            found["nearest"].append(float(nearest_similarities(vectors).mean()))
            found["vendi"].append(vendi_score(vectors))
        return found
    finally:
        await embedder.close()


def plausibility(kind: Kind, released: Sequence[str], count: int, perplexity: Perplexity) -> dict[str, Any]:
    """Quartiles of both, and an interval of the composed median by bootstrap."""
    axes = load_axes()
    say(f"{kind}: perplexity")
    ours = perplexity.of([COMPOSERS[kind](7 * SEEDS_APART + seed, axes).text for seed in range(count)])
    theirs = perplexity.of(released[:count])
    draw = np.random.default_rng(0)
    medians = [np.median(draw.choice(ours, len(ours))) for _ in range(2000)]
    return {
        "texts": [len(ours), len(theirs)],
        "perplexity_quartiles": np.percentile(ours, [25, 50, 75]).tolist(),
        "perplexity_median_interval": np.percentile(medians, [2.5, 97.5]).tolist(),
        "released_perplexity_quartiles": np.percentile(theirs, [25, 50, 75]).tolist(),
    }


def bars_of(kind: Kind, found: dict[str, Any]) -> list[Bar]:
    low, _, high = found["released_perplexity_quartiles"]
    median = found["perplexity_quartiles"][1]
    return [
        Bar(
            f"{kind}: nearest neighbour, mean of the worst sample",
            max(found["nearest"]),
            at_most=found["released_nearest"],
        ),
        Bar(f"{kind}: Vendi score of the worst sample", min(found["vendi"]), at_least=found["released_vendi"]),
        Bar(f"{kind}: median perplexity, against the released upper quartile", median, at_most=high),
        Bar(f"{kind}: median perplexity, against the released lower quartile", median, at_least=low),
        Bar(f"{kind}: texts that the rules refuse", sum(found["broken"].values()), at_most=0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where profile.jsonl and personality.jsonl of the released pool lie")
    parser.add_argument("--quick", action="store_true", help="one sample, 20 texts")
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    perplexity = Perplexity()
    for kind in COMPOSERS:
        data = (given.folder / f"{kind}.jsonl").read_bytes()
        released = [item.text for item in parse_personas(data, kind=kind, source=f"{kind}.jsonl").items]
        found = asyncio.run(variety(kind, released, 1 if given.quick else SAMPLES))
        found |= plausibility(kind, released, 20 if given.quick else 120, perplexity)
        figures[kind] = found
        bars += bars_of(kind, found)
    return finish("composed", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
