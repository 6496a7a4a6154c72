import pytest
import torch
from timm.layers import BatchNormAct2d

from ttl_monai.engines import launched, synchronise_norms
from ttl_monai.networks import TransferClassifier


@pytest.mark.parametrize(("frozen", "kept"), [(None, 0), ("blocks.0", 3), ("all", None)])
def test_frozen_norms_stay_and_activations_are_kept(frozen, kept):
    network = TransferClassifier(
        "tf_efficientnet_lite0", weights="none", truncate_at="blocks.1", freeze_up_to=frozen
    ).train()
    before = [module for module in network.modules() if isinstance(module, BatchNormAct2d)]
    names = list(network.state_dict())
    assert synchronise_norms(network) is network
    left = [module for module in network.modules() if isinstance(module, BatchNormAct2d)]
    assert len(left) == (len(before) if kept is None else kept)
    assert not any(module.training for module in left)
    synchronised = [module for module in network.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert len(left) + len(synchronised) == len(before)
    assert all(hasattr(module, "act") for module in synchronised)
    assert list(network.state_dict()) == names


def test_the_number_of_a_process_is_torchruns(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert launched("LOCAL_RANK") == 3
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(ValueError, match=r"launched by torchrun, but LOCAL_RANK is not set\. Launch it as torchrun"):
        launched("LOCAL_RANK")
