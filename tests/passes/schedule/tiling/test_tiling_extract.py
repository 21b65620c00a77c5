"""Which rows a model's operators need."""

from __future__ import annotations

import pytest
import scratchpad_networks as networks
from small_networks import floats
from tiled_networks import EVEN, TEXT, extracted

from compress.passes.schedule.tiling.extract import striped
from compress.passes.schedule.tiling.rows import Window


def test_operators_of_a_network() -> None:
    graph = striped(extracted(TEXT))
    kinds = {operator.name: operator.kind for operator in graph.operators}
    assert kinds == {
        "stem": "window",
        "e": "window",
        "d": "window",
        "p": "window",
        "s": "pointwise",
        "q": "window",
        "u": "window",
        "c": "pointwise",
        "g1": "whole",
        "h": "window",
        "z": "pointwise",
        "t": "window",
        "gp": "whole",
        "y": "whole",
    }
    windows = {operator.name: operator.window for operator in graph.operators}
    assert windows["stem"] == Window(3, 2, 1, 1)
    assert windows["d"] == Window(3, 1, 2, 2)
    assert windows["t"] == Window(2, 2)
    assert graph.planes["x"].external
    assert graph.planes["y"].kept
    assert graph.planes["d"].row_bytes == 16 * 8 * 4
    blocks = {operator.name: operator.blocks for operator in graph.operators}
    assert blocks["d"] == 16
    assert blocks["y"] == 5


def test_integers_take_a_byte() -> None:
    floating, integers = striped(extracted(TEXT)), striped(extracted(TEXT, integers=True))
    sizes = [plane.bytes for plane in integers.planes.values() if plane.height > 1]
    assert sum(sizes) < 0.5 * sum(plane.bytes for plane in floating.planes.values())
    assert {o.name: o.kind for o in integers.operators}.items() >= {
        ("d", "window"),
        ("s", "pointwise"),
    }


def test_rows_that_nobody_needs() -> None:
    graph = striped(extracted(EVEN))
    assert {name: graph.wanted[name] for name in "xny"} == {"x": 8, "n": 7, "y": 4}
    assert graph.wanted["b"] == 8
    assert graph.operators[0].window == Window(3, 1, 1, 0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("y = Concat<axis = 2>(x, x)", "whole"),
        ("y = Mul(x, c)", "pointwise"),
        ("y = Add(x, rows)", "whole"),
        ("y = Transpose<perm = [0, 1, 3, 2]>(x)", "whole"),
        ("y = Softmax<axis = 2>(x)", "whole"),
        ('y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w)', "window"),
        (
            "y = AveragePool<kernel_shape = [2, 2], ceil_mode = 1, count_include_pad = 1>(x)",
            "whole",
        ),
        ("y = MaxPool<kernel_shape = [2, 2], ceil_mode = 1, strides = [2, 2]>(x)", "window"),
    ],
)
def test_what_runs_by_rows(text: str, kind: str) -> None:
    found = networks.extracted(
        f"g (float[1,2,5,4] x) => (float[N,C,H,W] y) {{ {text} }}",
        c=floats(1, 2, 1, 1),
        rows=floats(1, 1, 5, 1),
        w=floats(3, 2, 3, 3),
    )
    assert [operator.kind for operator in striped(found).operators] == [kind]


def test_values_without_rows_are_one() -> None:
    found = networks.extracted(
        "g (float[4,6] x) => (float[4,2] y) { a = Relu(x) y = MatMul(a, w) }", w=floats(6, 2)
    )
    graph = striped(found)
    assert [operator.kind for operator in graph.operators] == ["whole", "whole"]
    assert {plane.height for plane in graph.planes.values()} == {1}
    assert graph.planes["x"].bytes == 96
