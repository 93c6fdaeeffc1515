"""Exported rows as a Parquet file, for whoever loads data sets by columns. Needs pyarrow, of the training extra.

Invariant: columns and their types are those of the kind of export, however few rows there are. Parquet holds UTF-8
only, so a lone surrogate becomes U+FFFD here; JSON lines keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

from trees.errors import SetupError

INSTALL = "pip install 'espalier-lm[train]'"
ROWS = 1_000
"""Rows of one group, which are in memory at once."""
_MESSAGES: Mapping[str, tuple[str, ...]] = {
    "sft": ("prompt", "completion"),
    "dpo": ("prompt", "chosen", "rejected"),
}
_ORIGIN = ("run", "tree", "user_id", "profile", "profile_digest", "personality", "personality_digest")
_OF_REPLIES: Mapping[str, tuple[str, ...]] = {
    "sft": ("target_id", "target_digest"),
    "dpo": ("chosen_id", "chosen_digest", "rejected_id", "rejected_digest"),
}
_VERDICT = ("judge", "judge_id", "unit", "split")


@contextmanager
def parquet_writer(file: BinaryIO, kind: Literal["sft", "dpo"]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What takes rows, for as long as the file is open. Raises SetupError without pyarrow."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError(f"Parquet is written by the package pyarrow: {INSTALL}") from error
    schema = _schema(pyarrow, kind)
    waiting: list[Mapping[str, Any]] = []
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def take(row: Mapping[str, Any]) -> None:
            waiting.append(_readable(row))
            if len(waiting) == ROWS:
                flush()

        yield take
        if waiting:
            flush()


def _schema(pyarrow: Any, kind: str) -> Any:
    text = pyarrow.string()
    messages = pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))
    return pyarrow.schema(
        [
            *((name, messages) for name in _MESSAGES[kind]),
            *((name, text) for name in (*_ORIGIN, *_OF_REPLIES[kind], *_VERDICT)),
            ("turn", pyarrow.int32()),
            ("margin", pyarrow.float64()),
        ]
    )


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {key: _readable(each) for key, each in value.items()}
    return [_readable(each) for each in value] if isinstance(value, list) else value
