"""A drawing of matplotlib as inline SVG that takes its colours and its font from the page, light or dark."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ttl_monai.reports.figures import PALETTE

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
# As many units as a phone's column has pixels, so that the letters are of the page's size there.
WIDTH_IN = 4.7
LARGER = 1.45  # at most, on a large screen; and never smaller than this share of it on a small one:
SMALLER = 0.95
NAMED = {colour.lower(): number for number, colour in enumerate(PALETTE[:6])}
STYLE: Any = {  # of matplotlib
    "font.size": 11,
    "axes.titlesize": 10,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}


def new_figure(height: float = 3.6, *, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """An empty figure of the page's style, with its axes in a list.

    Args:
        height: in inches.
        rows: axes below each other.
        options: of `Figure.subplots`.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        every = figure.subplots(rows, 1, squeeze=False, **options).ravel().tolist()
    for axes in every:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("0.6")
        axes.tick_params(color="0.6", labelsize=10)
    return figure, every


def legend_below(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """The legend of the axes under them, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, fontsize=10, frameon=False)


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an `svg` element for an HTML page.

    Text stays text, in the page's font. The palette becomes the page's variables `--c0` to `--c5`, black and greys
    mixtures of `--ink` and `--paper`, so that one drawing serves the light and the dark page.

    Args:
        figure: the figure.
        name: the start of all ids in it; unique in the page.
        title: its short name, for screen readers.
        description: what is to be seen.
    """
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "}style")):
                parent.remove(child)
    used = set(re.findall(r"#([\w-]+)", " ".join(_links(root))))
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        _rename(element.attrib, name, used)
        if "style" in element.attrib:
            element.set("style", _themed(element.attrib["style"]))
    width = float(root.attrib["viewBox"].split()[2])
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("style", f"max-width: {LARGER * width:.0f}px; --least: {SMALLER * width:.0f}px")
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    words = [ElementTree.Element(tag, {"id": f"{name}-{tag}"}) for tag in ("title", "desc")]
    words[0].text, words[1].text = title, description
    for place, element in enumerate(words):
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _links(root: ElementTree.Element) -> list[str]:
    return [value for element in root.iter() for value in element.attrib.values() if "#" in value]


def _rename(attributes: dict[str, str], name: str, used: set[str]) -> None:
    """Ids begin with the figure's name, as they must be unique in the page; those that nothing refers to go."""
    here = attributes.pop("id", None)
    if here in used:
        attributes["id"] = f"{name}-{here}"
    if LINK in attributes:
        target = attributes.pop(LINK)
        attributes["href"] = f"#{name}-{target[1:]}" if target.startswith("#") else target
    if "clip-path" in attributes:
        attributes["clip-path"] = attributes["clip-path"].replace("url(#", f"url(#{name}-")


def _themed(style: str) -> str:
    style = re.sub(r"font: [^;]*?([\d.]+px)[^;]*", r"font-size: \1", style)  # how older versions say it
    style = re.sub(r"font-family:[^;]*", "font-family: inherit", style)
    return re.sub(r"#[0-9a-f]{6}\b", lambda match: _colour(match[0]), style)


def _colour(code: str) -> str:
    if code in NAMED:
        return f"var(--c{NAMED[code]})"
    red, green, blue = (int(code[k : k + 2], 16) for k in (1, 3, 5))
    if red == green == blue:
        share = round(100 * (1 - red / 255))
        return f"color-mix(in srgb, var(--ink) {share}%, var(--paper))"
    return code
