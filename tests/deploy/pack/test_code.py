import re
import subprocess
import sys
from pathlib import Path

import pytest

from ttl_monai.deploy.pack.code import find_modules, package_name, rename, required_packages, write_code


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import ttl_monai\n", "import P as ttl_monai\n"),
        ("import ttl_monai as t\n", "import P as t\n"),
        ("import ttl_monai.data\n", "import P.data\nimport P as ttl_monai\n"),
        ("import ttl_monai.data as d, os\n", "import P.data as d, os\n"),
        ("def f():\n    import ttl_monai.data\n", "def f():\n    import P.data\n    import P as ttl_monai\n"),
        ("from ttl_monai import __version__\n", "from P import __version__\n"),
        ("from ttl_monai.data import (\n    a,  # ttl_monai\n)\n", "from P.data import (\n    a,  # ttl_monai\n)\n"),
        ("é = 'ü'; x = quiet('ttl_monai.data')\n", "é = 'ü'; x = quiet(\"P.data\")\n"),
        # Texts that mention it, f-strings and other packages stay as they are: made data is known by its hash.
        ('a = "made by ttl_monai.data.make()"\n', None),
        ('a = f"ttl_monai.data.make({ttl_monai.x})"\n', None),
        ("import ttl_monai_other\nfrom ttl_monai_other import x\n", None),
        ('"""ttl_monai. A text."""\n', None),
    ],
)
def test_imports_and_dotted_names_get_the_other_name(source, expected):
    assert rename(source, "P") == (source if expected is None else expected)


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried")
    write_code(folder, "ttl_monai_x", find_modules())
    return folder


def test_the_carried_code_imports_nothing_of_the_package(carried):
    line = re.compile(r"^\s*(from|import) ttl_monai\b(?!_)", re.MULTILINE)
    paths = list((carried / "ttl_monai_x").rglob("*.py"))
    assert len(paths) > 50
    assert not [path.name for path in paths if line.search(path.read_text())]
    # What is light imports in a moment; the whole of it is run by the tests of the bundles.
    code = "import sys; sys.path.append(sys.argv[1]); import ttl_monai_x; print(ttl_monai_x.room('files').__name__)"
    done = subprocess.run([sys.executable, "-I", "-c", code, carried], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ttl_monai_x.files"


def test_data_files_go_with_their_modules(carried):
    data = {path.relative_to(carried).as_posix() for path in carried.rglob("*.json")}
    assert data == {"ttl_monai_x/reports/published.json"}


def test_the_name_is_of_bundle_version_and_content(tmp_path):
    module = tmp_path / "a.py"
    module.write_text("x = 1\n")
    modules = {"ttl_monai.a": module}
    name = package_name("My-Bundle.2", "1.0.10", modules)
    assert name.startswith("ttl_monai_my_bundle_2_1_0_10_")
    assert name.isidentifier()
    assert name == package_name("My-Bundle.2", "1.0.10", modules)
    module.write_text("x = 2\n")
    others = {package_name("My-Bundle.2", "1.0.10", modules), package_name("My-Bundle.2", "1.0.11", modules)}
    assert len({name} | others) == 3


def test_packages_are_those_that_are_imported_at_the_top(tmp_path):
    module = tmp_path / "a.py"
    module.write_text(
        "import os\nimport torch\nfrom PIL import Image\nimport ignite.engine\ndef f():\n    import h5py\n"
    )
    assert required_packages({"ttl_monai.a": module}) == {"pillow", "pytorch-ignite"}
    other = Path(tmp_path / "b.py")
    other.write_text("import no_such_package\n")
    with pytest.raises(ValueError, match="found none for no_such_package"):
        required_packages({"ttl_monai.b": other})
