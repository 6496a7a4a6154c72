import json
import math
import sys

import pytest
import torch
from monai.data import load_net_with_metadata
from torch import nn

from ttl_monai.deploy.pack.exports import write_exports, write_onnx, write_torchscript


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


class Drifting(nn.Module):
    """Its exported copy goes on counting from where it was: the two differ."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("drift", torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            self.drift += self.step
        return image.flatten(1) + self.drift


def test_torchscript_has_monai_s_extra_files(network, tmp_path):
    path = tmp_path / "model.ts"
    image = torch.rand(2, 1, 8, 8)
    contents = {"metadata": {"name": "x"}, "config": {"device": "cpu"}}
    assert write_torchscript(network, image, path, **contents) <= 1e-6
    loaded, metadata, extra = load_net_with_metadata(str(path), more_extra_files=["inference.json"])
    torch.testing.assert_close(loaded(image), network(image))
    assert metadata["name"] == "x"
    assert json.loads(extra["inference.json"]) == {"device": "cpu"}


@pytest.mark.parametrize("step", [0.01, math.nan])
def test_an_export_that_differs_is_refused(step, tmp_path):
    with pytest.raises(ValueError, match=r"model\.ts gives other outputs than PyTorch: by .*, at most 0\.0001"):
        write_torchscript(Drifting(step).eval(), torch.rand(2, 4), tmp_path / "model.ts", metadata={}, config={})


def test_onnx_takes_any_number_of_images(network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    assert write_onnx(network, torch.rand(2, 1, 8, 8), path) <= 1e-6
    session = onnxruntime.InferenceSession(path)
    assert [each.name for each in session.get_inputs()] == ["image"]
    image = torch.rand(5, 1, 8, 8)
    found = torch.from_numpy(session.run(["pred"], {"image": image.numpy()})[0])
    torch.testing.assert_close(found, network(image), atol=1e-5, rtol=0)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


class Unscriptable(nn.Module):
    """TorchScript knows no such arguments."""

    def forward(self, image: torch.Tensor, *rest, **more) -> torch.Tensor:
        return image


def test_a_form_that_cannot_be_made_names_the_way_out(tmp_path):
    settings = {"metadata": {}, "config": {}}
    with pytest.raises(ValueError, match=r"torchscript could not be made \(.+\); leave it out by --exports onnx"):
        write_exports(("torchscript", "onnx"), Unscriptable(), torch.rand(2, 4), tmp_path, **settings)


def test_a_missing_package_names_the_way_out(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        ValueError, match=r"onnx could not be made \(.*onnxruntime.*\); leave it out by --exports torch"
    ):
        write_exports(
            ("torchscript", "onnx"), network, torch.rand(2, 1, 8, 8), tmp_path, metadata={}, config={"device": "cpu"}
        )
