import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from sklearn.metrics import log_loss

from ttl_monai.networks.losses import ClassificationLoss, MaskLoss

GENERATOR = torch.Generator().manual_seed(1)


@pytest.mark.parametrize("classes", [2, 4])
def test_cross_entropy_equals_scikit_learn(classes):
    logits = torch.randn(20, classes, generator=GENERATOR, dtype=torch.float64)
    labels = torch.arange(20) % classes
    task = "binary" if classes == 2 else "multi-class"
    loss = ClassificationLoss(task=task)(logits, labels[:, None])
    assert loss.item() == pytest.approx(log_loss(labels, torch.softmax(logits, 1)), abs=1e-9)


def test_class_weights_count():
    logits, labels = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    loss = ClassificationLoss(task="binary", class_weights=[1.0, 3.0])(logits, labels)
    assert loss.item() == pytest.approx((right + 3 * wrong) / 4, abs=1e-6)


def test_unknown_labels_add_neither_loss_nor_gradient():
    logits = torch.randn(6, 3, generator=GENERATOR, requires_grad=True)
    labels = torch.randint(0, 2, (6, 3), generator=GENERATOR).float()
    unknown = torch.zeros(6, 3, dtype=torch.bool)
    unknown[::2, 1] = True
    loss = ClassificationLoss(task="multi-label")(logits, labels.masked_fill(unknown, math.nan))
    known = torch.nn.functional.binary_cross_entropy_with_logits(logits[~unknown], labels[~unknown])
    assert loss.item() == pytest.approx(known.item(), abs=1e-6)
    loss.backward()
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()


def test_a_batch_without_known_labels_is_zero_not_nan():
    loss = ClassificationLoss(task="multi-label")(torch.randn(2, 3), torch.full((2, 3), math.nan))
    assert loss.item() == 0


@pytest.mark.parametrize("task", ["binary", "multi-label"])
def test_focal_loss_is_the_formula(task):
    # -(1 - p)^2 log p of the true class (Lin et al. 2017, equation 4)
    logits = torch.randn(10, 2, generator=GENERATOR, dtype=torch.float64)
    if task == "binary":
        labels = torch.arange(10) % 2
        p = torch.softmax(logits, 1).gather(1, labels[:, None])
    else:
        labels = torch.randint(0, 2, (10, 2), generator=GENERATOR).double()
        p = torch.where(labels == 1, torch.sigmoid(logits), 1 - torch.sigmoid(logits))
    expected = (-((1 - p) ** 2) * p.log()).mean()
    loss = ClassificationLoss(task=task, kind="focal")(logits, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "regression"}, "task must be binary"),
        ({"task": "binary", "kind": "hinge"}, "loss kind must be one of"),
    ],
)
def test_unknown_settings_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassificationLoss(**arguments)


@pytest.mark.parametrize("structures", [1, 3])
def test_masks_that_overlap_have_a_binary_cross_entropy_each(structures):
    logits = torch.randn(2, structures, 8, 8, generator=GENERATOR, dtype=torch.float64)
    masks = torch.randint(0, 2, logits.shape, generator=GENERATOR, dtype=torch.uint8)
    options = {"sigmoid": True, "batch": True}
    cross_entropy = log_loss(masks.flatten(), torch.sigmoid(logits).flatten())
    expected = DiceLoss(**options)(logits, masks).item() + cross_entropy
    assert MaskLoss(**options)(logits, masks).item() == pytest.approx(expected, abs=1e-6)


def test_exclusive_masks_have_monais_loss():
    logits = torch.randn(2, 3, 8, 8, generator=GENERATOR)
    masks = torch.randint(0, 3, (2, 1, 8, 8), generator=GENERATOR)
    options = {"softmax": True, "to_onehot_y": True, "include_background": False}
    assert torch.equal(MaskLoss(**options)(logits, masks), DiceCELoss(**options)(logits, masks))
