"""Pictures of masks: the colours of structures are where the masks are, and rows have as many pictures as asked for."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ttl_monai.reports import MaskPanel, plot_masks
from ttl_monai.reports.overlays import _COLOURS

MASK = np.zeros((2, 40, 40), bool)
MASK[0, 5:20, 5:20] = True
MASK[1, 15:35, 15:35] = True  # overlaps the first


def pixels_near(path, colour):
    picture = np.asarray(Image.open(path).convert("RGB")) / 255
    return (np.abs(picture - np.array(to_rgb(colour))).max(axis=-1) < 0.1).sum()


def test_each_structure_has_its_colour_and_the_reference_another_line(tmp_path):
    image = np.full((40, 40), 0.3, np.float32)
    plot_masks([MaskPanel("none", image, np.zeros_like(MASK))], ["a", "b"], tmp_path / "none.png")
    plot_masks([MaskPanel("found", image, MASK)], ["a", "b"], tmp_path / "found.png")
    plot_masks([MaskPanel("both", image, MASK, np.roll(MASK, 3, axis=1))], ["a", "b"], tmp_path / "both.png")
    for colour in _COLOURS[:2]:
        # Without masks the colours stand in the legend alone.
        assert pixels_near(tmp_path / "found.png", colour) > 3 * pixels_near(tmp_path / "none.png", colour) > 0
    assert pixels_near(tmp_path / "both.png", "black") > pixels_near(tmp_path / "found.png", "black")


@pytest.mark.parametrize(("count", "across", "wide"), [(4, 4, True), (4, 2, False), (2, 4, True)])
def test_rows_have_as_many_pictures_as_asked_for(tmp_path, count, across, wide):
    panel = MaskPanel("p", np.zeros((40, 40), np.float32), MASK)
    path = plot_masks([panel] * count, ["a", "b"], tmp_path / "sub/p.png", across=across)
    width, height = Image.open(path).size
    assert (width > 1.5 * height) == wide


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one picture"):
        plot_masks([], ["a"], tmp_path / "p.png")
    with pytest.raises(ValueError, match="a mask for each of a; got others for p"):
        plot_masks([MaskPanel("p", np.zeros((40, 40), np.float32), MASK)], ["a"], tmp_path / "p.png")
