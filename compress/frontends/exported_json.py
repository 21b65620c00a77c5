"""Vet the program text (JSON) of a torch.export archive before torch reads it.

torch evaluates parts of this text: shape expressions go through sympy's `eval`, guards and node
names become generated Python, operator names are looked up as attributes of `torch`, and container
contexts import the modules they name. `clean_program` lets through only what an exporter writes and
drops what inference does not need, so that reading the result runs nothing that the file chose.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from compress.errors import ModelError

IDENTIFIER = re.compile(r"(?:[A-Za-z_]\w*)?", re.ASCII)
"""Names of values: torch writes them into Python source as they are."""

LABEL = re.compile(r"[\w.:/+\-<> ]*")
"""Qualified names of weights and the like: no quotes, parentheses or line ends."""

MODULE_STACK = re.compile(r"[\w.,;:/+\-\[\]()<>* ]*")

OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims|quantized|quantized_decomposed|torchvision|torchao|onnx|onnx_symbolic)"
    r"\.(?!__|from_file\b|save\b)\w+\.(?!__)\w+"
    r"|torch\.ops\.aten\.__(?:and|or|xor|lshift|rshift)__\.\w+"
    r"|torch\.ops\.higher_order\.(?:cond|scan|while_loop|map_impl|wrap|invoke_subgraph"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\.(?:sym_\w+|_sym_\w+)"
    r"|math\.(?:ceil|floor|trunc)"
    r"|_operator\.(?:eq|ne|le|ge|lt|gt|neg|pos|abs|invert|not_|and_|or_|xor|mul|add|sub|floordiv"
    r"|mod|pow|truediv|lshift|rshift|getitem)",
    re.ASCII,
)
"""Pure operators. Left out on purpose: those that read or write files, and other libraries'."""

_FUNCTION_NAMES = """
Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs And Or Not Eq Ne Lt Le Gt Ge
Equality Unequality LessThan GreaterThan StrictLessThan StrictGreaterThan Piecewise
ExprCondPair floor ceiling FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt
FloorToInt CeilDiv LShift RShift PowByNatural FloatPow FloatTrueDiv IntTrueDiv
IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat
Identity
"""

FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
"""Calls allowed in a shape expression."""

GROWING = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
"""Functions whose value can be astronomically longer than their text."""

MAX_EXPRESSION = 20_000
MAX_NESTING = 200
MAX_EXPONENT = 64

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_LOGIC = (ast.BitAnd, ast.BitOr)
_SIGNS = (ast.USub, ast.UAdd, ast.Not, ast.Invert)
_NUMBER_TEXT = re.compile(r"[-+0-9.eE]{1,64}")

# containers whose context is plain data and whose members a reader may want to name
_MAPPINGS = frozenset({"builtins.dict", "collections.OrderedDict"})
_SEQUENCES = frozenset({"builtins.tuple", "builtins.list"})


def clean_program(text: bytes) -> bytes:
    """The same program without anything that torch would execute, import or evaluate unsafely.

    Devices become the CPU, so that programs exported on a GPU load anywhere. Containers of unknown
    classes become tuples (or dicts if their keys are known), as only their members matter.

    Raises:
        ModelError: not a program, or it holds something that an exporter does not write.
    """
    try:
        program = json.loads(text.decode("utf-8"))
        if not isinstance(program, dict) or "graph_module" not in program:
            raise ModelError("the .pt2 archive holds no exported program: export the model again")
        return json.dumps(_clean("", program, 0)).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the program in the .pt2 archive is damaged: {error}") from None


def clean_payloads(text: bytes) -> dict[str, dict[str, Any]]:
    """The index of weights or constants, name -> entry, on the CPU and with vetted names."""
    try:
        config = json.loads(text.decode("utf-8"))["config"]
        cleaned = _clean("", config, 0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"the list of weights in the .pt2 archive is damaged: {error}") from None
    if not isinstance(cleaned, dict) or not all(isinstance(e, dict) for e in cleaned.values()):
        raise ModelError("the list of weights in the .pt2 archive is damaged: export it again")
    return cleaned


