"""Packed bundles as MONAI Deploy and MONAI Label read them. Their packages are not run: what they ask for is done here.

Read from monai-deploy-app-sdk, monai/deploy/operators/monai_bundle_inference_operator.py (`get_bundle_config`,
`_init_config`, `compute`, `_send_output`), and from MONAILabel, monailabel/tasks/infer/bundle.py (`BundleConstants`,
`BundleInferTask`) and sample-apps/monaibundle/README.md.
"""

import csv
import json
import zipfile
from functools import cache

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monai.transforms import Compose, MapTransform
from monai.utils import ensure_tuple

from ttl_monai.engines import build_preprocessing

from .conftest import TINY_DATA
from .zoo import open_workflow

NAMES = sorted(TINY_DATA)


@pytest.fixture(scope="module")
def one(request, pack_once, tmp_path_factory):
    """An image or series of a bundle's tiny data, and what the bundle's own inference.json says of it."""

    @cache
    def find(name):
        listed = request.getfixturevalue(TINY_DATA[name])
        image = listed.parent / json.loads(listed.read_text())["test"][0]["image"]
        return image, own_result(pack_once(name)[1].folder, image, tmp_path_factory.mktemp("own"))

    return find


def own_result(bundle, image, out):
    """Probabilities of the classes, or the mask (rows, columns)."""
    open_workflow(bundle, "infer", dataset_dir=str(image), output_dir=str(out)).run()
    if (out / "predictions.csv").is_file():
        (row,) = csv.DictReader((out / "predictions.csv").open())
        return np.array([float(value) for name, value in row.items() if name.startswith("probability_")])
    (mask,) = out.glob("*_mask.nii.gz")
    return np.asanyarray(nib.load(mask).dataobj)[:, :, 0].T


def check_result(name, found, expected):
    """Compare an item's `pred` with the bundle's own result."""
    if name == "unet_ttl":
        assert found.shape == (1, *expected.shape), "one channel, on the pixels of the file"
        np.testing.assert_array_equal(found[0], expected)
        assert expected.any()
    elif name == "ctpa_ttl":  # (classes, slices); the cache rounds HU to whole numbers
        np.testing.assert_allclose(found[1].max(), expected[1], atol=2e-3)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5)


def read_archive(path, folder):
    """The parser that MONAI Deploy makes of a `model.ts`, a zip file whose folder has the name of the file."""
    parser, extra = ConfigParser(), f"{path.stem}/extra"
    with zipfile.ZipFile(path) as archive:
        parser.read_meta(f=json.loads(archive.read(f"{extra}/metadata.json")))
        archive.extractall(members=[f"{extra}/inference.json"], path=folder)
    parser.read_config([folder / extra / "inference.json"])
    parser.parse()
    return parser


@pytest.mark.parametrize("name", NAMES)
def test_monai_deploy_reads_and_runs_the_torchscript_alone(name, pack_once, one, tmp_path, monkeypatch):
    run, done = pack_once(name)
    extra = {"metadata.json": "", "inference.json": ""}
    network = torch.jit.load(done.folder / "models/model.ts", _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == json.loads((done.folder / "configs/metadata.json").read_text())
    assert not set(json.loads(extra["inference.json"])) & {"bundle_root", "trained", "network_def"}, "nothing elsewhere"
    script = done.folder / "models/model.ts"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(done.folder)  # the code of the bundle, beside the application
    parser = read_archive(script, tmp_path)
    device, inferer, pre = (parser.get_parsed_content(key) for key in ("device", "inferer", "preprocessing"))
    post = parser.get_parsed_content("postprocessing") if parser.get("postprocessing") else None
    assert (post is None) == (name == "ctpa_ttl"), "its inferer gives probabilities"
    assert isinstance(device, torch.device)
    assert isinstance(inferer, Inferer)
    for compose in filter(None, (pre, post)):
        assert isinstance(compose, Compose)
        assert isinstance(compose.transforms[0], MapTransform), "by this it knows that dictionaries go in"
        assert not [each for each in compose.transforms if type(each).__name__.startswith(("Load", "Save"))]
    formats = parser["_meta_"]["network_data_format"]
    ((key, image),), ((result, pred),) = formats["inputs"].items(), formats["outputs"].items()
    assert (key, image["type"], result) == ("image", "image", "pred")
    assert pred["type"] == ("image" if name == "unet_ttl" else "probabilities")
    assert set(pred["channel_def"]) == {str(number) for number in range(pred["num_channels"])}

    # `compute`, on what its own reader would have put into memory.
    path, expected = one(name)
    loaded = build_preprocessing(run).transforms[0]({"image": str(path)})["image"]
    inputs = pre({"image": loaded})
    with torch.no_grad():
        outputs = inferer(inputs=inputs["image"][None].to(device), network=network.to(device).eval())
    item = {"pred": ensure_tuple(outputs)[0], **inputs}
    item = item if post is None else post(item)
    check_result(name, item["pred"].cpu().numpy(), expected)
    if pred["type"] == "probabilities":
        labels = [pred["channel_def"][str(int(each))] for each in item["pred"].max(dim=0)[1].flatten()]
        assert set(labels) <= set(pred["channel_def"].values())


@pytest.mark.parametrize("name", NAMES)
def test_monai_label_finds_its_keys_in_the_folder(name, pack_once, one, tmp_path, monkeypatch):
    _, done = pack_once(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(done.folder)
    parser = ConfigParser()
    parser.read_config(done.folder / "configs/inference.json")
    parser.config.update({"bundle_root": str(done.folder)})
    network = parser.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(done.folder / "models/model.pt", map_location="cpu", weights_only=True))
    metadata = json.loads((done.folder / "configs/metadata.json").read_text())
    key_image, image = next(iter(metadata["network_data_format"]["inputs"].items()))
    key_pred, pred = next(iter(metadata["network_data_format"]["outputs"].items()))
    assert len(image["spatial_shape"]) == (3 if name == "ctpa_ttl" else 2)
    assert {label.lower(): int(number) for number, label in pred["channel_def"].items()}
    assert metadata["version"] == "1.2.3"
    assert metadata["description"]

    path, expected = one(name)
    data = {"image": str(path)}
    pre = list(parser.get_parsed_content("preprocessing", instantiate=True).transforms)
    for transform in pre:
        data = transform(data)
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    assert isinstance(inferer, Inferer)
    device = parser.get_parsed_content("device", instantiate=True)
    with torch.no_grad():
        data[key_pred] = inferer(data[key_image][None].to(device), network.to(device).eval())[0]
    post = (
        parser.get_parsed_content("postprocessing", instantiate=True) if parser.get("postprocessing") else Compose([])
    )
    for transform in list(post.transforms):
        data = transform(data)
    check_result(name, data[key_pred].cpu().numpy(), expected)
    assert isinstance(data[key_image], torch.Tensor), "its Restored asks the image for the shape of the file"
