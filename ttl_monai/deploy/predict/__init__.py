"""`ttl predict`: what lies in a folder is sorted, judged by what the bundle accepts, and predicted by the bundle."""

from ttl_monai.deploy.predict.conduct import predict_inputs
from ttl_monai.deploy.predict.study import predict_study

__all__ = ["predict_inputs", "predict_study"]
