"""The folder of a finished run appears whole, and replaces an older one whole."""

from __future__ import annotations

import concurrent.futures
import os
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from compress.errors import UsageError
from compress.report import folder as folders
from compress.report.folder import save
from compress.report.schema import Plan, Report
from compress.report.write_json import read_plan, read_report

FILES = {"model.onnx", "report.json", "report.html", "plan.json"}


def model(name: str = "g") -> ir.Model:
    head = '<ir_version: 8, opset_import: ["" : 17]>'
    text = f"{head} {name} (float[2] x) => (float[2] y) {{ y = Relu(x) }}"
    return ir.from_proto(onnx.parser.parse_model(text))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_folder(tmp_path: Path, report: Report, plan: Plan) -> None:
    out = tmp_path / "deep" / "er" / "out"
    assert save(out, model(), report, plan) == out
    assert names(out) == FILES
    assert names(out.parent) == {"out"}
    assert read_report(out) == report
    assert read_plan(out) == plan
    onnx.checker.check_model(onnx.load(out / "model.onnx"))
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask


def test_an_older_folder_is_replaced_as_a_whole(tmp_path: Path, report: Report, plan: Plan) -> None:
    out = tmp_path / "out"
    save(out, model("first"), report, plan)
    (out / "engine.bin").write_text("of the first run")
    save(out, model("second"), report, plan)
    assert names(out) == FILES
    assert names(tmp_path) == {"out"}


def test_an_empty_folder_is_used(tmp_path: Path, report: Report, plan: Plan) -> None:
    (tmp_path / "out").mkdir()
    save(tmp_path / "out", model(), report, plan)
    assert names(tmp_path / "out") == FILES


def test_other_things_are_replaced_on_demand_only(
    tmp_path: Path, report: Report, plan: Plan
) -> None:
    thesis = tmp_path / "out" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(UsageError, match="not the result of a run"):
        save(thesis.parent, model(), report, plan)
    assert thesis.read_text() == "years of work"
    save(thesis.parent, model(), report, plan, force=True)
    assert names(thesis.parent) == FILES


def test_a_file_is_never_replaced(tmp_path: Path, report: Report, plan: Plan) -> None:
    (tmp_path / "out").write_text("years of work")
    with pytest.raises(UsageError, match="is a file"):
        save(tmp_path / "out", model(), report, plan, force=True)
    assert (tmp_path / "out").read_text() == "years of work"


def test_the_target_of_a_link_is_replaced(tmp_path: Path, report: Report, plan: Plan) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    save(tmp_path / "out", model(), report, plan)
    assert (tmp_path / "out").is_symlink()
    assert names(tmp_path / "real") == FILES


def test_the_same_result_gives_the_same_bytes(tmp_path: Path, report: Report, plan: Plan) -> None:
    save(tmp_path / "a", model(), report, plan)
    save(tmp_path / "b", model(), report, plan)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_failure_leaves_what_was_there(
    tmp_path: Path, report: Report, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    save(out, model("first"), report, plan)
    before = {name: (out / name).read_bytes() for name in FILES}

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "render", full)
    with pytest.raises(UsageError, match="No space left on device"):
        save(out, model("second"), report, plan)
    assert {name: (out / name).read_bytes() for name in FILES} == before
    assert names(tmp_path) == {"out"}


def test_a_rename_that_fails_puts_the_old_folder_back(
    tmp_path: Path, report: Report, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    save(out, model("first"), report, plan)
    before = (out / "model.onnx").read_bytes()
    rename = Path.rename

    def fail_for_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(UsageError, match="Permission denied"):
        save(out, model("second"), report, plan)
    assert (out / "model.onnx").read_bytes() == before


def test_a_file_is_in_the_way(tmp_path: Path, report: Report, plan: Plan) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        save(tmp_path / "file" / "out", model(), report, plan)


def test_two_at_once_leave_one_whole_folder(tmp_path: Path, report: Report, plan: Plan) -> None:
    out = tmp_path / "out"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(save, out, model(f"g{i}"), report, plan) for i in range(8)]
        for job in jobs:
            job.result()
    assert names(out) == FILES
    assert names(tmp_path) == {"out"}
    onnx.load(out / "model.onnx")
