"""The whole loop with a preference that is known: played, judged, learnt, and measured on people nobody learnt from.

A judge of kind `rules` holds the preference, so nothing here rests on the taste of a small model. The embedded model
plays trees with seed people; from the base one adapter is trained by SFT on what the rules preferred, one by DPO on
its pairs, and one by DPO on the same pairs, each turned round or not by a coin. On held-out people: how often the
adapter's implicit reward (its log-probability of a reply less its reference's, arXiv 2305.18290, and the base is the
reference) puts the preferred reply of a pair above the other; and what the rules say of replies that base, SFT, DPO,
coin and a base that is told the preference write afresh.

Each step is a command of the program, or the functions beneath it, and leaves its files in a folder; what is there is
used again, so a broken-off study goes on with the same command. Rules know no people: one preference holds for all.

    python benchmarks/planted.py [--quick] [--folder FOLDER] [--step NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from common import Bar, finish, say

from simulation.benchmark import find_benchmark, results
from simulation.metrics import Array, Estimate, Table, compare, estimate, gap_closed, mean_level, summarise
from train.data import Selection, select
from trees.store import Store
from trees.trainings import find_adapter

JUDGE = "planted"
UNFINISHED = 1
"""Exit code of a run that its limits stopped."""
RULES = "{ question = 1 }"
"""A reply asks something: about one in six of the base's does, long or short, so its length tells nothing."""
PREFERENCE = "Ask the person a question in every reply. Keep it short."
TESTED = ("base", "sft", "dpo", "coin", "told")

PLAY = """
name = "{name}"
seed = 1
turns = {turns}
[models.small]
kind = "llama"
path = "embedded"
[models.still]                 # reads nothing out of the conversation: no responder is given hints
kind = "scripted"
[personas]
count = {count}
{people}
[user]
model = "small"
rerolls = 0
sampling = {{ max_tokens = 32, temperature = 0.9, min_p = 0.05 }}
[inducer]
model = "still"
[responders.plain]
model = "small"
prompt = "deploy"
samples = {samples}
sampling = {{ max_tokens = {reply}, temperature = 1.0, min_p = 0.02 }}
[judges.planted]
kind = "rules"
rules = {rules}
[branching]
policy = "random"
winner_weight = 1.0
[limits]
minutes = {minutes}
"""

BOTH = """
name = "one adapter, two backends"
turns = 1
[models.still]
kind = "scripted"
[models.llama]
kind = "llama"
path = "embedded"
adapter = "{adapter}"
[models.transformers]
kind = "transformers"
path = "embedded"
adapter = "{adapter}"
[personas]
count = 1
[user]
model = "still"
[inducer]
model = "still"
[responders.llama]
model = "llama"
prompt = "deploy"
sampling = {{ max_tokens = 24, temperature = 0.0 }}
[responders.transformers]
model = "transformers"
prompt = "deploy"
sampling = {{ max_tokens = 24, temperature = 0.0 }}
[judges.planted]
kind = "rules"
rules = {rules}
"""

TRAINING = """
base = "embedded"
seed = 1
tokens_per_row = 640
[data]
judge = "planted"
{data}
[lora]
rank = 16
alpha = 32.0
[schedule]
rows_per_step = 1
[evaluation]
share = 0                      # the held-out people measure it
[machine]
save_every = 20
[sft.schedule]
epochs = {sft_epochs}
learning_rate = 3e-4
[dpo.schedule]
epochs = {epochs}
learning_rate = 2e-4
[dpo.loss]
beta = 0.1
"""

MEASURE = """
name = "planted"
seed = 2
turns = {turns}
[models.small]
kind = "llama"
path = "embedded"
[models.still]
kind = "scripted"
[user]
model = "small"
rerolls = 0
sampling = {{ max_tokens = 32, temperature = 0.9, min_p = 0.05 }}
[inducer]
model = "still"
[judges.planted]
kind = "rules"
rules = {rules}
[cases]
count = {cases}
{tested}
"""

TOLD = """A responder that is told the planted preference: the ceiling of this study.
It has no variables.

[head]
{preference}
"""


@dataclass(frozen=True)
class Size:
    """How much is played, learnt and measured."""

    trees: int
    held_out: int
    """People whose pairs the implicit reward is tried on."""
    cases: int
    """People whom everybody under test talks to."""
    turns: int
    measured_turns: int
    samples: int
    reply: int
    """Longest reply, in tokens."""
    minutes: float
    """A run is stopped after this long; what is there by then is used."""
    epochs: float
    """Of DPO."""
    sft_epochs: float


