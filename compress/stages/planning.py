"""From a model to a proven scratchpad plan: the flow behind `compress plan`."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.backends.scratchpad.check import Verdict, check
from compress.backends.scratchpad.prove import prove
from compress.errors import DeviceError, ModelError, UsageError
from compress.execute.session import random_feeds, value_shapes
from compress.graph.traversal import static_shape
from compress.hardware.device import Device, load_device
from compress.hardware.host import detect
from compress.passes.schedule.alignment import DEFAULT_ALIGN, aligned, check_align
from compress.passes.schedule.extract import Extracted, check_inputs, extract
from compress.passes.schedule.kernels import looked_up_bytes, order_nodes
from compress.passes.schedule.lower_whole import lower_whole
from compress.passes.schedule.problem import Graph, Plan, extra_bytes
from compress.passes.schedule.program import Program
from compress.passes.schedule.solve import schedule
from compress.passes.schedule.tiling.extract import striped
from compress.passes.schedule.tiling.graphs import Tiling, tile
from compress.passes.schedule.tiling.groups import TilingOptions
from compress.progress import Progress, Silent
from compress.report.memory_plan import MemoryPlan, Proof
from compress.stages.inspection import Source
from compress.stages.plan_bounds import (
    QUICK,
    find_bounds,
    largest_operator,
    smallest_in_stripes,
    smallest_peak,
)
from compress.stages.plan_record import Chosen, make_record
from compress.stages.subject import check_loads

LARGEST_SCRATCHPAD = 2**36
"""Bytes; what is larger is a typing error."""

WHOLE_SHARE = 0.6
"""Of the time, for plans of whole tensors."""

BOUNDS_SHARE = 0.4
"""Of the time, for bounds and baselines at most."""

STAGES = (
    TilingOptions(most_operators=1, thorough=False),
    TilingOptions(most_operators=3, thorough=False),
    QUICK,
    TilingOptions(),
)
"""What is tried one after the other while there is time: each takes some times as long as the one
before. The first one gives a plan at once; longer groups move less, and now and then fit alone."""

SEARCH_SHARE = 0.9
"""Of the time, for all plans; bounds and baselines have the rest."""


@dataclasses.dataclass(frozen=True, eq=False)
class Planned:
    """What `plan` found.

    Attributes:
        model: canonical, its nodes in the order of the plan.
        plan: what memory_plan.json holds.
        program: the steps and buffers behind it.
    """

    model: ir.Model
    plan: MemoryPlan
    program: Program

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Writes memory_plan.json, memory_plan.h, memory_plan.svg and model.onnx; the folder
        appears whole.

        Args:
            folder: new, empty, or the result of an earlier plan.
            force: replace whatever else it holds.
        """
        from compress.report.folder import save_plan

        return save_plan(Path(folder), self.model, self.plan, force=force)


