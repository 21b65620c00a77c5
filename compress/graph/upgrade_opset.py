"""Bring the standard operator set to the one version that the project works on."""

from __future__ import annotations

import onnx_ir as ir

SUPPORTED_OPSET = 21
"""The standard operator set version of the canonical form; newer models keep theirs."""


def upgrade_opset(model: ir.Model) -> ir.Model:
    """First version: the converter of onnx on the whole model."""
    import onnx
    from onnx import version_converter

    if model.opset_imports.get("", SUPPORTED_OPSET) >= SUPPORTED_OPSET:
        return model
    proto = ir.to_proto(model)
    converted = ir.from_proto(version_converter.convert_version(proto, SUPPORTED_OPSET))
    assert isinstance(proto, onnx.ModelProto)
    for prop, text in model.metadata_props.items():
        converted.metadata_props[prop] = text
    return converted
