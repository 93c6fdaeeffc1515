"""What a judge leans to, beside worked cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.builders import judged, make_judge, make_run
from trees.judge_bias import families, known_as, length_bias, length_bias_of, outcomes_by_turn
from trees.store import Store


def test_the_longer_reply_is_counted_by_how_much_longer_it_is() -> None:
    found = length_bias_of([(105, 100), (100, 140), (300, 100), (50, 50)])
    assert (found.longer.count, found.longer.of) == (2, 3)
    assert [(name, share.count, share.of) for name, share in found.by_ratio] == [
        ("longer by up to 10%", 1, 1),
        ("by 10% to 50%", 0, 1),
        ("twice as long or more", 1, 1),
    ]
    assert (found.winners, found.losers) == (102.5, 100)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("owner/Qwen2.5-7B", "qwen3-32b.gguf"),
        ("Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.3-70B"),
        ("/models/TinyLlama-1.1B.Q4_K_M.gguf", "hf://bartowski/Llama-3.2-1B-GGUF:llama-3.2-1b.gguf"),
        ("mistralai/Mixtral-8x7B", "Ministral-8B"),
        ("o3-mini", "gpt-4o"),
        ("google/gemma-3-4b", "gemini-2.5-pro"),
        ("DeepSeek-R1-Distill-Qwen-7B", "Qwen3-8B"),
        ("DeepSeek-R1-Distill-Qwen-7B", "deepseek-chat"),
        ("microsoft/Phi-4", "phi-3.5-mini"),
        ("/cache/models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f249a16976", "llama-3.gguf"),
        ("unheard-1b", "other/unheard_2b"),
    ],
)
def test_names_of_one_family_are_kin(a: str, b: str) -> None:
    assert families(a) & families(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("dolphin-2.9", "phi-4"),
        ("models/claude/qwen3.gguf", "claude-sonnet-4"),
        ("OLMo-2-7B", "SmolLM2-135M"),
        ("proto1-7b", "o1"),
        ("", ""),
        ("ab" * 16, "cd" * 16),
    ],
)
def test_other_names_are_not(a: str, b: str) -> None:
    assert not families(a) & families(b)


def test_weights_are_called_by_their_path_or_by_the_name_they_are_asked_by() -> None:
    assert families(known_as({"kind": "llama", "path": "embedded"})) == {"smollm"}
    assert families(known_as({"kind": "vllm", "model": "Qwen/Qwen3-8B"})) == {"qwen"}
    assert known_as({"kind": "scripted"}) == ""


def test_leanings_of_a_stored_run(store_path: Path) -> None:
    with Store.open(store_path) as store:
        run = make_run(store)
        one, two = make_judge(store, "one"), make_judge(store, "two", threshold=1.0)
        user = run.user(run.trees[0], "hello")
        long, short = run.replies(user, "a long reply", "short")
        run.turn(
            user, [long, short], [judged(user, one, [(long, short, "win")]), judged(user, two, [(short, long, "win")])]
        )
        below = run.user(run.trees[0], "again", long)
        a, b = run.replies(below, "same", "even")
        run.turn(below, [a, b], [judged(below, one, [(a, b, "tie")])])
        assert length_bias(store, run.id, one).longer.value == 1.0
        assert length_bias(store, run.id, two).longer.value == 0.0
        assert outcomes_by_turn(store, run.id, one) == {1: {"win": 1}, 2: {"tie": 1}}
