"""MONAI's own tools on a trained bundle: what the model zoo runs."""

import json

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, onnx_export, verify_net_in_out

from ttl_monai.engines import build_network

from .conftest import BUNDLES


@pytest.fixture(params=["covid_ttl", "ctpa_ttl", "unet_ttl"])
def bundle(request):
    return request.param


@pytest.fixture
def declared(bundle):
    return json.loads((BUNDLES / bundle / "configs/metadata.json").read_text())["network_data_format"]


@pytest.fixture
def arguments(bundle, trained):
    return {
        "net_id": "network_def",
        "meta_file": str(BUNDLES / bundle / "configs/metadata.json"),
        "config_file": str(BUNDLES / bundle / "configs/inference.json"),
        "run_dir": str(trained),
    }


@pytest.fixture
def expected(trained, declared):
    size = declared["inputs"]["image"]["spatial_shape"]
    size = size if len(size) == 2 else [8, 32, 32]  # another size than that of the training, and quick
    image = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return image, build_network(trained)(image)


def test_network_takes_and_gives_what_the_metadata_says(arguments, expected, declared):
    verify_net_in_out(**arguments, device="cpu")
    _, output = expected
    assert output.shape[1] == declared["outputs"]["pred"]["num_channels"]
    assert list(output.shape[2:]) == declared["outputs"]["pred"]["spatial_shape"]


def test_torchscript_export_equals_eager(arguments, expected, trained, tmp_path):
    path = tmp_path / "model.ts"
    ckpt_export(**arguments, filepath=str(path), ckpt_file=str(trained / "model.pt"))
    image, output = expected
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(path))(image), output, atol=1e-4, rtol=0)


def test_onnx_export_equals_eager(arguments, expected, trained, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    image, output = expected
    axes = {0: "batch", **({2: "depth", 3: "height", 4: "width"} if image.ndim == 5 else {})}
    onnx_export(
        **arguments,
        filepath=str(path),
        ckpt_file=str(trained / "model.pt"),
        converter_kwargs={"input_names": ["image"], "dynamic_axes": {"image": axes}},
    )
    session = onnxruntime.InferenceSession(str(path))
    exported = session.run(None, {"image": image.numpy()})[0]
    np.testing.assert_allclose(exported, output.numpy(), atol=1e-4)
