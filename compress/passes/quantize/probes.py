"""Rewrites that disturb one thing only, to learn what it costs at the network's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import onnx_ir as ir

from compress.graph.base import Pass
from compress.graph.layers import Layer, find_layers
from compress.graph.traversal import attribute_int, constant, new_initializer
from compress.passes.quantize.forms import Form
from compress.passes.quantize.qdq import QuantizeLayers, round_value
from compress.passes.quantize.scales import mse_channel_scales, quantize_symmetric


@dataclasses.dataclass(frozen=True)
class ValueProbe(Pass):
    """One value is rounded to uint8 and back; nothing else changes.

    Given:   v = Relu(x);  y = Conv(v, W)
    Result:  v = Relu(x);  y = Conv(DQ(Q(v)), W)
    """

    name: ClassVar[str] = "probe-value"

    value: str
    low: float
    high: float

    def key(self) -> tuple[object, ...]:
        return ("value", self.value, self.low, self.high)

    def run(self, model: ir.Model) -> bool:
        return round_value(model, self.value, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class WeightProbe(Pass):
    """One layer's weights are rounded as the form would; its input stays float.

    Forms that quantize activations inside the operator (dynamic, block) are written in whole, and
    the value between an integer operator and a smooth activation is rounded as well: both belong
    to the layer alone.
    """

    name: ClassVar[str] = "probe-weight"

    layer: str
    form: Form
    raw: tuple[str, float, float] | None = None
    """The value before a smooth activation, with its range."""
    paired: bool = False
    """See `QuantizeLayers`."""

    @classmethod
    def of(
        cls,
        layer: Layer,
        form: Form,
        ranges: Mapping[str, tuple[float, float]],
        *,
        paired: bool = False,
    ) -> WeightProbe:
        raw = str(layer.node.outputs[0].name)
        rounded = form is Form.INT8 and layer.smooth
        paired = paired and not layer.depthwise and form is not Form.BLOCK
        return cls(layer.name, form, (raw, *ranges[raw]) if rounded else None, paired)

    def key(self) -> tuple[object, ...]:
        return ("weight", self.layer, self.form.value, self.raw or (), self.paired)

    def run(self, model: ir.Model) -> bool:
        layer = next(x for x in find_layers(model) if x.name == self.layer)
        if self.form in (Form.DYNAMIC, Form.BLOCK):
            return QuantizeLayers({self.layer: self.form}, {}, self.paired).run(model)
        weight = constant(layer.weight)
        assert weight is not None
        assert layer.weight is not None
        axis = 0 if layer.op == "Conv" or attribute_int(layer.node, "transB", 0) else 1
        scales = mse_channel_scales(weight, axis, paired=self.paired)
        levels = quantize_symmetric(weight, scales, axis, paired=self.paired)
        shape = [1] * weight.ndim
        shape[axis] = -1
        rounded = levels.astype(weight.dtype) * scales.reshape(shape)
        layer.node.replace_input_with(
            1, new_initializer(model.graph, f"{layer.weight.name}.rounded", rounded)
        )
        if self.raw is not None:
            round_value(model, *self.raw)
        return True
