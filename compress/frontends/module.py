"""Live torch models -> Model: the way from torch to ONNX that every torch format shares."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.errors import ModelError, UsageError
from compress.frontends import example_inputs as examples
from compress.frontends.pickles import first_line

_KEPT_NOTE = "pkg.torch.onnx.name_scopes"
"""Where in the module tree a node comes from; torch's other notes hold paths of the exporter."""

_NOTES = "pkg.torch."
_REARRANGING = ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast")


def load_module(
    module: Any,
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    copy_weights: bool = True,
) -> ir.Model:
    """Export a live `torch.nn.Module` in evaluation mode; it is left as it was.

    inputs: a tuple (positional), a dict (by parameter name) or one tensor; NumPy arrays will do.
    shapes: input name -> shape, used when there are no `inputs`.
    copy_weights: False if nobody will change the module's weights, to share their memory.

    Raises:
        UsageError: neither inputs nor shapes, or they do not fit the module.
        ModelError: torch cannot export it; the message says why.
    """
    require_torch()
    import torch

    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), quiet():
            args, kwargs = _arguments(module, inputs, shapes)
            program = _export(module, args, kwargs)
            return convert(program, copy_weights=copy_weights)
    finally:
        for part, training in modes.items():
            part.training = training


def load_exported_program(program: Any) -> ir.Model:
    """Convert a live `torch.export.ExportedProgram`; its dynamic dimensions stay dynamic.

    Raises:
        ModelError: an operator has no ONNX form; the message names it.
    """
    require_torch()
    with quiet():
        return convert(program, copy_weights=True)


def convert(
    program: Any,
    *,
    input_names: Sequence[str] | None = None,
    weight_names: Mapping[str, str] | None = None,
    copy_weights: bool = False,
) -> ir.Model:
    """The ONNX form of an exported program. Call inside `quiet`.

    input_names: replace the names in the program, in order.
    weight_names: name in the program -> name to give the initialiser.
    copy_weights: whether somebody may change the program's weights while the model is in use.

    Weights are initialisers under their names in torch. Outputs are named by the keys they were
    returned under, or 'output' or 'output_0', 'output_1', ...
    """
    import torch

    outputs = output_names(program)
    try:
        exported = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
        assert exported is not None
        _rename_weights(exported.model, weight_names or {})
        origins = _mark_rearranged(exported.model)
        exported.optimize()
    except Exception as error:
        raise ModelError(f"torch cannot convert the model to ONNX: {_reason(error)}") from None
    model: ir.Model = exported.model
    _name_rearranged(model, origins)
    _detach(model, copy_weights)
    rename_signature(model, input_names or _user_inputs(program), outputs)
    if not any(True for _ in model.graph):
        raise ModelError("the model computes nothing: its ONNX form has no nodes")
    return model


def _user_inputs(program: Any) -> list[str]:
    """The names of the tensors that the program takes; weights are not among them."""
    import torch

    specs = program.graph_signature.input_specs
    kind = torch.export.graph_signature.InputKind.USER_INPUT
    return [
        spec.arg.name
        for spec in specs
        if spec.kind == kind and isinstance(spec.arg, torch.export.graph_signature.TensorArgument)
    ]