WHOLE = Size(
    trees=80, held_out=40, cases=20, turns=2, measured_turns=2, samples=6, reply=40, minutes=20, epochs=2, sft_epochs=4
)
QUICK = Size(
    trees=6, held_out=4, cases=4, turns=2, measured_turns=2, samples=4, reply=32, minutes=3, epochs=1, sft_epochs=4
)


@dataclass(frozen=True)
class Study:
    """A folder with everything of one study."""

    folder: Path
    size: Size

    @property
    def store(self) -> Path:
        return self.folder / "study.db"

    @property
    def held_out(self) -> Path:
        """A store of its own, so that the study's never holds a word of these people."""
        return self.folder / "held-out.db"

    def command(self, store: Path, *words: str, fine: tuple[int, ...] = (0,), typed: str = "") -> str:
        """Run a command of the program and give back what it printed. Raises SystemExit for other exit codes."""
        whole = [sys.executable, "-m", "tui.main", *words, "--store", str(store)]
        done = subprocess.run(whole, cwd=ROOT, input=typed, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in fine:
            sys.exit(done.returncode)
        return done.stdout

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def once(self, step: str, work: Callable[[Study], None]) -> None:
        """Do a step that is not done yet, and keep the seconds that it took."""
        if step in self.seconds():
            return
        say(f"-- {step}")
        began = time.monotonic()
        work(self)
        self.write("seconds.json", json.dumps({**self.seconds(), step: round(time.monotonic() - began, 1)}))

    def seconds(self) -> dict[str, float]:
        file = self.folder / "seconds.json"
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few trees: shows that every step works, no more")
    parser.add_argument("--folder", type=Path, default=Path("study-planted"), help="where the study lies")
    parser.add_argument("--step", choices=list(STEPS), help="go no further than this step")
    given = parser.parse_args()
    folder = given.folder.resolve() / ("quick" if given.quick else "whole")
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(folder, QUICK if given.quick else WHOLE)
    for name, step in STEPS.items():
        study.once(name, step)
        if name == given.step:
            return 0
    return finish("planted", *verdict(study))


# ---- the steps


def simulate(study: Study) -> None:
    """Trees of the embedded model with the seed people."""
    played(study, study.store, "run.toml", play(study.size, "planted", study.size.trees, ""))


def play_held_out(study: Study) -> None:
    """The same with the held-out people, in their own store: pairs to try the implicit reward on."""
    shipped = ROOT / "simulation" / "data"
    people = "\n".join(f'{kind} = "{shipped / f"held_out_{kind}.jsonl"}"' for kind in ("profiles", "personalities"))
    played(study, study.held_out, "held-out.toml", play(study.size, "planted, held out", study.size.held_out, people))


def train(study: Study) -> None:
    """SFT on the replies that the rules preferred, and DPO on the pairs, each from the base."""
    made = {kind: trained(study, kind, "training.toml", f'runs = ["{run_of(study)}"]') for kind in ("sft", "dpo")}
    study.write("adapters.json", json.dumps(made))


def talk(study: Study) -> None:
    """What was trained is talked with, and answers beside itself in a run: by llama.cpp and by transformers."""
    adapter = read_adapters(study)["dpo"]
    words = ("chat", "embedded", "--adapter", adapter, "--max-tokens", "40")
    study.write("chat.txt", study.command(study.store, *words, typed="I ran eight miles today.\n/quit\n"))
    played(study, study.store, "both.toml", BOTH.format(adapter=adapter, rules=RULES))


def train_on_coins(study: Study) -> None:
    """DPO on the same pairs, each turned round or not by a coin."""
    exported = study.folder / "pairs.jsonl"
    if not exported.exists():
        study.command(study.store, "export", "dpo", str(exported), "--run", run_of(study), "--judge", JUDGE)
    rows = [json.loads(line) for line in exported.read_text(encoding="utf-8").splitlines()]
    coin = random.Random(1)
    drawn = [swapped(row) if coin.random() < 0.5 else row for row in rows]
    study.write("coin.jsonl", "".join(f"{json.dumps(row)}\n" for row in drawn))
    own = f'own = [{{ file = "{study.folder / "coin.jsonl"}", share = 1.0 }}]'
    made = trained(study, "dpo", "coin.toml", f"runs = []\n{own}")
    study.write("adapters.json", json.dumps({**read_adapters(study), "coin": made}))


def measure(study: Study) -> None:
    """Replies to held-out people, written afresh by everybody under test and scored by the rules."""
    adapters = read_adapters(study)
    study.write("prompts/preference.md", TOLD.format(preference=PREFERENCE))
    extra = {"told": 'how = "told"\nprompt = "preference"'}
    extra |= {name: f'adapter = "{adapter}"' for name, adapter in adapters.items()}
    sampling = f"sampling = {{ max_tokens = {study.size.reply}, temperature = 1.0, min_p = 0.02 }}"
    tested = "\n".join(f'[tested.{name}]\nmodel = "small"\n{sampling}\n{extra.get(name, "")}' for name in TESTED)
    text = MEASURE.format(turns=study.size.measured_turns, cases=study.size.cases, rules=RULES, tested=tested)
    study.command(study.store, "bench", "run", str(study.write("bench.toml", text)), "--json")


def weigh(study: Study) -> None:
    """The implicit reward on pairs of held-out people, one adapter after the other."""
    from train.base_model import open_base
    from train.config import TrainingConfig
    from train.reference import reference_sums
    from train.templates import open_reader
    from train.tokenise import tokenise
    from train.tree_model import TreeModel, longest_path

    with Store.read(study.held_out) as store:
        data = select(store, Selection(judge=JUDGE, evaluation=0.0)).only("dpo")
    with Store.read(study.store) as store:
        paths = {
            name: store.path.parent / find_adapter(store, each).path for name, each in read_adapters(study).items()
        }
    trees = tokenise(data.trees, open_reader("embedded")).trees
    cases = {tree.id: (tree.profile_id, tree.personality_id) for tree in data.trees}
    found: dict[str, list[Any]] = {}
    for name in ("base", *paths):
        config = TrainingConfig(objective="dpo", start=str(paths[name]) if name in paths else None)
        opened = open_base(config)
        opened.model.eval()
        model = TreeModel(opened.model, longest_path(trees))
        rows = model.sequences(trees, "dpo", 1024)
        sums = reference_sums(rows, model, str(opened.start_digest), study.folder / "sums")
        found[name] = [total[row.pairs].tolist() for row, total in zip(rows, sums, strict=True)]
        lengths = [row.reply_lengths[row.pairs].tolist() for row in rows]
        owners = [[cases[row.trees[row.replies[pair[0]][0]].id] for pair in row.pairs] for row in rows]
    study.write("pairs.json", json.dumps({"sums": found, "lengths": lengths, "owners": owners}))


STEPS: Mapping[str, Callable[[Study], None]] = {
    "simulate": simulate,
    "train": train,
    "talk": talk,
    "coin": train_on_coins,
    "measure": measure,
    "held-out": play_held_out,
    "weigh": weigh,
}


def play(size: Size, name: str, count: int, people: str) -> str:
    """A run's configuration."""
    given = {"turns": size.turns, "samples": size.samples, "reply": size.reply, "minutes": size.minutes}
    return PLAY.format(name=name, count=count, people=people, rules=RULES, **given)


def played(study: Study, store: Path, name: str, text: str) -> None:
    """Play a configuration to its end, or for as long as it may take."""
    study.command(store, "run", str(study.write(name, text)), fine=(0, UNFINISHED))


def run_of(study: Study) -> str:
    """The id of the run that was simulated."""
    with Store.read(study.store) as store:
        return next(run.id for run in store.runs() if run.name == "planted")


def trained(study: Study, kind: str, name: str, data: str) -> str:
    """The adapter that `train KIND` makes, or made, under the study's settings."""
    size = study.size
    file = study.write(name, TRAINING.format(data=data, epochs=size.epochs, sft_epochs=size.sft_epochs))
    return str(json.loads(study.command(study.store, "train", kind, str(file), "--json"))["adapter"])


def read_adapters(study: Study) -> dict[str, str]:
    """Ids of adapters, by what they are called here."""
    return dict(json.loads((study.folder / "adapters.json").read_text(encoding="utf-8")))


def swapped(pair: Mapping[str, Any]) -> dict[str, Any]:
    sides = {"chosen": "rejected", "rejected": "chosen"}
    return {**pair, **{f"{a}{end}": pair[f"{b}{end}"] for a, b in sides.items() for end in ("", "_id", "_digest")}}


# ---- the figures


def verdict(study: Study) -> tuple[dict[str, Any], list[Bar]]:
    """Figures and bars of a study that is done."""
    pairs = pair_figures(study)
    replies = reply_figures(study)
    rise, coin = replies["rise"]["dpo"], replies["rise"]["coin"]
    base = max(pairs["base"]["value"], pairs["base_by_token"]["value"])
    bars = [
        Bar("pair accuracy on held-out people", pairs["dpo"]["value"], at_least=0.75),
        Bar("its lower bound, less the base's accuracy", pairs["dpo"]["low"] - base, at_least=0.0),
        Bar("rise from base to DPO, in standard deviations of the base", replies["rise_in_sd"], at_least=0.5),
        Bar("lower bound of that rise, in points", rise["low"], at_least=0.0),
        Bar("how far the coin's interval is from 0, in points", max(coin["low"], -coin["high"], 0.0), at_most=0.0),
    ]
    backends = backends_of(study)
    bars.append(Bar("backends that the adapter answered through", len(backends), at_least=2))
    figures = {
        "preference": RULES,
        "backends": backends,
        "size": asdict(study.size),
        "pairs": pairs,
        "replies": replies,
        "trainings": training_figures(study),
        "seconds": study.seconds(),
    }
    return figures, bars


def pair_figures(study: Study) -> dict[str, Any]:
    """Share of held-out pairs in which the preferred reply is put above the other, for new people."""
    read = json.loads((study.folder / "pairs.json").read_text(encoding="utf-8"))
    owners = [tuple(owner) for row in read["owners"] for owner in row]
    sums = {name: np.array([pair for row in rows for pair in row]) for name, rows in read["sums"].items()}
    lengths = np.array([pair for row in read["lengths"] for pair in row])
    base = sums.pop("base")
    above = {"base": base, "base_by_token": base / lengths, **{name: each - base for name, each in sums.items()}}
    found = {name: asdict(share_right(each[:, 0] > each[:, 1], owners)) for name, each in above.items()}
    return {"pairs": len(owners), "people": len(set(owners)), **found}


def share_right(right: Array, owners: Sequence[tuple[str, str]]) -> Estimate:
    """The mean over people of the share of their pairs, with the interval of `simulation.metrics`."""
    people = sorted(set(owners))
    shares = [np.mean([each for each, owner in zip(right, owners, strict=True) if owner == one]) for one in people]
    table = Table(np.array(shares)[:, None], tuple(a for a, _ in people), tuple(b for _, b in people))
    return estimate(table, mean_level)


def reply_figures(study: Study) -> dict[str, Any]:
    """What the rules say of fresh replies to held-out people, in points from 1 to 5."""
    with Store.read(study.store) as store:
        benchmark = find_benchmark(store, "planted")
        tables = {each.model: each.table for each in results(store, benchmark[0], JUDGE, benchmark[3])}
    base = tables["base"]
    rises = {name: compare(table, base) for name, table in tables.items() if name != "base"}
    spread = float(np.nanstd(base.scores))
    risen = rises["dpo"].mean.value
    return {
        "curves": {name: curve_figures(table) for name, table in tables.items()},
        "sd_of_base": spread,
        "rise": {name: {**asdict(each.mean), "p": each.p_mean} for name, each in rises.items()},
        "rise_in_sd": (risen or 0.0) / spread if spread else 0.0,
        "gap_closed": {
            name: asdict(gap_closed(tables[name], base, tables["told"]).mean) for name in ("sft", "dpo", "coin")
        },
    }


def curve_figures(table: Table) -> dict[str, Any]:
    """AL by turn, its mean and its slope, with intervals."""
    whole = summarise(table)
    return {
        "al": [asdict(level) for level in whole.levels],
        "mean": asdict(whole.mean),
        "ir": asdict(whole.ir),
        "replies": sum(whole.n),
    }


def backends_of(study: Study) -> dict[str, int]:
    """Replies under the DPO adapter by backend."""
    sql = """
    SELECT m.backend, count(*) FROM nodes n JOIN models m ON m.id = n.model_id
    WHERE json_extract(m.identity, '$.adapter') = ? GROUP BY m.backend
    """
    with Store.read(study.store) as store:
        return dict(store.rows(sql, (read_adapters(study)["dpo"],)))


def training_figures(study: Study) -> dict[str, Any]:
    """Steps, pairs and the last points of each training."""
    with Store.read(study.store) as store:
        rows = {name: find_adapter(store, each) for name, each in read_adapters(study).items()}
    return {name: row.metrics for name, row in rows.items()}


if __name__ == "__main__":
    sys.exit(main())
