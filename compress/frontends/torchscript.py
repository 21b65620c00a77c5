"""TorchScript archives (.pt) -> Model."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from compress.errors import CompressError, ModelError, UsageError
from compress.frontends import example_inputs as examples
from compress.frontends.archive import open_archive
from compress.frontends.module import convert, quiet, rename_signature, require_torch
from compress.frontends.onnx_file import load_proto
from compress.frontends.pickles import first_line
from compress.frontends.torchscript_ops import decompositions

_FILE_ACCESS = re.compile(r"\b(?<!def )(save|from_file|debugprims)\b")
"""The operators of TorchScript that read or write files; its interpreter would run them."""

_LEGACY_OPSET = 17


def load_torchscript(
    path: Path,
    inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> ir.Model:
    """The TorchScript module at `path`, specialised to the shapes of its inputs.

    The shapes come from `inputs`, from `shapes`, or from the file if it was traced.

    Raises:
        UsageError: input shapes are not known, or do not fit.
        ModelError: damaged, it accesses files, or it has no ONNX form.
    """
    require_torch()
    import torch

    with quiet(), torch.no_grad(), torch.jit.optimized_execution(False):
        script = _read(path)
        names, defaults = _input_names(script)
        if inputs is not None:
            args, kwargs = examples.as_arguments(inputs)
            args = _in_order(args, kwargs, names)
        else:
            args = _example_arguments(path, script, names, defaults, shapes or {})
        try:
            return _convert_by_running(script, args, names)
        except ModelError as error:
            model = _convert_by_graph(script, args, names)
            if model is None:
                raise error
            return model


def traced_inputs(path: Path) -> list[tuple[tuple[int, ...], str]] | None:
    """(shape, dtype) of each input that the archive's module was traced with, if it tells.

    torch.jit.trace stores them as a pickle. It is read with every function in it replaced by one
    of this file, so that nothing it names is called.
    """
    with open_archive(path) as archive:
        if "traced_inputs.pkl" not in archive:
            return None
        content = archive.read("traced_inputs.pkl")
    try:
        methods = _TracedInputs(io.BytesIO(content)).load()
        tensors = methods["forward"]
    except Exception:
        # only a convenience: without it the user gives shapes
        return None
    if not isinstance(tensors, list) or not all(isinstance(t, _TracedTensor) for t in tensors):
        return None
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


class _TracedTensor:
    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = dtype


class _TracedInputs(pickle.Unpickler):
    """Knows tensors, lists and dicts of them; of a tensor it keeps shape and dtype."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.jit._pickle", "restore_type_tag"):
            return lambda value, _tag: value
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, _offset, size, *_: _TracedTensor(tuple(map(int, size)), storage)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> str:
        return str(pid[1])


_STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


def _read(path: Path) -> Any:
    import torch

    try:
        # torch's own reader, so that what is searched is what torch.jit.load will compile
        reader = torch._C.PyTorchFileReader(str(path))
        for name in reader.get_all_records():
            if name.endswith(".py"):
                found = _FILE_ACCESS.search(reader.get_record(name).decode("utf-8", "replace"))
                if found:
                    raise ModelError(
                        f"{path} may access files when it runs (it says '{found[1]}' in {name}): "
                        "it is refused; export it with torch.export instead"
                    )
        return torch.jit.load(str(path), map_location="cpu").eval()
    except CompressError:
        raise
    except Exception as error:
        raise ModelError(f"cannot read the TorchScript file {path}: {first_line(error)}") from None


def _input_names(script: Any) -> tuple[list[str], int]:
    """The names of the inputs of forward, and how many at the end have a default."""
    try:
        arguments = list(script.forward.schema.arguments)[1:]
    except (AttributeError, RuntimeError):
        raise ModelError("the TorchScript file has no forward method: export it again") from None
    defaults = sum(argument.has_default_value() for argument in arguments)
    return [argument.name for argument in arguments], defaults


def _in_order(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Sequence[str]
) -> tuple[Any, ...]:
    unknown = [name for name in kwargs if name not in names]
    if unknown:
        raise UsageError(f"the model has no input '{unknown[0]}' (it has: {', '.join(names)})")
    _require_first(names, {*names[: len(args)], *kwargs})
    return (*args, *(kwargs[name] for name in names[len(args) :] if name in kwargs))


def _require_first(names: Sequence[str], given: Collection[str]) -> None:
    """Arguments go to TorchScript by position, so that only the last ones can be left out."""
    used = [name in given for name in names]
    if False in used and True in used[used.index(False) :]:
        raise UsageError(f"there is no shape or example input for '{names[used.index(False)]}'")


