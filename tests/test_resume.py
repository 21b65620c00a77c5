"""Evidence is found again: by the next run, by a run after a crash, by a run beside this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx_ir as ir
import pytest
from small_networks import cnn, images

import compress
from compress.evidence.store import EvidenceStore

TESTS = Path(__file__).parent
SCRIPT = """
import sys
import pytest
from known_machine import KnownMachine
from small_networks import cnn, images
KnownMachine().install(pytest.MonkeyPatch())
import compress
result = compress.run(cnn(), data=images())
result.save(sys.argv[1])
"""


def written(result):
    return ir.to_proto(result.model).SerializeToString(deterministic=True)


def decided(result):
    """Everything of a plan but how long solving took."""
    return result.plan.model_copy(
        update={"solver": result.plan.solver.model_copy(update={"seconds": 0.0})}
    )


class Killed(BaseException):
    """What nobody catches."""


def test_a_second_run_computes_nothing_again(machine):
    calls = []

    def quality(run):
        calls.append(1)
        return float(run(images(4))["scores"].max() > 0)

    first = compress.run(cnn(), data=images(), evaluate=quality)
    assert machine.counted["collect"] > 0
    assert machine.counted["run"] > 0
    assert calls
    machine.counted.clear()
    calls.clear()
    second = compress.run(cnn(), data=images(), evaluate=quality)
    assert written(second) == written(first)
    assert decided(second) == decided(first)
    assert not machine.counted
    assert calls == []


def test_a_second_run_observes_no_means_again(machine):
    compress.run(cnn(), data=images())
    machine.counted.clear()
    compress.run(cnn(), data=images())
    assert not machine.counted


def test_without_resume_nothing_is_kept(machine, cache):
    compress.run(cnn(), data=images(), resume=False)
    assert not cache.exists()


def test_other_data_is_other_evidence(machine):
    compress.run(cnn(), data=images())
    machine.counted.clear()
    compress.run(cnn(), data=images(seed=8))
    assert machine.counted["collect"] > 0
    assert machine.counted["run"] > 0


def test_another_seed_takes_its_own_samples(machine, monkeypatch, tmp_path):
    """What an earlier run left behind does not leak into one with another seed."""
    compress.run(cnn(), data=images(60), seed=0)
    after = compress.run(cnn(), data=images(60), seed=1)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "another"))
    alone = compress.run(cnn(), data=images(60), seed=1)
    assert decided(after) == decided(alone)
    assert written(after) == written(alone)


def test_a_killed_run_ends_with_the_same_bytes(machine, monkeypatch, tmp_path):
    puts = []
    for name in ("put", "put_arrays"):
        original = getattr(EvidenceStore, name)

        def counting(self, key, value, original=original):
            if len(puts) == limit:
                raise Killed
            puts.append(key)
            original(self, key, value)

        monkeypatch.setattr(EvidenceStore, name, counting)
    limit = -1
    uninterrupted = compress.run(cnn(), data=images())
    total = len(puts)
    assert total > 8
    for limit in (1, total // 2, total - 2):
        monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / f"killed-{limit}"))
        puts.clear()
        with pytest.raises(Killed):
            compress.run(cnn(), data=images())
        kept, limit = len(puts), -1
        puts.clear()
        resumed = compress.run(cnn(), data=images())
        assert written(resumed) == written(uninterrupted)
        assert decided(resumed) == decided(uninterrupted)
        # and it continued where it was
        assert len(puts) == total - kept


def start(cache: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out)],
        env={**os.environ, "COMPRESS_CACHE": str(cache), "PYTHONPATH": str(TESTS)},
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kill_and_two_at_once(machine, tmp_path):
    """A process killed for real, then two at once on what it left behind."""
    expected = written(compress.run(cnn(), data=images()))
    cache = tmp_path / "shared"
    killed = start(cache, tmp_path / "never")
    deadline = time.monotonic() + 30
    while len(list(cache.rglob("*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "never").exists()
    both = [start(cache, tmp_path / name) for name in ("one", "two")]
    for process in both:
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
    for name in ("one", "two"):
        assert (tmp_path / name / "model.onnx").read_bytes() == expected
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(("one.", "two.", ".one"))]
