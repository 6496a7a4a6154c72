"""The search for the truncation point: cells in a durable queue, workers, and the ways to search."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttl_monai.engines.search.search import TruncationSearch

__all__ = ["TruncationSearch"]


def __getattr__(name: str) -> Any:
    """Import the search when it is first used: a worker needs only its queue."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.search"), name)
