"""What changed in the meaning of the standard operators between opsets 7 and 21.

`ADAPTERS` has one entry per change that a node must be rewritten for; every other new version of an
operator only widened its types or added attributes whose defaults mean the old behaviour. Source:
the operators' changelog in the ONNX specification; where that leaves room (the rounding of Resize
and Upsample before opset 11), what onnxruntime computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from compress.errors import ModelError
from compress.graph.order import node_label
from compress.graph.rewrite import Names, input_of, new_node, small_constant
from compress.graph.traversal import attribute_int, is_op, rank

_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare",
)  # fmt: skip


class Editor:
    """Rewrites one node: what it adds is placed before the node, with names derived from it."""

    def __init__(self, node: ir.Node, names: Names) -> None:
        self.node = node
        self._names = names
        self._hint = node.outputs[0].name or node.name or node.op_type

    def add(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: int) -> ir.Value:
        """The output of a new node before this one."""
        attrs = {name: ir.AttrInt64(name, value) for name, value in attributes.items()}
        hint = f"{self._hint}/{op_type}"
        new = new_node(
            op_type, inputs, before=self.node, names=self._names, hint=hint, attributes=attrs
        )
        return new.outputs[0]

    def constant(self, data: npt.ArrayLike, suffix: str) -> ir.Value:
        """A new Constant before this node."""
        tensor = ir.tensor(np.asarray(data))
        new = new_node(
            "Constant",
            [],
            before=self.node,
            names=self._names,
            hint=f"{self._hint}/{suffix}",
            attributes={"value": ir.AttrTensor("value", tensor)},
        )
        new.outputs[0].type = ir.TensorType(tensor.dtype)
        new.outputs[0].shape = ir.Shape(tensor.shape.numpy())
        return new.outputs[0]

    def number_like(self, number: float, like: ir.Value | None, suffix: str) -> ir.Value:
        """A scalar Constant of the dtype of `like`, which need not be known."""
        if like is not None and like.dtype is not None:
            return self.constant(np.asarray(number, dtype=like.dtype.numpy()), suffix)
        return self.add("CastLike", [self.constant(np.float32(number), suffix), like])

    def set_input(self, index: int, value: ir.Value | None) -> None:
        """Make `value` input `index`, leaving out the ones between."""
        if index >= len(self.node.inputs):
            if value is None:
                return
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)

    def set_inputs(self, values: Sequence[ir.Value | None]) -> None:
        """Make `values` all the inputs."""
        self.node.resize_inputs(len(values))
        for index, value in enumerate(values):
            self.node.replace_input_with(index, value)

    def set_attribute(self, attribute: ir.Attr) -> None:
        """Set an attribute."""
        self.node.attributes[attribute.name] = attribute

    def refuse(self, why: str) -> ModelError:
        """The error that ends the upgrade at this node."""
        return ModelError(f"{node_label(self.node)} cannot be brought to a newer opset: {why}")


Adapter = Callable[[Editor], None]


def _ints_to_input(attribute: str, index: int) -> Adapter:
    """An INTS attribute becomes the int64 input `index`; absent or empty stays absent."""

    def adapt(edit: Editor) -> None:
        found = edit.node.attributes.pop(attribute, None)
        if found is not None and found.value:
            edit.set_input(index, edit.constant(np.asarray(found.as_ints(), np.int64), attribute))

    return adapt


def _batch_normalization_9(edit: Editor) -> None:
    """`spatial=0` has statistics per element, (C, D1, ...): plain arithmetic says the same."""
    node = edit.node
    spatial = attribute_int(node, "spatial", 1)
    node.attributes.pop("spatial", None)
    if spatial:
        return
    x, scale, bias, mean, variance = node.inputs[:5]
    epsilon = node.attributes.get("epsilon")
    offset = edit.number_like(1e-5 if epsilon is None else epsilon.as_float(), variance, "epsilon")
    deviation = edit.add("Sqrt", [edit.add("Add", [variance, offset])])
    normal = edit.add("Div", [edit.add("Sub", [x, mean]), deviation])
    _drop_training_outputs(edit)
    node.op_type = "Add"
    node.attributes.clear()
    edit.set_inputs([edit.add("Mul", [normal, scale]), bias])


def _drop_training_outputs(edit: Editor) -> None:
    """Before opset 14 further outputs meant training; unread ones were never computed."""
    node = edit.node
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise edit.refuse("its training outputs are used; export the model for inference")
    node.resize_outputs(1)


def _clip_11(edit: Editor) -> None:
    """The bounds become inputs, of the dtype of the data."""
    x = input_of(edit.node, 0)
    for index, name in ((1, "min"), (2, "max")):
        bound = edit.node.attributes.pop(name, None)
        if bound is not None:
            edit.set_input(index, edit.number_like(bound.as_float(), x, name))


def _dropout_12(edit: Editor) -> None:
    """Inference ignores the ratio, which became an input."""
    edit.node.attributes.pop("ratio", None)


def _dft_20(edit: Editor) -> None:
    axis = attribute_int(edit.node, "axis", 1)
    edit.node.attributes.pop("axis", None)
    edit.set_input(2, edit.constant(np.int64(axis), "axis"))


def _grid_sample_20(edit: Editor) -> None:
    """Two modes were renamed."""
    mode = edit.node.attributes.get("mode")
    renamed = {"bilinear": "linear", "bicubic": "cubic"}
    old = "bilinear" if mode is None else mode.as_string()
    edit.set_attribute(ir.AttrString("mode", renamed.get(old, old)))


def _group_normalization_21(edit: Editor) -> None:
    """Scale and bias are per channel, no longer per group."""
    node = edit.node
    groups = attribute_int(node, "num_groups", 1)
    x = input_of(node, 0)
    shape = None if x is None else x.shape
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        raise edit.refuse("its number of channels is not known")
    for index in (1, 2):
        column = edit.add("Reshape", [node.inputs[index], edit.constant([groups, 1], "column")])
        spread = edit.add("Expand", [column, edit.constant([1, channels // groups], "spread")])
        edit.set_input(index, edit.add("Reshape", [spread, edit.constant([-1], "flat")]))


def _pad_11(edit: Editor) -> None:
    pads = edit.node.attributes.pop("pads", None)
    value = edit.node.attributes.pop("value", None)
    if pads is None:
        raise edit.refuse("it has no pads")
    edit.set_input(1, edit.constant(np.asarray(pads.as_ints(), np.int64), "pads"))
    if value is not None:
        edit.set_input(2, edit.number_like(value.as_float(), input_of(edit.node, 0), "value"))


def _resize_11(edit: Editor) -> None:
    """Positions were `asymmetric`; nearest rounded down when enlarging and up when shrinking."""
    node = edit.node
    scales = _known_scales(input_of(node, 1))
    x, scale_input = node.inputs[0], node.inputs[1]
    mode = node.attributes.get("mode")
    nearest = mode is None or mode.as_string() == "nearest"
    shrinks = scales is not None and bool(np.any(scales < 1))
    if nearest and shrinks and scales is not None and np.any(scales > 1):
        # One rounding mode serves all axes from here on: shrink first, then enlarge.
        smaller = edit.constant(np.minimum(scales, np.float32(1)), "shrink")
        scale_input = edit.constant(np.maximum(scales, np.float32(1)), "enlarge")
        x = edit.add("Resize", [x, None, smaller])
        producer = x.producer()
        assert producer is not None
        _set_resize_modes(producer, "ceil")
        shrinks = False
    _set_resize_modes(node, "ceil" if nearest and shrinks else "floor")
    edit.set_inputs([x, None, scale_input])


def _known_scales(value: ir.Value | None) -> npt.NDArray[np.float32] | None:
    """The elements of a constant, also of one that an earlier adapter has just made."""
    producer = None if value is None else value.producer()
    if producer is not None and is_op(producer, "Constant") and "value" in producer.attributes:
        return np.asarray(producer.attributes["value"].as_tensor().numpy(), np.float32)
    known = small_constant(value)
    return None if known is None else known.astype(np.float32)


def _set_resize_modes(node: ir.Node, nearest_mode: str) -> None:
    node.attributes["coordinate_transformation_mode"] = ir.AttrString(
        "coordinate_transformation_mode", "asymmetric"
    )
    node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", nearest_mode)


def _resize_13(edit: Editor) -> None:
    """An empty tensor no longer stands for an input that is left out; one mode is gone."""
    node = edit.node
    for index in (1, 2):
        given = input_of(node, index)
        if given is not None and given.shape is not None and list(given.shape) == [0]:
            edit.set_input(index, None)
    mode = node.attributes.get("coordinate_transformation_mode")
    if mode is not None and mode.as_string() == "tf_half_pixel_for_nn":
        rounding = node.attributes.get("nearest_mode")
        if rounding is None or rounding.as_string() != "floor":
            raise edit.refuse("coordinates tf_half_pixel_for_nn need nearest_mode floor")
        # floor(t) of the old positions is round_prefer_ceil(t - 1/2) of the half-pixel ones.
        edit.set_attribute(ir.AttrString("coordinate_transformation_mode", "half_pixel"))
        edit.set_attribute(ir.AttrString("nearest_mode", "round_prefer_ceil"))


def _roi_align_16(edit: Editor) -> None:
    """The default became half_pixel."""
    edit.set_attribute(ir.AttrString("coordinate_transformation_mode", "output_half_pixel"))


def _scan_9(edit: Editor) -> None:
    raise edit.refuse("its batch dimension has no counterpart; export the model again")


def _scatter_11(edit: Editor) -> None:
    edit.node.op_type = "ScatterElements"


def _slice_10(edit: Editor) -> None:
    for index, name in ((1, "starts"), (2, "ends"), (3, "axes")):
        found = edit.node.attributes.pop(name, None)
        if found is not None:
            edit.set_input(index, edit.constant(np.asarray(found.as_ints(), np.int64), name))


def _softmax_13(edit: Editor) -> None:
    """The old form flattened to two dimensions at `axis`; the new one works along one axis."""
    node = edit.node
    x = node.inputs[0]
    axis = attribute_int(node, "axis", 1)
    dims = rank(x)
    if axis == -1 or (dims is not None and axis % max(dims, 1) == dims - 1):
        edit.set_attribute(ir.AttrInt64("axis", -1))
        return
    if dims and x is not None and x.shape is not None:
        axis %= dims
        if all(d == 1 for d in x.shape[axis + 1 :]):
            edit.set_attribute(ir.AttrInt64("axis", axis))
            return
    shape = edit.add("Shape", [x])
    flat = edit.add("Flatten", [x], axis=axis)
    result = edit.add(node.op_type, [flat], axis=-1)
    node.op_type = "Reshape"
    node.attributes.clear()
    edit.set_inputs([result, shape])


def _split_18(edit: Editor) -> None:
    """Equal parts must be counted."""
    if input_of(edit.node, 1) is None:
        edit.set_attribute(ir.AttrInt64("num_outputs", len(edit.node.outputs)))


def _top_k_10(edit: Editor) -> None:
    k = edit.node.attributes.pop("k", None)
    if k is None:
        raise edit.refuse("it has no k")
    edit.set_input(1, edit.constant(np.asarray([k.as_int()], np.int64), "k"))


def _upsample_9(edit: Editor) -> None:
    scales = edit.node.attributes.pop("scales", None)
    if scales is None:
        raise edit.refuse("it has no scales")
    edit.set_input(1, edit.constant(np.asarray(scales.as_floats(), np.float32), "scales"))


def _upsample_10(edit: Editor) -> None:
    edit.node.op_type = "Resize"


ADAPTERS: Mapping[tuple[str, int], Adapter] = {
    ("BatchNormalization", 9): _batch_normalization_9,
    ("BatchNormalization", 14): _drop_training_outputs,
    ("Clip", 11): _clip_11,
    ("DFT", 20): _dft_20,
    ("Dropout", 12): _dropout_12,
    ("GridSample", 20): _grid_sample_20,
    ("GroupNormalization", 21): _group_normalization_21,
    ("Hardmax", 13): _softmax_13,
    ("LogSoftmax", 13): _softmax_13,
    ("Pad", 11): _pad_11,
    ("ReduceSum", 13): _ints_to_input("axes", 1),
    **{(op_type, 18): _ints_to_input("axes", 1) for op_type in _REDUCTIONS},
    ("Resize", 11): _resize_11,
    ("Resize", 13): _resize_13,
    ("RoiAlign", 16): _roi_align_16,
    ("Scan", 9): _scan_9,
    ("Scatter", 11): _scatter_11,
    ("Slice", 10): _slice_10,
    ("Softmax", 13): _softmax_13,
    ("Split", 13): _ints_to_input("split", 1),
    ("Split", 18): _split_18,
    ("Squeeze", 13): _ints_to_input("axes", 1),
    ("TopK", 10): _top_k_10,
    ("Unsqueeze", 13): _ints_to_input("axes", 1),
    ("Upsample", 9): _upsample_9,
    ("Upsample", 10): _upsample_10,
}
"""(operator, opset that changed it) -> the rewrite of a node from just before to that opset."""
