"""MONAI's own tools on a trained bundle: what the model zoo runs."""

import json

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, onnx_export, verify_net_in_out

from ttl_monai.engines import build_network

from .conftest import BUNDLES

CONFIGS = BUNDLES / "covid_ttl" / "configs"


@pytest.fixture
def arguments(trained):
    return {
        "net_id": "network_def",
        "meta_file": str(CONFIGS / "metadata.json"),
        "config_file": str(CONFIGS / "inference.json"),
        "run_dir": str(trained),
    }


@pytest.fixture
def expected(trained):
    image = torch.rand(3, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return image, build_network(trained)(image)


def test_network_takes_and_gives_what_the_metadata_says(arguments, expected):
    verify_net_in_out(**arguments, device="cpu")
    declared = json.loads((CONFIGS / "metadata.json").read_text())["network_data_format"]
    image, output = expected
    assert list(image.shape[2:]) == declared["inputs"]["image"]["spatial_shape"]
    assert output.shape[1] == declared["outputs"]["pred"]["num_channels"]


def test_torchscript_export_equals_eager(arguments, expected, trained, tmp_path):
    path = tmp_path / "model.ts"
    ckpt_export(**arguments, filepath=str(path), ckpt_file=str(trained / "model.pt"))
    image, output = expected
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(path))(image), output, atol=1e-4, rtol=0)


def test_onnx_export_equals_eager(arguments, expected, trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    onnx_export(
        **arguments,
        filepath=str(path),
        ckpt_file=str(trained / "model.pt"),
        converter_kwargs={"input_names": ["image"], "dynamic_axes": {"image": {0: "batch"}}},
    )
    image, output = expected
    session = onnxruntime.InferenceSession(str(path))
    exported = session.run(None, {"image": image.numpy()})[0]
    np.testing.assert_allclose(exported, output.numpy(), atol=1e-4)
