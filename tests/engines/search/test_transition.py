"""The comparison before and after training as a cell of a search, on the tiny images."""

import json

import numpy as np
import pytest
import torch

from tests.bundles.conftest import BUNDLES, TINY, write_tiny_data
from ttl_monai.analysis import as_samples, cca
from ttl_monai.engines.runs import build_network
from ttl_monai.engines.search import transition
from ttl_monai.engines.search.run_cell import train_cell
from ttl_monai.engines.search.survey import survey
from ttl_monai.engines.search.transition import svcca_cell
from ttl_monai.handlers import RunCheckpoint
from ttl_monai.networks import PointFeatures

CPU = "$torch.device('cpu')"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A space whose whole network is trained on repeat 0, with its weights at the start."""
    folder = tmp_path_factory.mktemp("transition")
    datalist = write_tiny_data(folder / "data")
    space = survey(
        folder=folder / "search",
        bundle=BUNDLES / "covid_ttl",
        overlays=(),
        settings={**TINY, "cache_dir": str(folder / "cache"), "device": CPU},
        dataset_dir=datalist.parent,
        datalists=[datalist],
        repeats=1,
        train_patients=None,
        candidates=["blocks.0", "blocks.1"],
        seed=3,
        options={},
    )
    cell, start, begin = space.cell("train", None, 0), {}, RunCheckpoint._start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            RunCheckpoint,
            "_start",
            lambda self, engine: (
                start.update({k: v.clone() for k, v in self.network.state_dict().items()}),
                begin(self, engine),
            ),
        )
        result = train_cell(space, cell, folder / "search/runs/whole")
    (folder / "search/results").mkdir()
    (folder / "search/results" / f"{cell.key}.json").write_text(json.dumps({**result, "run": "runs/whole"}))
    return space, start, folder


def asked(space, **options):
    return type(space)(**{**vars(space), "options": {"svcca": options}})


@pytest.fixture(scope="module")
def result(trained):
    space, _, folder = trained
    return svcca_cell(space, space.cell("svcca", None, 0), folder / "cell")


def test_the_network_before_is_the_one_that_training_started_from(trained, monkeypatch):
    space, start, folder = trained
    seen = []
    original = transition.compare_networks
    monkeypatch.setattr(
        transition, "compare_networks", lambda before, *a, **k: seen.append(before) or original(before, *a, **k)
    )
    torch.manual_seed(99)
    svcca_cell(space, space.cell("svcca", None, 0), folder / "again")
    state = seen[0].state_dict()
    assert state.keys() == start.keys()
    assert all(torch.equal(state[name], start[name]) for name in state)


def test_the_result_has_every_candidate_on_training_and_validation_images(trained, result):
    space, start, folder = trained
    assert json.loads(json.dumps(result)) == result
    assert [row["point"] for row in result["points"]] == [each["point"] for each in space.candidates]
    assert result["images"] == 24  # 16 of training, 8 of validation
    assert [row["n"] for row in result["points"]] == [24 * 256, 24 * 64, 24]
    assert all(len(row["jackknife"]) > 1 for row in result["points"])
    assert set(result["picks"]) == {"stage", "block"}
    assert result["seconds"] > 0
    before, after = build_network(folder / "search/runs/whole"), build_network(folder / "search/runs/whole")
    before.load_state_dict(start)
    workflow = space.open_workflow(0, output_dir=folder / "x")
    content = workflow.parser.get_parsed_content
    transform, cached = content("validate#preprocessing"), content("validate#dataset")
    pixels = torch.stack(
        [
            transform(dict(item))["image"]
            for name in ("training", "validation")
            for item in content("data").section(name)
        ]
    )
    pixels = pixels.as_subclass(torch.Tensor)
    assert cached[0]["image"].shape == pixels[0].shape
    with torch.no_grad():
        x, y = (PointFeatures(network, ["blocks.1"])(pixels)["blocks.1"] for network in (before, after))
    # the cache keeps images in 16 bits
    np.testing.assert_allclose(
        result["points"][1]["coefficients"], cca(as_samples(x), as_samples(y)).coefficients, atol=2e-3
    )


def test_options_are_passed_on(trained):
    space, _, folder = trained
    asking = asked(space, null="permute", statistic="quartiles", level="block", groups=3, variance=0.9)
    found = svcca_cell(asking, asking.cell("svcca", None, 0), folder / "options")
    assert {row["null"] for row in found["points"]} == {"permute"}
    assert all(len(row["jackknife"]) == 3 for row in found["points"])
    channels = [each["channels"] for each in space.candidates[:-1]]
    assert all(row["dims"][0] < count for row, count in zip(found["points"][:-1], channels, strict=True))
    assert (found["statistic"], found["level"]) == ("quartiles", "block")
    chosen = found["picks"]["block"]["quartiles"]
    assert (found["pick"], found["determined"], found["reason"]) == tuple(
        chosen[name] for name in ("point", "determined", "reason")
    )


def test_an_unknown_option_is_refused(trained):
    space, _, folder = trained
    asking = asked(space, nul="permute")
    with pytest.raises(ValueError, match=r"svcca takes null, statistic, .*, got nul"):
        svcca_cell(asking, asking.cell("svcca", None, 0), folder / "bad")


def test_without_the_whole_network_there_is_nothing_to_compare(trained, tmp_path):
    space, _, _ = trained
    other = type(space)(**{**vars(space), "seed": 8})
    with pytest.raises(ValueError, match="train-whole-0 has no result: the whole network must be trained"):
        svcca_cell(other, other.cell("svcca", None, 0), tmp_path)
