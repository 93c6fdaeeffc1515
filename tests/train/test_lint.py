"""What lint finds: nothing where all is well, and each lopsidedness where it is planted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.builders import BuiltRun, judge_again, judged, make_judge, make_run
from tests.support.message_trees import tree_of
from tests.support.tokenizers import CHATML, byte_tokenizer
from train.data import DataSet, Selection, select
from train.lint import Finding, LintReport, Piece, lint
from train.templates import TemplateReader
from train.tokenise import tokenise
from trees.store import Store
from trees.values import Node


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store.db") as opened:
        yield opened


def play(
    store: Store, replies: Sequence[tuple[str, str]], *, people: int = 4, outcome: str = "win"
) -> tuple[BuiltRun, str, list[tuple[Node, Node]]]:
    """A run in which each of these pairs of replies is a turn of somebody's, chosen first."""
    run, judge = make_run(store, [(f"P{i}", f"q{i}") for i in range(people)]), make_judge(store)
    found = []
    for number, (chosen, rejected) in enumerate(replies):
        said = run.user(run.trees[number % people], f"hello {number}", replica=str(number))
        a, b = run.replies(said, chosen, rejected)
        run.turn(said, [a, b], [judged(said, judge, [(a, b, outcome)])])
        found.append((a, b))
    return run, judge, found


def even(number: int = 20) -> list[tuple[str, str]]:
    """Pairs without any bias of length."""
    words = [(f"reply {n:02} is long", f"short {n:02}") for n in range(number)]
    return [pair if n % 2 else pair[::-1] for n, pair in enumerate(words)]


def kinds(report: LintReport, severity: str = "warning") -> set[str]:
    return {finding.kind for finding in report.findings if finding.severity == severity}


def look(store: Store, **changes: object) -> LintReport:
    return lint(store, select(store, replace(Selection(evaluation=0.25), **changes)))  # type: ignore[arg-type]


def what(report: LintReport, kind: str) -> str:
    return next(finding.what for finding in report.findings if finding.kind == kind)


def test_sound_data_is_not_warned_of(store: Store) -> None:
    play(store, even())
    report = look(store)
    assert kinds(report) == set()
    assert report.usable
    assert (report.counts["train"].people, report.counts["evaluation"].people) == (3, 1)
    assert report.counts["train"].pairs + report.counts["evaluation"].pairs == 20


def test_nothing_to_train_on_is_an_error(store: Store) -> None:
    play(store, even(3), outcome="tie")
    report = look(store)
    assert kinds(report, "error") == {"nothing"}
    assert not report.usable


@pytest.mark.parametrize(("longer", "word"), [(True, "longer"), (False, "shorter")])
def test_length_bias_is_found(store: Store, longer: bool, word: str) -> None:
    pairs = [(f"a much longer reply {n}", f"r {n}") for n in range(18)] + [("r", "a much longer one")] * 2
    play(store, pairs if longer else [pair[::-1] for pair in pairs])
    report = look(store)
    assert "length" in kinds(report)
    assert f"the {word} one in 18 of 20 (90 %" in what(report, "length")


def test_length_is_not_judged_on_a_few_pairs(store: Store) -> None:
    play(store, [(f"a much longer reply {n}", f"r {n}") for n in range(5)])
    assert "length" not in kinds(look(store))


def test_repeated_replies_and_near_equal_pairs_are_found(store: Store) -> None:
    play(store, [*even(12), *[("I hear you.", f"other {n}") for n in range(3)], ("Yes  it is", "yes it IS")])
    report = look(store)
    assert {"duplicates", "equal_text"} <= kinds(report)
    assert "'i hear you.' stands there 3 times" in what(report, "duplicates")


def test_one_person_and_no_evaluation_are_found(store: Store) -> None:
    play(store, even(), people=1)
    assert {"one_person", "no_evaluation"} <= kinds(look(store))


def test_replies_cut_at_their_length_are_found(store: Store) -> None:
    _, _, replies = play(store, even())
    cut = """UPDATE calls SET answer = json_set(answer, '$.completions[0].finish', 'length') WHERE id = ?"""
    store.apply([(cut, (a.call_id,)) for a, _ in replies[:3]])
    assert "3 of 20 replies" in what(look(store), "cut")


