"""A model as a folder in the form of the Hugging Face hub: what of it a server's client needs, and its content digest.

The digest is over names and contents of the files that answers depend on: weights, configuration, tokenizer, template.
A read-me beside them changes nothing.

Invariant: two folders with the same digest are served as the same model.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.models.chat_template import ChatTemplate
from agents.models.prompt_parts import SpecialText
from agents.models.protocol import ModelFailure
from agents.models.weights import content_digest
from trees.ids import digest_of

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_OTHERS = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
_HEADER = struct.Struct("<Q")
"""A safetensors file begins with the length of its header, which is JSON."""
LINEAGE = "lineage.json"
"""Beside an adapter's weights: what it was trained on, from its base on."""
_FETCHED = ["*.safetensors", *(f"*{suffix}" for suffix in _OTHERS)]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A base model on this machine."""

    path: Path
    digest: str
    quantisation: str
    """The method of quantisation, or the number format of the weights."""
    template: ChatTemplate
    specials: tuple[SpecialText, ...]


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """LoRA weights as PEFT saves them."""

    path: Path
    digest: str
    rank: int
    modules: tuple[str, ...]
    """The last names of the layers that it adapts, such as q_proj."""
    base: str | None = None
    """Digest of the weights that it was trained on; None where nothing says so."""


def read_model(model: str) -> ModelFolder:
    """A folder, or the name of a repository on the hub, fetched if need be. Blocks. Raises ModelFailure("setup")."""
    folder = fetched(model)
    config = _json(folder / "config.json", f"{model!r} is not the folder of a model")
    tokenizer = _json(folder / "tokenizer_config.json", f"{model!r} has no tokenizer beside its weights")
    bos, eos = _token(tokenizer, "bos_token"), _token(tokenizer, "eos_token")
    template = ChatTemplate(_template(folder, tokenizer), bos=bos, eos=eos)
    return ModelFolder(
        folder.resolve(),
        folder_digest(folder),
        _quantisation(config),
        template,
        _specials(folder, tokenizer, (bos, eos)),
    )


def read_adapter(path: str) -> AdapterFolder:
    """LoRA weights in a folder. Blocks. Raises ModelFailure("setup")."""
    folder = Path(path).expanduser()
    config = _json(folder / "adapter_config.json", f"{path!r} is not the folder of a LoRA adapter")
    rank = config.get("r")
    if not isinstance(rank, int) or rank < 1:
        raise ModelFailure("setup", f"{path!r} is no LoRA adapter: `r` in adapter_config.json is {rank!r}")
    modules = _modules(folder / "adapter_model.safetensors")
    return AdapterFolder(folder.resolve(), folder_digest(folder), rank, modules, _base(folder / LINEAGE))


def _base(lineage: Path) -> str | None:
    """The base that an adapter's lineage names."""
    if not lineage.is_file():
        return None
    base = _json(lineage, "the adapter's lineage is not usable").get("base")
    return base if isinstance(base, str) else None


def _modules(weights: Path) -> tuple[str, ...]:
    """Read off the names of the weights, since the configuration may hold a pattern instead of names."""
    try:
        with weights.open("rb") as stream:
            (length,) = _HEADER.unpack(stream.read(_HEADER.size))
            names = json.loads(stream.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise ModelFailure("setup", f"the adapter's weights {str(weights)!r} cannot be read: {error}") from error
    return tuple(sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in names if ".lora_" in name}))


def fetched(name: str) -> Path:
    """The folder of that name, or one fetched from the hub. Blocks. Raises ModelFailure("setup")."""
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    name = name.removeprefix("hf://")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelFailure("setup", f"there is no folder {name!r}: give a model's folder, or a hub's owner/repo")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ModelFailure(
            "setup", f"there is no folder {name!r}, and a hub is asked by the package huggingface_hub: install it"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=_FETCHED))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFailure(
            "setup", f"{name!r} cannot be fetched: {reason.rstrip('.')}. Check name and network, or give a folder"
        ) from error


def _json(file: Path, otherwise: str) -> Mapping[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFailure("setup", f"{otherwise}: {file.name} cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise ModelFailure("setup", f"{otherwise}: {file.name} holds no JSON object")
    return value


def folder_digest(folder: Path) -> str:
    """Of what answers depend on. Blocks. Raises ModelFailure("setup")."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix in (*_WEIGHTS, *_OTHERS)]
    if any(file.suffix == ".safetensors" for file in files):
        # Older formats of the same weights often lie beside them and are not loaded.
        files = [file for file in files if file.suffix not in _WEIGHTS[1:]]
    try:
        return digest_of("folder", [[file.name, content_digest(file)] for file in files])
    except OSError as error:
        raise ModelFailure("setup", f"the folder {str(folder)!r} cannot be read ({error.strerror})") from error


def _template(folder: Path, tokenizer: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    given = tokenizer.get("chat_template")
    if isinstance(given, list):
        given = next((each.get("template") for each in given if each.get("name") == "default"), None)
    return given if isinstance(given, str) else None


def _specials(folder: Path, tokenizer: Mapping[str, Any], known: Sequence[str]) -> tuple[SpecialText, ...]:
    """What the tokenizer reads as one token wherever it stands, whichever file says so."""
    decoder = tokenizer.get("added_tokens_decoder")
    listed = list(decoder.values()) if isinstance(decoder, dict) else []
    if (folder / "tokenizer.json").is_file():
        listed += _json(folder / "tokenizer.json", f"{str(folder)!r} has no tokenizer").get("added_tokens") or []
    found = {str(each["content"]): bool(each.get("special")) for each in listed}
    found.update({text: True for text in known if text})
    return tuple(SpecialText(text, control) for text, control in sorted(found.items()))


def _token(tokenizer: Mapping[str, Any], name: str) -> str:
    value = tokenizer.get(name)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _quantisation(config: Mapping[str, Any]) -> str:
    quantised = config.get("quantization_config")
    if isinstance(quantised, dict):
        return str(quantised.get("quant_method", "unknown"))
    return str(config.get("dtype") or config.get("torch_dtype") or "unknown")
