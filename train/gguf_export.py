"""Adapters in GGUF form, for llama.cpp: a LoRA beside a GGUF base, or merged into it.

A LoRA layer adds `scale * B @ A` to a weight: A is (rank, inputs), B is (outputs, rank). llama.cpp knows the layers by
its own names, takes one scale for all (`adapter.lora.alpha` over the rank), and keeps the rows of the query and key
projections of the llama architecture in another order: transformers turns the two halves of a head against each other
(rotary embeddings, arXiv 2104.09864), llama.cpp neighbouring rows. B's rows are put into that order; A stays.

Invariant: on the same base weights llama.cpp with the LoRA gives the logits of PEFT, to rounding.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from trees.errors import SetupError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

INSTALL = "pip install 'espalier-lm[train]'"
NumberFormat = Literal["f32", "f16", "bf16", "q8_0"]
ARCHITECTURES: Mapping[str, str] = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
    "olmo2": "olmo2",
}
"""llama.cpp's name of an architecture by transformers' `model_type`: those whose layers map one to one."""
_TURNED = {"llama": ("attn_q", "attn_k")}
"""Layers whose rows llama.cpp keeps in another order, by architecture."""
_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_REFUSED = {"use_dora": "DoRA", "modules_to_save": "modules trained whole", "trainable_token_indices": "trained tokens"}
_ALIGNED = 32
"""Rows of q8_0 are blocks of so many numbers."""


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What of a base the conversion depends on."""

    architecture: str
    layers: int
    heads: int
    key_heads: int


@dataclass(frozen=True, slots=True)
class Lora:
    """The two matrices of one layer, as llama.cpp reads them, and what their product is multiplied with."""

    a: Matrix
    """(rank, inputs)"""
    b: Matrix
    """(outputs, rank)"""
    scale: float


def shape_of_gguf(path: Path) -> BaseShape:
    """The shape of a GGUF base. Blocks. Raises SetupError if it has no such layers."""
    return _shape(_reader(path).fields, path)


def _shape(fields: Mapping[str, Any], path: Path) -> BaseShape:
    def value(name: str) -> Any:
        if name not in fields:
            raise SetupError(f"{path} does not say its {name}: it is no GGUF model that adapters are known for")
        return fields[name].contents()

    name = str(value("general.architecture"))
    if name not in ARCHITECTURES.values():
        raise SetupError(_unknown(f"architecture {name!r}"))
    heads = value(f"{name}.attention.head_count")
    key_heads = fields.get(f"{name}.attention.head_count_kv")
    return BaseShape(
        name, int(value(f"{name}.block_count")), int(heads), int(key_heads.contents() if key_heads else heads)
    )


def shape_of_folder(folder: Path) -> BaseShape:
    """The shape of a base in the hub's form. Raises SetupError if it has no such layers."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = str(config.get("model_type"))
        if kind not in ARCHITECTURES:
            raise SetupError(_unknown(f"model_type {kind!r}"))
        heads = int(config["num_attention_heads"])
        key_heads = int(config.get("num_key_value_heads") or heads)
        return BaseShape(ARCHITECTURES[kind], int(config["num_hidden_layers"]), heads, key_heads)
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{folder} is not the folder of a model: config.json cannot be read ({error})") from error


def write_lora(adapter: Path, shape: BaseShape, out: Path) -> Path:
    """Write a PEFT adapter as a GGUF LoRA in float32; returns `out`. Raises SetupError for what GGUF cannot hold."""
    gguf = _gguf()
    layers = read_lora(adapter, shape)
    first = next(iter(layers.values()))
    alpha = first.scale * len(first.a)
    draft = out.with_suffix(f".{os.getpid()}.part")
    writer = gguf.GGUFWriter(draft, shape.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, layer in layers.items():
        # One alpha is kept for all layers: what it says too little or too much for this one goes into B.
        factor = layer.scale * len(layer.a) / alpha
        writer.add_tensor(f"{name}.weight.lora_a", layer.a)
        writer.add_tensor(f"{name}.weight.lora_b", layer.b if factor == 1 else layer.b * factor)
    _finish(writer, draft, out)
    return out


def merge_into_gguf(
    base: Path, adapter: Path, out: Path, number_format: NumberFormat = "f16", notes: Mapping[str, str] | None = None
) -> Path:
    """Write a GGUF base with a PEFT adapter merged into its weights; returns `out`. Raises SetupError.

    `notes` are texts for its metadata, which `kept_in_gguf` finds again; they stand before the base's own entries.
    Matrices are written in the number format (those that q8_0 cannot hold in f16), vectors in float32.
    """
    gguf, reader = _gguf(), _reader(base)
    layers = read_lora(adapter, _shape(reader.fields, base))
    draft = out.with_suffix(f".{os.getpid()}.part")
    writer = gguf.GGUFWriter(draft, str(reader.fields["general.architecture"].contents()))
    kept = notes or {}
    for key, text in kept.items():
        writer.add_string(key, text)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in (*_OWN_FIELDS, *kept):
            kind = field.types[0]
            item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), kind, sub_type=item)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[number_format]])
    for tensor in reader.tensors:
        weights = gguf.dequantize(tensor.data, tensor.tensor_type).astype("float32")
        layer = layers.pop(tensor.name.removesuffix(".weight"), None)
        if layer is not None:
            weights += layer.scale * (layer.b @ layer.a)
        kind = _tensor_type(weights.shape, number_format)
        writer.add_tensor(tensor.name, gguf.quantize(weights, kind), raw_dtype=kind)
    if layers:
        raise SetupError(f"{base} has no layer {next(iter(layers))!r}, which the adapter {adapter} changes")
    _finish(writer, draft, out)
    return out


def kept_in_gguf(path: Path, key: str) -> str | None:
    """A text among the first entries of a GGUF's metadata; None if it is none of them. Raises SetupError.

    Entries are read as long as they are texts: a whole reader takes seconds for a large vocabulary.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                return None
            _, _, entries = struct.unpack("<IQQ", stream.read(20))
            for _ in range(entries):
                name = _text(stream)
                (kind,) = struct.unpack("<I", stream.read(4))
                if kind != _STRING:
                    return None
                value = _text(stream)
                if name == key:
                    return value
    except (OSError, ValueError, struct.error) as error:
        raise SetupError(f"{path} cannot be read as a GGUF file: {error}") from error
    return None


