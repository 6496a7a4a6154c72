"""Canonical correlations of two feature matrices: ours against google/svcca's published formula in NumPy.

The baseline is written here from the published description (Raghu et al. 2017): float64 `np.cov` of the stacked (2d, n)
array, inverse square roots of the two covariances by `eigh`, one SVD; without its thresholds, which drop directions.
`pinv` is the same as their program goes about it: a pseudo-inverse of either covariance first, then its square root.
Each side gets its natural layout, (n, d) ours and (d, n) the baseline, of the same float32 features, and the same
number of threads; the sides run in turn, in another order each round, with a pause between, since the threads of one
library (NumPy's BLAS, SciPy's, PyTorch's) go on spinning for a while where the next would run. With one thread the
clock is the processor time of this process, which a busy machine lengthens least; with more it is the wall's.
`fastest` compares the fastest round of either side, `speedup` is the median of the rounds' ratios: the two differ where
the machine makes the baseline's fresh memory (three times the stacked array) dear, which is no merit of ours, so
`fastest` is the number to quote.
The coefficients must agree, or nothing is reported.

NumPy's covariance is one symmetric BLAS product near the processor's peak, and ours needs the same multiplications:
what can be saved is the rest (Cholesky factors and singular values alone, for two eigendecompositions and a full SVD),
which weighs more the fewer samples there are a channel.

    python benchmarks/svcca.py [--rounds 3] [--threads 1 2] [--out benchmarks/svcca.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ttl_monai.analysis import CrossMoments, cca

SIZES = ((64, 20_000), (256, 20_000), (512, 5_120), (512, 20_000), (1024, 10_240))
BAR = 1e-6  # largest difference of a coefficient
PAUSE_S = 0.3
TARGET = (512, 20_000)  # the size by which speed is judged

Array = NDArray[np.float64]


def root(matrix: Array, power: float) -> Array:
    """Symmetric power of a symmetric matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**power) @ vectors.T


def published(x: NDArray[np.float32], y: NDArray[np.float32], *, pinv: bool = False) -> Array:
    """Coefficients of x (d, n) and y (d, n) by the published formula."""
    d = len(x)
    covariance = np.cov(np.concatenate([x, y]).astype(np.float64))
    own = covariance[:d, :d], covariance[d:, d:]
    left, right = (root(np.linalg.pinv(each), 0.5) if pinv else root(each, -0.5) for each in own)
    return np.linalg.svd(left @ covariance[:d, d:] @ right)[1]


def features(d: int, n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two layers' worth of rectified features (n, d) that share a part, with means and channels of unequal loudness."""
    generator = np.random.default_rng(seed)
    shared = generator.standard_normal((n, d // 2))
    loudness = generator.lognormal(0, 1, (2, d))
    sides = []
    for side in range(2):
        mixed = shared @ generator.standard_normal((d // 2, d)) / np.sqrt(d // 2) + generator.standard_normal((n, d))
        sides.append((np.maximum(mixed + 0.5, 0) * loudness[side]).astype(np.float32))
    return sides[0], sides[1]


def timed(function: Callable[[], Array], clock: Callable[[], float]) -> tuple[float, Array]:
    """Seconds and result."""
    time.sleep(PAUSE_S)
    start = clock()
    result = function()
    return clock() - start, result


def streamed(x: torch.Tensor, y: torch.Tensor, batch: int) -> Array:
    """The same by batches, as over a data loader."""
    moments = CrossMoments(x.shape[1], y.shape[1])
    for left, right in zip(x.split(batch), y.split(batch), strict=True):
        moments.update(left, right)
    return moments.cca().coefficients


def measure(d: int, n: int, rounds: int, clock: Callable[[], float]) -> dict[str, float | int]:
    """One size: medians of the seconds, medians of the ratios, the largest difference."""
    x, y = features(d, n, seed=d)
    x_rows, y_rows = torch.from_numpy(x), torch.from_numpy(y)
    x_columns, y_columns = np.ascontiguousarray(x.T), np.ascontiguousarray(y.T)
    runs: dict[str, Callable[[], Array]] = {
        "ours": lambda: cca(x_rows, y_rows).coefficients,
        "streamed": lambda: streamed(x_rows, y_rows, 784),  # 16 images of 7 x 7 positions
        "published": lambda: published(x_columns, y_columns),
        "pinv": lambda: published(x_columns, y_columns, pinv=True),
    }
    rows: list[dict[str, float]] = []
    worst = 0.0
    for number in range(rounds + 1):
        seconds, results = {}, {}
        names = list(runs)
        for name in names[number % 4 :] + names[: number % 4]:
            function = runs[name]
            seconds[name], results[name] = timed(function, clock)
        worst = max(worst, *(float(np.abs(results[name] - results["published"]).max()) for name in runs))
        if number:  # the first warms up
            rows.append(seconds)
    if worst > BAR:
        raise SystemExit(f"d={d}, n={n}: the coefficients differ by {worst:.1e}, the bar is {BAR:g}.")

    def ratio(slow: str, fast: str) -> float:
        return round(statistics.median(row[slow] / row[fast] for row in rows), 2)

    def fastest(slow: str) -> float:
        return round(min(row[slow] for row in rows) / min(row["ours"] for row in rows), 2)

    return {
        "d": d,
        "n": n,
        **{f"{name}_s": round(statistics.median(row[name] for row in rows), 4) for name in runs},
        "fastest": fastest("published"),
        "fastest_pinv": fastest("pinv"),
        "speedup": ratio("published", "ours"),
        "speedup_streamed": ratio("published", "streamed"),
        "speedup_over_pinv": ratio("pinv", "ours"),
        "max_difference": float(f"{worst:.1e}"),
    }


def main() -> None:
    """Measure, print, and write on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default 3)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads of both sides (default 1)")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        with threadpool_limits(threads):
            for d, n in SIZES:
                rows.append({"threads": threads, **measure(d, n, arguments.rounds, clock)})
                print(rows[-1], flush=True)
        bar = next(row for row in rows if (row["threads"], row["d"], row["n"]) == (threads, *TARGET))
        print(f"d = {bar['d']}, n = {bar['n']}, {threads} threads: {bar['fastest']} times as fast", end=" ")
        print(f"({bar['speedup']} in the median).")
    if arguments.out:
        versions = {"numpy": np.__version__, "torch": torch.__version__, "machine": platform.machine()}
        arguments.out.write_text(json.dumps({"rounds": arguments.rounds, **versions, "rows": rows}, indent=4) + "\n")


if __name__ == "__main__":
    main()
