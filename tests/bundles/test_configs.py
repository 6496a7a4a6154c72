import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from monai.bundle import ConfigWorkflow, verify_metadata
from monai.bundle.config_parser import ConfigParser

from ttl_monai.engines.workflow import _ids, _nested

from .conftest import BUNDLES, TINY, refused

NAMES = sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir())
ENTRIES = {"train.json", "inference.json", "search.json"}
# Ids that an overlay adds to what train.json has.
NEW = {
    "data_pathology.json": {"train#augment#flip", "train#augment#quarter_turns"},
    "svcca.json": {"svcca"},
    "evaluate.json": {"run_dir", "section", "trained", "spec", "preprocessing"},
    "multi_gpu_train.json": {
        "use_cuda",
        "train#sampler",
        "train#dataloader#sampler",
        "validate#sampler",
        "validate#dataloader#sampler",
        "finalize",
    },
    "multi_gpu_evaluate.json": {"use_cuda", "validate#sampler", "validate#dataloader#sampler", "finalize"},
}
STRATEGIES = [f"strategy_{name}.json" for name in ("htl", "lwft", "tf", "ttl")]


def overlays_of(bundle):
    """Strategies, backbones, and other kinds of data."""
    others = (
        path.name for kind in ("backbone", "data") for path in (BUNDLES / bundle / "configs").glob(f"{kind}_*.json")
    )
    return [*STRATEGIES, *others]


def read(bundle, name):
    return ConfigParser.load_config_file(BUNDLES / bundle / "configs" / name)


@pytest.mark.parametrize("bundle", NAMES)
class TestFiles:
    def test_every_bundle_has_the_same_files(self, bundle):
        files = {
            path.relative_to(BUNDLES / bundle).as_posix()
            for path in (BUNDLES / bundle).rglob("*")
            if path.is_file() and path.parts[len(BUNDLES.parts) + 1] in ("configs", "docs", "LICENSE")
        }
        needed = {"LICENSE", "docs/README.md", "docs/data_license.txt"} | {
            f"configs/{name}"
            for name in (
                "metadata.json",
                "logging.conf",
                "evaluate.json",
                "multi_gpu_train.json",
                "multi_gpu_evaluate.json",
                "svcca.json",
                *ENTRIES,
                *STRATEGIES,
            )
        }
        assert needed <= files
        assert len(overlays_of(bundle)) > len(STRATEGIES)

    def test_overlays_patch_only_what_train_json_has(self, bundle):
        known = set(_ids(read(bundle, "train.json")))
        for path in (BUNDLES / bundle / "configs").glob("*.json"):
            if path.name in ENTRIES | {"metadata.json"}:
                continue
            own = {key.lstrip("+") for key in read(bundle, path.name)} - {"_desc_"}
            assert own - known - NEW.get(path.name, set()) == set(), path.name

    def test_strategies_and_scaling_touch_other_keys(self, bundle):
        def keys(name):
            return {key.lstrip("+") for key in read(bundle, name)} - {"_desc_"}

        for a, b in itertools.product(overlays_of(bundle), ("multi_gpu_train.json", "evaluate.json")):
            assert keys(a) & keys(b) == set()

    def test_strategy_files_are_equal_in_all_bundles(self, bundle):
        for name in (
            *STRATEGIES,
            "multi_gpu_train.json",
            "multi_gpu_evaluate.json",
            "svcca.json",
            "search.json",
            "logging.conf",
        ):
            first = BUNDLES / NAMES[0] / "configs" / name
            assert (BUNDLES / bundle / "configs" / name).read_bytes() == first.read_bytes()

    def test_metadata_fits_the_schema_without_a_network(self, bundle, tmp_path, monkeypatch):
        monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
        schema = BUNDLES / "schema" / "meta_schema_20240725.json"
        verify_metadata(meta_file=str(BUNDLES / bundle / "configs/metadata.json"), filepath=str(schema))
        metadata = read(bundle, "metadata.json")
        assert metadata["version"] in metadata["changelog"]
        jsonschema.Draft201909Validator.check_schema(json.loads(schema.read_text()))

    def test_files_are_formatted_and_name_no_path_of_a_machine(self, bundle):
        for path in (BUNDLES / bundle / "configs").glob("*.json"):
            text = path.read_text()
            assert text == json.dumps(json.loads(text), indent=4, ensure_ascii=False) + "\n", path.name
            assert "/home/" not in text
            assert "/tmp/" not in text

    def test_evaluation_sees_the_training_preprocessing_resized(self, bundle):
        config = read(bundle, "train.json")
        if "preprocessing" not in config["train"]:  # both cut their windows out of the same prepared volumes
            assert config["train"]["dataset"]["cache"] == config["validate"]["dataset"]["cache"] == "@volumes"
            assert config["volumes"]["transform"] == "@validate#preprocessing"
            return
        *same, resize = config["validate"]["preprocessing"]["transforms"]
        assert same == config["train"]["preprocessing"]["transforms"]
        assert resize["_target_"] == "Resized"

    def test_metrics_that_are_stepped_on_are_defined(self, bundle):
        validate = read(bundle, "train.json")["validate"]
        defined = set(validate["key_metric"]) | set(validate["additional_metrics"])
        stepped = [each["step_transform"] for each in validate["handlers"] if "step_transform" in each]
        assert stepped
        assert all(any(name in expression for name in defined) for expression in stepped)


