"""Calibration data: every source gives the same samples, every mistake one clear line."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.errors import UsageError
from compress.evidence.data import CalibrationData, InputSpec, open_calibration

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)
IMAGE = [InputSpec("image", F32, ("N", 3, 4, 4))]
TOKENS = [
    InputSpec("ids", I64, ("batch", "length")),
    InputSpec("mask", I64, ("batch", "length")),
]


def images(n: int = 10, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3, 4, 4)).astype(dtype)


def singles(x: np.ndarray) -> list[dict[str, np.ndarray]]:
    return [{"image": x[i : i + 1]} for i in range(len(x))]


class FreshTensor:
    """Stands for the tensor of another framework: converts through __array__."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.array.astype(dtype) if dtype else self.array


def as_npz(folder: Path, x: np.ndarray) -> object:
    np.savez(folder / "x.npz", image=x)
    return folder / "x.npz"


def as_compressed_npz(folder: Path, x: np.ndarray) -> object:
    np.savez_compressed(folder / "x.npz", image=x)
    return str(folder / "x.npz")


def as_fortran_npz(folder: Path, x: np.ndarray) -> object:
    np.savez(folder / "x.npz", image=np.asfortranarray(x))
    return folder / "x.npz"


def as_compressed_fortran_npz(folder: Path, x: np.ndarray) -> object:
    np.savez_compressed(folder / "x.npz", image=np.asfortranarray(x))
    return folder / "x.npz"


def as_big_endian_npz(folder: Path, x: np.ndarray) -> object:
    np.savez(folder / "x.npz", image=x.astype(">f4"))
    return folder / "x.npz"


def as_folder(folder: Path, x: np.ndarray) -> object:
    for i in range(len(x)):
        np.savez(folder / f"{i:03}.npz", image=x[i : i + 1])
    (folder / "notes.txt").write_text("not a sample")
    return str(folder)


def as_code(folder: Path, x: np.ndarray) -> object:
    np.save(folder / "x.npy", x)
    (folder / "data.py").write_text(
        "from pathlib import Path\nimport numpy as np\n"
        "def samples():\n"
        "    for row in np.load(Path(__file__).with_name('x.npy')):\n"
        "        yield {'image': row[None]}\n"
    )
    return f"{folder}/data.py:samples"


SOURCES: list[Callable[[Path, np.ndarray], object]] = [
    as_npz,
    as_compressed_npz,
    as_fortran_npz,
    as_compressed_fortran_npz,
    as_big_endian_npz,
    as_folder,
    as_code,
    lambda _, x: {"image": x},
    lambda _, x: {"image": x[:, None]},
    lambda _, x: {"image": x.astype(np.float64)},
    lambda _, x: singles(x),
    lambda _, x: iter(singles(x)),
    lambda _, x: ({"image": FreshTensor(row[None])} for row in x),
    lambda _, x: lambda: iter(singles(x)),
    lambda _, x: lambda: singles(x),
    lambda _, x: lambda: {"image": x},
]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_samples(
    source: Callable[[Path, np.ndarray], object], tmp_path: Path
) -> None:
    x = images()
    reference = open_calibration({"image": x}, IMAGE)
    data = open_calibration(source(tmp_path, x), IMAGE)
    assert len(data) == 10
    assert data.fingerprint == reference.fingerprint
    for _ in range(2):
        samples = list(data)
        assert all(s["image"].dtype == F32 and s["image"].shape == (1, 3, 4, 4) for s in samples)
        np.testing.assert_array_equal(np.concatenate([s["image"] for s in samples]), x)
    some, some_reference = data.take(4, seed=1), reference.take(4, seed=1)
    assert some.fingerprint == some_reference.fingerprint
    for sample, expected in zip(some, some_reference, strict=True):
        np.testing.assert_array_equal(sample["image"], expected["image"])
    assert [len(b["image"]) for b in data.batches(4)] == [4, 4, 2]


@pytest.mark.parametrize("source", SOURCES)
def test_limit_bounds_every_source(
    source: Callable[[Path, np.ndarray], object], tmp_path: Path
) -> None:
    data = open_calibration(source(tmp_path, images()), IMAGE, limit=3)
    assert len(data) == len(list(data)) == 3


def test_a_generator_without_end_can_be_limited() -> None:
    def endless() -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(0)
        while True:
            yield {"image": rng.normal(size=(1, 3, 4, 4))}

    assert len(list(open_calibration(endless(), IMAGE, limit=4))) == 4
    data = open_calibration(endless, IMAGE, limit=4)
    assert len(list(data)) == 4
    assert data.take(2).fingerprint != data.fingerprint


