"""The commands, a module for each group of them. `COMMANDS` is what `espalier --help` lists."""

from __future__ import annotations

import click

from tui.commands import (
    bench,
    branching,
    chat,
    checking,
    data,
    models,
    opening,
    personas,
    playing,
    prompts,
    reading,
    report,
    rounds,
    status,
    steering,
    storing,
    train,
)

COMMANDS: tuple[click.Command, ...] = (
    playing.init,
    playing.run,
    playing.resume,
    playing.engine,
    status.status,
    steering.pause,
    steering.stop,
    steering.set_,
    reading.trees,
    reading.show,
    reading.search,
    branching.branch,
    branching.judge,
    branching.note,
    checking.verify,
    data.data,
    checking.export,
    data.import_,
    train.train,
    bench.bench,
    report.report,
    rounds.rounds,
    chat.chat,
    personas.personas,
    prompts.prompts,
    models.models,
    storing.store,
    opening.app,
    opening.serve,
)