@pytest.mark.parametrize("bundle", NAMES)
@pytest.mark.parametrize("overlays", [[], *([name] for name in STRATEGIES)], ids=lambda names: "-".join(names) or "ftl")
def test_every_combination_has_monais_properties(make_workflow, overlays, bundle):
    assert make_workflow("train.json", *overlays, bundle=bundle).check_properties() == []


@pytest.mark.parametrize(("strategy", "knob"), [("lwft", "freeze_up_to"), ("tf", "slim_after"), ("ttl", "truncate_at")])
def test_the_paper_s_backbone_brings_its_own_cuts(make_workflow, strategy, knob):
    workflow = make_workflow("train.json", "backbone_resnet50.json", f"strategy_{strategy}.json")
    network = workflow.parser.get_parsed_content("network_def")
    assert workflow.parser["cuts"][strategy] in ("stem", "layer3"), knob
    trainable = sum(each.numel() for each in network.parameters() if each.requires_grad)
    # PAPER: TTL 8.55 M, TF 12.9 M; LWFT freezes the 9,536 parameters of the stem of 23.5 M
    assert trainable == {"lwft": 23_512_130 - 9_536, "tf": 12_947_522, "ttl": 8_545_346}[strategy]


def test_the_paper_s_network_for_ct_is_cut_where_the_paper_cuts_it(make_workflow):
    overlays = ("backbone_resnext3d101.json", "strategy_ttl.json")
    workflow = make_workflow("train.json", *overlays, bundle="ctpa_ttl", **{"network_def#weights": "none"})
    network = workflow.parser.get_parsed_content("network_def")
    # PAPER: 31,206,848 up to layer3.22; and the head's 1024 * 2 + 2
    assert sum(each.numel() for each in network.parameters()) == 31_206_848 + 2050
    assert network.use_checkpoint


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"max_epohcs": 3}, "'max_epohcs' is no setting here; did you mean 'max_epochs'"),
        ({"train#trainer#max_epoch": 3}, "'train#trainer#max_epoch' is no setting.*'train#trainer#max_epochs'"),
        ({"network_def#truncat_at": "blocks.3"}, "did you mean 'network_def#truncate_at'"),
        ({"validate#intervall": 3}, "'validate#intervall' is no setting"),
        ({"run_dir": "x"}, "'run_dir' is no setting here; it belongs to evaluate.json"),
        ({"section": "test"}, "'section' is no setting here; it belongs to evaluate.json"),
        ({"loging_file": "x"}, "did you mean 'logging_file'"),
        ({"learning_rte": 0.1, "sed": 1}, "'learning_rte'.*'learning_rate'.*'sed'.*'seed'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_misspelt_override_is_an_error_with_the_nearest_key(make_workflow, overrides, message):
    with refused(message):
        make_workflow("train.json", **overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"max_epochs": 3, "train#trainer#max_epochs": 3},
        {"validate#handlers#0#_disabled_": True},
        # an argument that the component takes though the config does not name it
        {"train#trainer#accumulation_steps": 2},
        {"optimizer#weight_decay": 0.1},
        # a new key that another override refers to
        {"my_rate": 0.1, "learning_rate": "@my_rate"},
        # a whole component replaced by another one
        {"lr_scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer", "step_size": 2}},
        {"experiment_name": "x", "tracking_uri": "y"},
    ],
    ids=lambda value: "-".join(value),
)
def test_a_valid_override_passes(make_workflow, overrides):
    make_workflow("train.json", **overrides)


