"""Training on trees against flattened rows: how much sooner a tree is done, and at what peak of memory.

The embedded model in float32 with LoRA on all linear layers; conversations of 10 turns, 40 tokens a user message and
60 a reply. A step is forward and backward over one tree, with the reference's log-probabilities given. Yardsticks, on
the same tokens: a bare loop over flattened pairs (each pair a batch of two rows, the model's own attention, logits at
reply tokens only), in its best batch; TRL's DPOTrainer in the best of a printed sweep; for SFT the whole conversation
with assistant tokens trained, and a row for each reply.

On a CPU but for the part `gpu`, which runs where torch sees CUDA and says so where it does not: a Llama-shaped model of
1.2B random weights in bfloat16, trees of 10 turns x 4 candidates through FlexAttention, against TRL's DPOTrainer in the
best of a printed sweep (batch, attention, padding-free where it has it); and the share of the peak FLOP/s, which a
product of two matrices is measured for in the same run. `--quick` takes a tiny model, on a CPU too, without a bar.

    python benchmarks/training.py [--quick] [--only PART...] [--candidates 2 4] [--repeats N] [--plot FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from common import Bar, finish, say
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import logging

from agents.models.weights import locate
from train.losses import DpoForm, counts_of, dpo_loss, sft_loss
from train.packing import Objective, PackedSequence, pack
from train.token_tree import PairOf, Segment, TokenTree
from train.tree_model import TreeModel

USER, REPLY = 40, 60
PARTS = ("pairs", "targets", "trl", "memory", "gpu")
SHARE = {2: 0.95, 4: 0.8}
"""Of the token ratio, by candidates a turn: what packing has to turn into time."""
TRL_TIMES = {2: 8.0, 4: 12.0}
TRL_REPEATS = 2
"""A step of TRL's takes minutes; each is followed and preceded by packed ones."""
LIMIT = 16_384
GPU_TIMES = 5.0
"""How many times faster than TRL, at 10 turns x 4 candidates."""


def conversation(turns: int, candidates: int, seed: int = 0) -> TokenTree:
    """A conversation that goes on from the first candidate of each turn, which is the better one."""
    rng = random.Random(seed)
    segments, pairs, targets, parent = [], [], [], -1
    for _ in range(turns):
        segments.append(segment(rng, parent, USER, False))
        user = len(segments) - 1
        segments += [segment(rng, user, REPLY, True) for _ in range(candidates)]
        pairs += [PairOf(user + 1, user + 1 + other) for other in range(1, candidates)]
        targets.append(user + 1)
        parent = user + 1
    return TokenTree("conversation", "", tuple(segments), tuple(targets), tuple(pairs))


def forked(turns: int) -> TokenTree:
    """A conversation that goes on from two replies halfway, to the end of both."""
    rng = random.Random(1)
    segments: list[Segment] = []
    targets = []
    ends = [-1]
    for turn in range(turns):
        new = []
        for end in ends:
            segments.append(segment(rng, end, USER, False))
            user = len(segments) - 1
            for _ in range(2 if turn == turns // 2 - 1 else 1):
                segments.append(segment(rng, user, REPLY, True))
                new.append(len(segments) - 1)
        targets += new
        ends = new
    return TokenTree("forked", "", tuple(segments), tuple(targets), ())


def segment(rng: random.Random, parent: int, length: int, reply: bool) -> Segment:
    return Segment(parent, tuple(rng.randrange(100, 40_000) for _ in range(length)), reply, "")


def unpacked_folder(cache: Path) -> Path:
    """The embedded model de-quantised, so that each process loads it at once."""
    source = locate("embedded").path
    folder = cache / "smollm2-f32"
    if not folder.exists():
        model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    return folder


def lora() -> LoraConfig:
    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def policy(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), lora()).train()


def tree_policy(folder: Path, dtype: torch.dtype = torch.float32) -> TreeModel:
    return TreeModel(policy(folder, dtype), LIMIT)


