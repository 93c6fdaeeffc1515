"""Training data: `data lint` looks at it before it is trained on, `import` brings it in from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tui.console import count, is_plain, say, say_json, say_lines, say_table
from tui.options import examples, json_option, store_option
from tui.sanitise import visible
from tui.stores import guard

if TYPE_CHECKING:
    from train.data import DataSet
    from train.lint import LintReport, Piece, Sample, TokenReport
    from tui.draw import Line

_BAR = 40
"""Characters of a histogram's longest bar."""
_CONTEXT = 1_500
"""Characters of a sample's context that are shown, from its end."""
_STYLES = {"context": "dim", "trained": "bold green", "chosen": "bold cyan", "rejected": "red"}


def _own_files(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[tuple[Path, float], ...]:
    """FILE:SHARE of each; FILE alone is half of all rows."""
    return tuple(_own_file(value) for value in given)


def _own_file(value: str) -> tuple[Path, float]:
    name, colon, share = value.rpartition(":")
    if not colon:
        return Path(value), 0.5
    try:
        return Path(name), float(share)
    except ValueError as error:
        raise click.BadParameter(f"{share!r} is no share: write FILE:0.2 for a fifth of all rows") from error


def _turns(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """A or A-B."""
    if value is None:
        return None
    first, _dash, last = value.partition("-")
    if not first.isdigit() or not (last or first).isdigit() or not 1 <= int(first) <= int(last or first):
        raise click.BadParameter(f"{value!r} are no turns: write 3, or 2-8")
    return int(first), int(last or first)


@click.group(epilog=examples("espalier data lint", "espalier data lint 1a2b3c4d --samples 2"))
def data() -> None:
    """See what a training would read."""


@data.command(
    epilog=examples(
        "espalier data lint",
        "espalier data lint 1a2b3c4d --judge likelihood --min-margin 0.1 --limit 2048",
        "espalier data lint --base Qwen/Qwen3-8B --samples 2",
        "espalier data lint --own mine.jsonl:0.2 --json",
    )
)
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--judge", metavar="NAME", help="Whose verdicts; the only judge's if left out.")
@click.option("--min-margin", type=click.FloatRange(0), help="Smallest difference of scores, in the judge's unit.")
@click.option("--turns", callback=_turns, metavar="A-B", help="Only these turns, from 1.")
@click.option("--person", "people", multiple=True, metavar="ID", help="Only who has this profile or personality.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only replies of this model.")
@click.option(
    "--pairs",
    type=click.Choice(["all", "best"]),
    default="all",
    show_default=True,
    help="All of a turn, or its best reply's.",
)
@click.option(
    "--weights",
    type=click.Choice(["none", "margin"]),
    default="none",
    show_default=True,
    help="What a pair weighs in the loss.",
)
@click.option(
    "--evaluation", type=click.FloatRange(0, 0.9), default=0.1, show_default=True, help="Share of people kept out."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the people who are kept out.")
@click.option("--deploy", metavar="VERSION", help="Read contexts under this prompt version, not each run's own.")
@click.option("--own", "own", multiple=True, callback=_own_files, metavar="FILE:SHARE", help="Mix in own JSONL rows.")
@click.option("--only-own", is_flag=True, help="Leave the store's conversations out.")
@click.option("--base", default="embedded", show_default=True, help="The model whose tokenizer and template are used.")
@click.option("--limit", type=click.IntRange(1), help="Say what a limit of so many tokens would leave out.")
@click.option("--samples", type=click.IntRange(0), default=1, show_default=True, help="Conversations to print.")
@click.option("--no-tokens", is_flag=True, help="Do not tokenise; needs no training extra.")
@json_option
@store_option
def lint(
    runs: tuple[str, ...],
    judge: str | None,
    min_margin: float | None,
    turns: tuple[int, int] | None,
    people: tuple[str, ...],
    models: tuple[str, ...],
    pairs: Literal["all", "best"],
    weights: Literal["none", "margin"],
    evaluation: float,
    seed: int,
    deploy: str | None,
    own: tuple[tuple[Path, float], ...],
    only_own: bool,
    base: str,
    limit: int | None,
    samples: int,
    no_tokens: bool,
    as_json: bool,
    store_path: Path,
) -> None:
    """Say what would be trained on, what is left out and why, and what is lopsided. Exit 1 if nothing is left.

    Targets (for SFT) are the winning replies of turns, pairs (for DPO) the wins of one reply over another. In samples
    what is predicted stands in brackets and in colour. Nothing is written.
    """
    from train.data import OwnFile, Selection, select
    from train.lint import lint as look
    from trees.store import Store

    asyncio.run(guard(store_path))
    with Store.read(store_path) as store:
        selection = Selection(
            runs=() if only_own else tuple(store.find("runs", run) for run in runs) or None,
            judge=judge,
            min_margin=min_margin,
            turns=turns,
            people=people,
            models=models,
            pairs=pairs,
            weights=weights,
            evaluation=evaluation,
            seed=seed,
            deploy=deploy,
        )
        found = select(store, selection, [OwnFile(path, share) for path, share in own])
        reader = tokenised = None
        if not no_tokens and found.trees:
            from train.templates import open_reader
            from train.tokenise import tokenise

            reader = open_reader(base)
            tokenised = tokenise(found.trees, reader)
        report = look(store, found, reader, tokenised, limit=limit, samples=samples)
    if as_json:
        say_json(_document(found, report))
    else:
        _say(found, report, base)
    if not report.usable:
        raise SystemExit(1)


def _say(found: DataSet, report: LintReport, base: str) -> None:
    if found.judge:
        say(f"by the verdicts of {found.judge!r} ({found.judge_id[:8]}), lineage {found.lineage}")
    rows = [(side, c.people, c.trees, c.targets, c.pairs) for side, c in report.counts.items()]
    say_table(("side", "people", "trees", "targets", "pairs"), rows, right=("people", "trees", "targets", "pairs"))
    left_out = [(what, reason, number) for what, counts in found.dropped.items() for reason, number in counts.items()]
    if left_out:
        say("")
        say_table(("left out of", "because", "number"), left_out, right=("number",))
    if report.tokens is not None:
        _say_tokens(report.tokens, base)
    say("")
    for finding in report.findings:
        say(f"{finding.severity}: {finding.what}")
    if not report.findings:
        say("nothing to warn of")
    say(f"data digest {found.digest}")


def _say_tokens(tokens: TokenReport, base: str) -> None:
    from train.tokenise import histogram

    lengths = tokens.lengths
    packed = sum(lengths.trees)
    say(f"\nin the tokens of {base}: {count(packed)} with shared prefixes once, {count(lengths.flat)} row by row")
    say(f"a reply ends with {tokens.end!r}; before the first message stands {tokens.before!r}")
    for what, shown in tokens.repairs:
        say(f"repair: {what}" + (f" {shown!r}" if shown else ""))
    say("")
    for name, values in (("conversation", lengths.conversations), ("reply", lengths.replies), ("tree", lengths.trees)):
        bins = histogram(values)
        most = max((b.count for b in bins), default=1)
        rows = [
            (f"{b.low}-{b.high - 1}", b.count, "#" * max(1, _BAR * b.count // most) if b.count else "") for b in bins
        ]
        say_table((f"tokens a {name}", "number", ""), rows, right=("number",))
    for sample in tokens.samples:
        say(f"\ntree {sample.tree[:8]}")
        say_lines(_drawn(sample))


def _drawn(sample: Sample) -> Iterator[Line]:
    """A sample as styled lines; what is predicted in brackets, since colour does not reach a file."""
    from tui.draw import Span

    line: list[Span] = []
    for number, piece in enumerate(sample.pieces):
        for at, text in enumerate(_shown(piece, first=number == 0).split("\n")):
            if at:
                yield tuple(line)
                line = []
            line.append(Span(text, _STYLES[piece.kind]))
    yield tuple(line)


def _shown(piece: Piece, *, first: bool) -> str:
    """A piece's safe text."""
    text = piece.text
    if piece.kind == "context":
        left = len(text) - _CONTEXT
        return visible(text, longest=None) if left <= 0 else f"[{left} characters before]" + visible(text[-_CONTEXT:])
    opening, closing = ("[[", "]]") if is_plain() else ("⟦", "⟧")
    mark = {"trained": "", "chosen": "+", "rejected": "-"}[piece.kind]
    before = "\n" if piece.kind == "rejected" and not first else ""
    return f"{before}{opening}{mark}{visible(text, longest=None)}{closing}"


def _document(found: DataSet, report: LintReport) -> dict[str, Any]:
    from train.tokenise import histogram

    tokens: dict[str, Any] | None = None
    if report.tokens is not None:
        lengths = report.tokens.lengths
        tokens = {
            "end": report.tokens.end,
            "before": report.tokens.before,
            "repairs": [{"what": what, "shown": shown} for what, shown in report.tokens.repairs],
            "packed": sum(lengths.trees),
            "flat": lengths.flat,
            "histograms": {name: _bins(histogram(getattr(lengths, name))) for name in _LENGTHS},
            "limit": None if report.tokens.cost is None else asdict(report.tokens.cost),
            "samples": [asdict(sample) for sample in report.tokens.samples],
        }
    return {
        "judge": found.judge,
        "judge_id": found.judge_id,
        "unit": found.unit,
        "lineage": found.lineage,
        "digest": found.digest,
        "sides": {side: asdict(counts) for side, counts in report.counts.items()},
        "dropped": {what: dict(counts) for what, counts in found.dropped.items()},
        "findings": [asdict(finding) for finding in report.findings],
        "tokens": tokens,
    }


_LENGTHS = ("conversations", "replies", "trees")


def _bins(bins: Sequence[Any]) -> list[dict[str, int]]:
    return [asdict(each) for each in bins]


@click.command(
    "import",
    epilog=examples("espalier import conversations.jsonl", "espalier import eval.jsonl --split held_out"),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--split",
    type=click.Choice(["train", "held_out"]),
    default="train",
    show_default=True,
    help="The pool of people whom the store does not know yet.",
)
@json_option
@store_option
def import_(file: Path, split: Literal["train", "held_out"], as_json: bool, store_path: Path) -> None:
    """Read conversations in the format released with arXiv 2410.03642 into the store, as a run of kind import.

    A line is {"profile", "personality", "conversations": [{"user", "assistant": {"preferred", "rejected"}, "chosen",
    ...}]}. Its labels are kept as the verdicts of a judge called "released". Good lines are kept; broken ones are named
    with what is wrong, and the exit code is 1.
    """
    from train.released_format import import_paper
    from trees.store import Store

    with Store.open(store_path) as store:
        done = import_paper(store, file, split=split)
    for note in done.notes:
        say(note, stderr=True)
    for problem in done.problems:
        say(f"{file}, line {problem.line}: {problem.what}: {problem.text!r}", stderr=True)
    if as_json:
        say_json(
            {
                "run": done.run_id,
                "conversations": done.conversations,
                "turns": done.turns,
                "new": done.new,
                "broken": len(done.problems),
            }
        )
    else:
        there = "" if done.new else ", which was there already"
        say(f"{done.conversations} conversations of {done.turns} turns are run {done.run_id[:8]}{there}")
        say(f"read them: espalier trees {done.run_id[:8]}")
    if done.problems:
        raise SystemExit(1)
