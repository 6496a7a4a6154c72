"""What a page is made of: sections of notes, tables and figures, before they are HTML, CSV, JSON or PNG."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.figure import Figure as Drawing
from PIL import Image

from ttl_monai.analysis import mean_std
from ttl_monai.reports.page.svg import to_svg

WIDEST_PX = 1400  # of a picture from a run; larger ones are made smaller for the page
NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first column names its rows.

    Attributes:
        caption: what it shows.
        heads: of the columns.
        rows: cells as text, one a head.
        text: how many columns from the left are text; the others are numbers.
        published: numbers of the rows that are not of these runs.
        shades: share from 0 to 1 behind each cell but the first, as in a confusion matrix.
        notes: lines under it.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1
    published: frozenset[int] = frozenset()
    shades: Sequence[Sequence[float]] = ()
    notes: Sequence[str] = ()

    def csv(self) -> str:
        """The cells as CSV, the heads first."""
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([self.heads, *self.rows])
        return buffer.getvalue()

    def document(self) -> dict[str, Any]:
        """The cells as plain values for JSON."""
        rows = [dict(zip(self.heads, row, strict=True)) for row in self.rows]
        return {"caption": self.caption, "rows": rows, "notes": list(self.notes)}


@dataclass(frozen=True)
class Figure:
    """A picture with its words: drawn here, or a file of a run.

    Attributes:
        name: of its PNG, and the start of its ids in the page; each once.
        title: above it.
        alt: what is to be seen, for those who do not see it.
        source: the drawing, or the file.
        caption: under it.
        wide: it needs the whole width; on a phone it scrolls.
        plain: it keeps its own colours on white, as a map of colours that mean something.
    """

    name: str
    title: str
    alt: str
    source: Drawing | Path
    caption: str = ""
    wide: bool = False
    plain: bool = False

    @property
    def is_drawn(self) -> bool:
        """Whether it was drawn here; else it is a file of a run."""
        return isinstance(self.source, Drawing)

    def svg(self) -> str:
        """The drawing as inline SVG; nothing of a file."""
        return to_svg(self.source, self.name, self.title, self.alt) if isinstance(self.source, Drawing) else ""

    @property
    def data_uri(self) -> str:
        """The file as a data URI, no wider than `WIDEST_PX`.

        Raises:
            ValueError: it is no picture.
        """
        return "data:image/webp;base64," + base64.b64encode(self._small("WEBP", quality=82, method=4)).decode()

    def png(self) -> bytes:
        """As PNG."""
        if not isinstance(self.source, Drawing):
            return self._small("PNG")
        buffer = io.BytesIO()
        self.source.savefig(buffer, format="png", dpi=200, bbox_inches="tight", metadata={"Software": None})
        return buffer.getvalue()

    def _small(self, kind: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        try:
            with Image.open(str(self.source)) as image:
                # Pixels alone: what else a file may hold, as text chunks, stays behind.
                copy = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        except OSError as error:
            raise ValueError(f"{self.source} is no picture that can be read: {error}") from error
        copy.thumbnail((WIDEST_PX, 10 * WIDEST_PX))
        copy.info.clear()
        copy.save(buffer, format=kind, **options)
        return buffer.getvalue()


@dataclass(frozen=True)
class Gallery:
    """Pictures of equal rank, several in a row."""

    figures: Sequence[Figure]


Block: TypeAlias = str | Table | Figure | Gallery


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: its id, and the start of the names of its files.
        title: its heading.
        blocks: what it shows, in order: text, tables and figures.
        missing: what the runs do not have, one line each, with the remedy.
    """

    name: str
    title: str
    blocks: Sequence[Block] = ()
    missing: Sequence[str] = field(default=())

    def figures(self) -> Iterator[Figure]:
        """Its figures, those of galleries too."""
        for block in self.blocks:
            yield from block.figures if isinstance(block, Gallery) else [block] if isinstance(block, Figure) else []

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Its tables, each with the name of its file."""
        found = [block for block in self.blocks if isinstance(block, Table)]
        for number, table in enumerate(found):
            yield self.name + (f"-{number + 1}" if len(found) > 1 else ""), table


def fixed(value: float | None, digits: int = 3) -> str:
    """A number with so many digits; a dash where there is none."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def px(size: int | Sequence[int]) -> str:
    """The size of images in short: one number where they are square."""
    return f"{size if isinstance(size, int) else 'x'.join(map(str, size))} px"


def interval(value: float | None, pair: Sequence[float] | None, digits: int = 3) -> str:
    """A number with its 95 % interval in brackets, this only where it is known."""
    return fixed(value, digits) + ("" if pair is None else f" ({fixed(pair[0], digits)} to {fixed(pair[1], digits)})")


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± sample standard deviation; of one value, the value."""
    mean, std = mean_std(values)
    return fixed(mean, digits) + (f" ± {std:.{digits}f}" if math.isfinite(std) else "")


def numbers(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of a key, NaN where one is undefined."""
    return [math.nan if record.get(key) is None else float(record[key]) for record in records]