def _clean(key: str, value: Any, depth: int) -> Any:
    if depth > MAX_NESTING:
        raise ModelError("the program in the .pt2 archive is nested too deeply")
    if isinstance(value, str):
        return _clean_string(key, value)
    if isinstance(value, list):
        return [] if key == "guards_code" else [_clean(key, item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if key == "metadata":
        return _clean_metadata(value)
    if key == "device" or key == "as_device":
        return {"type": "cpu", "index": None}
    if key == "range_constraints":
        # of single symbols only: torch writes bounds of 2*s0 too, but stumbles over them later
        value = {name: bounds for name, bounds in value.items() if IDENTIFIER.fullmatch(name)}
    elif key.endswith("_values"):
        _require_all(IDENTIFIER, value, "value name")
    else:
        _require_all(LABEL, value, "name")
    return {name: _clean(name, item, depth + 1) for name, item in value.items()}


def _clean_string(key: str, text: str) -> str:
    if key in ("target", "as_operator"):
        if not OPERATOR.fullmatch(text):
            raise ModelError(
                f"the .pt2 program calls {_shown(text)}, which cannot be converted to ONNX: "
                "call run_decompositions() on the exported program before saving it"
            )
    elif key == "expr_str":
        if not _is_safe_expression(text):
            raise ModelError(
                f"the .pt2 program has the shape expression {_shown(text)}, which no exporter "
                "writes: it is refused because torch would evaluate it"
            )
    elif key in ("in_spec", "out_spec"):
        return _clean_treespec(text)
    elif key in ("name", "as_name", "forward_arg_names"):
        _require_all(IDENTIFIER, [text], "value name")
    elif key not in ("as_string", "as_strings"):
        _require_all(LABEL, [text], "name")
    return text


def _clean_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    """Of a node's notes only the path of modules it came from is worth keeping."""
    stack = metadata.get("nn_module_stack")
    if isinstance(stack, str) and MODULE_STACK.fullmatch(stack):
        return {"nn_module_stack": stack}
    return {}


def _require_all(pattern: re.Pattern[str], names: Any, what: str) -> None:
    for name in names:
        if not pattern.fullmatch(name):
            raise ModelError(
                f"the .pt2 program has the {what} {_shown(name)}, which no exporter writes: "
                "it is refused because torch would put it into generated code"
            )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _is_safe_expression(text: str) -> bool:
    """Whether `text` is arithmetic on symbols and numbers of moderate size, and nothing else."""
    if len(text) > MAX_EXPRESSION:
        return False
    try:
        return _is_arithmetic(ast.parse(text.strip(), mode="eval").body, powers=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_arithmetic(node: ast.expr, powers: int) -> bool:
    match node:
        case ast.Constant(value=bool()):
            return True
        case ast.Constant(value=int(number)):
            return abs(number) < 2**64
        case ast.Constant(value=float()):
            return True
        case ast.Name(id=name):
            return not name.startswith("_")
        case ast.UnaryOp(op=op, operand=operand):
            return isinstance(op, _SIGNS) and _is_arithmetic(operand, powers)
        case ast.BoolOp(values=values):
            return all(_is_arithmetic(value, powers) for value in values)
        case ast.Compare(left=left, comparators=comparators, ops=ops):
            comparing = all(isinstance(op, ast.cmpop) for op in ops)
            return comparing and all(_is_arithmetic(n, powers) for n in (left, *comparators))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _is_power(left, right, powers)
        case ast.BinOp(left=left, op=op, right=right):
            known = isinstance(op, _OPERATORS + _LOGIC)
            return known and _is_arithmetic(left, powers) and _is_arithmetic(right, powers)
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            assumptions = all(isinstance(k.value, ast.Constant) and k.arg for k in node.keywords)
            return assumptions and bool(name) and bool(IDENTIFIER.fullmatch(name))
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(digits))]):
            return bool(_NUMBER_TEXT.fullmatch(digits)) and all(
                isinstance(k.value, ast.Constant) and k.arg == "precision" for k in node.keywords
            )
        case ast.Call(func=ast.Name(id=name), args=[left, right], keywords=[]) if name in GROWING:
            return _is_power(left, right, powers)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            known = name in FUNCTIONS - GROWING
            return known and all(_is_arithmetic(argument, powers) for argument in args)
        case ast.Tuple(elts=elements):
            return all(_is_arithmetic(element, powers) for element in elements)
    return False


def _is_power(base: ast.expr, exponent: ast.expr, powers: int) -> bool:
    if isinstance(exponent, ast.Call) and exponent.args and not exponent.keywords:
        is_integer = isinstance(exponent.func, ast.Name) and exponent.func.id == "Integer"
        exponent = exponent.args[0] if is_integer else exponent
    if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
        exponent = exponent.operand
    small = (
        isinstance(exponent, ast.Constant)
        and isinstance(exponent.value, int)
        and exponent.value <= MAX_EXPONENT
    )
    return small and powers < 2 and _is_arithmetic(base, powers + 1)


def _clean_treespec(text: str) -> str:
    """How inputs or outputs are nested, in tuples, lists and dicts only."""
    if not text:
        return text
    protocol, root = json.loads(text)
    if protocol != 1:
        raise ModelError(f"the .pt2 archive nests its inputs in an unknown format ({protocol!r})")
    return json.dumps([1, _clean_container(root, 0)])


def _clean_container(spec: Any, depth: int) -> dict[str, Any]:
    if depth > MAX_NESTING or not isinstance(spec, dict):
        raise ModelError("the .pt2 archive describes its inputs or outputs wrongly")
    children = [_clean_container(child, depth + 1) for child in spec.get("children_spec") or []]
    kind = spec.get("type")
    if kind is None:
        return {"type": None, "context": None, "children_spec": []}
    keys = None if kind in _SEQUENCES else _container_keys(spec.get("context"), len(children))
    if keys is not None:
        kind = kind if kind in _MAPPINGS else "builtins.dict"
        return {"type": kind, "context": json.dumps(keys), "children_spec": children}
    kind = kind if kind in _SEQUENCES else "builtins.tuple"
    return {"type": kind, "context": "null", "children_spec": children}


def _container_keys(context: Any, children: int) -> list[str | int] | None:
    """The keys that a container's context lists, if that is what it holds."""
    try:
        keys = json.loads(context) if isinstance(context, str) else None
    except ValueError:
        return None
    if not isinstance(keys, list) or len(keys) != children:
        return None
    plain = all(isinstance(k, int) or (isinstance(k, str) and LABEL.fullmatch(k)) for k in keys)
    return keys if plain else None
