"""Models: `models list` and `models test`."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trees.errors import SetupError
from tui.console import duration, say, say_json, say_table
from tui.options import FILE, config_option, examples, json_option, store_option
from tui.sanitise import one_line

if TYPE_CHECKING:
    from agents.models.protocol import Model
    from simulation.config import RunConfig

PARTS = ("chat", "score", "choices", "schema")


@click.group(epilog=examples("espalier models list quickstart.toml", "espalier models test embedded"))
def models() -> None:
    """Say which models there are, and try them out."""


@models.command("list", epilog=examples("espalier models list", "espalier models list quickstart.toml --json"))
@click.argument("config", type=FILE, required=False)
@json_option
@store_option
def list_(config: Path | None, as_json: bool, store_path: Path) -> None:
    """List the models of CONFIG and the roles they speak, or those that the store's runs used."""
    found = _configured(config) if config is not None else _stored(store_path)
    if as_json:
        say_json(found)
    elif found:
        headings = tuple(key for key in found[0] if key not in ("identity", "settings"))
        say_table(headings, [tuple(_cell(row[key]) for key in headings) for row in found])
    else:
        say(f"no run in {store_path} has used a model yet; name a configuration to see its models")


@models.command(epilog=examples("espalier models test embedded", "espalier models test big --config run.toml"))
@click.argument("model")
@config_option
@json_option
@store_option
def test(model: str, config_path: Path | None, as_json: bool, store_path: Path) -> None:
    """Load MODEL and ask it four short things: chat, score, choices, schema. Exit 1 if something fails.

    MODEL is a name in the configuration, a GGUF file, a folder in the hub's form, "hf://owner/repo:file.gguf", or
    "embedded".
    """
    result = asyncio.run(_try(model, config_path, store_path))
    if as_json:
        say_json(result)
    else:
        _say_result(result)
    if any(result[part]["works"] is False for part in PARTS):
        raise SystemExit(1)


async def _try(name: str, config_path: Path | None, store_path: Path) -> dict[str, Any]:
    from simulation.model_test import try_model

    model = await opened(name, config_path, store_path)
    try:
        return await try_model(model)
    finally:
        await model.close()


async def opened(name: str, config_path: Path | None, store_path: Path, adapter: str | None = None) -> Model:
    """A model as a person names it, loaded, with an adapter of the store or of a folder. Raises SetupError."""
    from agents.models.open import open_model
    from agents.models.protocol import ModelFailure
    from train.adapters import StoredAdapters

    named, config = entry(name, config_path)
    if adapter is not None:
        if "adapter" not in type(config).model_fields:
            raise SetupError(f"{name!r} is a {config.kind} model, which takes no adapter", hint=_TAKE_ADAPTERS)
        config = config.model_copy(update={"adapter": adapter})
    model = open_model(named, config, StoredAdapters(store_path))
    try:
        await model.open()
    except ModelFailure as failure:
        await model.close()
        raise SetupError(failure.message) from failure
    return model


def entry(name: str, config_path: Path | None) -> tuple[str, Any]:
    """The name and the configuration of a model as a person names it. Raises SetupError."""
    if config_path is not None:
        from simulation.config import load_config

        configured = load_config(config_path).models
        if name in configured:
            return name, configured[name]
        if not _is_weights(name) and not Path(name).is_dir():
            known = ", ".join(configured)
            raise SetupError(f"{config_path} has no model {name!r}", hint=f"Its models: {known}.")
    if Path(name).is_dir():
        from agents.models.transformers import TransformersConfig

        return Path(name).name, TransformersConfig.model_validate({"kind": "transformers", "path": name})
    if not _is_weights(name):
        hint = "Give a GGUF file, a folder, embedded, or the configuration that names it with --config FILE."
        raise SetupError(f"{name!r} is no model that is known here", hint=hint)
    from agents.models.llama import LlamaConfig

    return Path(name).stem or name, LlamaConfig.model_validate({"kind": "llama", "path": name})


_TAKE_ADAPTERS = "Models of kind llama, vllm and transformers do."


def _is_weights(name: str) -> bool:
    return name == "embedded" or name.startswith("hf://") or name.lower().endswith(".gguf")


def _configured(path: Path) -> list[dict[str, Any]]:
    from simulation.config import load_config

    config = load_config(path)
    return [
        {
            "model": name,
            "backend": entry_.kind,
            "what": _what(entry_.model_dump(mode="json")),
            "permits": entry_.permits,
            "deadline_s": entry_.deadline_s,
            "roles": _roles(config, name),
            "settings": entry_.model_dump(mode="json"),
        }
        for name, entry_ in config.models.items()
    ]


def _what(settings: dict[str, Any]) -> str:
    """Which weights an entry means, in a few words."""
    named = (settings.get(key) for key in ("path", "model", "store", "provider"))
    server = settings.get("base_url") or settings.get("endpoints")
    return " at ".join(str(part) for part in (next(filter(None, named), ""), server) if part)


def _roles(config: RunConfig, name: str) -> list[str]:
    from simulation.cast import asks_a_model

    return [place for place, role in config.roles().items() if asks_a_model(role) and name in config.models_of(role)]


def _stored(store_path: Path) -> list[dict[str, Any]]:
    from trees.store import Store

    sql = (
        "SELECT m.label, m.backend, m.id, m.identity, "
        "(SELECT count(*) FROM calls c WHERE c.model_id = m.id) FROM models m ORDER BY m.label, m.id"
    )
    with Store.read(store_path) as store:
        rows = store.rows(sql)
    return [
        {
            "model": label,
            "backend": backend,
            "id": model_id[:8],
            "what": one_line(str(json.loads(identity)["model"]), 40),
            "calls": calls,
            "identity": json.loads(identity),
        }
        for label, backend, model_id, identity, calls in rows
    ]


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _say_result(result: dict[str, Any]) -> None:
    identity, context = result["identity"], result["capabilities"]["context"]
    say(f"{result['model']}: {identity['backend']}, {identity['model']}, context {context or 'unknown'}\n")
    signs = {True: "works", False: "fails", None: "not offered"}
    rows = []
    for part in PARTS:
        tried = result[part]
        told = tried.get("why") or one_line(str(tried.get("text") or tried.get("nats_per_token") or ""), 70)
        rate = f"{tried['tokens_per_s']:g}" if "tokens_per_s" in tried else ""
        took = duration(tried["seconds"]) if "seconds" in tried else ""
        rows.append((part, signs[tried["works"]], took, rate, told))
    say_table(("", "", "time", "tokens/s", ""), rows, right=("time", "tokens/s"))
