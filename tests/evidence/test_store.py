"""The evidence store keeps what was put, through crashes, damage and crowding."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.evidence.digest import digest
from compress.evidence.store import SCHEMA_VERSION, EvidenceStore, default_folder


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> EvidenceStore:
    return EvidenceStore(tmp_path) if request.param == "disk" else EvidenceStore.in_memory()


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_json_round_trip(store: EvidenceStore) -> None:
    key = store.key("latency", "conv", (1, 3, 8, 8))
    assert store.get(key) is None
    store.put(
        key, {"ms": 0.25, "runs": [1, 2], "name": "café", "none": None, "np": np.float32(0.5)}
    )
    assert store.get(key) == {
        "ms": 0.25,
        "runs": [1, 2],
        "name": "café",
        "none": None,
        "np": 0.5,
    }


def test_arrays_round_trip_under_any_name(store: EvidenceStore) -> None:
    key = store.key("statistics", "m")
    arrays = {
        "file": np.arange(6, dtype=np.float32).reshape(2, 3),
        "../up": np.zeros((0, 4), np.int8),
        "a/b:0": np.array(3.5),
        "names": np.array([True, False]),
    }
    store.put_arrays(key, arrays)
    found = store.get_arrays(key)
    assert found is not None
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_what_is_kept_is_not_shared_with_the_caller(store: EvidenceStore) -> None:
    value, array = [1], np.ones(2)
    store.put(store.key("k"), value)
    store.put_arrays(store.key("k"), {"x": array})
    value.append(2)
    array[:] = 0
    assert store.get(store.key("k")) == [1]
    found = store.get_arrays(store.key("k"))
    assert found is not None
    assert found["x"].tolist() == [1, 1]


def test_objects_are_never_pickled(store: EvidenceStore) -> None:
    with pytest.raises(TypeError, match="cannot be kept"):
        store.put_arrays(store.key("k"), {"x": np.array([object()])})
    with pytest.raises(TypeError, match="cannot be kept"):
        store.put(store.key("k"), {"x": object()})


def test_memo_computes_once_and_returns_the_same_both_times(store: EvidenceStore) -> None:
    calls = []

    def compute() -> object:
        calls.append(1)
        return {"shape": (1, 2)}

    first = store.memo("k", ["part", 1], compute)
    assert first == store.memo("k", ["part", 1], compute) == {"shape": [1, 2]}
    assert len(calls) == 1
    arrays = store.memo_arrays("k", ["part"], lambda: {"x": np.ones(3)})
    again = store.memo_arrays("k", ["part"], dict)
    assert arrays["x"].tolist() == again["x"].tolist()


def test_entries_outlive_the_store_and_carry_the_schema_version(tmp_path: Path) -> None:
    EvidenceStore(tmp_path).put(EvidenceStore.key("k", 1), [1])
    assert EvidenceStore(tmp_path).get(EvidenceStore.key("k", 1)) == [1]
    (path,) = entries(tmp_path)
    assert path.relative_to(tmp_path).parts[0] == f"evidence-v{SCHEMA_VERSION}"


@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "garbage"])
@pytest.mark.parametrize("arrays", [False, True])
def test_a_damaged_entry_counts_as_missing_and_is_rewritten(
    tmp_path: Path, damage: str, arrays: bool
) -> None:
    store = EvidenceStore(tmp_path)
    content = np.random.default_rng(0).normal(size=500)

    def put_and_get() -> object:
        if arrays:
            return store.memo_arrays("k", [1], lambda: {"x": content})["x"].tolist()
        return store.memo("k", [1], lambda: content.tolist())

    put_and_get()
    (path,) = entries(tmp_path)
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "truncate": whole[:middle],
            "empty": b"",
            "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "garbage": b"\xff" * len(whole),
        }[damage]
    )
    key = store.key("k", 1)
    assert (store.get_arrays(key) if arrays else store.get(key)) is None
    assert put_and_get() == content.tolist()
    assert path.read_bytes() == whole


def test_keys_tell_types_shapes_and_nesting_apart() -> None:
    values: list[object] = [
        None,
        True,
        1,
        1.0,
        "1",
        b"1",
        [1],
        [[1]],
        {"1": 1},
        {1: "1"},
        ["ab", "c"],
        ["a", "bc"],
        [],
        "",
        0.0,
        -0.0,
        np.zeros((2, 3), np.float32),
        np.zeros((3, 2), np.float32),
        np.zeros((2, 3), np.int32),
        np.zeros(0),
        np.dtype(np.float32),
        float("nan"),
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert EvidenceStore.key("a", 1) != EvidenceStore.key("b", 1)


def test_equal_content_has_equal_keys() -> None:
    array = np.arange(12).reshape(3, 4)
    assert digest(array) == digest(np.asfortranarray(array)) == digest(array[::1, ::1])
    assert digest(array[:, 1]) == digest(array[:, 1].copy())
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest((1, 2)) == digest([1, 2])
    assert digest(np.int64(3), np.float64(0.5)) == digest(3, 0.5)


def test_dataclasses_are_hashed_by_name_and_fields() -> None:
    @dataclass(frozen=True)
    class A:
        x: int = 1

    @dataclass(frozen=True)
    class B:
        x: int = 1

    assert digest(A()) == digest(A(1))
    assert len({digest(A()), digest(A(2)), digest(B())}) == 3


def test_the_hash_is_the_same_in_every_version() -> None:
    """Changing the encoding throws away every cache: raise SCHEMA_VERSION when it is meant."""
    assert digest("conv", 1, 0.5, [True, None], {"a": b"b"}, np.arange(3, dtype="<i4")) == (
        "4db0e9822dfb0a822449acbf8c0fed670a2a322829205431b1c63d3c12d2ba18"
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_any_json_value_survives(value: object) -> None:
    store = EvidenceStore.in_memory()
    store.put(store.key("k"), value)
    assert store.get(store.key("k")) == value


@given(json_values, json_values)
def test_keys_are_equal_only_for_equal_values(a: object, b: object) -> None:
    if digest(a) == digest(b):
        assert a == b


@pytest.mark.parametrize("bad", ["Bad", "", "a/b", "../x"])
def test_kinds_are_plain_words(bad: str) -> None:
    with pytest.raises(ValueError, match="not a kind"):
        EvidenceStore.key(bad)


def test_unwritable_folder_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    store = EvidenceStore(blocked)
    with caplog.at_level(logging.WARNING):
        assert store.memo("k", [1], lambda: 5) == 5
        assert store.memo("k", [1], lambda: 6) == 6
        assert store.memo_arrays("k", [1], lambda: {"x": np.ones(1)})["x"].tolist() == [1]
    assert len(caplog.records) == 1
    assert "COMPRESS_CACHE" in caplog.text


def test_full_disk_leaves_no_temporary_and_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    store = EvidenceStore(tmp_path)
    with caplog.at_level(logging.WARNING):
        store.put(store.key("k", 1), 1)
        store.put(store.key("k", 2), 2)
    assert entries(tmp_path) == []
    assert len(caplog.records) == 1
    assert "No space left" in caplog.text


def test_least_recently_used_entries_are_deleted_first(tmp_path: Path) -> None:
    unbounded = EvidenceStore(tmp_path)
    for i in range(10):
        unbounded.put(unbounded.key("k", i), "x" * 1000)
    now = time.time()
    for i in range(10):
        name = unbounded.key("k", i).partition("-")[2]
        (path,) = tmp_path.rglob(f"{name}.json")
        os.utime(path, (now - 1000 + i, now - 1000 + i))
    assert unbounded.get(unbounded.key("k", 0)) is not None  # used: now the newest
    bounded = EvidenceStore(tmp_path, max_bytes=6000)
    bounded.put(bounded.key("k", "new"), "x" * 1000)
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 6000
    assert bounded.get(bounded.key("k", 0)) is not None
    assert bounded.get(bounded.key("k", "new")) is not None
    assert bounded.get(bounded.key("k", 1)) is None


def test_temporaries_of_killed_runs_are_cleared_after_a_day(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    store.put(store.key("k"), 1)
    (path,) = entries(tmp_path)
    old, young = path.with_name("old.tmp"), path.with_name("young.tmp")
    for file in (old, young):
        file.write_text("")
    os.utime(old, (0, 0))
    fresh = EvidenceStore(tmp_path)
    fresh.put(fresh.key("k", 2), 1)
    assert not old.exists()
    assert young.exists()


def hammer(folder: str, seed: int) -> None:
    store = EvidenceStore(Path(folder), max_bytes=20_000)
    for i in range(150):
        part = (i * 7 + seed) % 20
        assert store.memo("k", [part], lambda part=part: [part] * 300) == [part] * 300
        array = store.memo_arrays("k", [part], lambda part=part: {"x": np.full(50, part)})
        assert (array["x"] == part).all()


def test_processes_at_once_do_no_harm(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=hammer, args=(str(tmp_path), seed)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert not [path for path in entries(tmp_path) if path.suffix == ".tmp"]


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "here"))
    assert default_folder() == tmp_path / "here"
    monkeypatch.delenv("COMPRESS_CACHE")
    assert "compress" in str(default_folder())
