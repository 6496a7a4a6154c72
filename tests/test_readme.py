"""What the README shows works as it stands."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from ttl_monai.reports import update_section

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


@pytest.mark.parametrize(("section", "name"), [("latency", "inference"), ("files", "files")])
def test_what_benchmarks_found_is_that_of_their_records(section, name):
    spec = importlib.util.spec_from_file_location(name, REPO / f"benchmarks/{name}.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    record = json.loads((REPO / f"benchmarks/{name}.json").read_text())
    text = benchmark.table(record)
    if section == "latency":
        text = f"{re.search('!.*inference.png.', README)[0]}\n\n{text}"
    assert update_section(README, section, text) == README, "make docs"
