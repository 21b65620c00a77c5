"""The Python interpreter that has the peers' packages.

`COMPRESS_PEERS_PYTHON` names it; otherwise it is a virtual environment in the zoo's folder, which
`python -m benchmarks.peers.interpreter` creates from requirements.txt.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.zoo.fetch import zoo_folder

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def peers_python() -> Path | None:
    """The interpreter, or None where there is none yet."""
    chosen = os.environ.get("COMPRESS_PEERS_PYTHON")
    path = Path(chosen) if chosen else _own_environment() / "bin" / "python"
    return path if path.is_file() else None


def _own_environment() -> Path:
    return zoo_folder() / "peers-venv"


def main() -> None:
    if peers_python() is None:
        subprocess.run([sys.executable, "-m", "venv", str(_own_environment())], check=True)
    install = [str(peers_python()), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]
    subprocess.run(install, check=True)
    print(peers_python())


if __name__ == "__main__":
    main()
