"""The benchmark of packings: right results, and that wrong ones and wrong files are told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.offset_packing import judge, main, read_instance
from compress.passes.schedule import offsets_solver
from compress.passes.schedule.offsets import Packing, pack

DATA = Path(__file__).parents[1] / "data" / "offset_packing"

SMALL = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\nb4,9,21,4\nb5,0,21,4\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(folder: Path, text: str, name: str = "small.12.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_folder_of_hard_instances_is_packed() -> None:
    result = run(DATA, "--climb", 0)
    assert result.exit_code == 0, result.output
    assert "6 files, 6 results: all ok" in result.output
    assert "NOT" not in result.output


def test_one_file_and_its_baselines(tmp_path: Path) -> None:
    result = run(write(tmp_path, SMALL))
    assert result.exit_code == 0, result.output
    assert "12     12         1.0000" in result.output
    assert "1 file, 1 result: all ok" in result.output


def test_the_lowest_peak(tmp_path: Path) -> None:
    result = run(write(tmp_path, SMALL, "small.100.csv"), "--least")
    assert result.exit_code == 0, result.output
    assert "0.1200" in result.output
    assert "ok, no packing is lower" in result.output


def test_what_does_not_fit_is_not_ok(tmp_path: Path) -> None:
    result = run(write(tmp_path, SMALL, "small.11.csv"))
    assert result.exit_code == 1
    assert "NOT packed: proven infeasible" in result.output
    assert "1 NOT ok" in result.output


def test_time_that_runs_out_is_not_called_infeasible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets_solver, "available", lambda: False)
    result = run(DATA / "A.1048576.csv", "--seconds", 0, "--climb", 0)
    assert result.exit_code == 1
    assert "NOT packed: out of time" in result.output


def test_wrong_packings_are_told(tmp_path: Path) -> None:
    instance = read_instance(write(tmp_path, SMALL))
    packing = pack(instance.blocks, instance.capacity, seconds=5)
    assert judge(instance, packing) == (True, "ok, no packing is lower")

    def changed(**fields: object) -> Packing:
        return dataclasses.replace(packing, **fields)  # type: ignore[arg-type]

    assert "share 4 bytes" in judge(instance, changed(offsets=(0,) * 5))[1]
    assert "above the capacity" in judge(instance, changed(offsets=(90, 90, 4, 4, 0)))[1]
    assert judge(instance, changed(peak=8)) == (False, "NOT ok: the peak is 12")
    assert judge(instance, changed(bound=13)) == (False, "NOT ok: the bound is above the peak")


@pytest.mark.parametrize(
    ("text", "name", "complaint"),
    [
        (SMALL, "small.csv", "is not called NAME.CAPACITY.csv"),
        (SMALL, "small.0.csv", "capacity of 0 bytes"),
        ("", "x.12.csv", "has no column id, lower, upper, size"),
        ("id,lower,upper\nb1,0,3\n", "x.12.csv", "has no column size"),
        ("id,lower,upper,size\n", "x.12.csv", "has no buffers"),
        ("id,lower,upper,size\nb1,0,3\n", "x.12.csv", "line 2 does not have 4 columns"),
        ("id,lower,upper,size\nb1,0,3,4,5\n", "x.12.csv", "line 2 does not have 4 columns"),
        ("id,lower,upper,size\nb1,0,x,4\n", "x.12.csv", "line 2: invalid literal"),
        ("id,lower,upper,size\nb1,0,3,0\n", "x.12.csv", "line 2: a buffer has 0 bytes"),
        ("id,lower,upper,size\nb1,3,3,4\n", "x.12.csv", "line 2: a buffer lives from 3"),
        ("id,lower,upper,size\nb1,0,1,4\nb1,0,1,4\n", "x.12.csv", "line 3 has the id 'b1' again"),
        ("id,lower,upper,size,alignment\nb1,0,1,4,32\n", "x.12.csv", "has alignment '32'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, name: str, complaint: str) -> None:
    result = run(write(tmp_path, text, name))
    assert result.exit_code == 3, result.output
    assert complaint in result.output
    assert result.output.count("\n") == 1


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.12.csv"
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert run(path).exit_code == 3


def test_nothing_there(tmp_path: Path) -> None:
    assert run(tmp_path).exit_code == 2
    assert run(tmp_path / "none").exit_code == 2
