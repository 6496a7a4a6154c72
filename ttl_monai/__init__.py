"""Truncated transfer learning for medical images, as MONAI bundles."""

import importlib
import types

__version__ = "0.2.0"


def room(name: str) -> types.ModuleType:
    """A module of this package, for the configs of packed bundles, which carry the package under another name.

    Such a config cannot say `$import`: MONAI evaluates imports before anything can put the bundle on the path.

    Args:
        name: without the package, as `engines`.
    """
    return importlib.import_module(f"{__name__}.{name}")