def make_plan(
    model: Any,
    source: Source,
    *,
    sram: int | None = None,
    target: str | os.PathLike[str] | None = None,
    align: int = DEFAULT_ALIGN,
    time_limit_s: float = 60.0,
    seed: int = 0,
    verify: bool = True,
    progress: Progress | None = None,
) -> Planned:
    """Plan the memory of a model, and prove the plan by executing it.

    Whole tensors are scheduled first. Where they do not fit, or do with extra traffic, layers that
    run in stripes are planned as well, and what moves less is taken.

    Args:
        model: anything `compress.frontends.load` takes.
        source: how to load it.
        sram: bytes of the scratchpad; None: the device's.
        target: name of a device profile, or a TOML file; None: any scratchpad.
        align: bytes that addresses are multiples of, a power of two. Off-chip bytes are those of
            the tensors all the same.
        time_limit_s: for the search and its bounds, in seconds. Better plans take longer; there is
            always one if one exists, however long the first one takes. Reading the model and
            executing the plan are not counted.
        seed: of the search, and of the inputs that the plan is executed with.
        verify: execute the plan. It is checked in any case.

    Raises:
        UsageError: no size is known, or it cannot be meant; or the alignment is no power of two.
        ModelError: the model cannot be scheduled ahead, or an operator does not fit; one line says
            which and what to do.
        DeviceError: the executed plan gives other outputs than onnxruntime.
    """
    told = progress or Silent()
    device = None if target is None else load_device(_named(target))
    capacity, advisory = scratchpad_of(device, sram)
    check_align(align)
    with tempfile.TemporaryDirectory(prefix="compress-") as scratch:
        with told.step("reading the model", None):
            subject = source.open(model, Path(scratch), allow_quantized=True)
            check_inputs(subject.model)
        with told.step("loading the model, apart", None):
            check_loads(subject)
        settle_shapes(subject.model)
    extracted = extract(subject.model)
    if not extracted.graph.operators:
        raise ModelError("the model computes nothing: there is nothing to schedule")
    started = time.monotonic()
    problem = aligned(extracted, align)
    with told.step("scheduling", None):
        chosen = _search(extracted, problem, capacity, align, SEARCH_SHARE * time_limit_s, seed)
    seconds = time.monotonic() - started
    verdict = _checked(chosen.program, extracted)
    left = min(time_limit_s - seconds, BOUNDS_SHARE * time_limit_s)
    with told.step("comparing with bounds and baselines", None):
        bounds = find_bounds(extracted, problem, chosen, verdict, align=align, seconds=left)
    proof = Proof(checked=True, executed=False)
    if verify:
        with told.step("executing the plan in one byte buffer", None):
            found = prove(chosen.program, extracted, made_up_inputs(subject.model, seed))
        if not found.holds:
            raise DeviceError(
                f"the executed plan differs from onnxruntime by {found.largest_error:.2g} "
                "(relative to the largest output): nothing is written"
            )
        proof = Proof(
            checked=True,
            executed=True,
            exact=found.exact,
            largest_error=found.largest_error,
            reference=found.reference,
            differing=found.differing,
        )
    record = make_record(
        subject.name,
        extracted,
        chosen,
        verdict,
        bounds,
        proof,
        device=device,
        advisory=advisory,
        seconds=seconds,
    )
    reorder(extracted, record.order)
    return Planned(extracted.model, record, chosen.program)


def scratchpad_of(device: Device | None, sram: int | None) -> tuple[int, bool]:
    """(bytes to plan for, whether they are a cache).

    Raises:
        UsageError: no size is known, or it cannot be meant.
    """
    advisory = (
        device is not None and device.runtime != "scratchpad" and device.scratchpad_bytes is None
    )
    if sram is None and device is not None:
        caches = device.caches_bytes
        sram = device.scratchpad_bytes or (caches.l2 or caches.l3 if advisory else None)
    if sram is None:
        whose = "" if device is None else f" of {device.name} is not known"
        raise UsageError(f"the size of the scratchpad{whose}: give it, as in --sram 256KiB")
    if not 0 < sram <= LARGEST_SCRATCHPAD:
        raise UsageError(f"a scratchpad of {sram} bytes: give 1 byte to 64 GiB, as in 256KiB")
    return sram, advisory


def settle_shapes(model: ir.Model) -> None:
    """Give values whose shape inference knows nothing of the shape that they have when it runs.

    What depends on the data differs between inputs that are drawn and inputs that are all zero; it
    is left open, and refused by `extract`.
    """
    unknown = {
        str(value.name): value
        for node in model.graph
        for value in node.outputs
        if value.name and static_shape(value) is None
    }
    if not unknown or any(static_shape(v) is None for v in model.graph.inputs):
        return
    drawn = made_up_inputs(model, seed=0)
    zeros = {name: np.zeros_like(array) for name, array in drawn.items()}
    one, other = (value_shapes(model, feeds, unknown) for feeds in (drawn, zeros))
    for name, value in unknown.items():
        if one[name] == other[name]:
            shape, dtype = one[name]
            value.shape = ir.Shape(shape)
            if value.type is None:
                value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))


def made_up_inputs(model: ir.Model, seed: int) -> dict[str, Any]:
    """Inputs of the right shapes: normal floats, zeros of every other type."""
    specs = {}
    for value in model.graph.inputs:
        if value.dtype is None:
            raise ModelError(f"input {value.name} has no element type: export the model with types")
        specs[str(value.name)] = (static_shape(value) or (), np.dtype(value.dtype.numpy()))
    return random_feeds(specs, seed)


def reorder(extracted: Extracted, order: Iterable[str]) -> None:
    """Bring the model's nodes into the order that its operators run in."""
    kernels: Mapping[str, Any] = {kernel.name: kernel for kernel in extracted.kernels}
    graph = extracted.model.graph
    graph.extend(list(order_nodes((kernels[name] for name in order), list(graph))))


def _named(target: str | os.PathLike[str]) -> str | Path:
    return target if isinstance(target, str) else Path(target)


