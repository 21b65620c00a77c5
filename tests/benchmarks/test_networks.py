from __future__ import annotations

import gzip
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import networks
from benchmarks.networks import data, evaluation
from benchmarks.runtimes import onnxruntime_run

torch = pytest.importorskip("torch")
architectures = pytest.importorskip("benchmarks.networks.architectures")
training = pytest.importorskip("benchmarks.networks.training")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _parameters(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())


def test_imagenet_layouts_have_the_published_sizes() -> None:
    mobilenet, resnet = architectures.mobilenet_v2(0), architectures.resnet34(0)
    # 3.4 M parameters and 300 M multiply-adds; 3.6 G for ResNet-34 (Table 1 of its paper).
    assert _parameters(mobilenet) == 3_504_872
    assert _parameters(resnet) == 21_797_672
    shape = architectures.IMAGENET_SHAPE
    assert architectures.macs(mobilenet, shape) == 300_774_272
    assert round(architectures.macs(resnet, shape) / 1e9, 1) == 3.7


def test_a_seed_fixes_weights_and_statistics() -> None:
    first, same, other = (architectures.mobilenet_v2(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], same[name]) for name in first)
    for name in ("0.1.running_mean", "0.1.running_var", "0.1.weight", "0.1.bias", "0.0.weight"):
        assert not torch.equal(first[name], other[name])


def test_random_networks_see_their_input() -> None:
    # Otherwise an algebra check would pass whatever a merge does.
    with torch.no_grad():
        logits = architectures.mobilenet_v2(0)(torch.rand(4, 3, 64, 64))
    assert float((logits - logits.mean(0)).std()) > 0.01 * float(logits.abs().max())


