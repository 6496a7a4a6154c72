"""The experiments of the paper and its supplement: each a class that checks everything first, then runs."""

from ttl_monai.engines.experiments.architectures import Architectures
from ttl_monai.engines.experiments.comparison import Comparison
from ttl_monai.engines.experiments.conduct import conduct
from ttl_monai.engines.experiments.features import Features
from ttl_monai.engines.experiments.interdomain import InterDomain
from ttl_monai.engines.experiments.pooling import Pooling
from ttl_monai.engines.experiments.saliency import Saliency
from ttl_monai.engines.experiments.strategies import Strategies
from ttl_monai.engines.experiments.transition import TransitionPoint

__all__ = [
    "Architectures",
    "Comparison",
    "Features",
    "InterDomain",
    "Pooling",
    "Saliency",
    "Strategies",
    "TransitionPoint",
    "conduct",
]
