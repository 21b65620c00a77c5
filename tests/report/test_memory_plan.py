"""memory_plan.json, memory_plan.h and memory_plan.svg: what they hold, and that names are safe."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from compress.errors import UsageError
from compress.report import memory_plan as schema
from compress.report.c_header import c_header, identifiers
from compress.report.folder import save_plan
from compress.report.memory_plan import MemoryPlan
from compress.report.scratchpad_picture import colour, picture
from compress.report.write_json import is_memory_plan, to_json

EVIL = 'x</title><script>&"*/\n#define EVIL\x1b[2J'
SVG = "{http://www.w3.org/2000/svg}"


def sample(name: str = "x", *, advisory: bool = False) -> MemoryPlan:
    buffers = [
        schema.BufferRecord(
            name=name, tensor=name, address=0, bytes=64, first_step=0, last_step=1, layout="rows",
            rows=2, row_bytes=32,
        ),
        schema.BufferRecord(
            name="y", tensor="y", address=64, bytes=128, first_step=1, last_step=2, layout="whole"
        ),
        schema.BufferRecord(
            name="weights", tensor="", address=192, bytes=16, first_step=1, last_step=1,
            layout="scratch",
        ),
    ]  # fmt: skip
    steps = [
        schema.StepRecord(kind="load", outputs=[name], rows=[0, 2], bytes=64, compulsory=True),
        schema.StepRecord(
            kind="compute", operator=f"relu {name}", inputs=[name], outputs=["y"], rows=[0, 2],
            bytes=32, group=0,
        ),
        schema.StepRecord(kind="store", inputs=["y"], bytes=128, compulsory=True),
    ]  # fmt: skip
    return MemoryPlan(
        compress_version="0",
        model="model.onnx",
        advisory=advisory,
        scratchpad_bytes=256,
        align_bytes=16,
        tiled=True,
        status="feasible",
        method="stripes",
        search_seconds=0.5,
        traffic=schema.Traffic(total_bytes=224, extra_bytes=32, bound_bytes=0, gap=1.0),
        bounds=schema.Bounds(
            compulsory_bytes=192,
            largest_operator=schema.OperatorNeed(name=f"relu {name}", bytes=208),
            smallest_peak_bytes=208,
            smallest_scratchpad_bytes=100,
            peak_bytes=208,
            occupied_bytes=208,
            fragmentation=0.0,
        ),
        proof=schema.Proof(checked=True, executed=False),
        order=[f"relu {name}"],
        tensors=[
            schema.TensorRecord(name=n, role=role, dtype="FLOAT", shape=[1, 2, 4, 4], bytes=128)
            for n, role in ((name, "input"), ("y", "output"))
        ],
        buffers=buffers,
        steps=steps,
    )  # fmt: skip


def test_json_comes_back() -> None:
    plan = sample()
    text = to_json(plan)
    assert MemoryPlan.model_validate_json(text) == plan
    assert json.loads(text)["schema_version"] == schema.MEMORY_PLAN_VERSION


def test_every_field_is_documented() -> None:
    for record in vars(schema).values():
        if isinstance(record, type) and issubclass(record, schema.Record):
            for name, field in record.model_fields.items():
                nested = isinstance(field.annotation, type) and issubclass(
                    field.annotation, schema.Record
                )
                listed = name in ("tensors", "buffers", "steps")
                assert field.description or nested or listed, (record, name)


def compiled(header: str, tmp_path: Path, expression: str) -> int:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "memory_plan.h").write_text(header)
    (tmp_path / "main.c").write_text(
        '#include "memory_plan.h"\n#include <stdio.h>\n'
        f'int main(void) {{ printf("%ld\\n", (long)({expression})); return 0; }}\n'
    )
    program = tmp_path / "main"
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wno-unused-const-variable"]
    subprocess.run([compiler, *flags, "main.c", "-o", program], cwd=tmp_path, check=True)
    return int(subprocess.run([program], capture_output=True, check=True).stdout)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("COMPRESS_SCRATCHPAD_BYTES", 256),
        ("COMPRESS_ALIGN_BYTES", 16),
        ("COMPRESS_OFFSET_y", 64),
        ("COMPRESS_TENSOR_y", 1),
        ("COMPRESS_OPERATOR_relu_x", 0),
        ("compress_buffers[0].row_bytes", 32),
        ("compress_buffers[2].tensor", -1),
        ("compress_steps[1].kind == COMPRESS_COMPUTE", 1),
        ("compress_steps[1].row_end", 2),
        ("compress_operands[compress_steps[1].first_operand + compress_steps[1].inputs]", 1),
        ("compress_steps[2].id == COMPRESS_TENSOR_y", 1),
    ],
)
def test_the_header_compiles_and_says_the_same(tmp_path: Path, expression: str, value: int) -> None:
    assert compiled(c_header(sample()), tmp_path, expression) == value


def test_names_in_the_header_are_identifiers(tmp_path: Path) -> None:
    header = c_header(sample(EVIL))
    assert "EVIL\n" not in header.replace("_EVIL", "")
    assert compiled(header, tmp_path, "COMPRESS_STEPS") == 3
    assert identifiers(["a b", "a-b", "a_b", "", "é"]) == ["a_b", "a_b_2", "a_b_3", "unnamed", "_"]


def test_the_header_says_that_a_plan_is_advisory() -> None:
    assert "Advisory" in c_header(sample(advisory=True))
    assert "Advisory" not in c_header(sample())


def test_the_picture_shows_buffers_and_moves() -> None:
    root = ET.fromstring(picture(sample()))
    titles = [t.text or "" for t in root.iter(f"{SVG}title")]
    assert "x: 64 bytes at 0, 2 rows in turn, steps 0 to 1" in titles
    assert "step 0: load 64 bytes of x" in titles
    assert "step 1: load 32 bytes of weights of relu x, extra" in titles
    assert "step 2: store 128 bytes of y" in titles
    boxes = {box.find(f"{SVG}title").text: box for box in root.iter(f"{SVG}rect") if len(box)}
    y = next(box for title, box in boxes.items() if title and title.startswith("y:"))
    low = next(box for title, box in boxes.items() if title and title.startswith("x:"))
    assert float(y.get("height")) == pytest.approx(2 * float(low.get("height")), abs=0.1)
    assert float(y.get("y")) < float(low.get("y")), "higher addresses are further up"
    assert y.get("fill") == colour("y") != low.get("fill")


def test_names_in_the_picture_are_text() -> None:
    drawn = picture(sample(EVIL))
    assert "<script>" not in drawn
    assert "\x1b" not in drawn
    ET.fromstring(drawn)


def test_outputs_are_deterministic() -> None:
    assert picture(sample()) == picture(sample())
    assert c_header(sample()) == c_header(sample())
    assert re.fullmatch(r"#[0-9a-f]{6}", colour("any"))


def test_the_picture_says_that_a_plan_is_advisory() -> None:
    assert "advisory" in picture(sample(advisory=True))


def small_model() -> ir.Model:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    return ir.from_proto(onnx.parser.parse_model(text))


def test_the_folder_appears_whole(tmp_path: Path) -> None:
    folder = save_plan(tmp_path / "out", small_model(), sample())
    names = {"memory_plan.json", "memory_plan.h", "memory_plan.svg", "model.onnx"}
    assert {file.name for file in folder.iterdir()} == names
    assert is_memory_plan(folder)
    save_plan(folder, small_model(), sample("other"))
    assert '"other"' in (folder / "memory_plan.json").read_text()
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_no_plan_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("words")
    with pytest.raises(UsageError, match="not empty"):
        save_plan(folder, small_model(), sample())
    assert (folder / "thesis.txt").read_text() == "words"
    save_plan(folder, small_model(), sample(), force=True)
    assert not (folder / "thesis.txt").exists()
