"""From a finished run to a bundle that stands alone: `ttl pack`."""

from ttl_monai.deploy.pack.assemble import Packed, pack_run

__all__ = ["Packed", "pack_run"]
