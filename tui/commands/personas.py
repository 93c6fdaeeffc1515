"""Personas: `personas list`, `show`, `add` and `import`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from trees.errors import NotFound
from tui.console import say, say_json, say_table
from tui.options import examples, json_option, store_option
from tui.sanitise import one_line
from tui.stores import optional

if TYPE_CHECKING:
    from trees.personas import Personality, Profile
    from trees.store import Store

Kind = Literal["profile", "personality"]
TABLES: dict[Kind, str] = {"profile": "profiles", "personality": "personalities"}


@click.group(epilog=examples("espalier personas list", "espalier personas import people.jsonl"))
def personas() -> None:
    """See and bring in the people who are played: profiles (facts of a life) and personalities (traits)."""


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
    _keep(store_path, items, "command line", split)
    for item in items:
        say(f"{_kind_of(item)} {item.id[:8]} is in {store_path}, with {len(_parts(item))} sentences")


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
    help="Their pool.",
)
@store_option
def import_(file: Path, kind: Kind | None, split: str, store_path: Path) -> None:
    """Read profiles and personalities from FILE, one a line.

    A line is an object, {"kind": "profile", "pronouns": "she", "facts": [...]} (a personality has "traits"),
    or a JSON string. Good lines are kept; broken ones are named with what is wrong, and the exit code is 1.
    """
    from trees.personas import parse_personas

    parsed = parse_personas(file.read_bytes(), kind=kind, source=str(file))
    new = _keep(store_path, parsed.items, str(file), split) if parsed.items else 0
    for note in parsed.notes:
        say(note, stderr=True)
    for problem in parsed.problems:
        say(f"{file}, line {problem.line}: {problem.what}: {problem.text!r}", stderr=True)
    there = len(parsed.items) - new
    said = f", {there} were there already" if there else ""
    say(f"{new} imported{said}, {len(parsed.problems)} broken lines")
    if parsed.problems:
        raise SystemExit(1)


def _keep(path: Path, items: Sequence[Profile | Personality], source: str, split: str) -> int:
    """Keep what is not in the store yet; returns how many that were."""
    from trees.personas import Profile
    from trees.store import Store
    from trees.writes import in_one, keep_personality, keep_profile

    def writes(item: Profile | Personality) -> Any:
        if isinstance(item, Profile):
            return keep_profile(item, source=source, split=split)
        return keep_personality(item, source=source, split=split)

    with Store.open(path) as store:
        before = _count(store)
        store.apply(in_one(writes(item) for item in items))
        return _count(store) - before


def _count(store: Store) -> int:
    return int(store.rows("SELECT (SELECT count(*) FROM profiles) + (SELECT count(*) FROM personalities)")[0][0])


def _stored(store: Store, kind: Kind) -> list[dict[str, Any]]:
    from trees.text import unescape

    rows = store.rows(f"SELECT id, text, pronouns, split, source FROM {TABLES[kind]} ORDER BY added_at, id")
    return [
        {
            "id": i,
            "kind": kind,
            "text": unescape(text),
            "pronouns": pronouns,
            "split": split,
            "source": unescape(source),
        }
        for i, text, pronouns, split, source in rows
    ]


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
        split = store.rows(f"SELECT split FROM {table} WHERE id = ?", (item,))[0][0]
        return kind, store.profile(item) if kind == "profile" else store.personality(item), split
    return None


def _kind_of(item: Profile | Personality) -> Kind:
    return "profile" if hasattr(item, "facts") else "personality"


def _parts(item: Any) -> list[str]:
    """The facts of a profile or the traits of a personality."""
    return list(item.facts if hasattr(item, "facts") else item.traits)