def _text(stream: IO[bytes]) -> str:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > _LONGEST:
        raise ValueError(f"a text of {length} bytes among its metadata")
    return stream.read(length).decode("utf-8")


def read_lora(adapter: Path, shape: BaseShape) -> dict[str, Lora]:
    """The layers of a PEFT adapter by llama.cpp's names, in a fixed order. Raises SetupError."""
    gguf = _gguf()
    config = _config(adapter)
    names = gguf.get_tensor_name_map(_architecture(gguf, shape.architecture), shape.layers)
    sides: dict[str, dict[str, Matrix]] = {}
    for key, values in _tensors(adapter):
        match = _KEY.fullmatch(key)
        if match is None:
            raise SetupError(f"{adapter} adapts {key!r}, which a GGUF LoRA cannot hold", hint=_MERGE)
        sides.setdefault(match["module"], {})[match["side"]] = values
    found = {}
    for module, pair in sides.items():
        name = names.get_name(module)
        if name is None or not name.startswith("blk.") or set(pair) != {"A", "B"}:
            raise SetupError(f"{adapter} adapts {module!r}, which a GGUF LoRA cannot hold here", hint=_MERGE)
        found[name] = Lora(pair["A"], _ordered(pair["B"], name, shape), _scale(config, module, len(pair["A"])))
    if not found:
        raise SetupError(f"{adapter} holds no LoRA layers")
    return dict(sorted(found.items()))


_OWN_FIELDS = ("general.architecture", "general.file_type")
"""Written anew."""
_STRING = 8
"""The number of a text's type in a GGUF's metadata."""
_LONGEST = 1 << 28
"""Bytes of a text that is believed."""
_MERGE = "Export it merged (--to merged), or train without this layer (lora.targets)."
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


def _unknown(what: str) -> str:
    known = ", ".join(sorted(ARCHITECTURES))
    return f"adapters as GGUF are known for {known}, not for {what}: export it merged (--to merged)"


def _ordered(b: Matrix, name: str, shape: BaseShape) -> Matrix:
    """B with its rows in llama.cpp's order."""
    layer = name.rpartition(".")[2]
    if layer not in _TURNED.get(shape.architecture, ()):
        return b
    heads = shape.heads if layer == "attn_q" else shape.key_heads
    rows, rank = b.shape
    return b.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies the product with."""
    patterns: Mapping[str, float] = config.get("alpha_pattern") or {}
    alpha = next((a for key, a in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", module)), config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _config(adapter: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{adapter} is not the folder of a LoRA adapter: {error}") from error
    if config.get("peft_type") != "LORA":
        raise SetupError(f"{adapter} is a {config.get('peft_type')} adapter, not a LoRA", hint=_MERGE)
    refused = [what for key, what in _REFUSED.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        refused.append("trained biases")
    if refused:
        raise SetupError(f"{adapter} has {refused[0]}, which a GGUF LoRA cannot hold", hint=_MERGE)
    return dict(config)


def _tensors(adapter: Path) -> Iterator[tuple[str, Matrix]]:
    """Names and values in float32, bfloat16 included, which numpy has not."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise SetupError(f"adapters are read by the package safetensors: {INSTALL}") from error
    try:
        loaded = load_file(adapter / "adapter_model.safetensors")
    except (OSError, ValueError, RuntimeError) as error:
        raise SetupError(f"the adapter's weights in {adapter} cannot be read: {error}") from error
    for key in sorted(loaded):
        yield key, loaded[key].float().numpy()


def _architecture(gguf: Any, name: str) -> Any:
    return next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)


def _tensor_type(shape: tuple[int, ...], wanted: NumberFormat) -> Any:
    types = _gguf().GGMLQuantizationType
    if len(shape) < 2:
        return types.F32
    if wanted == "q8_0" and shape[-1] % _ALIGNED:
        return types.F16
    return types[wanted.upper()]


def _reader(path: Path) -> Any:
    try:
        return _gguf().GGUFReader(path)
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read as a GGUF file: {error}") from error


def _finish(writer: Any, draft: Path, out: Path) -> None:
    """Under its name only when it is whole."""
    steps: tuple[Callable[[], None], ...] = (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
    )
    try:
        for step in steps:
            step()
        writer.close()
        draft.replace(out)
    except OSError as error:
        raise SetupError(
            f"cannot write {out}: {error.strerror}", hint="Free some space, or name another place."
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise SetupError(f"GGUF files are written by the package gguf: {INSTALL}") from error
    return gguf
