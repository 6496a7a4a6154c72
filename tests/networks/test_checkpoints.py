"""Weight files: what is read, what is translated, what is refused."""

import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from ttl_monai.networks.checkpoints import load_strictly, read_state_dict


class RunsCode:
    """A pickle that would call a function when it is read."""

    def __reduce__(self):
        return pytest.fail, ("the pickle was executed",)


def save(content, path):
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    return path


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"conv1.weight": torch.ones(2)}, "plain.pt"),
        ({"conv1.weight": torch.ones(2)}, "plain.safetensors"),
        ({"module.conv1.weight": torch.ones(2)}, "ddp.pt"),
        ({"_orig_mod.module.conv1.weight": torch.ones(2)}, "compiled.pt"),
        ({"epoch": 3, "arch": "x", "state_dict": {"module.conv1.weight": torch.ones(2)}}, "nested.pth"),
        ({"model": {"conv1.weight": torch.ones(2)}, "optimizer": {"state": {}}}, "monai.pt"),
    ],
)
def test_read_state_dict_finds_the_tensors(tmp_path, content, name):
    state, normalisation = read_state_dict(save(content, tmp_path / name))
    assert list(state) == ["conv1.weight"]
    assert torch.equal(state["conv1.weight"], torch.ones(2))
    assert normalisation is None


def test_read_state_dict_of_a_classifier_brings_its_normalisation(tmp_path):
    content = {
        "mean": torch.full((1, 3, 1, 1), 0.25),
        "std": torch.full((1, 3, 1, 1), 0.5),
        "backbone.conv1.weight": torch.ones(2),
        "head.2.weight": torch.ones(14, 2),
    }
    state, normalisation = read_state_dict(save(content, tmp_path / "model.pt"))
    assert list(state) == ["conv1.weight", "head.2.weight"]
    assert normalisation == ((0.25,) * 3, (0.5,) * 3)


def test_read_state_dict_of_a_unet_brings_its_encoder_and_normalisation(tmp_path):
    content = {
        "mean": torch.full((1, 3, 1, 1), 0.25),
        "std": torch.full((1, 3, 1, 1), 0.5),
        "encoder.conv1.weight": torch.ones(2),
        "decoder.blocks.stride1.conv1.conv.weight": torch.ones(2),
        "head.weight": torch.ones(1),
    }
    state, normalisation = read_state_dict(save(content, tmp_path / "model.pt"))
    assert normalisation == ((0.25,) * 3, (0.5,) * 3)
    module = nn.Module()
    module.conv1 = nn.Linear(2, 1, bias=False)
    module.conv1.weight = nn.Parameter(torch.zeros(2))
    report = load_strictly(module, state)
    assert torch.equal(module.conv1.weight, torch.ones(2))
    assert report.skipped == ("decoder.blocks.stride1.conv1.conv.weight", "head.weight")


def test_read_state_dict_translates_the_old_names_of_densenet(tmp_path):
    old = {"features.denseblock1.denselayer1.norm.1.weight": torch.ones(2), "features.norm0.weight": torch.ones(2)}
    state, _ = read_state_dict(save(old, tmp_path / "densenet.pth"))
    assert list(state) == ["features.denseblock1.denselayer1.norm1.weight", "features.norm0.weight"]


def test_read_state_dict_runs_no_code(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"state_dict": RunsCode()}, path)
    with pytest.raises(ValueError, match=r"no file of tensors only.*torch\.save\(model\.state_dict\(\)"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(ValueError, match="no file of tensors only"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["broken.pt", "broken.safetensors", "empty.pt"])
def test_read_state_dict_names_a_damaged_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"" if "empty" in name else b"no weights")
    with pytest.raises(ValueError, match=f"{name} is no file of tensors only"):
        read_state_dict(path)


def test_read_state_dict_refuses_what_is_no_state_dict(tmp_path):
    with pytest.raises(ValueError, match="holds no state dict: expected key to tensor, got Tensor"):
        read_state_dict(save(torch.ones(3), tmp_path / "tensor.pt"))
    with pytest.raises(ValueError, match="holds no state dict"):
        read_state_dict(save({"epoch": 3}, tmp_path / "numbers.pt"))


def toy():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_load_strictly_loads_parameters_and_buffers_and_reports():
    source, target = toy(), toy()
    source[1].running_mean.fill_(3.0)
    state = source.state_dict() | {"fc.weight": torch.ones(1), "head.2.bias": torch.ones(1)}
    report = load_strictly(target, state, dropped={"fc.weight"})
    assert torch.equal(target[0].weight, source[0].weight)
    assert torch.equal(target[1].running_mean, torch.full((2,), 3.0))
    assert set(report.loaded) == set(target.state_dict())
    assert report.skipped == ("fc.weight", "head.2.bias")
    assert str(report) == "7 keys loaded, 0 keys re-initialised, 2 keys skipped (fc.weight, head.2.bias)"


def test_load_strictly_does_without_batch_counters():
    state = toy().state_dict()
    del state["1.num_batches_tracked"]
    assert "1.num_batches_tracked" not in load_strictly(toy(), state).loaded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.weight"), r"1 keys missing \(0\.weight\)"),
        (lambda state: state.pop("1.running_mean"), r"1 keys missing \(1\.running_mean\)"),
        (
            lambda state: state.update({"0.bias": torch.ones(5)}),
            r"of another shape \(0\.bias \(5,\) instead of \(2,\)\)",
        ),
        (lambda state: state.update({"stray": torch.ones(1)}), r"1 keys unknown \(stray\)"),
    ],
)
def test_load_strictly_refuses_keys_that_do_not_fit_and_loads_nothing(change, message):
    state, target = toy().state_dict(), toy()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        load_strictly(target, state)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
