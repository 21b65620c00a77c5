"""From a model to a proven plan: what is found, what is written, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import scratchpad_networks as networks
import small_networks

from compress.backends.scratchpad import prove as proving
from compress.errors import DeviceError, ModelError, UsageError
from compress.passes.schedule.extract import extract
from compress.passes.schedule.program import Buffer, Program
from compress.stages.inspection import Source
from compress.stages.plan_bounds import most_occupied, smallest_peak
from compress.stages.planning import Planned, make_plan, settle_shapes

SHAPES = {"image": (1, 3, 12, 12)}
LARGEST = 73_856
"""Bytes of the second convolution of the float network: two images, weights and bias."""


def planned(model: Any = None, sram: int = 47_000, **options: Any) -> Planned:
    given = small_networks.cnn() if model is None else model
    options = {"time_limit_s": 2.0, "sram": sram} | options
    return make_plan(given, Source(shapes=options.pop("shapes", SHAPES)), **options)


@pytest.fixture(scope="module")
def roomy() -> Planned:
    return planned(sram=2**20)


@pytest.fixture(scope="module")
def tight() -> Planned:
    return planned(sram=47_000)


def test_what_fits_needs_no_extra_traffic(roomy: Planned) -> None:
    plan = roomy.plan
    assert not plan.tiled
    assert plan.status == "optimal"
    assert plan.traffic.extra_bytes == 0
    assert plan.traffic.total_bytes == plan.bounds.compulsory_bytes
    assert plan.proof.executed
    assert plan.proof.largest_error is not None
    assert plan.proof.largest_error < 1e-5
    assert plan.bounds.peak_bytes >= plan.bounds.occupied_bytes >= LARGEST
    assert plan.bounds.largest_operator.name == "c"
    assert plan.bounds.largest_operator.bytes == LARGEST


def test_what_does_not_fit_runs_in_stripes(tight: Planned) -> None:
    plan = tight.plan
    assert plan.tiled
    assert plan.bounds.peak_bytes <= 47_000 < LARGEST
    assert any(buffer.layout == "rows" for buffer in plan.buffers)
    assert any(step.rows is not None for step in plan.steps)
    assert plan.proof.executed
    assert plan.traffic.total_bytes == sum(step.bytes for step in plan.steps)


def test_more_memory_never_costs_more(tight: Planned, roomy: Planned) -> None:
    assert roomy.plan.traffic.total_bytes <= tight.plan.traffic.total_bytes
    for plan in (tight.plan, roomy.plan):
        sizes = [point.scratchpad_bytes for point in plan.bounds.curve]
        extras = [point.extra_bytes for point in plan.bounds.curve]
        assert sizes == sorted(set(sizes))
        assert extras == sorted(extras, reverse=True)
        free = plan.bounds.zero_extra_bytes
        assert free is not None
        assert free <= plan.bounds.smallest_peak_bytes


def test_integers_are_executed_exactly() -> None:
    model = networks.int8(networks.cnn())
    for sram in (14_000, 2**20):
        plan = planned(ir.to_proto(model), sram=sram, shapes=None).plan
        assert plan.proof.exact
        assert plan.proof.reference == "onnxruntime on the whole model"


def test_the_folder(tight: Planned, tmp_path: Path) -> None:
    folder = tight.save(tmp_path / "out")
    content = json.loads((folder / "memory_plan.json").read_text())
    assert content["scratchpad_bytes"] == 47_000
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model)
    nodes = [node.name for node in model.graph.node]
    assert [name for name in nodes if name in tight.plan.order] == tight.plan.order


def test_nodes_are_in_the_order_of_the_plan() -> None:
    """Two branches: the one that frees its memory first has to run first."""
    text = (
        "g (float[1,64] x) => (float[1,4] y) {"
        " a = MatMul(x, wide) b = MatMul(x, wider) c = MatMul(a, narrow) d = MatMul(b, narrower)"
        " y = Add(c, d) }"
    )
    generator = np.random.default_rng(0)
    shapes = {"wide": (64, 400), "wider": (64, 500), "narrow": (400, 4), "narrower": (500, 4)}
    weights = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    found = planned(small_networks.network(text, **weights), sram=2**20, shapes=None)
    assert [node.name for node in found.model.graph] == found.plan.order


def test_the_same_call_gives_the_same_plan(roomy: Planned) -> None:
    def content(found: Planned) -> str:
        return found.plan.model_copy(update={"search_seconds": 0.0}).model_dump_json(
            exclude={"bounds": {"curve", "zero_extra_bytes"}}
        )

    assert content(planned(sram=2**20)) == content(roomy)


def test_execution_can_be_left_out() -> None:
    proof = planned(verify=False).plan.proof
    assert proof.checked
    assert not proof.executed
    assert proof.exact is None


def test_a_plan_that_computes_something_else_is_not_given_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    execute = proving.execute

    def wrong(*arguments: Any) -> dict[str, Any]:
        return {name: array + 1 for name, array in execute(*arguments).items()}

    monkeypatch.setattr(proving, "execute", wrong)
    with pytest.raises(DeviceError, match="differs from onnxruntime by"):
        planned(sram=2**20)


def test_a_scratchpad_that_is_too_small_names_the_operator() -> None:
    with pytest.raises(ModelError, match=r"operator \w+ needs [\d,]+ bytes") as caught:
        planned(sram=64)
    assert "\n" not in str(caught.value)


def test_the_refusal_is_about_what_is_missing_the_least() -> None:
    """Whole tensors take 400 bytes here, as operators write over their inputs; stripes 800."""
    proto = small_networks.network(
        "g (float[1,100] x) => (float[1,100] y) { a = Sqrt(x) b = Neg(a) y = Abs(b) }"
    )
    with pytest.raises(ModelError, match=r"operator \w needs 400 bytes"):
        planned(proto, sram=399, shapes=None)
    plan = planned(proto, sram=400, shapes=None).plan
    assert plan.bounds.peak_bytes == 400
    assert [buffer.address for buffer in plan.buffers] == [0, 0, 0, 0]
    assert plan.proof.exact


@pytest.mark.parametrize("sram", [47_000, 2**20])
def test_addresses_are_multiples(sram: int) -> None:
    plans = {align: planned(sram=sram, align=align).plan for align in (1, 16, 256)}
    for align, plan in plans.items():
        assert plan.align_bytes == align
        assert all(buffer.address % align == 0 for buffer in plan.buffers)
        assert plan.bounds.compulsory_bytes == plans[1].bounds.compulsory_bytes
    assert planned(sram=sram).plan.align_bytes == 16
    with pytest.raises(UsageError, match="power of two"):
        planned(align=12)


def test_bounds_are_those_of_bytes_as_they_are() -> None:
    """Each way of a costs 404 bytes, though it takes 416."""
    proto = small_networks.network(
        "g (float[1,101] x, float[1,101] z) => (float[1,202] y) {"
        " a = Softmax(x) b = Softmax(z) c = Concat<axis = 1>(a, b) y = Relu(c) }"
    )
    plan = planned(proto, sram=1240, shapes=None).plan
    assert plan.traffic.extra_bytes == 808
    assert 0 < plan.traffic.bound_bytes <= 808
    assert plan.proof.exact


@pytest.mark.parametrize("sram", [14_000, 47_000, 2**20])
def test_there_is_a_plan_in_no_time(sram: int) -> None:
    model = ir.to_proto(networks.int8(networks.cnn())) if sram < 20_000 else None
    shapes = None if model else SHAPES
    plan = planned(model, sram=sram, shapes=shapes, time_limit_s=0.0).plan
    assert plan.proof.executed
    assert plan.bounds.curve


def test_parts_of_a_concatenation_are_made_in_place() -> None:
    proto = small_networks.network(
        "g (float[1,100] x, float[1,100] z) => (float[1,200] y) {"
        " a = Sqrt(x) b = Softmax(z) y = Concat<axis = 1>(a, b) }"
    )
    plan = planned(proto, sram=800, shapes=None).plan
    assert not plan.tiled
    assert plan.traffic.extra_bytes == 0
    at = {buffer.name: buffer.address for buffer in plan.buffers}
    assert (at["a"], at["b"]) == (at["y"], at["y"] + 400)
    assert plan.proof.exact


@pytest.mark.parametrize("sram", [0, -5, 2**60])
def test_sizes_that_cannot_be_meant(sram: int) -> None:
    with pytest.raises(UsageError, match="give 1 byte to 64 GiB"):
        planned(sram=sram)


def test_dynamic_shapes_ask_for_shape() -> None:
    with pytest.raises(ModelError, match="--shape image=1x3x12x12"):
        planned(shapes=None)


def test_control_flow_is_refused() -> None:
    text = (
        "g (bool c, float[2] x) => (float[2] y) {"
        " y = If (c) <then_branch = t () => (float[2] a) { a = Neg(x) },"
        " else_branch = e () => (float[2] b) { b = Abs(x) }> }"
    )
    with pytest.raises(ModelError, match="If node 'y' is control flow"):
        planned(small_networks.network(text), shapes=None)


def test_cycles_are_refused(tmp_path: Path) -> None:
    text = "g (float[2] x) => (float[2] y) { a = Add(x, b) b = Neg(a) y = Relu(b) }"
    onnx.save(onnx.parser.parse_model(small_networks.HEADER + text), tmp_path / "cycle.onnx")
    with pytest.raises(ModelError, match="cycle through Add node 'a'"):
        planned(tmp_path / "cycle.onnx", shapes=None)


def test_a_device_without_a_known_size_asks_for_it() -> None:
    with pytest.raises(UsageError, match="ethos-u55-256 is not known: give it, as in --sram"):
        planned(sram=None, target="ethos-u55-256")


def test_devices_say_how_large_and_how_fast_they_are() -> None:
    plan = planned(sram=2**20, target="ethos-u55-256").plan
    assert not plan.advisory
    assert plan.traffic.dma_ms == pytest.approx(plan.traffic.total_bytes / 0.5e9 * 1e3)
    assert planned(sram=None, target="gap8").plan.scratchpad_bytes == 512 * 1024


def test_plans_for_caches_are_advisory() -> None:
    plan = planned(sram=None, target="raspberry-pi-5").plan
    assert plan.advisory
    assert plan.scratchpad_bytes == 512 * 1024


def test_shapes_that_inference_does_not_know_are_looked_up() -> None:
    """onnx has no rule for com.microsoft's operators."""
    proto = small_networks.network(
        "g (float[1,8] x) => (float[1,8] y) {"
        " a = com.microsoft.QuickGelu<alpha = 1.0>(x) b = Neg(a) y = Abs(b) }"
    )
    plan = planned(proto, sram=1000, shapes=None).plan
    assert {tensor.name: tensor.shape for tensor in plan.tensors}["a"] == [1, 8]