def test_content_decides_the_fingerprint() -> None:
    x = images()
    other = x.copy()
    other[3, 1, 2, 2] += 1e-3
    prints = {open_calibration({"image": y}, IMAGE).fingerprint for y in (x, other, x[:9], x[::-1])}
    assert len(prints) == 4


def test_rows_of_a_compressed_file_are_streamed(tmp_path: Path) -> None:
    """Memory is bounded by the row (1 MB), not by the array (64 MB)."""
    import tracemalloc

    shape = (64, 512, 512)
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(shape, np.float32))
    data = open_calibration(tmp_path / "x.npz", [InputSpec("x", F32, ("N", 512, 512))], limit=3)
    tracemalloc.start()
    assert sum(sample["x"].shape[0] for sample in data) == 3
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_names_with_slashes_and_odd_names_survive_copying() -> None:
    specs = [InputSpec("/a/b:0", F32, ("N",)), InputSpec("file", F32, ("N",))]
    samples = ({"/a/b:0": np.ones(1), "file": np.full(1, i)} for i in range(3))
    with pytest.raises(UsageError, match="'file' is int64"):
        open_calibration(samples, specs)
    samples = ({"/a/b:0": np.ones(1), "file": np.full(1, float(i))} for i in range(3))
    assert [float(s["file"][0]) for s in open_calibration(samples, specs)] == [0, 1, 2]


# -- how arrays become samples ---------------------------------------------------------------------


def test_a_fixed_batch_size_takes_that_many_rows() -> None:
    specs = [InputSpec("image", F32, (4, 3, 4, 4))]
    data = open_calibration({"image": images(10)}, specs)
    assert [s["image"].shape[0] for s in data] == [4, 4]
    with pytest.raises(UsageError, match="too few for one batch of the 4"):
        open_calibration({"image": images(3)}, specs)


def test_inputs_without_batch_axis_come_one_per_row() -> None:
    specs = [InputSpec("wave", F32, (8,)), InputSpec("rate", I64, ())]
    data = open_calibration(
        {"wave": np.zeros((5, 8), np.float32), "rate": np.arange(5, dtype=np.int32)}, specs
    )
    assert [s["wave"].shape for s in data] == [(8,)] * 5
    assert [s["rate"].shape for s in data] == [()] * 5
    assert [int(s["rate"]) for s in data.batches(4)] == [0, 1, 2, 3, 4]


def test_labels_are_passed_over_unless_they_are_an_input() -> None:
    labels = np.arange(10)
    data = open_calibration({"image": images(), "labels": labels}, IMAGE)
    assert list(next(iter(data))) == ["image"]
    specs = [*IMAGE, InputSpec("labels", I64, ("N",))]
    assert list(next(iter(open_calibration({"image": images(), "labels": labels}, specs)))) == [
        "image",
        "labels",
    ]


def test_strings_are_passed_on() -> None:
    specs = [InputSpec("text", np.dtype(object), ("N",))]
    data = open_calibration([{"text": np.array(["a b"], dtype=object)}], specs)
    assert next(iter(data))["text"].tolist() == ["a b"]


def test_unknown_rank_takes_rows() -> None:
    data = open_calibration({"x": np.zeros((3, 7), np.float32)}, [InputSpec("x", F32, None)])
    assert [s["x"].shape for s in data] == [(1, 7)] * 3


def test_an_empty_cache_is_a_legitimate_sample() -> None:
    specs = [InputSpec("past", F32, ("N", 2, "past", 4))]
    data = open_calibration([{"past": np.zeros((1, 2, 0, 4), np.float32)}], specs)
    assert data.sample_shapes == [{"past": (1, 2, 0, 4)}]


# -- batches ---------------------------------------------------------------------------------------


def variable(lengths: list[int]) -> list[dict[str, np.ndarray]]:
    return [
        {"ids": np.full((1, n), i, np.int64), "mask": np.ones((1, n), np.int64)}
        for i, n in enumerate(lengths)
    ]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.integers(1, 5))
def test_batches_hold_each_sample_once_and_equal_shapes(lengths: list[int], size: int) -> None:
    data = open_calibration(variable(lengths), TOKENS)
    batches = list(data.batches(size))
    seen = [int(row[0]) for batch in batches for row in batch["ids"]]
    assert sorted(seen) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch["ids"]) <= size
        assert batch["ids"].shape == batch["mask"].shape
        assert all(lengths[int(row[0])] == len(row) for row in batch["ids"])