def test_a_misspelt_key_of_an_own_overlay_is_an_error(tmp_path, tiny_data):
    overlay = tmp_path / "mine.json"
    overlay.write_text(json.dumps({"train#prepare_bach": None}))
    workflow = ConfigWorkflow([str(BUNDLES / "covid_ttl/configs/train.json"), str(overlay)], logging_file=False)
    with refused("did you mean 'train#prepare_batch'"):
        workflow.initialize()


def test_nested_spreads_overlay_keys():
    assert _nested({"+a#b": 1, "c": {"d": 2}}) == {"a": {"b": 1}, "c": {"d": 2}}


@pytest.mark.parametrize("given", ["dataset_dir", "datalist"])
def test_half_of_the_data_arguments_is_an_error(make_workflow, given):
    other = {"dataset_dir": "datalist", "datalist": "dataset_dir"}[given]
    with refused(f"--{given} was given without --{other}"):
        make_workflow("train.json", **{other: ...}).run()


class TestCommandLine:
    """The user's own line in a process of its own, from a folder that is not the repository."""

    def run(self, *arguments, cwd, configs, **settings):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        options = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--config_file", configs]
        return subprocess.run(
            [*command, *options, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
        )

    def test_training_and_evaluation_by_run_option(self, tmp_path, tiny_data):
        bundle = tmp_path / "bundle"
        shutil.copytree(BUNDLES / "covid_ttl/configs", bundle / "configs")
        (tmp_path / "cwd").mkdir()
        data = {"dataset_dir": tiny_data.parent, "datalist": tiny_data}
        train = str(bundle / "configs/train.json")
        done = self.run(cwd=tmp_path / "cwd", configs=train, **data, **TINY)
        assert done.returncode == 0, done.stderr
        assert (bundle / "eval/ftl/model.pt").is_file()
        configs = f"['{train}','{bundle / 'configs/evaluate.json'}']"
        done = self.run(cwd=tmp_path / "cwd", configs=configs, **data, run=bundle / "eval/ftl")
        assert done.returncode == 0, done.stderr
        assert json.loads((bundle / "eval/ftl/test/metrics.json").read_text())["n"] == 7
        assert list((tmp_path / "cwd").iterdir()) == []

    def test_weights_that_cannot_be_had_name_the_remedies(self, tmp_path, tiny_data, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        data = {"dataset_dir": tiny_data.parent, "datalist": tiny_data, "output_dir": tmp_path / "run"}
        config = str(BUNDLES / "covid_ttl/configs/train.json")
        done = self.run(cwd=tmp_path, configs=config, **data, **{"network_def#backbone": "resnet18"})
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "error: " in done.stderr
        for remedy in (str(tmp_path / "empty"), "file", "none"):
            assert remedy in done.stderr
        assert not (tmp_path / "run/model.pt").exists()

    def test_an_error_is_one_line_and_names_the_remedy(self, tmp_path):
        done = self.run(cwd=tmp_path, configs=str(BUNDLES / "covid_ttl/configs/train.json"), max_epohcs=3)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "error: 'max_epohcs' is no setting here; did you mean 'max_epochs'" in done.stderr


def test_bundle_root_is_found_from_any_folder(make_workflow, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workflow = make_workflow("train.json")
    assert Path(workflow.parser.get_parsed_content("bundle_root")) == BUNDLES / "covid_ttl"
