"""Convolutions are widened where that was measured to gain, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from known_machine import KnownMachine
from small_networks import floats, network

import compress
from compress.execute import session
from compress.frontends import load
from compress.hardware.timing import Samples


def narrow():
    """A convolution with one output channel behind one with many."""
    return network(
        "g (float[N,2,16,40] image) => (float[N,1,16,40] y)"
        " { a = Conv <pads = [1,1,1,1]> (image, w) b = Relu (a)"
        " y = Conv <pads = [2,2,2,2]> (b, v) }",
        w=floats(80, 2, 3, 3),
        v=floats(1, 80, 5, 5),
    )


def data(count=4):
    return [{"image": floats(1, 2, 16, 40, seed=i)} for i in range(count)]


class Priced(KnownMachine):
    """A convolution of one channel takes `narrow_us`, any other 20, every other kernel 1."""

    def __init__(self, narrow_us):
        super().__init__()
        self.narrow_us = narrow_us

    def convolutions_us(self, model):
        """Of each convolution of a model, in order; weights may be dequantized."""
        graph = (model if isinstance(model, ir.Model) else ir.load(model)).graph
        for node in graph:
            if node.op_type == "Conv":
                weight, producer = node.inputs[1], node.inputs[1].producer()
                weight = producer.inputs[0] if producer is not None else weight
                yield self.narrow_us if weight.shape.dims[0] == 1 else 20.0

    def kernel_times(self, model, feeds, *, runs=1, warmup=0):
        self.counted["kernel_times"] += 1
        ran = session.kernel_times(model, feeds, runs=1, warmup=0)
        prices = self.convolutions_us(model)
        return [(n, k, next(prices, 20.0) if "Conv" in k else 1.0) for n, k, _ in ran]

    def time_models(self, models, feeds, *, advance=lambda: None, **options):
        self.counted["time_models"] += 1
        for _ in range(3):
            advance()
        total = {name: sum(self.convolutions_us(path)) / 1e3 for name, path in models.items()}
        return {name: Samples(((ms,) * 4,) * 3) for name, ms in total.items()}


def run(machine, monkeypatch, cache_dir, **options):
    monkeypatch.setenv("COMPRESS_CACHE", str(cache_dir))
    machine.install(monkeypatch)
    return compress.run(narrow(), data=data(), **options)


def reason(result):
    return next(x.why for x in result.plan.layers if x.name == "y")


def test_what_gains_is_widened(monkeypatch, tmp_path):
    result = run(Priced(1000.0), monkeypatch, tmp_path / "cache")
    # the same outputs, from another graph
    plain = next(c for c in result.report.candidates if "simplified" in c.name)
    assert plain.quality.value == pytest.approx(1.0)
    assert plain.speedup.median > 10
    assert result.report.after.speedup.median > 10
    assert "neighbours as channels (100" in reason(result)
    assert list(Priced(1000.0).convolutions_us(result.model)) == [20.0, 20.0]


def test_what_gains_nothing_stays(monkeypatch, tmp_path):
    result = run(Priced(21.0), monkeypatch, tmp_path / "cache")
    assert "neighbours" not in reason(result)
    assert not any("split" in str(n.name) for n in result.model.graph)


def test_where_bytes_count_nothing_is_widened(monkeypatch, tmp_path):
    for options in ({"objective": "size"}, {"budget": compress.Budget(max_bytes=10**6)}):
        result = run(Priced(1000.0), monkeypatch, tmp_path / "cache", **options)
        assert "neighbours" not in reason(result)


def test_a_second_run_measures_nothing_again(monkeypatch, tmp_path):
    machine = Priced(1000.0)
    first = run(machine, monkeypatch, tmp_path / "cache")
    assert machine.counted["kernel_times"] > 0
    machine.counted.clear()
    second = run(machine, monkeypatch, tmp_path / "cache")
    assert not machine.counted
    assert reason(second) == reason(first)


def test_outputs_are_those_of_the_model_as_given(monkeypatch, tmp_path):
    result = run(Priced(1000.0), monkeypatch, tmp_path / "cache")
    feeds = data(1)[0]
    found = session.Runner(result.model)(feeds)["y"]
    expected = session.Runner(load(narrow()))(feeds)["y"]
    assert found.shape == expected.shape
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
