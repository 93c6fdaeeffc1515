"""An F32 GGUF out of a quantised one: the same weights in the form that is exact under batching.

Needs the package `gguf`. The tensors keep their names and order, every other field is copied.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, dequantize
from gguf.gguf_reader import ReaderField

_WRITTEN_ANYWAY = {"general.architecture", "general.file_type"}


def f32_gguf(source: Path, directory: Path, layers: int | None = None) -> Path:
    """The F32 twin of `source` in `directory`, of its first layers if so many are named; made once, found again."""
    cut = "" if layers is None else f".{layers}-layers"
    target = directory / f"{source.stem}{cut}.f32.gguf"
    if not target.exists():
        directory.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}")
        _write(source, draft, layers)
        draft.replace(target)
    return target


def _write(source: Path, target: Path, layers: int | None) -> None:
    reader = GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = GGUFWriter(target, architecture)
    skipped = {*_WRITTEN_ANYWAY, *([f"{architecture}.block_count"] if layers else [])}
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in skipped:
            _copy(writer, field)
    if layers:
        writer.add_block_count(layers)
    writer.add_file_type(LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        if layers and tensor.name.startswith("blk.") and int(tensor.name.split(".")[1]) >= layers:
            continue
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy(writer: GGUFWriter, field: ReaderField) -> None:
    kind = field.types[0]
    item = field.types[-1] if kind == GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), kind, sub_type=item)
