"""`chat`: a person as the user. What is said is kept like any other tree."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from tui.console import say
from tui.options import config_option, examples, store_option


@click.command(
    epilog=examples(
        "espalier chat embedded",
        "espalier chat big --config run.toml",
        "espalier chat models/tuned.gguf --system-from deploy",
        "espalier chat embedded --adapter 1a2b3c4d",
    )
)
@click.argument("model")
@config_option
@click.option("--adapter", metavar="ID", help="An adapter, or the training that made it, by its id; or a folder.")
@click.option(
    "--system-from",
    "prompt_name",
    default="deploy",
    show_default=True,
    metavar="NAME",
    help="Prompt file of the system message: one in prompts/ beside the configuration, or a shipped one.",
)
@click.option("--temperature", type=click.FloatRange(0), default=0.8, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=click.IntRange(1), default=300, show_default=True, help="Longest reply, in tokens.")
@store_option
def chat(
    model: str,
    config_path: Path | None,
    adapter: str | None,
    prompt_name: str,
    temperature: float,
    max_tokens: int,
    store_path: Path,
) -> None:
    """Talk with MODEL as the user; the conversation is kept as a tree.

    MODEL is a name in the configuration, `embedded`, a GGUF file, or a folder in the form of model hubs. While you
    talk: /retry asks for another reply beside the last one, /undo takes the last exchange back (it stays in the
    tree), /quit or the end of input leaves.
    """
    from agents.models.protocol import Sampling
    from agents.prompts import load_prompt
    from tui.commands.models import opened
    from tui.conversation import Partner
    from tui.talk import Talk

    folder = (config_path.parent if config_path else Path()) / "prompts"
    prompt = load_prompt("deploy", prompt_name, folder)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
    with asyncio.Runner() as runner:
        loaded = runner.run(opened(model, config_path, store_path, adapter))
        try:
            tree = Talk(runner, Partner(loaded, prompt, sampling), store_path).run()
        finally:
            runner.run(loaded.close())
    if tree is not None:
        say(f"kept as tree {tree[:8]}; read it: espalier show {tree[:8]} --path all")
