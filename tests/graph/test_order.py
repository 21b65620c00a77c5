"""Topological order of graphs of any depth and length."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from compress.errors import ModelError
from compress.graph.order import (
    all_graphs,
    captured_values,
    node_label,
    shown,
    sort_graphs,
    subgraphs,
    topological_order,
)

NESTED = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[N] x, bool c) => (float[N] y) {
    y = If (c) <
        then_branch = a () => (p) {
            p = If (c) <
                then_branch = b () => (q) { q = Relu (late) },
                else_branch = d () => (r) { r = Neg (x) }
            >
        },
        else_branch = e () => (s) { s = Abs (x) }
    >
    late = Exp (x)
}
"""


def chain(length):
    x = ir.val("x", ir.DataType.FLOAT, [1])
    nodes, value = [], x
    for index in range(length):
        node = ir.node("Relu", [value], name=f"n{index}")
        value = node.outputs[0]
        value.name = f"v{index}"
        nodes.append(node)
    return ir.Graph([x], [value], nodes=nodes, opset_imports={"": 21}, name="chain")


def test_captured_values_count_as_inputs():
    graph = ir.from_onnx_text(NESTED).graph
    branch, late = list(graph)
    assert {v.name for v in captured_values(branch)} == {"c", "x", "late"}
    assert topological_order(graph) == [late, branch]


def test_sorting_moves_only_what_must():
    graph = ir.from_onnx_text(NESTED).graph
    assert sort_graphs(graph)
    assert [n.op_type for n in graph] == ["Exp", "If"]
    assert not sort_graphs(graph)


def test_all_graphs_lists_outer_before_inner():
    graph = ir.from_onnx_text(NESTED).graph
    assert [g.name for g in all_graphs(graph)] == ["g", "a", "e", "b", "d"]
    assert [g.name for g in subgraphs(graph[0])] == ["a", "e"]


def test_long_chain_backwards():
    graph = chain(50_000)
    graph.extend(reversed(list(graph)))
    assert sort_graphs(graph)
    assert [n.name for n in graph] == [f"n{i}" for i in range(50_000)]


def test_cycle_is_an_error_that_names_a_node():
    graph = chain(5)
    graph[1].replace_input_with(0, graph[3].outputs[0])
    with pytest.raises(ModelError, match="cycle through Relu node 'n1'"):
        topological_order(graph)


def test_messages_are_one_short_line_whatever_the_names():
    assert shown("plain") == "'plain'"
    assert shown("two\nlines\x1b[31m") == "'two?lines?[31m'"
    assert len(shown("x" * 10_000)) < 110
    node = ir.node("Op\n", [], domain="own", name="n" * 500)
    assert "\n" not in node_label(node)
    assert node_label(node).startswith("own.Op? node 'nnn")
