"""The Python interpreter that has Vela.

`COMPRESS_VELA_PYTHON` names it; otherwise it is a virtual environment in the zoo's folder, which
`python -m benchmarks.tflite.interpreter` creates from requirements.txt.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.zoo.fetch import zoo_folder

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def vela_python() -> Path | None:
    """The interpreter, or None where there is none yet."""
    chosen = os.environ.get("COMPRESS_VELA_PYTHON")
    path = Path(chosen) if chosen else _own_environment() / "bin" / "python"
    return path if path.is_file() else None


def pinned() -> dict[str, str]:
    """Package -> version, as requirements.txt has them."""
    lines = REQUIREMENTS.read_text().splitlines()
    return {line.split("==")[0]: line.split("==")[1] for line in lines if "==" in line}


def _own_environment() -> Path:
    return zoo_folder() / "vela-venv"


def main() -> None:
    if vela_python() is None:
        subprocess.run([sys.executable, "-m", "venv", str(_own_environment())], check=True)
    install = [str(vela_python()), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]
    subprocess.run(install, check=True)
    print(vela_python())


if __name__ == "__main__":
    main()
