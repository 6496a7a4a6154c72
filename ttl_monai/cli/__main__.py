"""`python -m ttl_monai.cli`: the same as `ttl`."""

import sys

from ttl_monai.cli import main

sys.exit(main())
