"""Ignite handlers: what happens around an epoch."""

from ttl_monai.handlers.checkpoint import RunCheckpoint
from ttl_monai.handlers.feature_cache import FeatureCache
from ttl_monai.handlers.gradcam import GradCamPictures, GradCamWriter
from ttl_monai.handlers.masks import MaskScores, MaskWriter
from ttl_monai.handlers.metrics import Auprc, Auroc, is_better, to_columns
from ttl_monai.handlers.predictions import OperatingPoint, PredictionWriter
from ttl_monai.handlers.record import RunRecord
from ttl_monai.handlers.segmentation import Dice, Hausdorff95, Jaccard, to_structures
from ttl_monai.handlers.series import SeriesWriter
from ttl_monai.handlers.stops import LrFloorStop, StopOnNonFiniteLoss
from ttl_monai.handlers.svcca import SVCCAHandler

__all__ = [
    "Auprc",
    "Auroc",
    "Dice",
    "FeatureCache",
    "GradCamPictures",
    "GradCamWriter",
    "Hausdorff95",
    "Jaccard",
    "LrFloorStop",
    "MaskScores",
    "MaskWriter",
    "OperatingPoint",
    "PredictionWriter",
    "RunCheckpoint",
    "RunRecord",
    "SVCCAHandler",
    "SeriesWriter",
    "StopOnNonFiniteLoss",
    "is_better",
    "to_columns",
    "to_structures",
]
