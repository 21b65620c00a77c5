"""Brings a model into the form that onnxruntime's quantizers expect."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import onnx
from onnx import version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process

# The first operator set whose QuantizeLinear has an axis, which per-channel weights need.
PER_CHANNEL_OPSET = 13
# From complete to least.
PREPROCESSING: tuple[dict[str, bool], ...] = (
    {},
    {"skip_symbolic_shape": True},
    {"skip_symbolic_shape": True, "skip_onnx_shape": True},
)


def prepared(model: Path, scratch: Path) -> Path:
    """The model as onnxruntime's own pre-processing leaves it (constants as initialisers, batch
    norm folded, shapes inferred), with the parts of it switched off that fail on this model."""
    source = _with_opset(model.resolve(), scratch)
    result = scratch / "prepared.onnx"
    for settings in PREPROCESSING:
        try:
            # what it writes beside the result goes into the working directory
            with contextlib.chdir(scratch):
                quant_pre_process(source, result, **settings)
        except Exception as error:  # it raises what it likes, bare assertions too
            reason = str(error).partition("\n")[0] or type(error).__name__
            print(f"pre-processing with {settings} failed: {reason}", file=sys.stderr)
        else:
            return result
    return source


def _with_opset(model: Path, scratch: Path) -> Path:
    proto = onnx.load(model)
    if all(o.version >= PER_CHANNEL_OPSET for o in proto.opset_import if o.domain == ""):
        return model
    raised = scratch / "raised.onnx"
    onnx.save(version_converter.convert_version(proto, PER_CHANNEL_OPSET), raised)
    return raised
