"""The experiments of the paper and its supplement: each a class that checks everything first, then runs."""

from ttl_monai.engines.experiments.conduct import conduct
from ttl_monai.engines.experiments.features import Features
from ttl_monai.engines.experiments.saliency import Saliency
from ttl_monai.engines.experiments.strategies import Strategies

__all__ = ["Features", "Saliency", "Strategies", "conduct"]