def packed_step(model: TreeModel, sequence: PackedSequence, objective: Objective) -> float:
    """Forward and backward over a packed tree; the reference's log-probabilities are zero on all sides."""
    logps = model(sequence)
    if objective == "sft":
        loss = sft_loss(logps, sequence, counts_of(sequence))
    else:
        loss, _ = dpo_loss(logps, torch.zeros(len(sequence.replies)), sequence, counts_of(sequence), DpoForm())
    loss.backward()
    model.zero_grad()
    return float(loss.detach())


def flat_pairs_step(model: Any, tree: TokenTree, batch: int, pairs: Sequence[PairOf] | None = None) -> float:
    """The same by a bare loop: `batch` pairs at a time as twice as many rows, padded on the right if need be."""
    todo = list(tree.pairs if pairs is None else pairs)
    total = 0.0
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        sums = row_sums(model, [tree.row(p.chosen) for p in part] + [tree.row(p.rejected) for p in part])
        chosen, rejected = sums.chunk(2)
        loss = -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum() / len(todo)
        loss.backward()
        total += float(loss.detach())
    model.zero_grad()
    return total


def row_sums(model: Any, rows: list[tuple[int, ...]]) -> torch.Tensor:
    """log p of each row's last REPLY tokens."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    causal = model.get_base_model()
    padded = None if mask.all() else mask
    hidden = causal.get_decoder()(input_ids=ids, attention_mask=padded, use_cache=False).last_hidden_state
    at = torch.tensor([[len(row) - REPLY + i for i in range(REPLY)] for row in rows])
    logits = causal.lm_head(hidden.gather(1, (at - 1)[..., None].expand(-1, -1, hidden.shape[-1])))
    return logits.log_softmax(-1).gather(2, ids.gather(1, at)[..., None])[..., 0].sum(-1)


def flat_targets_step(model: Any, rows: Sequence[tuple[tuple[int, ...], list[int]]], tokens: int) -> float:
    """A row at a time, with the tokens at the given places trained and logits there only."""
    causal, total = model.get_base_model(), 0.0
    for row, places in rows:
        ids, at = torch.tensor([row]), torch.tensor(places)
        hidden = causal.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0]
        loss = torch.nn.functional.cross_entropy(causal.lm_head(hidden[at - 1]), ids[0, at], reduction="sum") / tokens
        loss.backward()
        total += float(loss.detach())
    model.zero_grad()
    return total


def bar_of(rows: Sequence[tuple[tuple[int, ...], list[int]]], sequence: PackedSequence, share: float) -> float:
    """A share of how many times as many tokens the rows have."""
    return round(share * sum(len(row) for row, _ in rows) / len(sequence), 2)


def whole_rows(tree: TokenTree) -> list[tuple[tuple[int, ...], list[int]]]:
    """Each conversation to its end, all of its replies trained."""
    inner = {each.parent for each in tree.segments}
    leaves = [index for index in tree.targets if index not in inner]
    return [(tree.row(leaf), places_of(tree, [i for i in tree.path(leaf) if i in tree.targets])) for leaf in leaves]


def prefix_rows(tree: TokenTree) -> list[tuple[tuple[int, ...], list[int]]]:
    """A row for each reply."""
    return [(tree.row(target), places_of(tree, [target])) for target in tree.targets]


def places_of(tree: TokenTree, replies: Sequence[int]) -> list[int]:
    return [tree.depths[reply] + at for reply in replies for at in range(len(tree.segments[reply].tokens))]


@dataclass
class Took:
    """Seconds of a step, each time it was made: by the clock, and of all threads together.

    The clock is what counts; threads' time says whether somebody else was at work on the machine.
    """

    clock: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)

    def add(self, clock: float, threads: float) -> None:
        self.clock.append(clock)
        self.threads.append(threads)

    def as_dict(self) -> dict[str, list[float]]:
        return {"s": [round(s, 2) for s in self.clock], "cpu_s": [round(s, 2) for s in self.threads]}

    @property
    def median(self) -> float:
        return statistics.median(self.clock)


def in_turns(steps: dict[str, Callable[[], float]], repeats: int) -> dict[str, Took]:
    """What each step takes, one after the other, again and again."""
    taken = {name: Took() for name in steps}
    for repeat in range(repeats):
        for name, step in steps.items():
            began, began_cpu = time.perf_counter(), time.process_time()
            step()
            taken[name].add(time.perf_counter() - began, time.process_time() - began_cpu)
            say(f"  {repeat + 1}/{repeats} {name}: {taken[name].clock[-1]:.1f} s")
    return taken


def measure_pairs(folder: Path, turns: int, repeats: int, which: Sequence[int]) -> tuple[dict[str, Any], list[Bar]]:
    """Packed DPO steps against the bare loop."""
    plain, trees = policy(folder), tree_policy(folder)
    figures, bars = {}, []
    for candidates in which:
        tree = conversation(turns, candidates)
        (sequence,) = pack([tree], "dpo", LIMIT)
        batch = best_batch(plain, tree, candidates)
        say(f"{turns} turns x {candidates} candidates: {tree.token_count} tokens packed")
        packed_step(trees, sequence, "dpo")
        taken = in_turns(
            {
                "packed": lambda s=sequence: packed_step(trees, s, "dpo"),
                f"flat, {batch} at once": lambda t=tree, b=batch: flat_pairs_step(plain, t, b),
            },
            repeats,
        )
        packed, flat = taken.values()
        difference = abs(packed_step(trees, sequence, "dpo") - flat_pairs_step(plain, tree, 1))
        flattened = sum(len(tree.row(side)) for pair in tree.pairs for side in (pair.chosen, pair.rejected))
        ratio = flattened / tree.token_count
        faster = flat.median / packed.median
        figures[f"{candidates} candidates"] = {
            "tokens_flat": flattened,
            "tokens_packed": tree.token_count,
            "token_ratio": round(ratio, 2),
            "packed": packed.as_dict(),
            "flat": flat.as_dict(),
            "flat_pairs_at_once": batch,
            "times_faster": round(faster, 2),
            "times_less_cpu": round(statistics.median(flat.threads) / statistics.median(packed.threads), 2),
            "loss_difference": difference,
        }
        name = f"DPO, {candidates} candidates: times faster than flattened pairs"
        bars.append(Bar(name, faster, at_least=round(SHARE[candidates] * ratio, 1)))
    return figures, bars


def best_batch(model: Any, tree: TokenTree, candidates: int) -> int:
    """How many pairs at once the bare loop does fastest, tried on those of two turns in the middle."""
    middle = len(tree.pairs) // 2
    some = tree.pairs[middle - middle % (candidates - 1) :][: 2 * (candidates - 1)]
    flat_pairs_step(model, tree, 1, some[:1])
    tried = sorted({1, candidates - 1, 2 * (candidates - 1)})
    taken = in_turns({f"{n} pairs at once": lambda n=n: flat_pairs_step(model, tree, n, some) for n in tried}, 2)
    return min(zip(tried, taken.values(), strict=True), key=lambda pair: min(pair[1].clock))[0]


def measure_targets(folder: Path, turns: int, repeats: int) -> tuple[dict[str, Any], list[Bar]]:
    """Packed SFT steps against whole conversations and against a row for each reply."""
    plain, trees = policy(folder), tree_policy(folder)
    figures, bars = {}, []
    for name, tree in (("spine", conversation(turns, 2)), ("forked", forked(turns))):
        (sequence,) = pack([tree], "sft", LIMIT)
        tokens = len(tree.targets) * REPLY
        say(f"SFT, {name}: {len(sequence)} tokens packed")
        rows, prefixes = whole_rows(tree), prefix_rows(tree)
        packed_step(trees, sequence, "sft")
        taken = in_turns(
            {
                "packed": lambda s=sequence: packed_step(trees, s, "sft"),
                "whole conversations": lambda r=rows, n=tokens: flat_targets_step(plain, r, n),
                "a row a reply": lambda r=prefixes, n=tokens: flat_targets_step(plain, r, n),
            },
            repeats,
        )
        packed, whole, prefix = (each.median for each in taken.values())
        figures[f"sft {name}"] = {key: each.as_dict() for key, each in taken.items()}
        bars += [
            Bar(
                f"SFT, {name}: times faster than whole conversations",
                whole / packed,
                at_least=bar_of(rows, sequence, 0.95),
            ),
            Bar(
                f"SFT, {name}: times faster than a row a reply",
                prefix / packed,
                at_least=bar_of(prefixes, sequence, 0.8),
            ),
        ]
    return figures, bars


def measure_trl(folder: Path, turns: int, repeats: int, which: Sequence[int]) -> tuple[dict[str, Any], list[Bar]]:
    """TRL's DPOTrainer: a sweep of settings over a short tree, then the best of them in turns with packed steps."""
    figures: dict[str, Any] = {}
    bars = []
    swept: dict[str, float] = {}
    settings = [
        {"batch": batch, "dtype": dtype, "padding_free": free}
        for batch, dtype, free in product((1, 2, 4), ("float32", "bfloat16"), (False, True))
        if not free or batch == 2
    ]
    for setting in settings:
        done = child("trl", folder, turns=min(turns, 3), candidates=3, **setting)
        swept[json.dumps(setting)] = done["seconds"]
        say(f"  TRL {setting}: {done['seconds']:.1f} s a tree of {min(turns, 3)} turns {done['note']}")
    best = json.loads(min(swept, key=lambda key: swept[key]))
    figures["trl_sweep_s"] = {key: round(value, 2) for key, value in swept.items()}
    for candidates in which:
        taken = trl_in_turns(folder, turns, candidates, best, min(repeats, TRL_REPEATS))
        trl = taken["TRL"]
        faster = {name: trl.median / each.median for name, each in taken.items() if name != "TRL"}
        told = ", ".join(f"{times:.1f} times as long as {name}" for name, times in faster.items())
        say(f"  TRL, best setting, {candidates} candidates: {told}")
        figures[f"trl, {candidates} candidates"] = {
            "setting": best,
            **{name: each.as_dict() for name, each in taken.items()},
            "times_faster": {name: round(times, 2) for name, times in faster.items()},
        }
        name = f"DPO, {candidates} candidates: times faster than TRL's DPOTrainer in its best setting"
        bars += [
            Bar(f"{name}, packed in float32", faster["packed, float32"], at_least=TRL_TIMES[candidates]),
            Bar(f"{name}, packed in its own", max(faster.values()), at_least=TRL_TIMES[candidates]),
        ]
    return figures, bars


