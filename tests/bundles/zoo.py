"""What the model zoo's own CI asks of a bundle, written by us after its `verify_bundle.py`: `min` and `full`.

As a script it checks packed bundles as a user has them: the package `ttl_monai` cannot be imported. It prints one JSON
line a bundle.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

LARGE = 25 * 2**20  # bytes of a file that the zoo takes
CONFIGS = ("metadata.json", "inference.json", "train.json", "evaluate.json", "multi_gpu_train.json", "logging.conf")
TRAIN_KEYS = {"bundle_root", "device", "dataset_dir", "output_dir", "network_def", "train", "validate", "val_interval"}
PERSONAL = re.compile(r"(?<![\w.:/])/(?:home|root|Users|mnt|tmp|work|scratch)/\w|\b[A-Z]:\\+Users")


def check_min(bundle, schema, *, packed=True):
    """Files, sizes, large files, version and changelog, keys, paths, metadata against the schema. Raises."""
    import monai.bundle
    import yaml

    bundle = Path(bundle)
    needed = ["LICENSE", "docs/README.md", "docs/data_license.txt", *(f"configs/{name}" for name in CONFIGS)]
    needed += ["models/model.pt"] if packed else []
    missing = [name for name in needed if not (bundle / name).is_file()]
    assert not missing, f"missing: {missing}"
    assert not (bundle / "README.md").exists(), "the zoo wants the README in docs"
    large = yaml.safe_load((bundle / "large_files.yml").read_text())["large_files"]
    for each in large:
        assert hashlib.new(each["hash_type"], (bundle / each["path"]).read_bytes()).hexdigest() == each["hash_val"]
    found = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.stat().st_size > LARGE}
    # What trainings and demos leave in a source bundle is never committed.
    heavy = found if packed else {name for name in found if name.split("/")[0] not in ("eval", "cache", "data")}
    assert heavy <= {each["path"] for each in large}, f"not in large_files.yml: {heavy}"
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert set(json.loads((bundle / "configs/train.json").read_text())) >= TRAIN_KEYS
    for path in [*bundle.glob("configs/*"), *bundle.glob("models/*.json"), *bundle.glob("docs/*.[mt]*")]:
        assert not PERSONAL.search(path.read_text()), f"{path.name} has a path of a machine"
    monai.bundle.verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(schema))


def check_full(bundle, schema, images, datalist):
    """`check_min`, properties, `verify_net_in_out`, `ckpt_export` by torch.jit.script, and the model.ts. Raises."""
    import monai.bundle
    import torch

    check_min(bundle, schema)
    bundle = Path(bundle)
    for entry, settings in (
        ("train", {"dataset_dir": images, "datalist": datalist}),
        ("infer", {"dataset_dir": images}),
    ):
        assert open_workflow(bundle, entry, **settings).check_properties() == []
    files = {
        "meta_file": str(bundle / "configs/metadata.json"),
        "config_file": str(bundle / "configs/inference.json"),
        "bundle_root": str(bundle),
    }
    monai.bundle.verify_net_in_out("network_def", **files, device="cpu")
    exported = bundle / "models/verify_model.ts"
    try:
        model = str(bundle / "models/model.pt")
        monai.bundle.ckpt_export("network_def", filepath=str(exported), ckpt_file=model, **files)
        torch.jit.load(exported)
    finally:
        exported.unlink(missing_ok=True)
    torch.jit.load(bundle / "models/model.ts")


def open_workflow(bundle, kind, *overlays, **settings):
    """A workflow of a bundle, initialised."""
    import monai.bundle

    entry = {"train": "train.json", "infer": "inference.json"}[kind]
    names = [str(bundle / "configs" / name) for name in (entry, *overlays)]
    return monai.bundle.create_workflow(config_file=names, workflow_type=kind, logging_file=False, **settings)


def describe(bundle, images):
    """What the network of a bundle says of fixed noise, by each way to get it, and where its code is."""
    import monai.bundle
    import torch

    image = json.loads((bundle / "configs/metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    noise = torch.rand(2, image["num_channels"], *image["spatial_shape"], generator=torch.Generator().manual_seed(0))
    loaded = monai.bundle.load(bundle.name, bundle_dir=str(bundle.parent), device="cpu").eval()
    inference = open_workflow(bundle, "infer", dataset_dir=images).network_def.eval()
    script = torch.jit.load(bundle / "models/model.ts")
    with torch.no_grad():
        outputs = [network(noise) for network in (loaded, inference, script)]
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], atol=1e-5, rtol=0)
    return {"output": outputs[0].flatten()[:8].tolist(), "module": type(loaded).__module__}


def use(bundle, images, datalist):
    """Train on from the packed weights, evaluate the packed network, predict."""
    data = {"dataset_dir": images, "datalist": datalist}
    for kind, overlays, settings in (
        ("train", (), {**data, "max_epochs": 1}),
        ("train", ("evaluate.json",), data),
        ("infer", (), {"dataset_dir": images}),
    ):
        workflow = open_workflow(bundle, kind, *overlays, **settings)
        workflow.run()
        workflow.finalize()


class Refuse:
    """Makes the package impossible to import, wherever it lies."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ttl_monai":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main(schema, *arguments):
    """Check bundles, each followed by a folder of images and its datalist."""
    sys.meta_path.insert(0, Refuse())
    os.environ["HF_HUB_OFFLINE"] = "1"
    for bundle, images, datalist in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
        result = describe(Path(bundle), images)
        check_full(bundle, schema, images, datalist)
        use(Path(bundle), images, datalist)
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
