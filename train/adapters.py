"""Adapters by the digest of their content: where they lie, what they come from, and every form they are wanted in.

An adapter is a folder as PEFT saves it, with `lineage.json` beside the weights: the base's digest, the trainings from
the base on (each with its data's digest, configuration and runs), and the people whose words were seen. The digest
covers weights, configuration and lineage, so it names the same adapter on every machine; the model card and what is
made of the adapter later (a GGUF LoRA for llama.cpp) lie in the folder and change nothing. Whole models that come of a
training bring their lineage too: a folder beside its weights, a GGUF in its metadata.

Invariant: a folder under an adapter's digest holds exactly that adapter; a lineage that is not known from the base on
says `unknown`, and stays so in everything trained on top; a base that was trained is never taken for a fresh one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agents.models.model_folder import LINEAGE, AdapterFolder, fetched, folder_digest, read_adapter
from agents.models.protocol import ModelFailure
from agents.models.weights import EMBEDDED, HUB, locate
from train.config import LoraSettings
from train.gguf_export import (
    NumberFormat,
    kept_in_gguf,
    merge_into_gguf,
    shape_of_folder,
    shape_of_gguf,
    write_lora,
)
from trees.errors import EspalierError, SetupError
from trees.ids import canonical_json
from trees.store import Store
from trees.trainings import AdapterRow, find_adapter

INSTALL = "pip install 'espalier-lm[train]'"
LORA = "lora.gguf"
LINEAGE_KEY = "espalier.lineage"
"""In the metadata of a GGUF: what lies in `lineage.json` beside other weights."""
CARD = "README.md"
Form = Literal["peft", "merged", "gguf-lora", "gguf"]
_KEPT = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class LineageStep:
    """One training of a lineage."""

    id: str
    """Of the training."""
    kind: str
    data: str
    """Digest of what it was trained on."""
    configuration: str
    """Digest of how."""
    runs: tuple[str, ...]
    """Whose trees."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where weights come from."""

    base: str
    """Digest of the base's weights."""
    base_name: str
    """`embedded`, or its name on a hub; "" for files of this machine, whose names mean nothing elsewhere."""
    trainings: tuple[LineageStep, ...]
    """From the base on."""
    people: tuple[tuple[str, str], ...]
    """Profile and personality of everybody whose words were seen: what a benchmark must not measure on."""
    known: bool
    """False if anything of it came from where nobody knows: then others may have been seen too."""
    origin: str = ""
    """Digest of the weights that the first training began with, where those are not the base's own: the base is then
    itself something that was trained, and its trainings and people are counted here."""

    def with_training(self, step: LineageStep, people: Sequence[tuple[str, str]], *, known: bool) -> Lineage:
        """The lineage of what is trained on top."""
        seen = tuple(sorted({*self.people, *people}))
        return replace(self, trainings=(*self.trainings, step), people=seen, known=self.known and known)

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        if not self.origin:
            del found["origin"]
        return {**found, "people": [list(pair) for pair in self.people], "trainings": list(found["trainings"])}


def base_digest(base: str) -> str:
    """Digest of a base's weights: `embedded`, a GGUF file, a folder or a name on the hub. Blocks. Raises SetupError."""
    try:
        return locate(base).digest if is_gguf(base) else folder_digest(fetched(base))
    except ModelFailure as failure:
        raise SetupError(failure.message) from failure


def is_gguf(base: str) -> bool:
    """Whether a base is a GGUF file."""
    return base == EMBEDDED or base.lower().endswith(".gguf")


def lineage_of_base(base: str) -> Lineage:
    """Of a base as it comes, with what it was trained on if it brings that. Blocks. Raises SetupError."""
    digest = base_digest(base)
    name = "" if Path(base).expanduser().exists() else base
    before = _brought(base)
    if before is None:
        return Lineage(digest, name, (), (), known=True)
    return replace(before, base=digest, base_name=name, origin=before.origin or before.base)


def _brought(base: str) -> Lineage | None:
    """The lineage that a whole model brings."""
    if base == EMBEDDED:
        return None
    if is_gguf(base):
        file = locate(base).path
        kept = kept_in_gguf(file, LINEAGE_KEY)
        return None if kept is None else _lineage_in(file, kept)
    return _lineage_beside(fetched(base))


def read_lineage(adapter: AdapterFolder, base: str) -> Lineage:
    """What lies beside an adapter's weights; `unknown` from the base on if nothing does. Raises SetupError."""
    return _lineage_beside(adapter.path) or replace(lineage_of_base(base), known=False)


