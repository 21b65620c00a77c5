"""memory_plan.json: what lies where in a scratchpad, when, and how good that is.

Addresses, sizes and traffic are bytes. Steps are numbered from 0 in the order they run in; a buffer
is occupied from its first step to its last one, both included.
"""

from __future__ import annotations

from typing import Literal

import pydantic

from compress.report.schema import Record

MEMORY_PLAN_VERSION = 1
MEMORY_PLAN_FILE = "memory_plan.json"


class TensorRecord(Record):
    """A value that is stored: an activation, or a weight that crosses the border of the chip."""

    name: str = pydantic.Field(description="of the value in model.onnx")
    role: Literal["input", "output", "activation", "weight"] = pydantic.Field(
        description="a network's output that operators read as well is an output"
    )
    dtype: str = pydantic.Field(description="element type, as ONNX names it")
    shape: list[int] = pydantic.Field(description="empty for a scalar")
    bytes: int = pydantic.Field(description="that it occupies as a whole")


class BufferRecord(Record):
    """A place in the scratchpad for (some rows of) one tensor, during some steps."""

    name: str = pydantic.Field(description="unique")
    tensor: str = pydantic.Field(description="that it holds; empty for scratch memory")
    address: int = pydantic.Field(description="of its first byte")
    bytes: int = pydantic.Field(description="that it occupies")
    first_step: int = pydantic.Field(description="that it is occupied in")
    last_step: int = pydantic.Field(description="that it is occupied in, this one included")
    layout: Literal["whole", "rows", "scratch"] = pydantic.Field(
        description="whole: as in the model; rows: row h of (1, C, H, W), all its channels, lies "
        "at address + (h mod rows) * row_bytes; scratch: memory that weights pass through"
    )
    rows: int = pydantic.Field(0, description="that a rolling buffer holds")
    row_bytes: int = pydantic.Field(0, description="of each of them")
    shares: list[str] = pydantic.Field([], description="buffers that may overlap it")


class StepRecord(Record):
    """One copy or computation."""

    kind: Literal["load", "store", "compute"] = pydantic.Field(
        description="load: off chip to outputs[0]; store: inputs[0] to off chip"
    )
    operator: str = pydantic.Field("", description="the node in model.onnx that is computed")
    inputs: list[str] = pydantic.Field([], description="buffers that are read")
    outputs: list[str] = pydantic.Field([], description="buffers that are written")
    rows: list[int] | None = pydantic.Field(
        None, description="[first, one after the last] of what is copied or made; null: all"
    )
    bytes: int = pydantic.Field(
        0, description="that cross the border of the chip; of a computation, its passing weights"
    )
    compulsory: bool = pydantic.Field(False, description="whether they do in every plan")
    group: int | None = pydantic.Field(None, description="fused group that the step is part of")


class OperatorNeed(Record):
    """The operator that needs the most."""

    name: str = pydantic.Field(description="of its node")
    bytes: int = pydantic.Field(
        description="inputs, outputs and weights together, less what inputs and outputs can share"
    )


class BaselineRecord(Record):
    """What a plain scheduler would move with as large a scratchpad."""

    order: str = pydantic.Field(description="in which operators run")
    policy: str = pydantic.Field(description="that decides what leaves")
    extra_bytes: int | None = pydantic.Field(
        description="beyond the compulsory ones; null where it has no plan"
    )


class CurvePoint(Record):
    """The least traffic found with a scratchpad of some size."""

    scratchpad_bytes: int = pydantic.Field(description="of the scratchpad")
    extra_bytes: int = pydantic.Field(description="beyond the compulsory ones")


class Bounds(Record):
    """What the plan is to be compared with."""

    compulsory_bytes: int = pydantic.Field(
        description="inputs and weights once in, outputs once out: no plan moves less"
    )
    largest_operator: OperatorNeed = pydantic.Field(
        description="M_R: below it, whole tensors do not fit and layers run in stripes"
    )
    smallest_peak_bytes: int = pydantic.Field(
        description="M_P: smallest peak found over all orders; as large a scratchpad needs no "
        "extra traffic even without stripes, if addresses can be packed as tightly"
    )
    smallest_scratchpad_bytes: int = pydantic.Field(
        description="smallest scratchpad that the network runs in at all, in stripes and with "
        "whatever traffic that takes"
    )
    peak_bytes: int = pydantic.Field(description="highest address in use plus one")
    occupied_bytes: int = pydantic.Field(description="most bytes in use at one step")
    fragmentation: float = pydantic.Field(description="1 - occupied / peak")
    zero_extra_bytes: int | None = pydantic.Field(
        None, description="smallest scratchpad found that needs no extra traffic"
    )
    baselines: list[BaselineRecord] = pydantic.Field(
        [], description="whole tensors, no stripes; none where an operator does not fit"
    )
    curve: list[CurvePoint] = pydantic.Field([], description="by size of the scratchpad")


class Traffic(Record):
    """What crosses the border of the chip in one inference."""

    total_bytes: int = pydantic.Field(description="loads and stores together")
    extra_bytes: int = pydantic.Field(description="beyond the compulsory ones")
    bound_bytes: int = pydantic.Field(description="proven lower bound of the extra bytes")
    gap: float = pydantic.Field(description="share by which the extra bytes may miss the optimum")
    dma_ms: float | None = pydantic.Field(
        None, description="total bytes by the device's bandwidth; null if that is not known"
    )
    energy_mj: float | None = pydantic.Field(
        None, description="total bytes by the device's energy per byte; null if it is not known"
    )


class Proof(Record):
    """How the plan was checked before it was written."""

    checked: bool = pydantic.Field(description="the static check found nothing wrong")
    executed: bool = pydantic.Field(
        description="the network ran in one byte buffer of the scratchpad's size"
    )
    exact: bool | None = pydantic.Field(
        None, description="whether all outputs were onnxruntime's, bit by bit; null: not executed"
    )
    largest_error: float | None = pydantic.Field(
        None, description="largest difference of an output relative to its largest magnitude"
    )
    reference: str = pydantic.Field("", description="what the outputs were compared with")
    differing: int = pydantic.Field(
        0,
        description="integers, of all that operators write, that the execution rounded to the next "
        "level; they lie halfway between two",
    )


class MemoryPlan(Record):
    """The content of memory_plan.json."""

    schema_version: int = pydantic.Field(MEMORY_PLAN_VERSION, description="of this format")
    compress_version: str = pydantic.Field(description="of the program that wrote it")
    model: str = pydantic.Field(description="as the user called it")
    target: str | None = pydantic.Field(None, description="device that it was planned for")
    advisory: bool = pydantic.Field(
        description="the memory is a cache: the order is good for it, addresses mean nothing"
    )
    scratchpad_bytes: int = pydantic.Field(description="capacity that was planned for")
    align_bytes: int = pydantic.Field(1, description="that all addresses are multiples of")
    tiled: bool = pydantic.Field(description="whether layers run in stripes")
    status: Literal["optimal", "feasible"] = pydantic.Field(
        description="optimal: no plan has fewer extra bytes (whole tensors: that runs no stripes)"
    )
    method: str = pydantic.Field(description="that found the plan")
    search_seconds: float = pydantic.Field(description="that it took")
    traffic: Traffic
    bounds: Bounds
    proof: Proof
    order: list[str] = pydantic.Field(description="operators, in the order they first run in")
    tensors: list[TensorRecord]
    buffers: list[BufferRecord]
    steps: list[StepRecord]
