"""What a vLLM server counts of itself, read from the text it shows at `/metrics` (the Prometheus text format).

Invariant: a counter that this version of vLLM does not show counts as 0, a gauge as 0 or unknown; nothing is guessed.
"""

from __future__ import annotations

import re

from agents.models.protocol import Figures

_SAMPLE = re.compile(r"^(vllm:\w+)(?:\{(.*)\})? ([0-9.eE+-]+|NaN)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def figures_in(text: str) -> Figures:
    """The counters and gauges of all of the server's engines together.

    A step's fill is tokens out by steps: vLLM does not say how many sequences a step had.
    """
    totals: dict[str, float] = {}
    cells = 0
    for name, labels, value in _SAMPLE.findall(text):
        if value != "NaN":
            totals[name] = totals.get(name, 0.0) + float(value)
        if name == "vllm:cache_config_info":
            cells += _cells(dict(_LABEL.findall(labels)))

    def count(name: str) -> int:
        return int(totals.get(f"vllm:{name}", 0))

    steps, out, reused = (
        count(name) for name in ("iteration_tokens_total_count", "generation_tokens_total", "prefix_cache_hits_total")
    )
    engines = max(text.count("\nvllm:cache_config_info{"), 1)
    used = totals.get("vllm:kv_cache_usage_perc")
    return Figures(
        prompt_read=max(count("prompt_tokens_total") - reused, 0),
        prompt_reused=reused,
        tokens_out=out,
        steps=steps,
        batch_fill=out / steps if steps else None,
        running=count("num_requests_running"),
        waiting=count("num_requests_waiting"),
        cells_used=round(used * cells / engines) if used is not None and cells else None,
        cells=cells or None,
        first_tokens=count("time_to_first_token_seconds_count"),
        first_token_s=totals.get("vllm:time_to_first_token_seconds_sum", 0.0),
    )


def _cells(cache: dict[str, str]) -> int:
    """Tokens that one engine's cache holds; 0 where it does not say."""
    blocks, block = cache.get("num_gpu_blocks", ""), cache.get("block_size", "")
    return int(blocks) * int(block) if blocks.isdigit() and block.isdigit() else 0