def _lineage_beside(folder: Path) -> Lineage | None:
    file = folder / LINEAGE
    if not file.is_file():
        return None
    try:
        return _lineage_in(file, file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the lineage {file} cannot be read: {error!r}") from error


def _lineage_in(file: Path, text: str) -> Lineage:
    try:
        return lineage_from(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f"the lineage {file} cannot be read: {error!r}") from error


def lineage_from(value: Mapping[str, Any]) -> Lineage:
    """A lineage of its JSON. Raises KeyError or TypeError for what is none."""
    steps = tuple(LineageStep(**{**step, "runs": tuple(step["runs"])}) for step in value["trainings"])
    people = tuple((str(a), str(b)) for a, b in value["people"])
    known, origin = bool(value["known"]), str(value.get("origin", ""))
    return Lineage(value["base"], value["base_name"], steps, people, known, origin)


# In the store


def adapters_folder(store: Path) -> Path:
    """Where the adapters of a store lie."""
    return store.with_name(f"{store.stem}-adapters")


def keep_adapter_files(trained: Path, store: Path, lineage: Lineage, card: str) -> AdapterFolder:
    """Put what PEFT saved among a store's adapters, under the digest of its content. Raises SetupError.

    The same adapter again is found as it is.
    """
    folder = adapters_folder(store)
    draft = folder / f".draft.{os.getpid()}"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        shutil.copyfile(trained / _KEPT[1], draft / _KEPT[1])
        config = json.loads((trained / _KEPT[0]).read_text(encoding="utf-8"))
        # Where the base lies on this machine is nothing that the adapter is made of, and PEFT asks a hub for names.
        config["base_model_name_or_path"] = _hub_name(lineage.base_name)
        (draft / _KEPT[0]).write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")
        (draft / LINEAGE).write_text(canonical_json(lineage.as_dict()), encoding="utf-8")
        (draft / CARD).write_text(card, encoding="utf-8")
        found = read_adapter(str(draft))
        kept = folder / found.digest
        if not kept.exists():
            _sync(draft)
            draft.rename(kept)
        return read_adapter(str(kept))
    except ModelFailure as failure:
        raise SetupError(failure.message) from failure
    except OSError as error:
        raise SetupError(
            f"the adapter cannot be written to {folder}: {error.strerror or error}",
            hint="Free some space, then go on: the training's last checkpoint is kept.",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def lora_of(adapter: AdapterFolder) -> LoraSettings:
    """The settings that an adapter was made with. Raises SetupError."""
    file = adapter.path / _KEPT[0]
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        targets = kept["target_modules"]
        return LoraSettings(
            rank=kept["r"],
            alpha=kept["lora_alpha"],
            dropout=kept.get("lora_dropout", 0.0),
            targets=targets if isinstance(targets, str) else tuple(sorted(targets)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"the adapter's settings {file} cannot be read: {error}") from error


def keep_model_notes(folder: Path, lineage: Lineage, card: str) -> None:
    """Put lineage and card beside a whole model, so that what is trained on it later knows. Raises SetupError."""
    try:
        for name, text in ((LINEAGE, canonical_json(lineage.as_dict())), (CARD, card)):
            draft = folder / f".{name}.{os.getpid()}"
            draft.write_text(text, encoding="utf-8")
            draft.replace(folder / name)
        _sync(folder)
    except OSError as error:
        raise SetupError(
            f"the lineage cannot be written to {folder}: {error.strerror or error}",
            hint="Free some space, then go on: the training's last checkpoint is kept.",
        ) from error


def _hub_name(base: str) -> str | None:
    return None if base in ("", EMBEDDED) or base.startswith(HUB) else base


class StoredAdapters:
    """Adapters by folder, or by what a store knows them under; see `agents.models.adapters.Adapters`."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def find(self, named: str) -> AdapterFolder:
        if Path(named).expanduser().is_dir():
            return read_adapter(named)
        if any(sign in named for sign in "/\\.~") or not self._store.is_file():
            raise ModelFailure("setup", f"there is no adapter {named!r}: no such folder, and no store to look in")
        try:
            with Store.read(self._store) as store:
                return stored_adapter(store, find_adapter(store, named))
        except EspalierError as error:
            raise ModelFailure("setup", f"there is no adapter {named!r}: {error}") from error

    def as_gguf(self, adapter: AdapterFolder, base: Path) -> Path:
        lora = adapter.path / LORA
        if lora.exists():
            return lora
        try:
            return write_lora(adapter.path, shape_of_gguf(base), lora)
        except SetupError as error:
            raise ModelFailure("setup", str(error)) from error


def stored_adapter(store: Store, row: AdapterRow) -> AdapterFolder:
    """The files of an adapter that the store knows. Raises SetupError if they are not there, or are others."""
    path = store.path.parent / row.path
    try:
        found = read_adapter(str(path))
    except ModelFailure as failure:
        raise SetupError(
            f"the files of adapter {row.id} are not at {path}: {failure.message}",
            hint="Put them back beside the store, or train it again: the same training gives it again.",
        ) from failure
    if found.digest != row.id:
        raise SetupError(
            f"{path} holds {found.digest}, not the adapter {row.id}: its files were changed",
            hint="Put the adapter's own files back.",
        )
    return found


# Exports


def export_adapter(
    adapter: AdapterFolder, form: Form, base: str, out: Path, number_format: NumberFormat = "f16"
) -> Path:
    """Write an adapter in a form that others read: a folder, or a file for the GGUF forms. Blocks. Raises SetupError.

    `base` is its base as a training names it. The card and the lineage go along with a folder.
    """
    if out.exists():
        raise SetupError(f"{out} exists already", hint="Name another place.")
    _check_base(adapter, base)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if form == "peft":
            shutil.copytree(adapter.path, out, ignore=shutil.ignore_patterns(LORA))
        elif form == "merged":
            _write_merged(adapter, base, out)
        elif form == "gguf-lora":
            shape = shape_of_gguf(locate(base).path) if is_gguf(base) else shape_of_folder(fetched(base))
            write_lora(adapter.path, shape, out)
        else:
            _write_gguf(adapter, base, out, number_format)
    except ModelFailure as failure:
        raise SetupError(failure.message) from failure
    except OSError as error:
        raise SetupError(
            f"cannot write {out}: {error.strerror or error}", hint="Free some space, or name another place."
        ) from error
    return out


def _check_base(adapter: AdapterFolder, base: str) -> None:
    digest = base_digest(base)
    if adapter.base not in (None, digest):
        raise SetupError(
            f"the adapter {adapter.digest} was trained on the base {adapter.base}, and {base!r} is {digest}",
            hint="Name its own base with --model.",
        )


def _write_gguf(adapter: AdapterFolder, base: str, out: Path, number_format: NumberFormat) -> None:
    if not is_gguf(base):
        raise SetupError(
            f"{base!r} is no GGUF file, and only those are merged into one",
            hint="Export it --to merged and convert that with llama.cpp's convert_hf_to_gguf.py, "
            "or --to gguf-lora beside a GGUF of the base.",
        )
    merge_into_gguf(locate(base).path, adapter.path, out, number_format, _notes(adapter, base))


def _notes(adapter: AdapterFolder, base: str) -> dict[str, str]:
    """What a whole model says of itself in a GGUF's metadata."""
    return {LINEAGE_KEY: canonical_json(read_lineage(adapter, base).as_dict())}


def _write_merged(adapter: AdapterFolder, base: str, out: Path) -> None:
    """A whole model in the hub's form, in the number format of its base."""
    try:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise SetupError(f"weights are merged by transformers and PEFT ({error}): {INSTALL}") from error
    folder, options = base_files(base)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options)
    # What was de-quantised on loading is plain weights from here on, and has to be saved as such.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    merged = PeftModel.from_pretrained(model, str(adapter.path)).merge_and_unload()
    draft = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        merged.save_pretrained(draft)
        AutoTokenizer.from_pretrained(folder, **options).save_pretrained(draft)
        lineage = canonical_json(read_lineage(adapter, base).as_dict())
        (draft / LINEAGE).write_text(lineage, encoding="utf-8")
        if (adapter.path / CARD).is_file():
            shutil.copyfile(adapter.path / CARD, draft / CARD)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def base_files(base: str) -> tuple[Path, dict[str, str]]:
    """Folder and options of `from_pretrained`. Raises ModelFailure("setup")."""
    if is_gguf(base):
        file = locate(base).path
        return file.parent, {"gguf_file": file.name}
    return fetched(base), {}


def _sync(folder: Path) -> None:
    """Have everything in a folder on disk before the folder gets its name."""
    for path in (*folder.iterdir(), folder):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