def test_shapes_that_depend_on_the_data_stay_open() -> None:
    model = networks.model(
        small_networks.network(
            "g (float[4] x) => (int64[1,n] y) { r = Relu(x) i = NonZero(r) y = Abs(i) }"
        )
    )
    settle_shapes(model)
    with pytest.raises(ModelError, match="depends on the data"):
        planned(ir.to_proto(model), shapes=None)


def test_tables_stay_off_chip() -> None:
    """The rows that are looked up are counted, whether layers run in stripes or not."""
    proto = small_networks.network(
        "g (int64[1,4] ids) => (float[1,4,600] y) {"
        " a = Gather(table, ids) b = MatMul(a, one) y = MatMul(b, two) }",
        table=small_networks.floats(90, 40),
        one=small_networks.floats(40, 600),
        two=small_networks.floats(600, 600),
    )
    for sram in (2**21, 400_000):
        plan = planned(proto, sram=sram, shapes=None).plan
        assert plan.tiled == (sram < 2**20)
        assert plan.bounds.compulsory_bytes == 32 + 640 + 96_000 + 1_440_000 + 9600
        (gather,) = [step for step in plan.steps if step.operator == plan.order[0]]
        assert gather.bytes == 640


def test_without_an_optional_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are found without ortools; they are proven only where nothing extra is moved."""
    monkeypatch.setitem(sys.modules, "ortools", None)
    proto = small_networks.network(
        "g (float[1,100] x, float[1,100] z) => (float[1,200] y) {"
        " a = Softmax(x) b = Softmax(z) c = Concat<axis = 1>(a, b) y = Relu(c) }"
    )
    plan = planned(proto, sram=900, shapes=None).plan
    assert plan.traffic.extra_bytes == 800
    assert plan.proof.exact


def test_memory_that_is_shared_counts_once() -> None:
    buffers = (
        Buffer("a", "a", 0, 10, 0, 2),
        Buffer("b", "b", 0, 10, 2, 3, shares=("a",)),
        Buffer("c", "c", 30, 5, 1, 2),
        Buffer("d", "d", 10, 12, 3, 3),
    )
    assert most_occupied(Program(40, buffers, ())) == 22


def test_the_smallest_peak_is_no_more_than_the_given_order_needs(roomy: Planned) -> None:
    graph = extract(networks.cnn()).graph
    peak, order = smallest_peak(graph, seconds=1.0)
    assert sorted(order) == list(range(len(graph.operators)))
    assert LARGEST <= peak <= roomy.plan.bounds.peak_bytes
