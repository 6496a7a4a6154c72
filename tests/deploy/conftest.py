"""A source bundle and a packed one, to be spoilt."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ttl_monai.deploy.manifest import write_manifest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "covid_ttl"
    shutil.copytree(REPO / "bundles/covid_ttl", folder, ignore=shutil.ignore_patterns("eval", "cache", "data", "*.png"))
    return folder


@pytest.fixture
def packed(bundle):
    (bundle / "models").mkdir()
    torch.save({"conv.weight": torch.arange(6.0).view(1, 2, 3), "norm.n": torch.tensor(1)}, bundle / "models/model.pt")
    package = bundle / "ttl_monai_covid_0_1_0"
    package.mkdir()
    (package / "__init__.py").write_text('"""Our code under a name of its own."""\n')
    write_manifest(bundle)
    return bundle


@pytest.fixture
def edit(bundle):
    """Change a config by a function of its content, or write text in its place."""

    def change(name, how):
        path = bundle / name
        if not callable(how):
            path.write_bytes(how if isinstance(how, bytes) else how.encode())
            return
        content = json.loads(path.read_text())
        how(content)
        path.write_text(json.dumps(content))

    return change
