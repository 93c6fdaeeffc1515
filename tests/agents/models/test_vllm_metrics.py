"""What is read from the text that a vLLM server shows of itself."""

from __future__ import annotations

from agents.models.protocol import Figures
from agents.models.vllm_metrics import figures_in

SHOWN = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 900.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 640.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1000.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1.2e+03
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 4.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 300.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 9.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 9.0
vllm:time_to_first_token_seconds_count{engine="1",model_name="m"} 1.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.5
vllm:time_to_first_token_seconds_sum{engine="1",model_name="m"} 2.0
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="100"} 1.0
vllm:estimated_flops_per_gpu_total{engine="0",model_name="m"} NaN
process_virtual_memory_bytes 2.9e+10
"""


def test_engines_count_together() -> None:
    assert figures_in(SHOWN) == Figures(
        prompt_read=360,
        prompt_reused=640,
        tokens_out=1200,
        steps=300,
        batch_fill=4.0,
        running=4,
        waiting=2,
        cells_used=1200,
        cells=3200,
        first_tokens=10,
        first_token_s=2.5,
    )


def test_what_is_not_shown_is_not_guessed() -> None:
    assert figures_in("") == Figures(0, 0, 0, 0, None, 0, 0, None, None)


def test_a_server_that_was_started_again_counts_from_its_start() -> None:
    before, after = figures_in(SHOWN), figures_in('vllm:generation_tokens_total{engine="0"} 7.0\n')
    assert after.since(before) == after
