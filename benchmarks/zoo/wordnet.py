"""Words and glosses from the WordNet 3.0 database files."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.zoo import fetch

_EXAMPLE = re.compile(r'"([^"]{25,})"')
_FIRST_EXAMPLE = re.compile(r';\s*"')


def nouns() -> list[str]:
    """Every noun of the index, in the file's order, with spaces for underscores."""
    lines = _lines("index.noun")
    return [line.split()[0].replace("_", " ") for line in lines]


def usage_and_definition() -> list[tuple[str, str]]:
    """(usage example, definition) of every verb, adjective and noun sense that has both."""
    pairs = []
    for name in ("data.verb", "data.adj", "data.noun"):
        for line in _lines(name):
            gloss = line.split("|", 1)[1].strip()
            definition = _FIRST_EXAMPLE.split(gloss)[0].strip()
            examples = _EXAMPLE.findall(gloss)
            if examples and len(definition) > 15 and not definition.startswith("("):
                pairs.append((examples[0], definition))
    return pairs


def _lines(name: str) -> list[str]:
    path: Path = fetch.deb(fetch.WORDNET) / "usr/share/wordnet" / name
    # Lines of the licence at the top of each file begin with a blank.
    return [
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(" ")
    ]