def test_one_responder_s_manner_is_found(store: Store) -> None:
    run, judge = make_run(store, [("A", "q"), ("B", "r")]), make_judge(store)
    for number in range(12):
        said = run.user(run.trees[number % 2], "hello", replica=str(number))
        warm = run.replies(said, f"warm {number}", role="responder.warm", hinted=True)[0]
        plain = run.replies(said, f"dull {number}")[0]
        run.turn(said, [warm, plain], [judged(said, judge, [(warm, plain, "win")])])
    assert "responder.warm won 12 of 12" in what(look(store), "one_responder")


def test_a_judge_that_cannot_decide_is_found(store: Store) -> None:
    run, judge, _ = play(store, even(12))
    for number in range(30):
        said = run.user(run.trees[0], "?", replica=f"u{number}")
        a, b = run.replies(said, "a", "b")
        run.turn(said, [a, b], [judged(said, judge, [(a, b, "unstable")])])
    assert "30 of 42" in what(look(store), "undecided")


def test_how_far_other_judges_agree_is_told(store: Store) -> None:
    _, _, replies = play(store, even())
    assert "one_judge" in kinds(look(store, judge="judge"), "note")
    other = make_judge(store, "other", threshold=0.5)
    tree = {node.id: node for run in store.runs() for row in store.trees(run.id) for node in store.tree(row.id)}
    for number, (a, b) in enumerate(replies):
        verdict = (a, b, "win") if number < 6 else (b, a, "win")
        assert a.parent_id is not None
        judge_again(store, judged(tree[a.parent_id], other, [verdict]))
    report = look(store, judge="judge")
    assert "judge 'other' decided 20 of them, and agrees in 6 of 20" in what(report, "other_judge")
    assert "other_judge" in kinds(report)


def test_held_out_people_and_mixed_prompts_are_told(store: Store) -> None:
    judge = make_judge(store)
    for seed, (deploy, held) in enumerate([("[head]\nBe brief.\n", ""), ("[head]\n", ""), ("[head]\n", "C")]):
        name = "ABC"[seed]
        run = make_run(store, [(name, name.lower())], seed=seed, deploy=deploy, held_out=[held, held.lower()])
        said = run.user(run.trees[0], "hello")
        a, b = run.replies(said, "a", "b")
        run.turn(said, [a, b], [judged(said, judge, [(a, b, "win")])])
    report = look(store)
    assert "deploy" in kinds(report)
    assert sum(finding.kind == "held_out" for finding in report.findings) == 2


# Tokens


def tokens_of(data: DataSet, store: Store, template: str = CHATML, limit: int | None = None) -> LintReport:
    pytest.importorskip("transformers", reason="the training extra is not installed")
    reader = TemplateReader(byte_tokenizer(template, ["<|im_start|>", "<|im_end|>"], eos="<|im_end|>"))
    return lint(store, data, reader, tokenise(data.trees, reader), limit=limit, samples=1)


def test_samples_show_what_is_predicted(store: Store) -> None:
    made = tree_of(
        (-1, "user", "hello"),
        (0, "assistant", "good"),
        (1, "user", "more"),
        (2, "assistant", "fine"),
        (2, "assistant", "bad"),
        targets=[1, 3],
        pairs=[(3, 4)],
    )
    empty = DataSet((made,), Selection(), "", "", None, {"targets": {}, "pairs": {}, "rows": {}}, "store")
    report = tokens_of(empty, store, limit=40)
    assert report.tokens is not None
    assert report.tokens.samples[0].pieces == (
        Piece("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", "context"),
        Piece("good<|im_end|>", "trained"),
        Piece("\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n", "context"),
        Piece("fine<|im_end|>", "trained"),
        Piece("bad<|im_end|>", "rejected"),
    )
    assert report.tokens.cost is not None
    assert (report.tokens.cost.targets, report.tokens.cost.pairs) == (1, 1)
    assert (
        Finding(
            "warning",
            "too_long",
            "a limit of 40 tokens leaves out 1 targets and 1 pairs, and nothing is left of 0 trees",
        )
        in report.findings
    )


def test_a_refusing_template_is_quoted(store: Store) -> None:
    play(store, even(2))
    strict = "{% if messages[0].content == 'hello 0' %}{{ raise_exception('not this') }}{% endif %}" + CHATML
    report = tokens_of(select(store, Selection()), store, strict)
    assert "of 1 trees: 1 targets and 1 pairs are left out" in what(report, "refused")
    assert "not this" in what(report, "refused")
