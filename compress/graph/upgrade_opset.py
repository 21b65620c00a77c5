"""Bring the standard operator set to the one version that the project works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from compress.errors import ModelError
from compress.graph.base import Pass
from compress.graph.opset_adapters import ADAPTERS, Editor
from compress.graph.order import all_graphs
from compress.graph.rewrite import Names
from compress.graph.traversal import is_op

OLDEST_OPSET = 7
SUPPORTED_OPSET = 21
"""The standard operator set version of the canonical form; newer models keep theirs."""

IR_VERSION = 10
"""The first version of the file format that may carry `SUPPORTED_OPSET`."""


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Nodes of opset 7 and newer say the same in opset 21.

    Given:  opset 9,  `%y = Clip(%x) {max=6.0, min=0.0}`
    Result: opset 21, `%y = Clip(%x, %y/min, %y/max)`

    1. Each node is taken through every change of its operator between the two versions
       (`opset_adapters.ADAPTERS`); the bodies of functions and of control flow alike.
    2. Dtypes and ranks must be inferred beforehand: some rewrites ask for them.
    3. Models of `SUPPORTED_OPSET` and newer are left alone.
    """

    name: ClassVar[str] = "upgrade-opset"

    def run(self, model: ir.Model) -> bool:
        """Upgrade the main graph and all functions.

        Raises:
            ModelError: the opset is older than 7, or a node has no newer equivalent.
        """
        names = Names(model)
        changed = _upgrade(model.graph, model.opset_imports, names)
        for function in model.functions.values():
            changed |= _upgrade(function.graph, function.opset_imports, names)
        if model.ir_version < IR_VERSION:
            model.ir_version = IR_VERSION
            changed = True
        return changed


def is_outdated(model: ir.Model) -> bool:
    """Whether `UpgradeOpset` has nodes to upgrade."""
    imports = [model.opset_imports, *(f.opset_imports for f in model.functions.values())]
    return any(opsets.get("", SUPPORTED_OPSET) < SUPPORTED_OPSET for opsets in imports)


def _upgrade(root: ir.Graph, imports: dict[str, int], names: Names) -> bool:
    source = imports.get("")
    if source is None or source >= SUPPORTED_OPSET:
        return False
    if source < OLDEST_OPSET:
        raise ModelError(
            f"the model uses opset {source}; the oldest that is supported is {OLDEST_OPSET}: "
            f"export it again with opset {SUPPORTED_OPSET}"
        )
    for graph in all_graphs(root):
        for node in list(graph):
            for version in range(source + 1, SUPPORTED_OPSET + 1):
                # An adapter may have renamed the operator, hence the look-up per version.
                adapter = ADAPTERS.get((node.op_type, version))
                if adapter is not None and is_op(node, node.op_type):
                    adapter(Editor(node, names))
    imports[""] = SUPPORTED_OPSET
    return True
