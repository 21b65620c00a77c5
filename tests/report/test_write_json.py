"""report.json and plan.json: the same text for the same content, and clear errors on reading."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from compress.errors import ModelError
from compress.report.schema import OutputFidelity, Plan, Report, Solver
from compress.report.write_json import is_result, read_plan, read_report, to_json


def test_reading_and_writing_again_gives_the_same_bytes(sample: Path) -> None:
    assert to_json(read_report(sample)) == (sample / "report.json").read_text()
    assert to_json(read_plan(sample)) == (sample / "plan.json").read_text()


def test_lines_stay_short(sample: Path) -> None:
    lines = (sample / "plan.json").read_text().splitlines()
    assert max(map(len, lines)) <= 110
    assert any(line.count(":") > 3 for line in lines), "small objects share a line"


def test_numbers_that_json_cannot_hold(plan: Plan) -> None:
    solver = Solver(
        value_us=math.inf,
        bound_us=-math.inf,
        status="infeasible",
        seconds=math.nan,
        distortion=0.0,
        options=0,
        layers=0,
    )
    written = to_json(plan.model_copy(update={"solver": solver}))

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(written, parse_constant=refuse)
    assert content["solver"]["value_us"] == "Infinity"
    again = Plan.model_validate(content).solver
    assert again.value_us == math.inf
    assert again.bound_us == -math.inf
    assert math.isnan(again.seconds)


def test_foreign_names_survive() -> None:
    name = "</script>\u2028\x00\x1b[31m größe \U0001f600"
    record = OutputFidelity.model_validate(
        {"distortion": 0.5, "worst_slices": [{"output": name, "slice": "1", "relative_error": 0.1}]}
    )
    assert OutputFidelity.model_validate_json(to_json(record).encode()) == record


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"report.json cannot be read.*compress run"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "damaged"),
        ("[1, 2]", "schema version None"),
        ("[" * 100_000, "damaged"),
        ('{"schema_version": 99}', "schema version 99"),
        ('{"schema_version": 1, "layers": []}', "damaged at solver"),
        ('{"schema_version": 1, "solver": {}, "layers": [], "frontier": [], "x": 1}', "damaged at"),
        ("\xff\xfe", "damaged"),
    ],
)
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "plan.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ModelError) as error:
        read_plan(tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_results_are_told_from_other_folders(sample: Path, tmp_path: Path) -> None:
    assert is_result(sample)
    assert not is_result(tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": 1}')
    assert not is_result(tmp_path)
    (tmp_path / "report.json").write_text('{"schema_version": 7, "compress_version": "9"}')
    assert is_result(tmp_path), "results of other versions are results"


def test_unknown_fields_are_refused(report: Report) -> None:
    content = json.loads(to_json(report)) | {"latency": 1}
    with pytest.raises(ValueError, match="latency"):
        Report.model_validate(content)