def trl_in_turns(folder: Path, turns: int, candidates: int, setting: dict[str, Any], repeats: int) -> dict[str, Took]:
    """Steps of TRL's trainer and packed ones, one after the other; TRL's are timed within a process of their own."""
    (sequence,) = pack([conversation(turns, candidates)], "dpo", LIMIT)
    steps: dict[str, Callable[[], float]] = {}
    for dtype in ("float32", "bfloat16"):
        trees = tree_policy(folder, getattr(torch, dtype))
        packed_step(trees, sequence, "dpo")
        steps[f"packed, {dtype}"] = partial(packed_step, trees, sequence, "dpo")
    found = {name: Took() for name in (*steps, "TRL")}
    for _ in range(repeats):
        for name, took in in_turns(steps, 1).items():
            found[name].add(took.clock[0], took.threads[0])
        theirs = child("trl", folder, turns=turns, candidates=candidates, **setting)
        found["TRL"].add(theirs["seconds"], theirs["cpu_seconds"])
        say(f"  TRL: {theirs['seconds']:.1f} s")
    return found


def trl_child(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one optimiser step of TRL's trainer over a tree's pairs; its reference pass is made before."""
    from train.flat import dpo_trainer

    tree = conversation(given["turns"], given["candidates"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dtype = getattr(torch, given["dtype"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), lora())
    with tempfile.TemporaryDirectory() as out:
        trainer = dpo_trainer(
            model,
            tokenizer,
            [tree],
            Path(out),
            per_device_train_batch_size=given["batch"],
            gradient_accumulation_steps=-(-len(tree.pairs) // given["batch"]),
            padding_free=given["padding_free"],
            gradient_checkpointing=False,
            bf16=False,
            max_steps=1,
        )
        began, began_cpu = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "note": "(padding-free falls back to padding)" if given["padding_free"] else "",
    }


def measure_memory(
    folder: Path, turns: int, lengths: Sequence[int], which: Sequence[int]
) -> tuple[dict[str, Any], list[Bar]]:
    """Peak memory of a step above the loaded model, each in a process of its own, and its growth with turns."""
    figures: dict[str, Any] = {"memory_mb": {}}
    bars = []
    for candidates in which:
        found = {form: peak(folder, form, turns, candidates) for form in ("packed", "flat")}
        say(f"  {turns} turns x {candidates}: {found['packed']:.0f} MB packed, {found['flat']:.0f} MB flat")
        figures["memory_mb"][f"{candidates} candidates"] = {key: round(value) for key, value in found.items()}
        name = f"peak memory, {candidates} candidates, as a share of one flattened pair's"
        bars.append(Bar(name, found["packed"] / found["flat"], at_most=1.0))
    figures["growth_mb"] = [
        {"turns": n, "packed": round(peak(folder, "packed", n, 2)), "flat": round(peak(folder, "flat", n, 2))}
        for n in lengths
    ]
    return figures, bars


def peak(folder: Path, form: str, turns: int, candidates: int) -> float:
    return float(child("memory", folder, form=form, turns=turns, candidates=candidates)["mb"])


def memory_child(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    tree = conversation(given["turns"], given["candidates"])
    if given["form"] == "packed":
        trees = tree_policy(folder)
        before = peak_mb()
        packed_step(trees, pack([tree], "dpo", LIMIT)[0], "dpo")
    else:
        plain = policy(folder)
        before = peak_mb()
        flat_pairs_step(plain, tree, 1, tree.pairs[-1:])
    return {"mb": peak_mb() - before}


def peak_mb() -> float:
    """The most memory that this process had in use."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1024 if sys.platform == "linux" else 1024**2)


# On a GPU


@dataclass(frozen=True)
class Workload:
    """What the part `gpu` computes, and on what."""

    device: str
    dtype: torch.dtype
    shape: dict[str, Any]
    """Of the model, as LlamaConfig names it."""
    turns: int
    candidates: int
    trees: int
    """In a packed row, and in a step of TRL's."""
    batches: tuple[int, ...]
    """Pairs at once, as TRL is tried with."""
    product: int
    """Rows and columns of the matrices that the peak is measured with."""
    bars: bool

    def build(self) -> Any:
        """The model with random weights, under a fresh adapter."""
        torch.manual_seed(0)
        with torch.device(self.device):
            base = LlamaForCausalLM(LlamaConfig(**self.shape)).to(self.dtype)
        return get_peft_model(base, lora()).train()

    def conversations(self) -> list[TokenTree]:
        return [conversation(self.turns, self.candidates, seed) for seed in range(self.trees)]


ONE_BILLION = {
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
TINY = ONE_BILLION | {
    "vocab_size": 40_000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def workload(quick: bool) -> Workload | None:
    """What there is to do here; None where there is no GPU."""
    cuda = torch.cuda.is_available()
    if quick:
        device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
        return Workload(device, dtype, TINY, 2, 3, 2, (1, 2), 256, bars=False)
    return Workload("cuda", torch.bfloat16, ONE_BILLION, 10, 4, 4, (2, 4, 8, 15, 30), 8192, bars=True) if cuda else None


def measure_gpu(quick: bool, repeats: int) -> tuple[dict[str, Any], list[Bar]]:
    """Packed steps against TRL's on a GPU, and the share of the device's peak."""
    work = workload(quick)
    if work is None:
        said = "not run: torch sees no CUDA device"
        say(f"gpu: {said}")
        return {"gpu": said}, []
    peak_flops = measured_peak(work)
    packed_s, flops, tokens = packed_on(work, repeats)
    swept = trl_on(work, repeats)
    ran = {name: seconds for name, seconds in swept.items() if isinstance(seconds, float)}
    best = min(ran, key=lambda name: ran[name])
    faster, share = ran[best] / packed_s, flops / packed_s / peak_flops
    say(f"  TRL at best ({best}): {ran[best]:.2f} s, packed {packed_s:.2f} s, {faster:.1f} times; {share:.0%} of peak")
    figures = {
        "device": torch.cuda.get_device_name() if work.device == "cuda" else "cpu, only to see that it runs",
        "dtype": str(work.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in work.build().parameters()),
        "trees": work.trees,
        "turns": work.turns,
        "candidates": work.candidates,
        "tokens_packed": tokens,
        "tokens_flat": sum(tree.flattened_count for tree in work.conversations()),
        "packed_s": packed_s,
        "trl_s": swept,
        "trl_best": best,
        "times_faster": round(faster, 2),
        "tflops": flops / packed_s / 1e12,
        "peak_tflops_measured": peak_flops / 1e12,
        "share_of_peak": round(share, 3),
    }
    name = "GPU, DPO, 10 turns x 4 candidates: times faster than TRL's DPOTrainer at its best"
    return {"gpu": figures}, [Bar(name, faster, at_least=GPU_TIMES)] if work.bars else []


def measured_peak(work: Workload) -> float:
    """FLOP/s of a product of two large matrices, the best of some."""
    a, b = (torch.randn(work.product, work.product, device=work.device, dtype=work.dtype) for _ in range(2))
    seconds = []
    for _ in range(20):
        wait_for(work.device)
        began = time.perf_counter()
        torch.mm(a, b)
        wait_for(work.device)
        seconds.append(time.perf_counter() - began)
    return 2 * work.product**3 / min(seconds)


def packed_on(work: Workload, repeats: int) -> tuple[float, float, int]:
    """Seconds of a packed step over all trees, its FLOPs, and its tokens."""
    model = TreeModel(work.build(), LIMIT)
    if model.separate_because is not None:
        raise RuntimeError(f"trees are not packed: {model.separate_because}")
    sequences = pack(work.conversations(), "dpo", LIMIT)
    for sequence in sequences:
        # Compiles kernels.
        packed_step(model, sequence, "dpo")
    seconds = []
    for _ in range(repeats):
        wait_for(work.device)
        began = time.perf_counter()
        for sequence in sequences:
            packed_step(model, sequence, "dpo")
        wait_for(work.device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), sum(flops_of(work, each) for each in sequences), sum(map(len, sequences))


def flops_of(work: Workload, sequence: PackedSequence) -> float:
    """What a step over frozen weights under LoRA cannot do without; adapters are left out, and so is recomputation.

    Each weight of a layer twice a token forward, and twice for the gradient by its input; queries with the keys of
    their path and weights with its values, forward and twice that backward; the output layer at predicted tokens alone.
    """
    shape = work.shape
    hidden, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    keys = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    weights = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner)
    read = float(sequence.positions.sum() + len(sequence))
    return (
        4.0 * weights * len(sequence)
        + 12.0 * layers * hidden * read
        + 4.0 * hidden * shape["vocab_size"] * len(sequence.predicted)
    )


def trl_on(work: Workload, repeats: int) -> dict[str, float | str]:
    """Seconds of a step of TRL's over all pairs of the trees, by setting; or why there are none."""
    found: dict[str, float | str] = {}
    for attention, batch, free in product(attentions(work.device), work.batches, (False, True)):
        if free and attention == "sdpa":
            # Rows without padding between them need an attention that is told where they end.
            continue
        name = f"{attention}, {batch} pairs at once{', padding-free' if free else ''}"
        try:
            found[name] = trl_step_on(work, attention, batch, free, repeats)
        except (torch.OutOfMemoryError, NotImplementedError) as error:
            found[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        if work.device == "cuda":
            torch.cuda.empty_cache()
        say(f"  TRL, {name}: {found[name]}")
    return found


def attentions(device: str) -> list[str]:
    """What TRL may compute attention with here."""
    from transformers.utils import is_flash_attn_2_available

    return ["flash_attention_2", "sdpa"] if device == "cuda" and is_flash_attn_2_available() else ["sdpa"]


def trl_step_on(work: Workload, attention: str, batch: int, free: bool, repeats: int) -> float:
    from train.flat import dpo_trainer

    trees, model = work.conversations(), work.build()
    model.set_attn_implementation(attention)
    pairs = sum(len(tree.pairs) for tree in trees)
    clock = StepClock(work.device)
    with tempfile.TemporaryDirectory() as out:
        trainer = dpo_trainer(
            model,
            plain_tokenizer(),
            trees,
            Path(out),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=-(-pairs // batch),
            padding_free=free,
            max_steps=1 + repeats,
            use_cpu=work.device == "cpu",
        )
        if free and not trainer.padding_free:
            raise NotImplementedError("this TRL has no padding-free batches for DPO, and pads")
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        trainer.train()
    return statistics.median(clock.seconds[1:])


def plain_tokenizer() -> Any:
    """It names the token to pad with; nothing is tokenized."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = WordLevel({"pad": 0, "end": 1}, unk_token="pad")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="pad", eos_token="end")


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Seconds of each optimiser step."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self._began = device, list[float](), 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        wait_for(self.device)
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wait_for(self.device)
        self.seconds.append(time.perf_counter() - self._began)


def wait_for(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def child(what: str, folder: Path, **given: Any) -> dict[str, Any]:
    """What a process of its own finds out."""
    command = [
        sys.executable,
        str(Path(__file__)),
        "--child",
        what,
        "--given",
        json.dumps(given),
        "--model",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def plot(points: list[dict[str, float]], path: Path) -> None:
    """Both curves as a picture."""
    top = max(max(point["packed"], point["flat"]) for point in points)
    most = max(point["turns"] for point in points)

    def line(kind: str, colour: str) -> str:
        places = " ".join(f"{40 + 540 * p['turns'] / most:.0f},{280 - 240 * p[kind] / top:.0f}" for p in points)
        return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'

    title = f"peak memory of a step in MB (top: {top:.0f}) by turns; blue: a packed tree, grey: one flattened pair"
    marks = [
        f'<text x="{40 + 540 * p["turns"] / most:.0f}" y="298" text-anchor="middle">{p["turns"]}</text>' for p in points
    ]
    path.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 330" font-family="sans-serif" font-size="12">'
        '<rect width="620" height="330" fill="white"/><path d="M40 280H580M40 40V280" stroke="black"/>'
        f'{line("flat", "#888888")}{line("packed", "#0055aa")}<text x="40" y="20">{title}</text>{"".join(marks)}</svg>',
        encoding="utf-8",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="2 turns, once each, no TRL but for a tiny model's (part gpu)"
    )
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--candidates", nargs="*", type=int, choices=sorted(SHARE), default=sorted(SHARE))
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves it to torch (default)")
    parser.add_argument("--turns", type=int, default=10, help="default: 10")
    parser.add_argument("--repeats", type=int, default=3, help="default: 3")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to draw growth with turns, as SVG")
    parser.add_argument("--child", choices=("trl", "memory"), help=argparse.SUPPRESS)
    parser.add_argument("--given", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.child:
        found = {"trl": trl_child, "memory": memory_child}[given.child](given.model, given.given)
        print(json.dumps(found))
        return 0
    if given.quick:
        given.turns, given.repeats, given.only = 2, 1, [part for part in given.only if part != "trl"]
    with tempfile.TemporaryDirectory() as cache:
        needed = set(given.only) - {"gpu"}
        folder = given.model or (unpacked_folder(Path(cache)) if needed else Path(cache))
        return run(folder, given)


def run(folder: Path, given: argparse.Namespace) -> int:
    figures: dict[str, Any] = {"turns": given.turns, "threads": torch.get_num_threads()}
    bars: list[Bar] = []
    if "pairs" in given.only:
        found, more = measure_pairs(folder, given.turns, given.repeats, given.candidates)
        figures |= found
        bars += more
    if "targets" in given.only:
        found, more = measure_targets(folder, given.turns, given.repeats)
        figures |= found
        bars += more
    if "memory" in given.only:
        found, more = measure_memory(
            folder, given.turns, (2, 3) if given.quick else (2, 5, 10, 15, 20), given.candidates
        )
        figures |= found
        bars += more
        if given.plot:
            plot(found["growth_mb"], given.plot)
    if "trl" in given.only:
        found, more = measure_trl(folder, given.turns, given.repeats, given.candidates)
        figures |= found
        bars += more
    if "gpu" in given.only:
        found, more = measure_gpu(given.quick, given.repeats)
        figures |= found
        bars += more
    return finish("training", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