def _search(
    extracted: Extracted, problem: Graph, capacity: int, align: int, seconds: float, seed: int
) -> Chosen:
    """The plan that moves the least of those found in time.

    Args:
        problem: of whole tensors, sizes rounded up.

    Raises:
        ModelError: there is none; says what is missing the least.
    """
    started = time.monotonic()
    refusals: list[ModelError] = []
    found: list[Chosen] = []
    orders: list[tuple[int, ...]] = []
    try:
        plan = schedule(
            problem,
            capacity,
            seconds=WHOLE_SHARE * seconds,
            threads=detect().physical_cores or 1,
            seed=seed,
        )
    except ModelError as error:
        refusals.append(error)
    else:
        if plan.order:
            orders.append(plan.order)
        if plan.order and plan.packed:
            found.append(_whole(extracted, problem, plan, capacity, align))
    if found and found[0].extra_bytes == 0:
        return found[0]
    orders.append(smallest_peak(problem, seconds=0.05 * seconds)[1])
    deadline = started + seconds
    try:
        found.append(_tiled(extracted, capacity, align, orders, deadline, finish=not found))
    except ModelError as error:
        refusals.append(error)
    except TimeoutError:
        pass
    if not found:
        whole = largest_operator(problem)
        if capacity < whole.bytes <= smallest_in_stripes(extracted, align, deadline=deadline):
            raise ModelError(
                f"a scratchpad of {capacity} bytes is too small: operator {whole.name} needs "
                f"{whole.bytes} bytes, and no fewer in stripes"
            )
        raise refusals[-1]
    return min(found, key=lambda chosen: chosen.program.off_chip_bytes)


def _whole(extracted: Extracted, problem: Graph, plan: Plan, capacity: int, align: int) -> Chosen:
    """A plan of whole tensors. What it moves and its bound are counted in bytes as they are."""
    exact = extracted.graph
    least = min(
        (
            ours.bytes / room.bytes
            for ours, room in zip(exact.tensors, problem.tensors, strict=True)
        ),
        default=1.0,
    )
    extra, bound = extra_bytes(exact, plan.stays), int(plan.bound * least)
    optimal = extra == 0 or (least == 1.0 and plan.status == "optimal")
    program = lower_whole(extracted, plan, capacity, align=align)
    return Chosen(program, optimal, plan.method, extra, bound)


def _tiled(
    extracted: Extracted,
    capacity: int,
    align: int,
    orders: Iterable[tuple[int, ...]],
    deadline: float,
    *,
    finish: bool,
) -> Chosen:
    """The best plan of stripes that is found in time, by `STAGES`.

    With `finish` the first plan is found however long it takes.

    Raises:
        ModelError: there is none.
        TimeoutError: there is none yet, and nothing was to `finish`.
    """
    graph = striped(extracted)
    given = tuple(range(len(graph.operators)))
    found: Tiling | None = None
    refusal: ModelError | None = None
    for stage in STAGES:
        if found is not None and (not found.plan.extra_bytes or time.monotonic() >= deadline):
            break
        first = given if found is None else found.order
        try:
            other = tile(
                graph,
                capacity,
                dataclasses.replace(stage, align=align),
                (first, given, *orders),
                deadline=deadline,
                finish=finish and found is None,
            )
        except ModelError as error:
            refusal = error
        except TimeoutError:
            break
        else:
            found = min(found or other, other, key=lambda tiling: tiling.plan.off_chip_bytes)
    if found is None:
        raise refusal or TimeoutError
    extra = found.plan.extra_bytes
    program = with_look_ups(found.program, extracted)
    method = "stripes" if found.double_buffer else "stripes, copies waiting for computation"
    return Chosen(program, extra == 0, method, extra, 0, tiled=True)


def with_look_ups(program: Program, extracted: Extracted) -> Program:
    """The program with the rows counted that operators look up off chip as they run."""
    bytes_of = {kernel.name: looked_up_bytes(kernel) for kernel in extracted.kernels}
    steps = tuple(
        dataclasses.replace(step, bytes=step.bytes + bytes_of[step.operator], compulsory=True)
        if bytes_of.get(step.operator)
        else step
        for step in program.steps
    )
    return dataclasses.replace(program, steps=steps)


def _checked(program: Program, extracted: Extracted) -> Verdict:
    verdict = check(program, extracted)
    if verdict.problems:
        more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
        raise RuntimeError(f"the plan is not valid: {verdict.problems[0]}{more}")
    return verdict
