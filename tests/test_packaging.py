"""What is installed is complete, and the README tells the truth about commands and names."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import compress
from compress.cli import INTERNAL_ERROR, INTERRUPTED, main
from compress.errors import DeviceError, ModelError, UsageError

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def shell_lines(program: str) -> list[list[str]]:
    """The arguments of every call of `program` in the README's shell blocks."""
    lines = [line for block in code_blocks("sh") for line in block.splitlines()]
    calls = [shlex.split(line, comments=True) for line in lines]
    return [call[1:] for call in calls if call and call[0] == program]


def verb(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None, f"the README names the verb {name}"
    return command


def options_of(command: click.Command) -> set[str]:
    """All spellings, as `--help` shows them."""
    return {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}


# --- the README -------------------------------------------------------------------------------


def test_the_first_screen_has_the_two_commands():
    first_screen = README.splitlines()[:15]
    assert any(line.startswith("make demo") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)


@pytest.mark.parametrize("call", shell_lines("compress"), ids=" ".join)
def test_every_command_of_the_readme_exists(call):
    command = verb(call[0])
    if isinstance(command, click.Group):
        assert call[1] in command.commands
        return
    # parsing finds unknown options, missing arguments and values that are not understood
    command.make_context(call[0], call[1:])


def test_every_option_the_readme_names_is_one_of_the_program():
    known = set().union(
        *(options_of(verb(name)) for name in main.list_commands(click.Context(main)))
    )
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    named = {
        word
        for span in re.findall(r"`([^`]+)`", prose)
        for word in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)
    }
    assert named - {"--strict"} <= known
    assert {"--max-drop", "--max-latency", "--max-size", "--speedup", "--eval", "--data"} <= named


@pytest.mark.parametrize("value", re.findall(r"`(--(?:max-\w+|speedup|time-limit) [^`]+)`", README))
def test_every_budget_of_the_readme_is_understood(value):
    verb("run").make_context("run", ["model.onnx", "-o", "out", *value.split()])


def test_help_of_run_shows_every_option_of_the_budget():
    shown = CliRunner().invoke(main, ["run", "--help"]).output
    for option in ("--max-drop", "--max-latency", "--speedup", "--max-size", "--objective"):
        assert option in shown


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {call[0] for call in shell_lines("make")} | set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test"} <= named <= targets


def test_ci_runs_what_make_test_runs():
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert script.rstrip().endswith("make test")


def test_exit_codes_of_the_readme_are_those_of_the_program():
    section = README.split("### Exit codes")[1].split("\n## ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    of_errors = {e.exit_code for e in (UsageError, ModelError, DeviceError)}
    assert codes == {0, 1, INTERNAL_ERROR, INTERRUPTED} | of_errors


def test_python_of_the_readme_calls_what_exists():
    for block in code_blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Call) and (target := public_name(node.func)) is not None:
                known = inspect.signature(target).parameters
                assert {str(k.arg) for k in node.keywords} <= set(known)


def public_name(function: ast.expr) -> Any:
    """What `compress.name` stands for; None for other expressions."""
    if isinstance(function, ast.Attribute) and ast.unparse(function.value) == "compress":
        return getattr(compress, function.attr)
    return None


def test_figures_of_the_pages_are_those_of_the_code():
    from compress.hardware.timing import BURST, RESTARTS
    from compress.passes.select import FRONTIER_POINTS, TIME_LIMIT_S
    from compress.stages.calibration import FIDELITY_SAMPLES, MAX_SAMPLES, REFERENCE_SAMPLES
    from compress.stages.gather import FEWEST_SAMPLES, PROBE_MACS
    from compress.stages.search import ROUNDS, TOLERATED_MISMATCH

    page = " ".join((ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8").split())
    readme = " ".join(README.split())
    assert f"Up to {MAX_SAMPLES} samples are used" in readme
    assert f"at most {MAX_SAMPLES}, thinned out evenly" in page
    assert f"on {REFERENCE_SAMPLES} samples" in page
    assert f"at least {FEWEST_SAMPLES}" in page
    assert f"{PROBE_MACS:.0e}".replace("e+0", "e") in page
    assert f"up to {FIDELITY_SAMPLES} calibration samples" in page
    assert f"up to {FRONTIER_POINTS} values" in page
    assert f"within {TIME_LIMIT_S:.0f} seconds per solve" in page
    assert f"at most {ROUNDS} rounds" in page
    for text in (page, readme):
        assert f"more than {TOLERATED_MISMATCH:.0%}".replace("%", " %") in text
        assert f"{RESTARTS} fresh processes" in text
    assert f"bursts of {BURST} " in page


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_and_folders_exist(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"`((?:compress|benchmarks|examples|tests|docs)/[\w/.]*)[`:]", text):
        assert (ROOT / path).exists(), path


# --- the distribution -------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    assert metadata.version("compress") == version
    assert compress.__version__ == version
    assert CliRunner().invoke(main, ["--version"]).output.strip() == f"compress {version}"


def test_the_core_does_not_depend_on_torch():
    names = {re.split(r"[^\w-]", d)[0].lower() for d in PROJECT["project"]["dependencies"]}
    assert names.isdisjoint({"torch", "onnxscript", "safetensors"})


def test_constraints_pin_every_requirement():
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert pins["torch"] == "2.13.0"
    assert not any("+" in version for version in pins.values())
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *extras["torch"], *extras["dev"]]
    assert {re.split(r"[^\w-]", w)[0].lower() for w in wanted} <= set(pins)


def test_links_lead_to_the_packages():
    for name in ("passes", "hardware"):
        assert (ROOT / name).is_symlink()
        assert (ROOT / name).resolve() == ROOT / "compress" / name


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("compress", "tests", "benchmarks"):
        skipped = shutil.ignore_patterns("__pycache__", "*.npz", "*.onnx")
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    for name in ("passes", "hardware"):
        (source / name).symlink_to(f"compress/{name}")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if ".dist-info/" not in n}
        info = {n.partition(".dist-info/")[2] for n in archive.namelist() if ".dist-info/" in n}
    data = ("py.typed", "hardware/profiles/*.toml", "report/templates/*")
    package = ROOT / "compress"
    wanted = {p for pattern in ("**/*.py", *data) for p in package.glob(pattern)}
    assert held == {p.relative_to(ROOT).as_posix() for p in wanted}
    assert {"licenses/LICENSE", "entry_points.txt"} <= info
