"""The benchmark of sparsities: right results, and that wrong ones and wrong files are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks import prune_curves
from benchmarks.prune_curves import Curves, figures, judge, main, read_curves
from compress.passes.knapsack import KnapsackChoice

DATA = Path(__file__).parents[1] / "data" / "prune_curves"

SMALL: dict[str, object] = {
    "sizes": np.array([10, 100]),
    "phi": np.array([[0.0, 0.5, 1.0]] * 2, dtype=np.float32),
    "dist": np.array([[0.0, 0.25, 0.5], [0.0, 1.0, 4.0]], dtype=np.float32),
    "budget": np.array(60),
}


def run(path: Path) -> Result:
    return CliRunner().invoke(main, [str(path)])


def write(folder: Path, arrays: Mapping[str, object]) -> Path:
    path = folder / "curves.npz"
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return path


def test_the_optima_of_the_files_are_found() -> None:
    result = run(DATA)
    assert result.exit_code == 0, result.output
    assert "8 files, 8 results: all ok" in result.output
    assert result.output.count("ok, proven here") == 2


@pytest.mark.parametrize("path", sorted(DATA.glob("*.npz")), ids=lambda path: path.stem)
def test_choices_are_the_exact_optima(path: Path) -> None:
    curves = read_curves(path)
    found = prune_curves.solve_knapsack(
        list(curves.kept()), list(curves.distortions), curves.budget, gap=0.0
    )
    assert found.status == "optimal"
    kept, distortion = figures(curves, found.choices)
    assert (kept, distortion) == (found.cost, found.distortion)
    assert kept <= curves.budget
    if curves.optimum is not None:
        assert distortion == pytest.approx(curves.optimum, rel=1e-12)


def test_without_an_optimum_our_own_bound_proves_it(tmp_path: Path) -> None:
    result = run(write(tmp_path, SMALL))
    assert result.exit_code == 0
    row = result.output.splitlines()[1]
    assert row.split()[1:4] == ["60", "60", "1.000000000"]
    assert row.endswith("ok, proven here")


@pytest.mark.parametrize(("optimum", "code"), [(1.0, 0), (0.9995, 0), (0.9, 1)])
def test_a_thousandth_above_the_optimum_is_ok(tmp_path: Path, optimum: float, code: int) -> None:
    result = run(write(tmp_path, SMALL | {"optimum_distortion": optimum}))
    assert result.exit_code == code
    assert ("NOT ok: 11.111% above the optimum" in result.output) == bool(code)


def test_a_lower_bound_above_the_optimum_is_not_ok(tmp_path: Path) -> None:
    curves = read_curves(write(tmp_path, SMALL | {"optimum_distortion": 1.0}))
    wrong = KnapsackChoice((0, 1), 60, 1.0, 1.5, "optimal", 0.0)
    assert judge(curves, wrong) == (False, "NOT ok: the lower bound is above the optimum")


def test_what_cannot_fit_is_infeasible(tmp_path: Path) -> None:
    arrays = SMALL | {"phi": np.array([[0.0, 0.1, 0.2]] * 2), "budget": 50}
    result = run(write(tmp_path, arrays))
    assert result.exit_code == 0
    assert "ok, infeasible: at least 88 weights stay" in result.output
    assert run(write(tmp_path, arrays | {"optimum_distortion": 3.0})).exit_code == 1


def test_a_layer_larger_than_the_budget(tmp_path: Path) -> None:
    result = run(write(tmp_path, SMALL | {"budget": 10}))
    assert result.exit_code == 0
    assert result.output.splitlines()[1].split()[1:4] == ["10", "10", "4.000000000"]


def test_the_check_is_independent_of_the_solver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = read_curves(write(tmp_path, SMALL))
    assert figures(curves, (0, 1)) == (60, 1.0)
    assert figures(curves, (2, 0)) == (100, 0.5)

    def judged(choices: tuple[int, ...], bound: float = 0.0) -> tuple[bool, str]:
        return judge(curves, KnapsackChoice(choices, 0, 0.0, bound, "feasible", 0.0))

    assert judged((2, 0)) == (False, "NOT ok: 40 weights over the budget")
    assert judged((0,)) == (False, "NOT ok: 1 choices for 2 layers")
    assert judged((0, 1), 0.9995) == (True, "ok, within 0.1 % of the bound")
    assert judged((0, 1), 0.5) == (True, "ok, but unproven: the lower bound is 0.5")
    infeasible = KnapsackChoice((), 0, 0.0, 0.0, "infeasible", 0.0)
    assert judge(curves, infeasible) == (False, "NOT ok: nothing found")

    def keeps_everything(*_: object) -> KnapsackChoice:
        return KnapsackChoice((0, 0), 60, 0.0, 0.0, "optimal", 0.0)

    monkeypatch.setattr(prune_curves, "solve_knapsack", keeps_everything)
    assert run(tmp_path).exit_code == 1


def test_sparsities_are_rounded_as_the_format_says(tmp_path: Path) -> None:
    """0.35 as float32 is a little less: floor(.35 * 3000 + 1e-6) is 1049."""
    arrays = {
        "sizes": [3000],
        "phi": np.array([[0.35]], dtype=np.float32),
        "dist": [[1.0]],
        "budget": 1951,
    }
    curves: Curves = read_curves(write(tmp_path, arrays))
    assert curves.kept().tolist() == [[1951]]
    assert figures(curves, (0,)) == (1951, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sizes": [10]}, "are not (L,), (L, S) and (L, S)"),
        ({"sizes": [10.5, 3.0]}, "sizes are not whole numbers"),
        ({"sizes": [-10, 100]}, "sizes not negative"),
        ({"phi": np.full((2, 3), 1.5)}, "sparsities have to be from 0 to 1"),
        ({"phi": np.full((2, 3), np.nan)}, "sparsities have to be from 0 to 1"),
        ({"dist": np.full((2, 3), np.nan)}, "distortions have to be finite"),
        ({"dist": np.zeros((2, 0)), "phi": np.zeros((2, 0))}, "there is no sparsity"),
        ({"dist": np.full((2, 3), "much")}, "is not a file of curves"),
        ({"budget": np.nan}, "is not a file of curves"),
        ({"budget": [1, 2]}, "is not a file of curves"),
    ],
)
def test_wrong_files_are_told_in_one_line(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    path = write(tmp_path, SMALL | change)
    result = run(tmp_path)
    assert result.exit_code == 3
    assert words in result.output
    assert result.output.startswith(f"Error: {path}: ")
    assert len(result.output.splitlines()) == 1


def test_missing_arrays_and_other_formats(tmp_path: Path) -> None:
    write(tmp_path, {name: array for name, array in SMALL.items() if name != "budget"})
    result = run(tmp_path)
    assert result.exit_code == 3
    assert "'budget' is missing" in result.output
    (tmp_path / "curves.npz").write_bytes(b"no archive")
    other = run(tmp_path)
    assert other.exit_code == 3
    assert "it is not an .npz file" in other.output


def test_missing_folders_and_folders_without_files(tmp_path: Path) -> None:
    assert run(tmp_path / "none").exit_code == 2
    empty = run(tmp_path)
    assert empty.exit_code == 2
    assert "no .npz files" in empty.output