def test_macs_are_counted_by_hand() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        torch.nn.Flatten(),
        torch.nn.Linear(6 * 4 * 4, 5),
    )
    assert architectures.macs(network, (4, 8, 8)) == 4 * 4 * 6 * (4 // 2) * 9 + 6 * 4 * 4 * 5
    assert network.training


# The exporter of some versions of torch warns about its own use of pytrees.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", architectures.FMNIST_NETWORKS)
def test_the_export_computes_the_same_without_batch_norms(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = architectures.randomize(architectures.FMNIST_NETWORKS[name](), seed=1)
    path = tmp_path / "model.onnx"
    architectures.export_onnx(network, path)

    graph = onnx.load(path).graph
    operators = Counter(node.op_type for node in graph.node)
    assert "BatchNormalization" not in operators
    assert operators["Conv"] == sum(isinstance(m, torch.nn.Conv2d) for m in network.modules())
    assert [value.name for value in graph.input] == ["image"]
    run = onnxruntime_run(path)
    for count in (1, 3):
        x = torch.rand(count, *architectures.FMNIST_SHAPE)
        with torch.no_grad():
            expected = network(x).numpy()
        logits = run({"image": x.numpy()})["logits"]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_mobilenet_has_runs_of_residual_blocks_to_choose_from() -> None:
    residual = [
        module.residual
        for module in architectures.mobilenet_fmnist()
        if isinstance(module, architectures.InvertedResidual)
    ]
    assert 10 <= len(residual) <= 14
    runs = "".join("r" if one else " " for one in residual).split()
    assert sum(len(run) >= 2 for run in runs) >= 2


def test_augmentation_shifts_and_mirrors_single_images() -> None:
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 10, 5] = 255
    batch = torch.from_numpy(np.repeat(image[None], 400, axis=0))
    result = training.augment(batch, torch.Generator().manual_seed(0))
    assert result.dtype == torch.float32
    assert result.shape == batch.shape
    assert torch.equal(result.sum((1, 2, 3)), torch.ones(400))
    spots = {(int(row), int(column)) for _, _, row, column in result.nonzero()}
    columns = {*range(3, 8), *(27 - column for column in range(3, 8))}
    assert spots == {(row, column) for row in range(8, 13) for column in columns}


def _toy() -> tuple[Any, Any]:
    """Two classes told apart by which half is bright."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 512)
    pictures = rng.integers(0, 60, (512, 1, 28, 28)).astype(np.uint8)
    pictures[labels == 1, :, :14] += 150
    pictures[labels == 0, :, 14:] += 150
    return torch.from_numpy(pictures), torch.from_numpy(labels)


def _small() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        architectures.conv_norm(1, 8, 3, 2, activation=torch.nn.ReLU),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(32, 2),
    )


def test_training_learns_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    pictures, labels = _toy()
    recipe = training.Recipe((training.Phase(3, 14), training.Phase(2, 28)))
    whole, lines = _small(), []
    training.train(whole, pictures, labels, recipe, tmp_path / "whole.pt", lines.append)
    guesses = whole.eval()(pictures.float() / 255).argmax(1)
    assert float((guesses == labels).float().mean()) > 0.95
    assert len(lines) == 5

    class Interrupted(Exception):
        pass

    def stop_after_three(line: str) -> None:
        lines.append(line)
        if "epoch 4/" in line:
            raise Interrupted

    lines.clear()
    with pytest.raises(Interrupted):
        training.train(_small(), pictures, labels, recipe, tmp_path / "cut.pt", stop_after_three)
    resumed = _small()
    training.train(resumed, pictures, labels, recipe, tmp_path / "cut.pt", lines.append)
    assert [line.split(":")[0].strip() for line in lines] == [
        *(f"epoch {n}/5" for n in (1, 2, 3, 4)),
        *(f"epoch {n}/5" for n in (4, 5)),
    ]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value)


def test_every_network_has_a_recipe_that_ends_at_full_size() -> None:
    assert set(networks.NAMES) == set(training.RECIPES) == set(architectures.FMNIST_NETWORKS)
    for recipe in training.RECIPES.values():
        assert recipe.side(recipe.epochs - 1) == training.SIDE


def _install_images(zoo: Path, train: int, test: int) -> None:
    """An unpacked stand-in for the Debian package, with random data."""
    rng = np.random.default_rng(0)
    folder = zoo / "packages" / f"{data.PACKAGE.package}-{data.PACKAGE.version}"
    folder = folder / "usr" / "share" / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        for suffix, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            head = bytes((0, 0, 8, len(shape))) + np.array(shape, ">i4").tobytes()
            body = rng.integers(0, 10, shape).astype(np.uint8).tobytes()
            path = folder / f"{name}-{suffix}-ubyte.gz"
            path.write_bytes(gzip.compress(head + body))


def test_data_files_hold_images_in_zero_to_one(zoo: Path) -> None:
    _install_images(zoo, train=600, test=200)
    files = data.data_files()
    with np.load(files.train_images) as content:
        assert content.files == ["image"]
        train = content["image"]
    assert train.shape == (600, 1, 28, 28)
    assert train.dtype == np.float32
    assert train.max() == np.float32(9 / 255)
    with np.load(files.calibration) as content:
        assert content.files == ["image"]
        assert content["image"].shape == (data.CALIBRATION_IMAGES, 1, 28, 28)
    with np.load(files.test) as content:
        assert content["labels"].dtype == np.int64
        assert len(content["labels"]) == len(content["image"]) == 200


def test_evaluation_is_the_share_of_right_answers(zoo: Path) -> None:
    _install_images(zoo, train=600, test=200)
    with np.load(data.data_files().test) as content:
        labels = content["labels"]
    evaluation._test.cache_clear()
    served = []

    def run(inputs: Any) -> Any:
        start = sum(served)
        served.append(len(inputs["image"]))
        logits = np.eye(10)[labels[start : start + served[-1]]]
        if start == 0:
            logits[:30] = -logits[:30]
        return {"anything": logits}

    assert evaluation.evaluate(run) == pytest.approx(170 / 200)
    assert served == [100, 100]
    evaluation._test.cache_clear()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x01abcd"))
    with pytest.raises(ValueError, match="not an IDX file"):
        data.read_idx(path)


def test_a_network_is_trained_once(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _install_images(zoo, train=600, test=200)
    started = []

    def train(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        started.append(command[-2])
        for name in ("model.onnx", "record.json", "weights.pt"):
            (Path(command[-1]) / name).touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", train)
    first = networks.network("vgg_fmnist")
    assert networks.network("vgg_fmnist") == first
    assert started == ["vgg_fmnist"]
    assert capsys.readouterr().err.count("about 10 minutes") == 1


def test_failures_say_what_is_wrong(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match="mobilenet_fmnist"):
        networks.network("alexnet")
    _install_images(zoo, train=600, test=200)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1)
    )
    with pytest.raises(networks.TrainingError, match="vgg_fmnist failed"):
        networks.network("vgg_fmnist")
