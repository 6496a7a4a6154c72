"""How the trainings went, and what a network costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from ttl_monai.reports.figures import PALETTE
from ttl_monai.reports.page.blocks import NONE, Block, Figure, Section, Table, fixed
from ttl_monai.reports.page.inputs import Inputs, comparable
from ttl_monai.reports.page.runs import Run
from ttl_monai.reports.page.strategies import head_of
from ttl_monai.reports.page.svg import legend_below, new_figure
from ttl_monai.reports.search_document import duration
from ttl_monai.reports.tables import place_of

TOGETHER = 6


def training_section(inputs: Inputs) -> Section:
    """Loss and the validation's key metric by epoch."""
    runs = [run for run in inputs.runs if run.record["history"]]
    blocks: list[Block] = []
    for number, group in enumerate(comparable(runs)):
        for first in range(0, len(group), TOGETHER):
            some = group[first : first + TOGETHER]
            blocks.append(_course(f"loss{number}-{first}", some, "train_loss", "training loss"))
            key = key_metric(some[0])
            if key:
                blocks.append(_course(f"score{number}-{first}", some, key, head_of(key)))
    heads = ["run", "status", "epochs", "best epoch", "key metric", "training", "waiting for data"]
    rows = [_summary(run) for run in runs]
    note = "Best epoch: that of the highest key metric on the validation section; its network was evaluated."
    return Section(
        "training", "Training", [*blocks, Table("Trainings", heads, rows, text=2, notes=[note])] if rows else []
    )


def complexity_section(inputs: Inputs) -> Section:
    """Size and speed: MACs and parameters of the runs, the latency of the rows of experiments."""
    rows = [
        (place_of(row), table["backbone"], row)
        for table in inputs.tables
        for row in table["rows"]
        if row.get("params") and row.get("macs")
    ]
    if not rows:
        return Section("complexity", "Complexity and latency")
    bars = _bars(rows) if any(row.get("latency_ms") for *_, row in rows) else []
    lines = [
        [
            title,
            str(backbone),
            fixed(row["params"] / 1e6),
            fixed(row["macs"] / 1e9),
            fixed(row.get("latency_ms"), 1),
            fixed(row.get("latency_gpu_ms"), 2),
        ]
        for title, backbone, row in rows
    ]
    heads = ["network", "backbone", "params (M)", "MACs (G)", "CPU (ms)", "GPU (ms)"]
    if not any(row.get("latency_gpu_ms") for *_, row in rows):
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    note = "MACs by the paper's convention; latency: median of one image, without reading and preprocessing."
    table = Table("What one prediction costs", heads, lines, text=2, notes=[note])
    return Section("complexity", "Complexity and latency", [*bars, table])


def key_metric(run: Run) -> str | None:
    """The validation metric by which the best epoch was chosen: of those in the history the one that fits it."""
    best, history = run.record.get("best"), run.record["history"]
    for key in ("val_auprc", "val_jaccard", "val_dice", "val_auroc"):
        values = [row[key] for row in history if row.get(key) is not None]
        if best and values and best.get(key) == max(values):
            return key
    return None


def _course(name: str, runs: Sequence[Run], key: str, title: str) -> Figure:
    figure, (axes,) = new_figure(3.6)
    said = []
    for number, run in enumerate(runs):
        points = [(row["epoch"], row[key]) for row in run.record["history"] if row.get(key) is not None]
        if not points:
            continue
        epochs, values = zip(*points, strict=True)
        marker = "o" if len(points) <= 30 else ""
        axes.plot(epochs, values, color=PALETTE[number], marker=marker, markersize=4, linewidth=2, label=run.title)
        said.append(f"{run.title} from {values[0]:.3f} to {values[-1]:.3f}")
    axes.set(xlabel="epoch", ylabel=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_below(figure, axes, columns=2)
    heading = f"{title[0].upper() + title[1:]}: {runs[0].data}, {runs[0].network}"
    return Figure(name, heading, f"{title} by epoch. {'; '.join(said)}.", figure)


def _summary(run: Run) -> list[str]:
    history, key = run.record["history"], key_metric(run)
    best = run.record.get("best") or {}
    waits = [row["data_wait"] for row in history if row.get("data_wait") is not None]
    waited = f"{sum(waits) / len(waits):.0%}" if waits else NONE
    score = f"{head_of(key)} {best[key]:.3f}" if key else NONE
    return [
        *(run.title, str(run.record["status"]), str(len(history)), str(best.get("epoch", NONE)), score),
        *(duration(float(run.record.get("wall_s") or math.nan)), waited),
    ]


def _bars(rows: Sequence[tuple]) -> list[Figure]:
    figures = []
    scales = (("params", 1e6, "parameters (M)", 3), ("latency_ms", 1, "latency on the CPU (ms)", 1))
    several = len({backbone for _, backbone, _ in rows}) > 1
    for key, scale, title, digits in scales:
        some = [(name, backbone, row[key] / scale) for name, backbone, row in rows if row.get(key)]
        known = [(f"{name}, {backbone}" if several else name, value) for name, backbone, value in some]
        figure, (axes,) = new_figure(0.3 + 0.34 * len(known))
        names, values = zip(*known, strict=True)
        places = range(len(known))
        axes.barh(places, values, color=PALETTE[0], height=0.62)
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f"  {value:.{digits}f}", va="center", fontsize=9)
        axes.set(xlim=(0, 1.18 * max(values)), ylim=(len(known) - 0.4, -0.6))
        axes.set_yticks(places, names)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0, labelbottom=False)
        said = "; ".join(f"{name} {value:.{digits}f}" for name, value in known)
        figures.append(Figure(key, title[0].upper() + title[1:], f"Bars: {said}.", figure))
    return figures
