"""What the README shows works as it stands."""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", range(len(re.findall(r"```python\n", README))))
def test_python_example_runs(number, capsys):
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[number]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 2)
    assert "blocks.2" in capsys.readouterr().out


def test_files_that_the_readme_names_exist():
    links = set(re.findall(r"\]\(((?!https?:)[\w./]+)\)", README))
    configs = set(re.findall(r"bundles/\w+/configs/[\w.]+", README))
    overlays = set(re.findall(r"`((?:strategy|backbone)_\w+\.json)`", README))
    assert len(links) >= 3
    assert len(overlays) >= 5
    assert not [name for name in links | configs if not (REPO / name).exists()]
    assert not [name for name in overlays if not list(REPO.glob(f"bundles/*/configs/{name}"))]


def test_make_targets_that_the_readme_names_exist():
    makefile = (REPO / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`?make ([a-z-]+)", README))
    assert {"demo", "test", "quality", "test-all"} <= targets
    assert not [target for target in targets if not re.search(rf"^{target}:.*## ", makefile, flags=re.MULTILINE)]