def test_fixed_or_unlike_batch_axes_are_not_joined() -> None:
    fixed = [InputSpec("image", F32, (1, 3, 4, 4))]
    assert len(list(open_calibration({"image": images()}, fixed).batches(4))) == 10
    unlike = [InputSpec("a", F32, ("N", 2)), InputSpec("b", F32, ("M", 2))]
    arrays = {"a": np.zeros((4, 2), np.float32), "b": np.zeros((4, 2), np.float32)}
    assert len(list(open_calibration(arrays, unlike).batches(4))) == 4


def test_samples_that_are_batches_already_stay_as_they_are() -> None:
    data = open_calibration([{"image": images(n)} for n in (2, 1, 3, 1)], IMAGE)
    assert sorted(len(b["image"]) for b in data.batches(4)) == [2, 2, 3]


# -- subsets ---------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 5))
def test_subsets_are_spread_evenly(total: int, n: int, seed: int) -> None:
    data = open_calibration(
        {"x": np.arange(total, dtype=np.float32)}, [InputSpec("x", F32, ("N",))]
    )
    chosen = [int(s["x"][0]) for s in data.take(n, seed)]
    assert len(chosen) == min(n, total)
    assert chosen == sorted(set(chosen))
    if n <= total:
        for part, place in enumerate(chosen):
            assert part * total // n <= place < (part + 1) * total // n
    assert chosen == [int(s["x"][0]) for s in data.take(n, seed)]


# -- mistakes --------------------------------------------------------------------------------------


def refused(source: object, specs: list[InputSpec] = IMAGE) -> str:
    with pytest.raises(UsageError) as caught:
        open_calibration(source, specs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.npz")
    for name, content in {"text.npz": b"hello", "empty.npz": b""}.items():
        (tmp_path / name).write_bytes(content)
        assert "is not an .npz file" in refused(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "it holds 'readme.txt'" in refused(tmp_path / "zip.npz")
    np.save(tmp_path / "x.npy", images())
    assert "np.savez" in refused(tmp_path / "x.npy")
    (tmp_path / "folder").mkdir()
    assert "holds no .npz file" in refused(tmp_path / "folder")
    assert "int" in refused(5)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_and_damaged_files_are_one_line(tmp_path: Path, save: Any) -> None:
    path = tmp_path / "x.npz"
    save(path, image=images())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for cut in rng.integers(0, len(whole), 30):
        path.write_bytes(whole[:cut])
        refused(path)
    for place in rng.integers(0, len(whole), 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        # A changed value is still a value; whatever else was hit must be told as a UsageError.
        with contextlib.suppress(UsageError):
            list(open_calibration(path, IMAGE))


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive, archive.open("image.npy", "w") as f:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3, 4, 4)}
        np.lib.format.write_array_header_1_0(f, header)
    assert "as many values as its header says" in refused(tmp_path / "x.npz")


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    bomb = Bomb(trace)
    pickle.loads(pickle.dumps(bomb))
    assert trace.exists()
    trace.unlink()
    np.savez(tmp_path / "x.npz", image=np.array([bomb], dtype=object))
    assert "pickled" in refused(tmp_path / "x.npz")
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "folder" / "x.npz", image=np.array([bomb], dtype=object))
    assert "pickled" in refused(tmp_path / "folder")
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(bomb))
    assert "is not an .npz file" in refused(tmp_path / "raw.npz")
    assert not trace.exists()


def test_names_must_be_the_models() -> None:
    message = refused({"picture": images()})
    assert "'picture'" in message
    assert "'image'" in message
    assert "'extra'" in refused({"image": images(), "extra": images()})
    assert "'mask'" in refused([{"ids": np.ones((1, 3), np.int64)}], TOKENS)


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.zeros((2, 3, 4), np.float32), "has shape (1, 3, 4)"),
        (np.zeros((2, 1, 4, 4), np.float32), "has shape (1, 1, 4, 4)"),
        (np.zeros((2, 3, 4, 4), np.uint8), "is uint8"),
        (np.zeros((2, 3, 4, 4), bool), "is bool"),
        (np.zeros((2, 3, 4, 4), np.complex64), "is complex64"),
        (np.full((2, 3, 4, 4), np.nan, np.float32), "holds NaN"),
        (np.full((2, 3, 4, 4), np.inf), "holds Inf"),
        (np.full((2, 3, 4, 4), 1e200), "too large for float32"),
        (np.zeros((0, 3, 4, 4), np.float32), "holds no samples"),
        (np.float32(1), "its first axis must be samples"),
        (object(), "no array of numbers"),
        ([[1.0], [1.0, 2.0]], "is no array"),
    ],
)
def test_arrays_must_fit(array: object, part: str) -> None:
    assert part in refused({"image": array})