def output_names(program: Any) -> list[str]:
    """A name per output tensor of an exported program, from the structure that it returns."""
    import torch.utils._pytree as pytree

    spec = program.call_spec.out_spec
    if spec is None:
        return []
    leaves = pytree.tree_flatten_with_path(pytree.tree_unflatten([0] * spec.num_leaves, spec))[0]
    paths = [[_key(entry) for entry in path] for path, _ in leaves]
    if paths == [[]]:
        return ["output"]
    # bare positions say nothing: output_0; keys speak for themselves: logits, hidden.0
    return [
        ".".join(path) if not path[0].isdigit() else "_".join(["output", *path]) for path in paths
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's and onnxscript's warnings and log lines away from the user's terminal.

    Their loggers write through handlers of their own, so logging as a whole is switched off.
    Failed exports print whole graphs; what they mean is in the exception.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    swallowed = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(swallowed),
            contextlib.redirect_stderr(swallowed),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def require_torch() -> None:
    """Raise a UsageError that says what to install if the torch extra is missing."""
    try:
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        missing = error.name or "torch"
        raise UsageError(
            f"PyTorch models need '{missing}': install compress with its torch extra, "
            "as in pip install '.[torch]'"
        ) from None


def _arguments(
    module: Any, inputs: Any, shapes: Mapping[str, Sequence[int]] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    required, optional, variadic = examples.forward_parameters(module.forward)
    if inputs is None:
        examples.check_names(shapes or {}, required, optional, variadic)
        if not shapes:
            raise UsageError(
                "the model's input shapes are not known: give --shape NAME=1x3x224x224, or example "
                "inputs"
            )
        return (), examples.from_shapes(shapes, lambda tensors: module(**tensors))
    args, kwargs = examples.as_arguments(inputs)
    unknown = [name for name in kwargs if name not in (*required, *optional)]
    if unknown and not variadic:
        known = ", ".join((*required, *optional))
        raise UsageError(f"the model has no input '{unknown[0]}' (it has: {known})")
    missing = [name for name in required[len(args) :] if name not in kwargs]
    if missing:
        raise UsageError(f"there is no example input for '{missing[0]}' of the model")
    return args, kwargs


def _export(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An exported program; first without Dynamo, which understands fewer models but fails less."""
    import torch

    failure: Exception | None = None
    for strict in (False, True):
        try:
            return torch.export.export(module, args, kwargs, strict=strict)
        except Exception as error:
            failure = failure or error
    assert failure is not None
    raise ModelError(f"torch.export cannot trace the model: {_reason(failure)}") from None


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of exceptions, in one line without advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = first_line(error)
    return f"{type(error).__name__}: {text}"[:400]


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _rename_weights(model: ir.Model, names: Mapping[str, str]) -> None:
    for value in list(model.graph.initializers.values()):
        name = names.get(value.name or "")
        if name and name not in model.graph.initializers:
            value.name = name


def _mark_rearranged(model: ir.Model) -> dict[str, str]:
    """Name values that are a weight rearranged, so that folding them keeps a telling name.

    Returns: that name -> the weight's name.
    """
    origins: dict[str, str] = {}
    for node in model.graph:
        source = node.inputs[0] if node.op_type in _REARRANGING and node.inputs else None
        if source is None or source.name is None:
            continue
        origin = origins.get(source.name)
        if source.is_initializer():
            origin = source.name
        output = node.outputs[0]
        if origin is None or output.is_graph_output():
            continue
        name = f"{source.name}.{node.op_type.lower()}"
        if name not in origins:
            output.name = name
            origins[name] = origin
    return origins


def _name_rearranged(model: ir.Model, origins: Mapping[str, str]) -> None:
    """Rearranged weights take over the name of the weight where nothing else reads that one."""
    initializers = model.graph.initializers
    for name, origin in origins.items():
        if name in initializers and origin not in initializers:
            initializers[name].name = origin


def _detach(model: ir.Model, copy_weights: bool) -> None:
    """Hold weights as plain arrays and drop torch's notes on nodes and values."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and type(tensor) is not ir.Tensor:
                array = np.asarray(tensor.numpy(), order="C")
                array = array.copy() if copy_weights else array
                value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
    for node in model.graph.all_nodes():
        _drop_notes(node.metadata_props)
        for output in node.outputs:
            _drop_notes(output.metadata_props)
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        _drop_notes(value.metadata_props)


def _drop_notes(notes: MutableMapping[str, str]) -> None:
    for note in [name for name in notes if name.startswith(_NOTES) and name != _KEPT_NOTE]:
        del notes[note]


def rename_signature(
    model: ir.Model, input_names: Sequence[str] | None, outputs: Sequence[str]
) -> None:
    """Rename inputs and outputs in order, inputs first; a taken name gets underscores after it."""
    graph = model.graph
    wanted: list[tuple[ir.Value, str]] = []
    if input_names is not None and len(input_names) == len(graph.inputs):
        wanted += zip(graph.inputs, input_names, strict=True)
    if len(outputs) == len(graph.outputs) and len(set(graph.outputs)) == len(outputs):
        # an input returned as it is keeps its name
        wanted += [(v, n) for v, n in zip(graph.outputs, outputs, strict=True) if v.producer()]
    renamed = {value for value, _ in wanted}
    values = (*graph.inputs, *graph.initializers.values(), *(v for n in graph for v in n.outputs))
    taken = {value.name for value in values if value not in renamed}
    final: dict[ir.Value, str] = {}
    for value, name in wanted:
        while name in taken:
            name += "_"
        taken.add(name)
        final[value] = name
    for value, name in final.items():
        value.name = name
