"""int8 of a toy network: 8 bits inside, near to float32, as good as the images that it is calibrated on."""

import onnx
import pytest
import torch
from onnx import numpy_helper

from ttl_monai.deploy.export.exported import ExportedNetwork
from ttl_monai.deploy.export.forms import onnx_model, save_onnx
from ttl_monai.deploy.export.quantise import quantise
from ttl_monai.deploy.export.run_images import spread

from .test_forms import toy_network


def images(count=8, scale=1.0):
    return [scale * torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(i)).numpy() for i in range(count)]


@pytest.fixture(scope="module")
def toy():
    network = toy_network()
    return network, onnx_model(network, torch.zeros(2, 1, 12, 12))


@pytest.fixture
def quantised(toy, tmp_path):
    """Quantise the toy network on images; gives the network, and what gives the model and what it computes."""
    network, exact = toy

    def make(calibration):
        model = quantise(exact, tmp_path / "model.onnx", calibration)
        assert not list(tmp_path.iterdir())  # no file between the steps is left
        save_onnx(model, tmp_path / "int8.onnx", {"precision": "int8"})
        exported = ExportedNetwork(tmp_path / "int8.onnx")
        (tmp_path / "int8.onnx").unlink()
        return model, exported

    return network, make


def error_of(network, exported):
    image = torch.cat([torch.from_numpy(each) for each in images(16)])
    with torch.no_grad():
        expected = network(image)
    return float((exported(image) - expected).abs().max() / expected.abs().max())


def test_weights_are_8_bits_by_channel_and_outputs_are_near(quantised):
    network, make = quantised
    model, exported = make(images())
    nodes = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= nodes
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    kernels = {name: array for name, array in arrays.items() if array.ndim == 4}
    assert {array.dtype.name for array in kernels.values()} == {"int8"}
    scales = [node.input[1] for node in model.graph.node if node.input and node.input[0] in kernels]
    assert sorted(arrays[name].size for name in scales) == [4, 8]  # one a channel
    onnx.checker.check_model(model)
    assert 0 < error_of(network, exported) < 0.05


def test_dark_calibration_images_spoil_it(quantised):
    network, make = quantised
    errors = [error_of(network, make(images(scale=scale))[1]) for scale in (1.0, 0.05)]
    assert errors[1] > 5 * errors[0]


def test_it_needs_images(quantised):
    with pytest.raises(ValueError, match="No data is collected"):
        quantised[1]([])


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (3, [0, 3, 6]), (10, list(range(10))), (99, list(range(10)))]
)
def test_items_are_spread_evenly(count, expected):
    assert spread(range(10), count) == expected
