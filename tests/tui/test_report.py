"""`espalier report`: the same facts on a page, on a terminal and for programs; and a page that nothing gets out of."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.builders import judged, make_judge, make_run
from tests.support.command_line import Espalier, as_json
from tests.support.judged_store import judged_store
from tests.tui.test_bench import BENCH
from train.config import TrainingConfig
from train.data import Selection, select
from trees.rounds import begin_step, end_step, keep_rounds, rounds_id
from trees.store import Store
from trees.trainings import TrainingPoint, keep_point, keep_training, set_training_state, training_id
from trees.values import Presentation

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=http://evil.example/x onerror='alert(2)'>",
    "</style></title><svg onload=alert(3)>",
    "</textarea><iframe src=javascript:alert(4)></iframe>",
    "\x1b]0;owned\x07\u202etxt.exe {{ 7*7 }} &lt;b&gt;",
)
OURS = frozenset(
    "html head meta title style body header h1 h2 h3 p nav a main section div figure figcaption svg polyline polygon "
    "rect circle text dl dt dd table tr th td pre details summary b span ul li footer".split()
)
_ATTRIBUTES = frozenset(
    "lang charset http-equiv content name class id href viewbox role aria-label points x y width height cx cy r fill "
    "fill-opacity stroke stroke-width stroke-linejoin stroke-dasharray font-size font-weight text-anchor".split()
)


class Seen(HTMLParser):
    """What a browser would find on a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: dict[str, set[str]] = {}
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, set()).add(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def read_page(path: Path) -> Seen:
    """A page, with what must hold of every one of them."""
    source = path.read_text(encoding="utf-8")
    seen = Seen()
    seen.feed(source)
    assert seen.tags <= OURS
    assert set(seen.attributes) <= _ATTRIBUTES
    assert all(re.fullmatch(r"#part-\d+", link) for link in seen.attributes.get("href", ()))
    assert not re.search(r"url\(|@import|\x1b|\x07|\u202e", source)
    return seen


def hostile_store(path: Path) -> str:
    """A run in which everything that is said is hostile: people, messages, ledgers, judges' answers. Its id."""
    with Store.open(path) as store:
        run = make_run(store, [(text, text) for text in HOSTILE])
        judge = make_judge(store, HOSTILE[0], kind="pairwise")
        for tree, text in zip(run.trees, HOSTILE, strict=True):
            user = run.user(tree, text)
            replies = [run.replies(user, f"{n} {text}", role=f"responder.{n}", hinted=n == "b")[0] for n in "ab"]
            shown = tuple(reply.id for reply in replies)
            said = [Presentation(order, None, text, {}, label) for order, label in ((shown, "A"), (shown[::-1], "B"))]
            judgement = judged(user, judge, [(replies[0], replies[1], "win")], unit=None, presentations=said)
            run.turn(user, replies, [judgement], continued=replies[0], facts=[text])
        return run.id


def test_hostile_text_stands_on_a_runs_page_as_text(espalier: Espalier, folder: Path) -> None:
    run = hostile_store(folder / "espalier.db")
    espalier("report", run, "--html", "out/run.html")
    seen = read_page(folder / "out" / "run.html")
    for text in HOSTILE[:4]:
        assert text in seen.text
    assert "<ESC>]0;owned<BEL><U+202E>txt.exe {{ 7*7 }} &lt;b&gt;" in seen.text
    said = espalier("report", run).output
    assert "\x1b" not in said
    assert "<ESC>]0;owned" in said


def test_a_runs_report_has_the_facts_of_status_and_the_audit_of_its_judges(espalier: Espalier, folder: Path) -> None:
    run = hostile_store(folder / "espalier.db")
    facts = as_json(espalier("report", run[:8], "--json"))
    status = as_json(espalier("status", run[:8], "--json"))
    assert {key: facts[key] for key in status} == status
    (judge,) = facts["judges"]
    (audit,) = facts["audit"]
    assert (judge["win"], judge["win_rates"]["responder.a"]["count"]) == (5, 5)
    assert (judge["first_shown"]["count"], judge["first_shown"]["of"], judge["first_expected"]) == (5, 10, 0.5)
    assert audit["longer"]["of"] == 0, "replies of equal length say nothing of length"
    assert audit["by_turn"] == {"1": {"win": 5}}
    assert [point["won"] for point in facts["people"]["points"]] == [1] * 5
    (clearest, *_) = facts["samples"]
    (turn,) = clearest["turns"]
    assert [(reply["role"], reply["won"]) for reply in turn["replies"]] == [
        ("responder.a", True),
        ("responder.b", False),
    ]
    assert turn["revealed"] == [turn["user"]]


def test_the_configuration_in_a_report_makes_the_same_run_again(espalier: Espalier, played: str, folder: Path) -> None:
    facts = as_json(espalier("report", "--json"))
    assert facts["run"]["id"] == played
    (folder / "again.toml").write_text(facts["configuration"], encoding="utf-8")
    assert as_json(espalier("run", "again.toml", "--json"))["run"]["id"] == played


def test_a_benchmarks_report_on_a_page_a_terminal_and_as_pictures(espalier: Espalier, folder: Path) -> None:
    text = BENCH.replace("turns = 3", 'turns = 4\nsituations = ["advice", "taste"]')
    (folder / "bench.toml").write_text(text, encoding="utf-8")
    espalier("bench", "run", "bench.toml", "--json")
    made = espalier("report", "trial", "--html", "bench.html", "--plots", "plots", "--json")
    facts = as_json(made)
    shown = as_json(espalier("bench", "show", "--json"))
    assert {key: facts[key] for key in shown} == shown
    assert facts["readings"]["floor"]["leaks"][0]["count"] == 0
    talks = facts["conversations"]
    assert (talks["base"], talks["tried"]) == ("floor", "base")
    best, worst = talks["best"], talks["worst"]
    assert (len(best), len(worst)) == (3, 3)
    assert best[0]["difference"] >= best[-1]["difference"] >= worst[-1]["difference"] >= worst[0]["difference"]
    with Store.read(folder / "espalier.db") as store:
        for case in best + worst:
            (pair,) = {
                tuple(store.rows("SELECT profile_id, personality_id FROM trees WHERE id = ?", (tree,))[0])
                for tree in case["trees"].values()
            }
            assert store.profile(pair[0]).text == case["persona"]["profile"], "both talked with the same person"

    seen = read_page(folder / "bench.html")
    assert "not distinguishable" in seen.text
    assert f"Note: {facts['notes'][0]}." in seen.text
    assert best[0]["turns"][0][0]["reply"] in seen.text
    said = espalier("report", "trial").output
    assert "not distinguishable" in said
    assert "A base  B floor  C told" in said
    assert "After a change" in said
    assert facts["cards"]["told"]["run"]["seed"] == 1
    assert facts["cards"]["told"]["calls"]["answered"] > 0
    for text in (
        "To make it again",
        "espalier bench run bench.toml",
        "Prompts by version",
        "judge.points",
        "The people",
    ):
        assert text in seen.text
    assert all(version in seen.text for version in facts["cards"]["base"]["cast"]["prompts"].values())
    pictures = {path.name for path in (folder / "plots").iterdir()}
    assert {"alignment.png", "alignment.svg", "uptake.png", "differences-mean.svg", "situation-taste.png"} <= pictures
    assert (folder / "plots" / "alignment.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert 'aria-label="Alignment level by turn"' in (folder / "plots" / "alignment.svg").read_text(encoding="utf-8")


def test_the_configuration_in_a_benchmarks_report_makes_the_same_one_again(espalier: Espalier, folder: Path) -> None:
    bench = BENCH.replace("turns = 3", 'turns = 4\nsituations = ["advice", "taste"]').replace("count = 6", "count = 3")
    (folder / "bench.toml").write_text(bench, encoding="utf-8")
    again = ("--set", "tested.again={model = 'a', repeat = 1}", "--set", "limits.trees_in_flight=2")
    espalier("bench", "run", "bench.toml", "--model", "base", "--json")
    espalier("bench", "run", "bench.toml", "--model", "again", *again, "--json")
    facts = as_json(espalier("report", "trial", "--json"))
    (folder / "saved.toml").write_text(facts["configuration"], encoding="utf-8")
    measured = as_json(espalier("bench", "run", "saved.toml", "--model", "base", "--model", "again", "--json"))
    assert (measured["benchmark"], measured["models"]) == (facts["benchmark"], facts["models"])
    assert {model["model"] for model in measured["models"]} == {"base", "again"}
    other = as_json(espalier("bench", "run", "saved.toml", "--store", "other.db", "--json"))
    assert other["benchmark"] == facts["benchmark"], "in an empty store too"
    with Store.read(folder / "espalier.db") as store:
        noted = store.rows("SELECT count(*) FROM events WHERE kind = 'benchmark.configured'")[0][0]
    assert noted == 3, "each run notes what it is begun with, once for each change"


def stored_training(path: Path) -> str:
    """A training whose rows are written without training anything: twenty points and an alarm's worth of data."""
    run = judged_store(path)
    config = TrainingConfig.model_validate({"objective": "dpo", "base": "small"})
    with Store.open(path) as store:
        selection = Selection(runs=(run,), judge="judge", evaluation=config.evaluation.share, seed=config.seed)
        data = select(store, selection).only("dpo")
        configuration = {**config.identity(), "base": "b" * 32, "start": None}
        training = training_id(configuration, data.digest)
        lineage = {"known": False, "people": [], "trainings": [], "base": "b" * 32, "base_name": None}
        kept = {"runs": [run], "judge": "judge", "files": []}
        operation = {"base": "small", "start": None, "machine": config.machine.model_dump(mode="json")}
        store.apply(keep_training(training, HOSTILE[0], configuration, data.digest, kept, lineage, operation))
        for step in range(1, 21):
            loss = None if step == 7 else 1 / step
            point = TrainingPoint("training", step, step / 20, loss, step / 10, min(step / 10, 1.0), 0.1, -0.1)
            store.apply(keep_point(training, point))
        store.apply(keep_point(training, TrainingPoint("evaluation", 20, 1.0, 0.5, 0.2, 0.5)))
        store.apply(set_training_state(training, "finished"))
    return training


def test_a_trainings_report_has_curves_and_what_was_left_out(espalier: Espalier, folder: Path) -> None:
    training = stored_training(folder / "espalier.db")
    facts = as_json(espalier("report", training[:8], "--json", "--html", "training.html", "--plots", "plots"))
    assert (facts["state"], len(facts["points"])) == ("finished", 21)
    assert (facts["selected"]["same"], facts["selected"]["pairs"]) == (True, 8)
    seen = read_page(folder / "training.html")
    assert HOSTILE[0] in seen.text
    assert {path.stem for path in (folder / "plots").iterdir()} == {"loss", "margin", "accuracy", "rewards", "speed"}
    said = espalier("report", training[:8]).output
    assert "A trained  B held back" in said
    with Store.open(folder / "espalier.db") as store:
        store.apply([("UPDATE profiles SET split = 'held_out'", ())])
    assert "The store" in espalier("report", training[:8]).output


def hostile_rounds(path: Path, measured_by: str = "b" * 32) -> str:
    """Rounds in which names, words and reasons are hostile, measured by a benchmark. Their id."""
    configuration = {"steps": ["simulate", "lint", "sft", "benchmark"]}
    rounds = rounds_id(configuration)
    means = [{"value": 3.0 + n / 2, "low": 2.8 + n / 2, "high": 3.2 + n / 2} for n in (0, 1)]
    gain = {"outcome": "gain", "against": "base", "difference": {"value": 0.5, "low": 0.2, "high": 0.8}}
    best = {"mean": means[1], **gain, "model": HOSTILE[0], "adapter": "a" * 32}
    with Store.open(path) as store:
        store.apply(keep_rounds(rounds, "spiral", configuration, {"rounds": 1, "file": "rounds.toml"}, 1.0))
        for round_, place, figures in ((0, 0, {"mean": means[0]}), (1, 3, best)):
            store.apply(begin_step(rounds, round_, place, "benchmark", ("bench", "run", HOSTILE[1])))
            store.apply(end_step(rounds, round_, place, "done", took_s=5.0, made=measured_by, figures=figures))
        store.apply(begin_step(rounds, 1, 0, "simulate", ("run", HOSTILE[2])))
        store.apply(end_step(rounds, 1, 0, "failed", took_s=5.0, reason=HOSTILE[3]))
    return rounds


def test_rounds_are_reported_from_their_rows(espalier: Espalier, folder: Path) -> None:
    hostile_rounds(folder / "espalier.db")
    facts = as_json(espalier("report", "spiral", "--json", "--html", "rounds.html"))
    assert (facts["best"]["round"], facts["benchmarks"]) == (1, [])
    seen = read_page(folder / "rounds.html")
    for text in (HOSTILE[0], HOSTILE[3], "above base, +0.500 [+0.200, +0.800]", "3.500 [3.300, 3.700]"):
        assert text in seen.text


def test_what_names_nothing_or_several_things_says_so(espalier: Espalier, folder: Path, played: str) -> None:
    assert "no run, training, benchmark or rounds begin with 'zz'" in espalier("report", "zz", exit_code=2).stderr
    espalier("report", played, "--html", ".", exit_code=2)


@pytest.mark.parametrize("state", ["new", "chat"])
def test_a_run_with_nothing_in_it_is_reported_too(espalier: Espalier, folder: Path, state: str) -> None:
    with Store.open(folder / "espalier.db") as store:
        run = make_run(store, kind="play" if state == "new" else "human")
    espalier("report", run.id, "--html", "run.html")
    assert "No turn has been judged." in read_page(folder / "run.html").text
    assert "Nothing has been said yet." in espalier("report", run.id).output
