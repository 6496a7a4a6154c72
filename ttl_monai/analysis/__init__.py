"""Pure functions on arrays: metrics, operating points, spread over repeats, similarity of features."""

from ttl_monai.analysis.bootstrap import (
    Intervals,
    Measure,
    classification_intervals,
    classification_measure,
    mean_intervals,
    mean_measure,
)
from ttl_monai.analysis.canonical import CcaResult
from ttl_monai.analysis.cca import cca, pwcca, svcca
from ttl_monai.analysis.cka import linear_cka
from ttl_monai.analysis.curves import (
    Band,
    Reliability,
    curve_bands,
    operating_intervals,
    reliability,
    threshold_at_sensitivity,
)
from ttl_monai.analysis.differences import Difference, PairedScores, paired_differences, t_test
from ttl_monai.analysis.localisation import Extent, Localisation, localise, rank_correlation, spread_of
from ttl_monai.analysis.moments import CrossMoments, as_samples, match_grids
from ttl_monai.analysis.overlap import bhattacharyya, excess_area, overlap_coefficient, quartile_rule
from ttl_monai.analysis.probe import LinearProbe, fit_probe
from ttl_monai.analysis.statistics import (
    auprc_trapezoid,
    auroc,
    average_precision,
    mean_std,
    operating_point,
    sensitivity_specificity,
)
from ttl_monai.analysis.transition import Similarity, Transition, pick_transition
from ttl_monai.analysis.wachter import (
    wachter_atom,
    wachter_cdf,
    wachter_density,
    wachter_edges,
    wachter_quantiles,
    wachter_sample,
)

__all__ = [
    "Band",
    "CcaResult",
    "CrossMoments",
    "Difference",
    "Extent",
    "Intervals",
    "LinearProbe",
    "Localisation",
    "Measure",
    "PairedScores",
    "Reliability",
    "Similarity",
    "Transition",
    "as_samples",
    "auprc_trapezoid",
    "auroc",
    "average_precision",
    "bhattacharyya",
    "cca",
    "classification_intervals",
    "classification_measure",
    "curve_bands",
    "excess_area",
    "fit_probe",
    "linear_cka",
    "localise",
    "match_grids",
    "mean_intervals",
    "mean_measure",
    "mean_std",
    "operating_intervals",
    "operating_point",
    "overlap_coefficient",
    "paired_differences",
    "pick_transition",
    "pwcca",
    "quartile_rule",
    "rank_correlation",
    "reliability",
    "sensitivity_specificity",
    "spread_of",
    "svcca",
    "t_test",
    "threshold_at_sensitivity",
    "wachter_atom",
    "wachter_cdf",
    "wachter_density",
    "wachter_edges",
    "wachter_quantiles",
    "wachter_sample",
]
