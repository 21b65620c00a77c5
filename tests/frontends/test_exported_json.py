"""What of an exported program's text reaches torch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compress.errors import ModelError
from compress.frontends.exported_json import clean_payloads, clean_program

LEAF = {"type": None, "context": None, "children_spec": []}


def program(**graph_module: Any) -> bytes:
    return json.dumps({"graph_module": {"graph": graph_module}}).encode()


def cleaned(**graph_module: Any) -> Any:
    return json.loads(clean_program(program(**graph_module)))["graph_module"]["graph"]


def expression(text: str) -> dict[str, Any]:
    return {"sizes": [{"as_expr": {"expr_str": text}}]}


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s40', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s39', positive=True, integer=True))",
        "Add(Mul(Integer(-1), FloorDiv(Symbol('s0'), Integer(2))), Integer(1))",
        "Piecewise(ExprCondPair(Integer(1), StrictLessThan(Symbol('s0'), Integer(4))))",
        "Float('1.5', precision=53)",
        "Pow(Symbol('s0', integer=True), Integer(-2))",
        "2*s0 + s1//2 - 1",
        "Mod(s0, 8)",
        "s0**2",
        "Max(1, s0)",
        "s0 >= 2",
        "u0",
    ],
)
def test_shape_arithmetic_passes_unchanged(text: str) -> None:
    assert cleaned(x=expression(text))["x"] == expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "s0.func",
        "[x for x in s0]",
        "lambda: s0",
        "Symbol('__import__(1)')",
        "Symbol(exec('1'))",
        "Float('1); import os')",
        "lambdify(s0, 1)",
        "sympify('1')",
        "'text'",
        "f'{s0}'",
        "_private",
        "2**10**10",
        "9**9**9**9",
        "Pow(Integer(2), Symbol('s0'))",
        "LShift(1, 1000000000000)",
        "(((s0**2)**2)**2)",
        "1" * 100,
        "(" * 5000 + "s0" + ")" * 5000,
        "s0 if s0 else s1",
        "s0; s1",
        "",
        "Max(*s0)",
    ],
)
def test_anything_else_in_a_shape_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="shape expression"):
        clean_program(program(x=expression(text)))


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.conv2d.default",
        "torch.ops.aten.__and__.Tensor",
        "torch.ops.aten._assert_scalar.default",
        "torch.ops.higher_order.cond",
        "torch.ops.quantized_decomposed.quantize_per_tensor.default",
        "_operator.floordiv",
        "torch.sym_max",
        "math.ceil",
    ],
)
def test_operators_pass(target: str) -> None:
    nodes = [{"target": target, "inputs": []}]
    assert cleaned(nodes=nodes)["nodes"] == nodes


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.load_library.__func__.__call__",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.__class__.mro",
        "torch.ops.aten.add.__call__",
        "torch.ops.own.op.default",
        "torch.ops.higher_order.triton_kernel_wrapper_mutation",
        "_operator.methodcaller",
        "math.__loader__",
        "#extension:op",
        "torch.ops.aten.add.default\n",
    ],
)
def test_other_callables_are_refused(target: str) -> None:
    with pytest.raises(ModelError, match="cannot be converted"):
        clean_program(program(nodes=[{"target": target}]))
    with pytest.raises(ModelError, match="cannot be converted"):
        clean_program(program(nodes=[{"arg": {"as_operator": target}}]))


@pytest.mark.parametrize("name", ["a b", "x)", "x\n", "x;y", "x'", "x.y", "é"])
def test_value_names_are_identifiers(name: str) -> None:
    for graph in ({"a": {"name": name}}, {"tensor_values": {name: {}}}, {"a": {"as_name": name}}):
        with pytest.raises(ModelError, match="value name"):
            clean_program(program(**graph))


@pytest.mark.parametrize("name", ["layer.0.weight", "my-layer.bias", "parametrizations.w:0", ""])
def test_weight_names_may_be_paths(name: str) -> None:
    assert cleaned(spec={"parameter_name": name})["spec"] == {"parameter_name": name}


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "a\nb", "a(b)", "a;b"])
def test_weight_names_without_quotes(name: str) -> None:
    with pytest.raises(ModelError):
        clean_program(program(spec={"parameter_name": name}))


def test_strings_that_are_operator_arguments_stay() -> None:
    arguments = [{"as_string": "bij,bjk->bik"}, {"as_strings": ["(a) 'b'"]}]
    assert cleaned(inputs=arguments)["inputs"] == arguments


def test_notes_and_guards_are_dropped_and_devices_become_the_cpu() -> None:
    stack = "L__self__,,net.Net;L__self___conv,conv,torch.nn.modules.conv.Conv2d"
    graph = cleaned(
        metadata={"nn_module_stack": stack, "stack_trace": "File 'x'", "custom": "{}"},
        guards_code=["import os"],
        device={"type": "cuda", "index": 1},
        range_constraints={"s0": {"min_val": 1}, "2*s0": {"min_val": 2}},
    )
    assert graph["metadata"] == {"nn_module_stack": stack}
    assert graph["guards_code"] == []
    assert graph["device"] == {"type": "cpu", "index": None}
    assert graph["range_constraints"] == {"s0": {"min_val": 1}}
    assert cleaned(metadata={"nn_module_stack": "a'b"})["metadata"] == {}


def container(kind: str, context: object, *children: Any) -> dict[str, Any]:
    return {"type": kind, "context": context, "children_spec": list(children)}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (LEAF, LEAF),
        (
            container("builtins.tuple", "null", LEAF, container("builtins.list", "null", LEAF)),
            container("builtins.tuple", "null", LEAF, container("builtins.list", "null", LEAF)),
        ),
        (
            container("builtins.dict", '["a", "b"]', LEAF, LEAF),
            container("builtins.dict", '["a", "b"]', LEAF, LEAF),
        ),
        (
            container("transformers.ModelOutput", '["logits"]', LEAF),
            container("builtins.dict", '["logits"]', LEAF),
        ),
        (
            container("collections.defaultdict", '{"default_factory_module": "this"}', LEAF),
            container("builtins.tuple", "null", LEAF),
        ),
        (
            container("builtins.dict", '["a\\"b"]', LEAF),
            container("builtins.tuple", "null", LEAF),
        ),
    ],
)
def test_structures_become_tuples_lists_and_dicts(spec: Any, expected: Any) -> None:
    text = cleaned(signature={"in_spec": json.dumps([1, spec])})["signature"]["in_spec"]
    assert json.loads(text) == [1, expected]


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"\xff\xfe", b"{" * 10, b'{"graph_module": ' + b"[" * 100_000]
)
def test_damaged_text_is_refused(text: bytes) -> None:
    with pytest.raises(ModelError):
        clean_program(text)
    with pytest.raises(ModelError):
        clean_payloads(text)


def test_deep_nesting_is_refused() -> None:
    nested: Any = 1
    for _ in range(300):
        nested = [nested]
    with pytest.raises(ModelError, match="nested too deeply"):
        clean_program(program(x=nested))
