"""Recurrent networks, step by step."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor

from compress.execute.differentiable.registry import Attributes, operator

States = tuple[Tensor, ...]

Cell = Callable[[Attributes, Tensor, States, Tensor, Tensor], States]
"""(attributes, gates from the input with its bias (batch, gates * hidden), states, R, its bias)
-> the next states, the hidden state first."""


def _limits(attributes: Attributes, node: ir.Node) -> str | None:
    for name in ("activations", "clip", "activation_alpha", "activation_beta"):
        if attributes.has(name):
            return f"the attribute {name}"
    if attributes.integer("input_forget", 0):
        return "input_forget = 1"
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        return "the input sequence_lens"
    return "the input P" if len(node.inputs) > 7 and node.inputs[7] is not None else None


def _lstm_cell(
    attributes: Attributes, x: Tensor, states: States, r: Tensor, bias: Tensor
) -> States:
    hidden, cell = states
    i, o, f, c = (x + hidden @ r.T + bias).chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(c)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru_cell(attributes: Attributes, x: Tensor, states: States, r: Tensor, bias: Tensor) -> States:
    hidden = states[0]
    xz, xr, xh = x.chunk(3, -1)
    rz, rr, rh = r.chunk(3)
    bz, br, bh = bias.chunk(3)
    update = torch.sigmoid(xz + hidden @ rz.T + bz)
    reset = torch.sigmoid(xr + hidden @ rr.T + br)
    if attributes.integer("linear_before_reset", 0):
        new = torch.tanh(xh + reset * (hidden @ rh.T + bh))
    else:
        new = torch.tanh(xh + (reset * hidden) @ rh.T + bh)
    return ((1 - update) * new + update * hidden,)


def _rnn_cell(attributes: Attributes, x: Tensor, states: States, r: Tensor, bias: Tensor) -> States:
    return (torch.tanh(x + states[0] @ r.T + bias),)


def _run(
    attributes: Attributes,
    cell: Cell,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None,
    starts: tuple[Tensor | None, ...],
) -> tuple[Tensor, ...]:
    """Y (length, directions, batch, hidden), then the last states (directions, batch, hidden)."""
    batch_first = bool(attributes.integer("layout", 0))
    if batch_first:
        x = x.transpose(0, 1)
        starts = tuple(None if start is None else start.transpose(0, 1) for start in starts)
    directions, hidden = w.shape[0], r.shape[-1]
    width = w.shape[1]
    outputs, ends = [], []
    for direction in range(directions):
        backwards = direction == 1 or attributes.text("direction", "forward") == "reverse"
        if bias is None:
            own = recurrent = x.new_zeros(width)
        else:
            own, recurrent = bias[direction].split(width)
        zeros = x.new_zeros(x.shape[1], hidden)
        states: States = tuple(zeros if start is None else start[direction] for start in starts)
        gates = x @ w[direction].T + own
        steps = []
        for step in gates.flip(0) if backwards else gates:
            states = cell(attributes, step, states, r[direction], recurrent)
            steps.append(states[0])
        stacked = torch.stack(steps)
        outputs.append(stacked.flip(0) if backwards else stacked)
        ends.append(states)
    y = torch.stack(outputs, 1)
    last = tuple(torch.stack(state) for state in zip(*ends, strict=True))
    if batch_first:
        return (y.permute(2, 0, 1, 3), *(state.transpose(0, 1) for state in last))
    return (y, *last)


@operator("LSTM", outputs=3, refuse=_limits)
def lstm(
    attributes: Attributes,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    return _run(attributes, _lstm_cell, x, w, r, bias, (hidden, cell))


@operator("GRU", outputs=2, refuse=_limits)
def gru(
    attributes: Attributes,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    return _run(attributes, _gru_cell, x, w, r, bias, (hidden,))


@operator("RNN", outputs=2, refuse=_limits)
def rnn(
    attributes: Attributes,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
) -> tuple[Tensor, ...]:
    return _run(attributes, _rnn_cell, x, w, r, bias, (hidden,))
