"""`python -m compress`: the command line."""

from __future__ import annotations

from compress.cli import main

if __name__ == "__main__":
    main(prog_name="compress")
