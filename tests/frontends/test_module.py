"""Live torch modules and exported programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from frontend_models import run, shapes_of

from compress.errors import ModelError, UsageError
from compress.frontends import load

torch = pytest.importorskip("torch")

from torch_models import Classifier, Encoder, Gated, TwoInputs, image_batch  # noqa: E402


@pytest.mark.parametrize("form", ["tuple", "dict", "tensor", "numpy"])
def test_module_with_example_inputs(form: str) -> None:
    module = Classifier().eval()
    image = image_batch()
    inputs: Any = {
        "tuple": (image,),
        "dict": {"image": image},
        "tensor": image,
        "numpy": (image.numpy(),),
    }[form]
    model = load(module, example_inputs=inputs)
    assert shapes_of(model.graph.inputs) == {"image": [2, 3, 8, 8]}
    outputs = run(model, {"image": image.numpy()})
    np.testing.assert_allclose(outputs["logits"], module(image)["logits"].detach(), atol=1e-5)


def test_module_is_exported_for_inference_and_stays_as_it_was() -> None:
    module = Classifier()
    module.conv.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    model = load(module, example_inputs=(image_batch(),))
    assert module.training
    assert module.bn.training
    assert not module.conv.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    outputs = run(model, {"image": image_batch().numpy()})
    expected = module.eval()(image_batch())["logits"].detach()
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)


def test_training_on_does_not_change_the_model() -> None:
    module = Classifier()
    model = load(module, example_inputs=(image_batch(),))
    with torch.no_grad():
        module.fc.weight.fill_(0)
    assert model.graph.initializers["fc.weight"].const_value.numpy().any()


def test_weights_are_plain_arrays_under_their_names() -> None:
    model = load(Encoder(), example_inputs=(torch.zeros((1, 4), dtype=torch.int64),))
    assert all(type(v.const_value) is ir.Tensor for v in model.graph.initializers.values())
    names = set(model.graph.initializers)
    assert {"embed.weight", "layer.linear1.weight", "layer.linear1.bias", "head.weight"} <= names


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights(dtype: str) -> None:
    module = torch.nn.Linear(4, 4).to(getattr(torch, dtype))
    model = load(module, example_inputs=(torch.zeros(1, 4, dtype=getattr(torch, dtype)),))
    assert model.graph.initializers["weight"].const_value.dtype.name == dtype.upper()


def test_shapes_instead_of_example_inputs() -> None:
    model = load(Classifier(), shapes={"image": (1, 3, 16, 16)})
    assert shapes_of(model.graph.inputs) == {"image": [1, 3, 16, 16]}
    model = load(Encoder(), shapes={"input_ids": (1, 4)})
    assert model.graph.inputs[0].dtype == ir.DataType.INT64


def test_shapes_of_integer_inputs_without_a_telling_name() -> None:
    class Lookup(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(9, 4)

        def forward(self, what: torch.Tensor) -> torch.Tensor:
            return self.table(what)

    assert load(Lookup(), shapes={"what": (3,)}).graph.inputs[0].dtype == ir.DataType.INT64


@pytest.mark.parametrize(
    ("inputs", "shapes", "message"),
    [
        (None, None, "--shape left=.* --shape right="),
        (None, {"left": (1, 4)}, "--shape right="),
        (None, {"left": (1, 4), "right": (1, 4), "up": (1,)}, "no input 'up'"),
        (None, {"left": (1, 5), "right": (1, 4)}, "does not run on inputs of shape"),
        (None, {"left": (0, 4), "right": (1, 4)}, "impossible"),
        (None, {"left": (1 << 40,), "right": (1, 4)}, "impossible"),
        ((), None, "empty"),
        ({"left": np.zeros((1, 4), np.float32)}, None, "no example input for 'right'"),
        ({"up": np.zeros((1, 4), np.float32)}, None, "no input 'up'"),
    ],
)
def test_inputs_that_do_not_fit(inputs: Any, shapes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(TwoInputs(), example_inputs=inputs, shapes=shapes)


def test_optional_inputs_by_name() -> None:
    tensors = [torch.rand(1, 4) for _ in range(3)]
    inputs = dict(zip(("left", "right", "bias"), tensors, strict=True))
    module = TwoInputs()
    model = load(module, example_inputs=inputs)
    assert list(shapes_of(model.graph.inputs)) == ["left", "right", "bias"]
    outputs = run(model, {name: tensor.numpy() for name, tensor in inputs.items()})
    expected, _ = module(**inputs)
    np.testing.assert_allclose(outputs["output_0"], expected.detach(), atol=1e-6)


def test_control_flow_on_data_fails_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError) as caught:
        load(Gated(), example_inputs=(torch.rand(1, 4),))
    assert "data-dependent" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_operator_without_onnx_form_is_named() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.qr(x)[0]

    with pytest.raises(ModelError, match="qr"):
        load(Odd(), example_inputs=(torch.rand(3, 3),))


def test_exported_program_with_dynamic_batch() -> None:
    module = Classifier().eval()
    dimensions = {"image": {0: torch.export.Dim("batch")}}
    program = torch.export.export(module, (image_batch(),), dynamic_shapes=dimensions)
    model = load(program)
    assert isinstance(model.graph.inputs[0].shape[0], ir.SymbolicDim)
    outputs = run(model, {"image": image_batch(5).numpy()})
    expected = module(image_batch(5))["logits"].detach()
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5)


def test_input_returned_as_it_is_stays_an_input() -> None:
    class Through(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return {"x": x, "y": x + 1}

    model = load(Through(), example_inputs=(torch.rand(1, 4),))
    outputs = run(model, {"x": np.ones((1, 4), np.float32)})
    assert {name: float(value[0, 0]) for name, value in outputs.items()} == {"x_": 1, "y": 2}


def test_export_is_the_same_in_every_process(tmp_path: Path) -> None:
    script = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "import onnx_ir as ir\n"
        "from torch_models import Encoder\n"
        "from compress.frontends import load\n"
        "model = load(Encoder(), shapes={'input_ids': (1, 4)})\n"
        "data = ir.to_proto(model).SerializeToString(deterministic=True)\n"
        "print(hashlib.sha256(data).hexdigest())\n"
    )
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            env={"PYTHONPATH": str(root), "PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
