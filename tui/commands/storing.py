"""The store itself: `store backup`, `prune`, `vacuum`, `delete` and `migrate`."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trees.errors import Locked, SetupError
from tui.console import count, say
from tui.options import FILE, examples, store_option

if TYPE_CHECKING:
    from trees.store import Store


@click.group(epilog=examples("espalier store backup copy.db", "espalier store delete 1a2b3c4d"))
def store() -> None:
    """Look after the store: back it up, make it smaller, bring it up to date."""


@store.command(epilog=examples("espalier store backup espalier-monday.db"))
@click.argument("out", type=FILE)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@store_option
def backup(out: Path, force: bool, store_path: Path) -> None:
    """Copy the store to OUT as it stands at one moment, also while an engine writes to it.

    Its adapters are copied to a folder beside OUT, unless they lie there already.
    """
    from trees.store import Store, as_store_error

    if out.exists() and not force:
        raise SetupError(f"{out} exists already", hint="Name another file, or write over it with --force.")
    part = out.with_name(out.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with Store.read(store_path) as source, contextlib.closing(sqlite3.connect(part)) as copy:
            source.connection.backup(copy)
            # A copy in WAL mode would be two files more on first use; as one plain file it can be sent
            # anywhere.
            copy.execute("PRAGMA journal_mode = DELETE")
        part.replace(out)
    except sqlite3.Error as error:
        raise as_store_error(error, out) from error
    finally:
        part.unlink(missing_ok=True)
    adapters = _copy_adapters(store_path, out)
    beside = f", and {adapters} adapters beside it" if adapters else ""
    say(f"{store_path} is copied to {out} ({count(out.stat().st_size)} bytes){beside}")


def _copy_adapters(store_path: Path, out: Path) -> int:
    """Copy the adapters that a copied store names to where it looks for them; returns how many. Raises SetupError."""
    from trees.store import Store
    from trees.trainings import adapters

    copied = 0
    with Store.read(out) as copy:
        named = [row.path for row in adapters(copy)]
    for path in named:
        source, target = store_path.resolve().parent / path, out.resolve().parent / path
        if target.exists() or not source.is_dir():
            continue
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            shutil.copytree(source, part)
            part.rename(target)
        except OSError as error:
            raise SetupError(
                f"the adapter {target.name} cannot be copied to {target.parent}: {error.strerror or error}",
                hint="Free some space; the store itself is copied.",
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        copied += 1
    return copied


@store.command(epilog=examples("espalier store prune"))
@store_option
def prune(store_path: Path) -> None:
    """Drop calls that no run uses, and the models and judges that only they held on to.

    What models were doing, second by second, in runs that nobody is at work on is dropped too.
    """
    from trees.writes import prune_figures, prune_shared
    from tui.stores import existing

    with existing(store_path) as opened:
        before = _calls(opened)
        rows = opened.rows("SELECT count(*) FROM model_figures")[0][0]
        opened.apply([*prune_shared(), *prune_figures()])
        after = _calls(opened)
        rows -= opened.rows("SELECT count(*) FROM model_figures")[0][0]
    say(f"{before - after} calls dropped, {after} kept; {rows} rows of models' figures dropped")
    say("the file gets smaller with: espalier store vacuum")


@store.command(epilog=examples("espalier store vacuum"))
@store_option
def vacuum(store_path: Path) -> None:
    """Rewrite the store so that it takes no more room than it needs. No engine may be at work."""
    from trees.store import as_store_error
    from tui.stores import existing

    with existing(store_path) as opened:
        _refuse_while_live(opened)
        before = store_path.stat().st_size
        try:
            opened.connection.execute("VACUUM")
            opened.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise as_store_error(error, store_path) from error
    say(f"{store_path}: {count(before)} bytes before, {count(store_path.stat().st_size)} after")


@store.command(epilog=examples("espalier store delete 1a2b3c4d", "espalier store delete 1a2b3c4d --yes"))
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
def delete(run: str, yes: bool, store_path: Path) -> None:
    """Delete RUN with its trees. Calls that another run uses too are kept."""
    from trees.jobs import live_engine
    from trees.writes import delete_run
    from tui.stores import existing

    with existing(store_path) as opened:
        row = opened.run(opened.find("runs", run))
        trees = len(opened.trees(row.id))
        if not yes:
            click.confirm(f"Delete run {row.id[:8]} {row.name!r} with its {trees} trees?", abort=True)
        if (lock := live_engine(opened, row.id)) is not None:
            hint = f"Stop it first: espalier stop {row.id[:8]}"
            raise Locked(f"run {row.id[:8]} is being played by pid {lock.pid} on {lock.host}", hint=hint)
        opened.apply(delete_run(row.id))
    say(f"run {row.id[:8]} and its {trees} trees are deleted")
    say("the file gets smaller with: espalier store vacuum")


@store.command(epilog=examples("espalier store migrate"))
@store_option
def migrate(store_path: Path) -> None:
    """Bring a store of an older version up to date. Every command that writes does the same."""
    from tui.stores import existing

    with existing(store_path) as opened:
        applied = opened.rows("SELECT name FROM _sqlite_migrations WHERE migration_set = 'espalier' ORDER BY id")
    say(f"{store_path} is up to date: {applied[-1][0]} is its latest migration")


def _calls(opened: Store) -> int:
    return int(opened.rows("SELECT count(*) FROM calls")[0][0])


def _refuse_while_live(opened: Store) -> None:
    from trees.jobs import live_engine

    for (job,) in opened.rows("SELECT job_id FROM locks"):
        if (lock := live_engine(opened, job)) is not None:
            hint = f"Stop it first: espalier stop {job[:8]}"
            raise Locked(f"{lock.kind} {job[:8]} is being worked on by pid {lock.pid} on {lock.host}", hint=hint)
