"""Fixtures that more than one room uses."""

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# Real images for experiments. Users do not have them, so tests that read them skip and say so.
SHARED_DATA = REPO.parent / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real images, or a skip with the reason."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real images of shared/data are not at hand")
    return SHARED_DATA
