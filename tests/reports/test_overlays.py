"""Pictures of masks: the colours of structures are where the masks are, and rows have as many pictures as asked for."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from ttl_monai.reports import MaskPanel, plot_masks
from ttl_monai.reports.figures import PALETTE
from ttl_monai.reports.overlays import structure_colours

MASK = np.zeros((2, 40, 40), bool)
MASK[0, 5:20, 5:20] = True
MASK[1, 15:35, 15:35] = True  # overlaps the first


BLACK = (0.0, 0.0, 0.0)
GREY = np.full((40, 40), 0.3, np.float32)


def near(path, colour):
    """Where a picture has a colour, (rows, columns) bool."""
    picture = np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)
    return (np.abs(picture - np.round(np.array(colour) * 255).astype(np.int16)) < 26).all(axis=-1)


def most_runs(mask):
    """How often a row of it begins anew, at most."""
    starts = mask[:, 1:] & ~mask[:, :-1]
    return (starts.sum(axis=1) + mask[:, 0]).max()


def test_each_structure_has_its_colour_as_a_solid_line(tmp_path):
    nothing = plot_masks([MaskPanel("none", GREY, np.zeros_like(MASK))], ["a", "b"], tmp_path / "none.png")
    found = plot_masks([MaskPanel("found", GREY, MASK)], ["a", "b"], tmp_path / "found.png")
    for colour in structure_colours(2):
        # Without masks the colours stand in the legend alone.
        assert near(found, colour).sum() > 3 * near(nothing, colour).sum() > 0
        assert most_runs(near(found, colour)) <= 4  # two sides of the outline, and the other's across


@pytest.mark.parametrize("size", [40, 320])
def test_the_reference_is_dashed_in_the_colour_on_a_casing_at_any_size(tmp_path, size):
    image, mask = (np.kron(each, np.ones((size // 40,) * 2, each.dtype)) for each in (GREY, MASK[0]))
    colour, nothing = structure_colours(1)[0], np.zeros_like(mask)[None]
    drawn = plot_masks([MaskPanel("", image, nothing, mask[None])], ["a"], tmp_path / "drawn.png")
    assert most_runs(near(drawn, colour)) > 12  # along an upper edge of 15 / 40 of the picture
    casing = near(drawn, BLACK)[:-100].sum()  # above the legend
    assert casing > 0.8 * near(drawn, colour)[:-100].sum()
    # The dashes also show where the prediction has the same outline.
    both = plot_masks([MaskPanel("", image, mask[None], mask[None])], ["a"], tmp_path / "both.png")
    found = plot_masks([MaskPanel("", image, mask[None])], ["a"], tmp_path / "found.png")
    assert near(both, colour).sum() > 1.1 * near(found, colour).sum()
    assert near(both, BLACK)[:-100].sum() > casing / 4 > 0


def test_the_legend_shows_both_kinds_of_line(tmp_path):
    nothing = np.zeros_like(MASK[:1])
    colour = structure_colours(1)[0]
    found, both = (
        plot_masks([MaskPanel("", GREY, nothing, drawn)], ["a"], tmp_path / f"{drawn is None}.png")
        for drawn in (None, nothing)
    )
    assert most_runs(near(found, colour)) == 1
    assert most_runs(near(both, colour)) > 3


def test_outlines_are_as_wide_a_part_of_a_small_picture_as_of_a_large_one(tmp_path):
    panel = MaskPanel("", GREY, MASK[1:])
    shares = []
    for count in (1, 4):
        path = plot_masks([panel] * count, ["a"], tmp_path / f"{count}.png", across=4)
        lines = near(path, structure_colours(1)[0])[:-100]
        inside = near(path, 0.8 * np.full(3, 0.3) + 0.2 * np.array(structure_colours(1)[0]))
        shares.append(lines.sum() / inside.sum())
    assert shares[1] == pytest.approx(shares[0], rel=0.35)


def test_rows_apart_make_the_picture_taller(tmp_path):
    path = plot_masks([MaskPanel("", GREY, MASK[:1], aspect=2.0)], ["a"], tmp_path / "p.png")
    rows, columns = np.nonzero(near(path, structure_colours(1)[0])[:-100])
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(2.0, abs=0.05)


def to_lab(colours):
    """sRGB -> CIELAB (D65), by the formulas of CIE 15."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    part = linear @ to_xyz.T / (0.9505, 1.0, 1.089)
    f = np.where(part > (6 / 29) ** 3, np.cbrt(part), part * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def test_twenty_structures_are_told_apart():
    colours = structure_colours(20)
    assert set(colours[:6]) == {to_rgb(each) for each in PALETTE} - {to_rgb("black")}
    assert structure_colours(3) == colours[:3]
    lab = to_lab(np.array([*colours, *np.linspace(0, 1, 11)[:, None].repeat(3, 1)]))  # and from the greys of an image
    gaps = np.linalg.norm(lab[:20, None] - lab, axis=-1) + 1e3 * np.eye(20, len(lab))
    assert gaps.min() > 15  # 2.3 is a difference that is just seen
    assert len(set(structure_colours(60))) == 60


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
