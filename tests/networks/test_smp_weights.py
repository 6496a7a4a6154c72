"""The U-Net of segmentation_models_pytorch as the oracle of ours."""

import pytest
import torch

from ttl_monai.networks import TransferUNet, load_smp_unet

smp = pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models_pytorch is the oracle here")


@pytest.fixture(scope="module")
def oracle():
    torch.manual_seed(0)
    network = smp.Unet("resnet34", encoder_weights=None, classes=2).eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
    return network


def test_the_whole_network_gives_its_outputs(oracle):
    network = TransferUNet("resnet34", weights="none", out_channels=2).eval()
    report = load_smp_unet(network, oracle.state_dict())
    assert set(report.loaded) == network.state_dict().keys() - {"mean", "std"}
    assert report.skipped == ()
    image = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        expected = oracle((image - network.mean) / network.std)
        assert expected.std() > 0.01
        torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("cut", "depth"), [("layer3", 4), ("layer2.3", 3), ("layer1", 2)])
def test_a_network_cut_at_a_stage_gives_those_of_a_shallower_one(cut, depth):
    torch.manual_seed(0)
    widths = (256, 128, 64, 32, 16)[5 - depth :]
    shallow = smp.Unet("resnet34", encoder_depth=depth, decoder_channels=widths, encoder_weights=None).eval()
    network = TransferUNet("resnet34", weights="none", truncate_at=cut).eval()
    report = load_smp_unet(network, shallow.state_dict())
    assert report.skipped  # it keeps the stages of the encoder that it does not use
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = shallow((image - network.mean) / network.std)
        torch.testing.assert_close(network(image), expected, rtol=0, atol=1e-5)


def test_a_cut_network_takes_what_it_has_of_a_whole_one(oracle):
    network = TransferUNet("resnet34", weights="none", out_channels=2, truncate_at="layer2.1")
    report = load_smp_unet(network, oracle.state_dict())
    assert torch.equal(network.decoder.blocks["stride1"].conv2.conv.weight, oracle.decoder.blocks[4].conv2[0].weight)
    assert torch.equal(network.encoder.conv1.weight, oracle.encoder.conv1.weight)
    assert {key.split(".")[0] for key in report.skipped} == {"encoder", "decoder"}
    assert "decoder.blocks.stride8.conv1.conv.weight" in report.skipped


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"conv1.weight": torch.zeros(1)}, "expected the state dict of an smp.Unet, .* got conv1.weight"),
        ({}, "got none"),
    ],
)
def test_other_state_dicts_are_refused(state, message):
    with pytest.raises(ValueError, match=message):
        load_smp_unet(TransferUNet("resnet34", weights="none", truncate_at="layer1"), state)


def test_another_number_of_classes_is_refused(oracle):
    network = TransferUNet("resnet34", weights="none", truncate_at="layer1")
    with pytest.raises(ValueError, match=r"does not fit .* 2 keys of another shape \(head.weight \(2, 16, 3, 3\)"):
        load_smp_unet(network, oracle.state_dict())
