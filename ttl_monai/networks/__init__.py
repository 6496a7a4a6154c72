"""Networks: truncation points of any backbone, surgery, pretrained weights, classifier and U-Net, complexity."""

from ttl_monai.networks.classifier import TransferClassifier
from ttl_monai.networks.complexity import count_macs, count_params, measure_latencies, measure_latency
from ttl_monai.networks.features import PointFeatures
from ttl_monai.networks.inferer import SeriesInferer
from ttl_monai.networks.inflate import inflate
from ttl_monai.networks.losses import ClassificationLoss, MaskLoss
from ttl_monai.networks.param_groups import param_groups
from ttl_monai.networks.points import Point, find_point, list_points
from ttl_monai.networks.randomise import randomise_down
from ttl_monai.networks.resnext3d import ResNeXt3D
from ttl_monai.networks.saliency import SALIENCY_METHODS, evidence, fit_map, grad_cam
from ttl_monai.networks.segmenter import TransferUNet
from ttl_monai.networks.slim import slim_after
from ttl_monai.networks.smp_weights import load_smp_unet
from ttl_monai.networks.surgery import freeze_up_to, split_at, truncate
from ttl_monai.networks.visualise import Excitation, excite, mean_activations

__all__ = [
    "SALIENCY_METHODS",
    "ClassificationLoss",
    "Excitation",
    "MaskLoss",
    "Point",
    "PointFeatures",
    "ResNeXt3D",
    "SeriesInferer",
    "TransferClassifier",
    "TransferUNet",
    "count_macs",
    "count_params",
    "evidence",
    "excite",
    "find_point",
    "fit_map",
    "freeze_up_to",
    "grad_cam",
    "inflate",
    "list_points",
    "load_smp_unet",
    "mean_activations",
    "measure_latencies",
    "measure_latency",
    "param_groups",
    "randomise_down",
    "slim_after",
    "split_at",
    "truncate",
]
