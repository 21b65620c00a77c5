"""What a rewrite of the graph is: a named, frozen dataclass whose fields are its options."""

from __future__ import annotations

import abc
from typing import ClassVar

import onnx_ir as ir


class Pass(abc.ABC):
    """A rewrite Model -> Model. Subclasses are frozen dataclasses; their fields are the options.

    A pass may not depend on anything but the model and its own fields: the same model and the same
    options give the same result, byte for byte.
    """

    name: ClassVar[str]
    """What a user types and what logs show, in kebab-case."""

    @abc.abstractmethod
    def run(self, model: ir.Model) -> bool:
        """Rewrite `model` in place; return whether anything changed.

        Raises:
            ModelError: the model cannot be rewritten, and leaving it alone would be wrong.
        """
