"""Three distinct models answer in one run: the embedded one, its F32 twin, and one behind HTTP on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.openai_server import OpenAIServer
from tests.support.play import configuration, play, trees_of
from trees.store import Store

pytest.importorskip("llama_cpp", reason="the llama extra is not installed")
pytest.importorskip("gguf", reason="the dev extra is not installed")
pytestmark = pytest.mark.embedded


async def test_each_node_names_its_model(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from agents.models.weights import locate
    from tests.support.gguf_f32 import f32_gguf

    twin = f32_gguf(locate("embedded").path, tmp_path_factory.getbasetemp() / "weights")
    brief = {"sampling": {"max_tokens": 8}}
    async with OpenAIServer() as server:
        config = configuration(
            turns=1,
            personas={"count": 1},
            models={
                "quantised": {"kind": "llama", "path": "embedded"},
                "whole": {"kind": "llama", "path": str(twin)},
                "server": {"kind": "openai", "model": "test-model", "endpoints": [server.base_url]},
                "scripted": {"kind": "scripted"},
            },
            user={"model": "scripted"},
            inducer={"model": "scripted"},
            responders={
                "quantised": {"model": "quantised", **brief},
                "whole": {"model": "whole", "hint": True, **brief},
                "server": {"model": "server", **brief},
            },
            judges={"likelihood": {"kind": "likelihood", "model": "quantised"}},
        )
        run = await play(store_path, config)
    ((_, replies),) = trees_of(store_path, run)[0].turns()
    with Store.read(store_path) as store:
        models = {row[0]: row[1:] for row in store.rows("SELECT id, label, backend, identity FROM models")}
    named = {reply.role.removeprefix("responder."): models[reply.model_id or ""] for reply in replies}
    assert {role: model[0] for role, model in named.items()} == {
        "quantised": "quantised",
        "whole": "whole",
        "server": "server",
    }
    assert len({model[2] for model in named.values()}) == 3
