"""What is shipped, and why: decisions on measured candidates, from end to end."""

from __future__ import annotations

import numpy as np
import pytest
from known_machine import KnownMachine
from small_networks import cnn, floats, images, network

import compress
from compress.passes.base import Boundary, Option
from compress.passes.select import Problem
from compress.stages.gather import scaled_by_form, with_latencies


def forms(result):
    return {x.name: x.chosen.split(":")[1] for x in result.plan.layers}


class Deceptive(KnownMachine):
    """Kernels are fast alone and slow in the network: caches, memory, whatever."""

    in_place = 30.0

    def _slow(self, price):
        def priced(kernel):
            return price(kernel) * (self.in_place if price(kernel) == self.integer else 1.0)

        return priced

    def time_models(self, models, feeds, **options):
        price = self.price
        self.price = self._slow(price)
        try:
            return super().time_models(models, feeds, **options)
        finally:
            self.price = price


def test_a_promise_that_measuring_breaks_is_not_shipped(cache, monkeypatch):
    machine = Deceptive()
    machine.install(monkeypatch)

    def in_the_network(model, feeds, **options):
        price = machine.price
        machine.price = machine._slow(price)
        try:
            return machine.kernel_times(model, feeds, **options)
        finally:
            machine.price = price

    monkeypatch.setattr("compress.stages.search.kernel_times", in_the_network)
    result = compress.run(cnn(), data=images())
    assert set(forms(result).values()) == {"float"}
    assert result.exit_code == 0
    assert result.report.after.speedup.median >= 1.0
    # it was tried, and what was measured went into the plan
    assert len(result.report.candidates) >= 3
    int8 = [o for x in result.plan.layers for o in x.options if o.form == "int8" and x.macs]
    assert max(o.latency_us for o in int8) >= 20 * machine.integer


def test_small_is_wanted(machine):
    fast = compress.run(cnn(), data=images(), budget=compress.Budget(max_drop=0.2))
    small = compress.run(
        cnn(), data=images(), budget=compress.Budget(max_drop=0.2), objective="size"
    )
    assert small.exit_code == 0
    assert small.report.after.size_bytes <= fast.report.after.size_bytes
    assert small.report.after.speedup.median >= 1.0
    sizes = [p.bytes for p in small.frontier]
    assert sizes == sorted(sizes)


def test_no_time_is_left(machine):
    """A limit that is over before anything was tried still ends in a model."""
    given = cnn()
    result = compress.run(given, data=images(), time_limit_s=0.0)
    assert result.exit_code == 0
    assert result.report.after.speedup.median >= 1.0
    assert result.report.outcome


def test_only_what_pays_becomes_integer(machine):
    """A slow convolution between fast ones; one that is hardly work at all."""
    given = network(
        "g (float[N,8,10,10] x) => (float[N,8,10,10] y) { a = Conv <pads = [1,1,1,1]> (x, w, b)"
        " c = Relu (a) d = Conv <pads = [1,1,1,1]> (c, u, b) e = Exp (d) y = Neg (e) }",
        w=floats(8, 8, 3, 3),
        b=floats(8),
        u=floats(8, 8, 3, 3, seed=1),
    )
    data = {"x": floats(8, 8, 10, 10, seed=3)}
    budget = compress.Budget(max_drop=0.5)
    cheap = compress.run(given, data=data, budget=budget)
    assert list(forms(cheap).values())[:2] == ["int8", "int8"]
    machine.conversion = 500.0
    dear = compress.run(given, data=data, budget=budget, resume=False)
    assert set(forms(dear).values()) == {"float"}
    assert all("conver" in x.why or "no integer" in x.why or "whole" in x.why
               for x in dear.plan.layers)  # fmt: skip


@pytest.mark.parametrize("drop", [0.0, 0.02, 0.3])
def test_the_quality_that_is_shipped_is_the_one_that_was_measured(drop, machine):
    """A steep measure: the budget decides how much of the network may become integer."""
    feeds = images(6, seed=5)
    exact = compress.run(cnn(), data=images(), budget=compress.Budget(max_bytes=1)).model
    reference = runner(exact)(feeds)

    def closeness(run):
        off = np.abs(run(feeds)["scores"] - reference).max()
        return float(np.exp(-20 * off))

    budget = compress.Budget(max_drop=drop, absolute_drop=True)
    result = compress.run(cnn(), data=images(), evaluate=closeness, budget=budget)
    before, after = result.report.before.quality.value, result.report.after.quality.value
    assert after >= before - drop
    assert closeness(lambda f: {"scores": runner(result.model)(f)}) == pytest.approx(after, rel=0.1)
    for candidate in result.report.candidates:
        if candidate.quality.value < before - drop:
            assert not candidate.shipped
            assert "below" in candidate.verdict


def runner(model):
    from compress.execute.session import Runner

    session = Runner(model)
    return lambda feeds: session(feeds)["scores"]


# --- corrections ---------------------------------------------------------------------------------


def option(layer, form, us):
    return Option("t", form, (layer,), us, 0, 0.0)


PROBLEM = Problem(
    tuple(
        option(f"l{i}", form, us)
        for i in range(6)
        for form, us in (("float", 100.0), ("int8", 20.0 + i))
    ),
    {"v": Boundary("v", 1.0, 1.0)},
    fixed_us=7.0,
)


def test_measured_latencies_take_the_place_of_predicted_ones():
    corrected = with_latencies(PROBLEM, {("l1", "int8"): 55.0, ("nobody", "float"): 1.0}, 3.0)
    assert corrected.fixed_us == 3.0
    changed = [
        (a.layers, a.form, b.latency_us)
        for a, b in zip(PROBLEM.options, corrected.options, strict=True)
        if a != b
    ]
    assert changed == [(("l1",), "int8", 55.0)]
    assert corrected.boundaries == PROBLEM.boundaries


def test_what_was_not_measured_is_scaled_as_its_form():
    measured = {(f"l{i}", "int8"): 2.0 * (20 + i) for i in range(5)}
    scaled = scaled_by_form(PROBLEM, measured)
    assert scaled["l5", "int8"] == pytest.approx(50.0)
    assert ("l5", "float") not in scaled
    assert scaled_by_form(PROBLEM, {}) == {}
