"""Personas: `personas list`, `show`, `add`, `import` and `export`; growing them stands in `tui.commands.pool`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from trees.errors import NotFound, SetupError
from tui.commands.pool import grow, pair, report, split
from tui.console import say, say_json, say_table
from tui.options import examples, json_option, store_option
from tui.sanitise import one_line
from tui.stores import optional

if TYPE_CHECKING:
    from simulation.guarding import Guarded
    from simulation.splits import Refused
    from trees.personas import Personality, Profile
    from trees.pool import PoolItem
    from trees.store import Store

Kind = Literal["profile", "personality"]
TABLES: dict[Kind, str] = {"profile": "profiles", "personality": "personalities"}


@click.group(epilog=examples("espalier personas list", "espalier personas import people.jsonl"))
def personas() -> None:
    """See and bring in the people who are played: profiles (facts of a life) and personalities (traits)."""


for command in (grow, report, pair, split):
    personas.add_command(command)


@personas.command("list", epilog=examples("espalier personas list", "espalier personas list --kind profile --json"))
@click.option("--kind", type=click.Choice(["profile", "personality"]), help="Only one of the two.")
@json_option
@store_option
def list_(kind: Kind | None, as_json: bool, store_path: Path) -> None:
    """List what the store holds, and how many seeds are shipped."""
    kinds = [kind] if kind else list(TABLES)
    with optional(store_path) as store:
        found = [row for k in kinds for row in _stored(store, k)] if store is not None else []
    shipped = _shipped()
    if as_json:
        say_json({"store": found, "shipped": {k: len(shipped[k]) for k in kinds}})
        return
    if found:
        rows = [(row["id"][:8], row["kind"], row["split"], row["source"], one_line(row["text"], 80)) for row in found]
        say_table(("id", "kind", "split", "from", "text"), rows)
    counts = " and ".join(f"{len(shipped[k])} {TABLES[k]}" for k in kinds)
    say(f"the store holds {len(found)}; {counts} are shipped as seeds and need no import")


@personas.command(epilog=examples("espalier personas show 1a2b3c4d"))
@click.argument("item", metavar="ID")
@json_option
@store_option
def show(item: str, as_json: bool, store_path: Path) -> None:
    """Show a profile or a personality, of the store or shipped, fact by fact."""
    with optional(store_path) as store:
        kind, found, split = _find(store, item)
    parts = _parts(found)
    if as_json:
        say_json(
            {
                "id": found.id,
                "kind": kind,
                "split": split,
                "pronouns": found.pronouns,
                "parts": parts,
                "text": found.text,
            }
        )
        return
    where = f"split {split}" if split else "a shipped seed"
    say(f"{kind} {found.id}\n{where}, pronouns {found.pronouns}\n\n{found.text}\n")
    for part in parts:
        say(f"- {part}")


@personas.command(
    epilog=examples(
        'espalier personas add --profile "I am a nurse. I have two dogs. I live by the sea."',
        'espalier personas add --personality "She writes in short, dry sentences. She is curious."',
    )
)
@click.option("--profile", metavar="TEXT", help="Facts of a life, a sentence each.")
@click.option("--personality", metavar="TEXT", help="Temperament and way of writing, a sentence each.")
@click.option("--split", type=click.Choice(["train", "held_out"]), default="train", show_default=True, help="Its pool.")
@store_option
def add(profile: str | None, personality: str | None, split: str, store_path: Path) -> None:
    """Add one profile or one personality to the store. Each sentence is a fact or a trait."""
    from trees.personas import personality_of, profile_of, sentences

    items: list[Profile | Personality] = []
    try:
        if profile is not None:
            items.append(profile_of(sentences(profile)))
        if personality is not None:
            items.append(personality_of(sentences(personality)))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if not items:
        raise click.UsageError("give --profile TEXT or --personality TEXT")
    kept = _keep(store_path, items, "command line", split)
    _say_kept(kept)
    for item in kept.items:
        say(f"{_kind_of(item)} {item.id[:8]} is in {store_path}, with {len(_parts(item))} sentences")
    if kept.refused:
        raise SystemExit(1)


@personas.command(
    "import",
    epilog=examples(
        "espalier personas import people.jsonl", "espalier personas import traits.jsonl --kind personality"
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--kind",
    type=click.Choice(["profile", "personality"]),
    help="What plain strings are; objects say it themselves.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "held_out"]),
    default="train",
    show_default=True,
    help="Their pool; a line that says it is held out stays so.",
)
@store_option
def import_(file: Path, kind: Kind | None, split: str, store_path: Path) -> None:
    """Read profiles and personalities from FILE, one a line.

    A line is an object, {"kind": "profile", "pronouns": "she", "facts": [...]} (a personality has "traits"),
    or a JSON string, as in the pools released with the paper. Good lines are kept; broken ones, and those that
    say the same as a held-out item, are named, and the exit code is 1.
    """
    from trees.personas import parse_personas

    parsed = parse_personas(file.read_bytes(), kind=kind, source=str(file))
    for note in parsed.notes:
        say(note, stderr=True)
    for problem in parsed.problems:
        say(f"{file}, line {problem.line}: {problem.what}: {problem.text!r}", stderr=True)
    if not parsed.items and not parsed.problems:
        raise SetupError(f"{file} holds no line", hint="Give a file with one profile or personality a line.")
    splits = {
        item.id: "held_out" if split == "held_out" else parsed.splits.get(item.id, split) for item in parsed.items
    }
    held = [item for item in parsed.items if splits[item.id] == "held_out"]
    blocked = [item for item in parsed.items if splits[item.id] == "blocked"]
    kept = _keep(store_path, [item for item in parsed.items if item not in [*held, *blocked]], str(file), "train")
    held_out = _keep(store_path, held, str(file), "held_out")
    new = kept.new + held_out.new
    _say_kept(kept)
    _say_kept(held_out)
    if blocked:
        say(f"{len(blocked)} are kept from training where they come from, and are left out", stderr=True)
    there = len(parsed.items) - len(kept.refused) - len(blocked) - new - held_out.moved
    said = f", {there} were there already" if there else ""
    moved = f", {held_out.moved} that stood in training held out" if held_out.moved else ""
    refused = f", {len(kept.refused)} refused" if kept.refused else ""
    say(f"{new} imported{moved}{said}{refused}, {len(parsed.problems)} broken lines")
    if parsed.problems or kept.refused:
        raise SystemExit(1)


@personas.command(
    "export",
    epilog=examples(
        "espalier personas export pool.jsonl",
        "espalier personas export profile.jsonl --kind profile --format released",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--kind", type=click.Choice(["profile", "personality"]), help="Only one of the two.")
@click.option(
    "--split",
    type=click.Choice(["train", "held_out", "blocked"]),
    help="Only one split; left out, all, or those to train with in the released form.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["espalier", "released"]),
    default="espalier",
    show_default=True,
    help="espalier: objects with where each comes from. released: texts alone, as the paper's pools.",
)
@store_option
def export(file: Path, kind: Kind | None, split: Any, form: str, store_path: Path) -> None:
    """Write the pool to FILE, one item a line."""
    from trees.pool import pool
    from trees.store import Store

    if form == "released" and kind is None:
        raise click.UsageError("--format released holds one kind a file: add --kind profile or --kind personality")
    with Store.read(store_path) as store:
        # Nothing in the released form says that a text is held out, so those are only written where they are asked for.
        items = pool(store, kind, split or ("train" if form == "released" else None))
        left_out = 0 if split or form != "released" else len(pool(store, kind)) - len(items)
        lines = [
            json.dumps(item.text if form == "released" else _row(store, item), ensure_ascii=False) for item in items
        ]
    if not lines:
        raise SetupError(f"{store_path} holds nothing of that", hint="See what it holds: espalier personas list.")
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    say(f"wrote {len(lines)} lines to {file}")
    if left_out:
        say(f"{left_out} held-out or blocked ones are left out: --split held_out, or blocked, writes them", stderr=True)


def _row(store: Store, item: PoolItem) -> dict[str, Any]:
    """An item with its provenance."""
    found = store.profile(item.id) if item.kind == "profile" else store.personality(item.id)
    row = {
        "kind": item.kind,
        "pronouns": item.pronouns,
        "facts" if item.kind == "profile" else "traits": _parts(found),
        "text": item.text,
        "id": item.id,
        "split": item.split,
        "source": item.source,
    }
    sql = (
        "SELECT growing_id, generation, model, call_id, nearest_id, similarity FROM candidates "
        "WHERE item_id = ? AND reason IS NULL LIMIT 1"
    )
    names = ("growing", "generation", "model", "call", "nearest", "similarity")
    return {**row, **{k: v for r in store.rows(sql, (item.id,)) for k, v in zip(names, r, strict=True)}}


@dataclass(frozen=True)
class _Kept:
    """What became of items that were to be kept."""

    items: Sequence[Profile | Personality]
    new: int
    refused: Sequence[Refused]
    moved: int = 0
    """Items that stood in training and are held out now."""
    compared: str = ""
    """What was not looked for; empty if everything was, or nothing had to be."""


def _keep(path: Path, items: Sequence[Profile | Personality], source: str, split: str) -> _Kept:
    """Keep what is not in the store yet. Nothing that says the same as a held-out item joins the training split, and
    what is held out from now on leaves it.
    """
    from simulation.guarding import Guarded, guard_joining, guard_training
    from trees.pool import hold_out, keep_item, pool
    from trees.store import Store
    from trees.writes import in_one

    with Store.open(path) as store:
        holding = split == "held_out"
        guarded = Guarded((), True) if holding else asyncio.run(guard_joining(store, items))
        refused = {one.item.id for one in guarded.refused}
        joining = [item for item in items if item.id not in refused]
        before = _count(store)
        standing = {item.id for item in pool(store) if item.split != "held_out"} if holding else set()
        moved = [item for item in joining if item.id in standing]
        moving = [write for item in moved for write in hold_out(_kind_of(item), [item.id])]
        store.apply([*in_one(keep_item(item, source=source, split=split) for item in joining), *moving])
        if holding and joining:
            asyncio.run(guard_training(store))
        return _Kept(joining, _count(store) - before, guarded.refused, len(moved), _not_looked_for(guarded))


def _not_looked_for(guarded: Guarded) -> str:
    if not guarded.measured:
        return "compared with held-out items word for word only: the pool is measured before anything trains on them"
    return "" if guarded.paraphrases else "the lexical embedder finds near copies of held-out items, no paraphrases"


def _say_kept(kept: _Kept) -> None:
    """What was refused, and what could not be looked for."""
    if kept.compared:
        say(kept.compared, stderr=True)
    for one in kept.refused:
        same = (
            "is held out, word for word" if one.verbatim else f"says the same as one (similarity {one.similarity:.2f})"
        )
        say(f"refused: {one_line(one.item.text, 80)!r} {same}: {one.held_out_id[:8]}", stderr=True)


def _count(store: Store) -> int:
    return int(store.rows("SELECT (SELECT count(*) FROM profiles) + (SELECT count(*) FROM personalities)")[0][0])


def _stored(store: Store, kind: Kind) -> list[dict[str, Any]]:
    from trees.pool import pool

    return [asdict(item) for item in pool(store, kind)]


def _shipped() -> dict[Kind, Sequence[Any]]:
    from simulation.personas import seed_personalities, seed_profiles

    return {"profile": seed_profiles(), "personality": seed_personalities()}


def _find(store: Store | None, prefix: str) -> tuple[Kind, Any, str | None]:
    """A profile or personality by the beginning of its id, with its split; shipped ones last. Raises
    NotFound.
    """
    if store is not None and (found := _find_stored(store, prefix)) is not None:
        return found
    for kind, seeds in _shipped().items():
        matching = [seed for seed in seeds if seed.id.startswith(prefix.lower())]
        if len(matching) == 1:
            return kind, matching[0], None
    hint = "List them with `espalier personas list`."
    raise NotFound(f"no profile or personality begins with {prefix!r}", hint=hint)


def _find_stored(store: Store, prefix: str) -> tuple[Kind, Any, str] | None:
    for kind, table in TABLES.items():
        try:
            item = store.find(table, prefix)
        except NotFound:
            continue
        split = store.rows("SELECT split FROM pool WHERE id = ?", (item,))[0][0]
        return kind, store.profile(item) if kind == "profile" else store.personality(item), split
    return None


def _kind_of(item: Profile | Personality) -> Kind:
    return "profile" if hasattr(item, "facts") else "personality"


def _parts(item: Any) -> list[str]:
    """The facts of a profile or the traits of a personality."""
    return list(item.facts if hasattr(item, "facts") else item.traits)