def _example_arguments(
    path: Path,
    script: Any,
    names: Sequence[str],
    defaults: int,
    shapes: Mapping[str, Sequence[int]],
) -> tuple[Any, ...]:
    required = names[: len(names) - defaults]
    traced = traced_inputs(path)
    if traced is not None and len(required) <= len(traced) <= len(names):
        return _like_traced(traced, names, shapes)
    examples.check_names(shapes, required, names[len(required) :])
    _require_first(names, shapes)
    inputs = examples.from_shapes(
        {name: shapes[name] for name in names if name in shapes},
        lambda tensors: script(*tensors.values()),
    )
    return tuple(inputs.values())


def _like_traced(
    traced: Sequence[tuple[tuple[int, ...], str]],
    names: Sequence[str],
    shapes: Mapping[str, Sequence[int]],
) -> tuple[Any, ...]:
    """Tensors like those it was traced with, except where `shapes` says otherwise."""
    import torch

    examples.check_names(shapes, (), names)
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for name, (shape, dtype) in zip(names, traced, strict=False):
        kind = getattr(torch, dtype)
        size = tuple(shapes.get(name, shape))
        if kind.is_floating_point:
            inputs.append(torch.rand(size, generator=generator).to(kind))
        else:
            inputs.append(torch.zeros(size, dtype=kind))
    return tuple(inputs)


def _convert_by_running(script: Any, args: tuple[Any, ...], names: Sequence[str]) -> ir.Model:
    """Trace the operators that the TorchScript interpreter runs, as for any torch module.

    Control flow that shapes and constants decide disappears on the way.
    """
    import torch

    class Interpreted(torch.nn.Module):  # type: ignore[misc]
        def forward(self, *inputs: Any) -> Any:
            return script(*inputs)

    try:
        program = torch.export.export(Interpreted(), args, strict=False)
        program = program.run_decompositions(decompositions())
    except Exception as error:
        lines = [line for line in str(error).splitlines() if "Error: " in line]
        reason = lines[-1].strip() if lines else first_line(error)
        raise ModelError(f"torch.export cannot trace the TorchScript: {reason[:300]}") from None
    return convert(
        program, input_names=names[: len(args)], weight_names=_weight_names(script, program)
    )


def _weight_names(script: Any, program: Any) -> dict[str, str]:
    """The interpreter's weights appear as anonymous constants: the name of each in the module."""
    known = {
        (tensor.data_ptr(), tuple(tensor.shape)): name
        for name, tensor in (*script.named_buffers(), *script.named_parameters())
    }
    names = {}
    for anonymous, tensor in program.constants.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key in known:
            names[anonymous] = known[key]
    return names


def _convert_by_graph(script: Any, args: tuple[Any, ...], names: Sequence[str]) -> ir.Model | None:
    """The older exporter, which translates the graph itself and so keeps control flow on data.

    None where it fails: the newer one's message is the clearer one.
    """
    import torch

    content = io.BytesIO()
    # this exporter wants every argument
    defaults = [a.default_value for a in list(script.forward.schema.arguments)[1 + len(args) :]]
    logged = torch._C._jit_is_onnx_log_enabled()
    torch._C._jit_set_onnx_log_enabled(False)
    try:
        torch.onnx.export(
            script,
            (*args, *defaults),
            content,
            dynamo=False,
            opset_version=_LEGACY_OPSET,
            input_names=list(names[: len(args)]),
        )
        model = load_proto(onnx.ModelProto.FromString(content.getvalue()))
    except Exception:
        return None
    finally:
        torch._C._jit_set_onnx_log_enabled(logged)
    # those that are None do not become inputs
    _fix_inputs(model.graph, len(args), [value for value in defaults if value is not None])
    count = len(model.graph.outputs)
    outputs = ["output"] if count == 1 else [f"output_{index}" for index in range(count)]
    rename_signature(model, None, outputs)
    return model


def _fix_inputs(graph: ir.Graph, first: int, values: Sequence[Any]) -> None:
    """Make the inputs from `first` on constants of the given values."""
    for value, default in zip(list(graph.inputs[first:]), values, strict=False):
        name, dtype = value.name or "", value.dtype
        if dtype is None:
            raise ModelError(f"the TorchScript input '{name}' has a default that ONNX cannot hold")
        graph.inputs.remove(value)
        value.const_value = ir.tensor(default, dtype=dtype, name=name)
        graph.register_initializer(value)
