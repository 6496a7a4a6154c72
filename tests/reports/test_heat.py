import numpy as np
import pytest
from PIL import Image

from ttl_monai.reports import plot_heat


def test_colour_lies_where_the_map_is_high(tmp_path):
    images, heat = np.full((2, 20, 20), 0.5), np.zeros((2, 20, 20))
    heat[1, :, 10:] = 1
    path = plot_heat(images, heat, ["a", "b"], tmp_path / "new/x.png", title="t", label="share", aspect=1.5)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    panels = pixels[:, : int(pixels.shape[1] * 0.8)]
    coloured = np.argwhere(np.ptp(panels, axis=2) > 60)
    assert coloured[:, 1].min() > 0.6 * panels.shape[1], "the right half of the second picture"
    assert np.ptp(coloured[:, 0]) > 2.5 * np.ptp(coloured[:, 1]), "rows are 1.5 times as far apart"


@pytest.mark.parametrize(
    ("shape", "heat", "titles"),
    [((0, 4, 4), (0, 4, 4), []), ((1, 4, 4), (1, 4, 5), ["a"]), ((2, 4, 4), (2, 4, 4), ["a"])],
)
def test_what_does_not_fit_is_refused(tmp_path, shape, heat, titles):
    with pytest.raises(ValueError, match=r"expected images and heat \(N, rows, columns\) with N titles"):
        plot_heat(np.zeros(shape), np.zeros(heat), titles, tmp_path / "x.png", title="t", label="l")
