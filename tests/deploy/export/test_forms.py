"""Files of a toy network: what they give, what they say, what they must not say."""

import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from ttl_monai.deploy.export import FORMS, ExportedNetwork, write_form

METADATA = {"class_names": ['a "quoted" <name>', "naïve"], "input": {"range": [0.0, 1.0]}, "threshold": None}


def toy_network(spatial_dims=2):
    conv, norm, pool = {
        2: (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.BatchNorm3d, nn.AdaptiveAvgPool3d),
    }[spatial_dims]
    torch.manual_seed(0)
    network = nn.Sequential(conv(1, 4, 3), norm(4), nn.ReLU(), conv(4, 8, 3), nn.ReLU(), pool(1), nn.Flatten())
    network.append(nn.Linear(8, 2))
    network[1].running_mean.uniform_(-1, 1)
    return network.eval()


def content_of(path):
    """All bytes of the files of an export, unpacked."""
    files = [each for each in path.parent.iterdir() if each.stem == path.stem]
    text = b""
    for file in files:
        text += file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                text += b"".join(archive.read(name) for name in archive.namelist())
    return text


@pytest.fixture(scope="module", params=[("onnx", 2), ("openvino", 3), ("torchscript", 3), ("pt2", 2)], ids=str)
def written(request, tmp_path_factory):
    form, dims = request.param
    path, network = tmp_path_factory.mktemp("written") / f"model{FORMS[form]}", toy_network(dims)
    write_form(network, torch.zeros(2, 1, *[12] * dims), path, METADATA)
    return network, path, dims


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_file_gives_what_the_network_gives_at_any_batch(written, batch):
    network, path, dims = written
    image = torch.rand(batch, 1, *[12] * dims)
    exported = ExportedNetwork(path, threads=1)(image.double())  # float32 inside
    with torch.no_grad():
        torch.testing.assert_close(exported, network(image), atol=1e-5, rtol=0)


def test_earlier_outputs_are_not_overwritten(written):
    _, path, dims = written
    exported = ExportedNetwork(path)
    first = exported(torch.zeros(1, 1, *[12] * dims))
    before = first.clone()
    exported(torch.ones(1, 1, *[12] * dims))
    assert torch.equal(first, before)


def test_the_metadata_come_back(written):
    assert ExportedNetwork(written[1]).metadata == METADATA


def test_no_place_of_this_machine_stands_in_the_file(written):
    content = content_of(written[1])
    assert b"Conv" in content or b"conv" in content  # the content was read
    for place in (Path(__file__).parents[3], Path(torch.__file__).parents[1], written[1].parent):
        assert str(place).encode() not in content


def test_only_the_files_of_the_form_are_left(written):
    path = written[1]
    expected = {path.name, "model.bin"} if path.suffix == ".xml" else {path.name}
    assert {each.name for each in path.parent.iterdir()} == expected


BAD = [
    (lambda folder: write_form(toy_network(), torch.zeros(2, 1, 9, 9), folder / "m.pth", {}), r"ends in .onnx.*m\.pth"),
    (lambda folder: ExportedNetwork(folder / "model.pt"), r"ends in .onnx, .xml, .ts, .pt2, got model\.pt"),
    (lambda folder: ExportedNetwork(folder / "model.onnx"), "there is no file"),
]


@pytest.mark.parametrize(("call", "match"), BAD)
def test_what_is_refused(call, match, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        call(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("form", "module"), [("onnx", "onnxscript"), ("openvino", "openvino")])
def test_a_missing_package_is_named_with_the_remedy(form, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"needs {module}: pip install 'ttl-monai\[export\]'"):
        write_form(toy_network(), torch.zeros(2, 1, 9, 9), tmp_path / f"m{FORMS[form]}", {})
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    """What no exporter can follow: the number of its layers depends on the pixels."""

    def forward(self, image):
        for _ in range(int(image.sum())):
            image = image + 1
        return image.mean(dim=(2, 3))


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_a_network_that_cannot_be_expressed_gives_one_line(form, tmp_path):
    with pytest.raises(
        ValueError, match=r"(ONNX|torch\.export) cannot express this network: .*Take another --to"
    ) as caught:
        write_form(Branching(), torch.rand(2, 1, 8, 8), tmp_path / f"model{FORMS[form]}", METADATA)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
