"""Pure functions on arrays: metrics, operating points and spread over repeats."""

from ttl_monai.analysis.statistics import (
    auprc_trapezoid,
    auroc,
    average_precision,
    mean_std,
    operating_point,
    sensitivity_specificity,
)

__all__ = [
    "auprc_trapezoid",
    "auroc",
    "average_precision",
    "mean_std",
    "operating_point",
    "sensitivity_specificity",
]
