"""The preflight of a training: all that would go wrong, before an epoch is spent."""

from ttl_monai.deploy.check.preflight import check_bundle
from ttl_monai.deploy.check.problems import Findings, Problem

__all__ = ["Findings", "Problem", "check_bundle"]