def test_the_axis_that_is_missing_is_named() -> None:
    assert "axis of size 1 is missing" in refused([{"image": images()[0]}])


def test_integers_are_widened_and_never_narrowed() -> None:
    ids = np.arange(6).reshape(2, 3)
    for dtype in (np.int32, np.uint8, np.int64):
        data = open_calibration({"ids": ids.astype(dtype), "mask": ids.astype(dtype)}, TOKENS)
        assert all(s["ids"].dtype == I64 for s in data)
    narrow = [InputSpec("ids", np.dtype(np.int32), ("N", 3))]
    assert "int64" in refused({"ids": ids}, narrow)
    assert "float64" in refused({"ids": ids.astype(float)}, narrow)


def test_counts_must_be_equal() -> None:
    arrays = {"ids": np.ones((3, 4), np.int64), "mask": np.ones((2, 4), np.int64)}
    message = refused(arrays, TOKENS)
    assert "'ids' has 3" in message
    assert "'mask' has 2" in message


def test_zero_samples() -> None:
    for source in ([], iter([]), lambda: iter([]), {}):
        assert "holds no samples" in refused(source)


def test_the_bad_sample_is_named(tmp_path: Path) -> None:
    x = images()
    x[7, 0, 0, 0] = np.nan
    assert "sample 7 of" in refused({"image": x})
    assert "007.npz" in refused(as_folder(tmp_path, x))
    assert "sample 7" in refused(iter(singles(x)))
    assert "is a tuple" in refused([(x, 1)])


def test_user_code_that_fails_is_located(tmp_path: Path) -> None:
    file = tmp_path / "data.py"

    def given(text: str, name: str = ":samples") -> str:
        file.write_text(text)
        return refused(f"{file}{name}")

    assert f"{file}:2: ZeroDivisionError" in given("x = 1\n1 / 0\n")
    assert f"{file}:1: SyntaxError" in given("def samples(:\n")
    assert f"{file}:3: ValueError: no disk" in given(
        "def samples():\n    yield {'image': __import__('numpy').zeros((1, 3, 4, 4))}\n"
        "    raise ValueError('no\\n disk')\n"
    )
    assert "SystemExit" in given("raise SystemExit(1)\n")
    assert "has no function 'samples'; it defines other" in given("def other(): ...\n")
    assert "has no function 'samples'" in given("samples = 3\n")
    assert "returned a int" in given("def samples(): return 3\n")
    assert "returned a NoneType" in given("def samples(): pass\n")
    assert "missing 1 required positional argument" in given("def samples(n): yield n\n")
    assert "name the function" in given("", name="")
    assert "cannot read" in refused(f"{tmp_path}/none.py:samples")


def test_user_code_imports_its_neighbours_and_leaves_nothing_behind(tmp_path: Path) -> None:
    import sys

    (tmp_path / "neighbour_at_load.py").write_text("SIZE = 4\n")
    (tmp_path / "neighbour_later.py").write_text("import numpy\nzeros = numpy.zeros\n")
    (tmp_path / "data.py").write_text(
        "from dataclasses import dataclass\nfrom neighbour_at_load import SIZE\n"
        "@dataclass\nclass Shape:\n    n: 'int' = SIZE\n"
        "def samples():\n    from neighbour_later import zeros\n"
        "    yield {'image': zeros((1, 3, Shape().n, 4))}\n"
    )
    before = list(sys.path)
    assert len(open_calibration(f"{tmp_path}/data.py:samples", IMAGE)) == 1
    assert sys.path == before
    assert "data" not in sys.modules


def test_a_source_that_changes_between_passes_is_noticed() -> None:
    rng = np.random.default_rng()
    data = open_calibration(lambda: ({"image": rng.normal(size=(1, 3, 4, 4))} for _ in "ab"), IMAGE)
    with pytest.raises(UsageError, match="fix its random seed"):
        list(data)
    counts = iter([3, 1])
    data = open_calibration(lambda: iter(singles(images(next(counts)))), IMAGE)
    with pytest.raises(UsageError, match="the same samples each time"):
        list(data)


def test_progress_is_told() -> None:
    told: list[tuple[int, int | None]] = []
    open_calibration({"image": images(3)}, IMAGE, on_sample=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_opened_data_is_taken_as_it_is() -> None:
    data = open_calibration({"image": images()}, IMAGE)
    assert open_calibration(data, IMAGE) is data
    assert isinstance(open_calibration(data, IMAGE, limit=2), CalibrationData)
