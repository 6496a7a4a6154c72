import json
import math
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from monai.data import load_net_with_metadata
from torch import nn

from ttl_monai.deploy.export import ExportedNetwork
from ttl_monai.deploy.pack.exports import write_exports

CONTENTS = {"metadata": {"name": "x"}, "config": {"device": "cpu"}, "description": {"class_names": ["a", "b"]}}


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
    differences = write_exports(("torchscript",), network, torch.zeros(2, 1, 8, 8), tmp_path, **CONTENTS)
    assert differences.keys() == {"models/model.ts"}
    assert differences["models/model.ts"] <= 1e-6
    path = str(tmp_path / "model.ts")
    loaded, metadata, extra = load_net_with_metadata(path, more_extra_files=["inference.json"])
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(loaded(image), network(image))
    assert metadata["name"] == "x"
    assert json.loads(extra["inference.json"]) == {"device": "cpu"}


def test_onnx_says_what_it_is_and_takes_any_number_of_images(network, tmp_path):
    pytest.importorskip("onnxruntime")
    write_exports(("onnx",), network, torch.zeros(2, 1, 8, 8), tmp_path, **CONTENTS)
    exported, image = ExportedNetwork(tmp_path / "model.onnx"), torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(exported(image), network(image), atol=1e-5, rtol=0)
    assert exported.metadata == CONTENTS["description"]
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_no_place_of_this_machine_stands_in_the_files(network, tmp_path):
    pytest.importorskip("onnxruntime")
    write_exports(("torchscript", "onnx"), network, torch.zeros(2, 1, 8, 8), tmp_path, **CONTENTS)
    with zipfile.ZipFile(tmp_path / "model.ts") as archive:
        content = b"".join(map(archive.read, archive.namelist())) + (tmp_path / "model.onnx").read_bytes()
    assert b"conv" in content.lower()  # the content was read
    for place in (Path(__file__).parents[3], Path(torch.__file__).parents[1], tmp_path):
        assert str(place).encode() not in content


@pytest.mark.parametrize("step", [0.01, math.nan])
def test_an_export_that_differs_is_refused(step, tmp_path):
    expected = r"torchscript could not be made \(the file's outputs differ .* by .*, expected at most 0\.0001\); leave"
    with pytest.raises(ValueError, match=expected):
        write_exports(("torchscript", "onnx"), Drifting(step).eval(), torch.zeros(2, 4), tmp_path, **CONTENTS)


class Unscriptable(nn.Module):
    """TorchScript knows no such arguments."""

    def forward(self, image: torch.Tensor, *rest, **more) -> torch.Tensor:
        return image


def test_a_form_that_cannot_be_made_names_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"torchscript could not be made \(.+\); leave it out by --exports onnx"):
        write_exports(("torchscript", "onnx"), Unscriptable(), torch.zeros(2, 4), tmp_path, **CONTENTS)


def test_a_missing_package_names_the_way_out(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    expected = r"onnx could not be made \(.*onnxruntime: pip install .*\); leave it out by --exports torchscript"
    with pytest.raises(ValueError, match=expected):
        write_exports(("torchscript", "onnx"), network, torch.zeros(2, 1, 8, 8), tmp_path, **CONTENTS)
