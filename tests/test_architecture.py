"""The rules of the house that a linter does not know."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# Each room may import the rooms before it. Those of one set stand side by side and do not import each other.
ORDER = [{"data", "networks", "analysis"}, {"reports"}, {"handlers"}, {"engines"}, {"deploy"}, {"cli"}]
PACKAGE = sorted((REPO / "ttl_monai").rglob("*.py"))
SCRIPTS = sorted([*REPO.glob("benchmarks/*.py"), *REPO.glob("bundles/**/*.py")])
# Published data that come as a pickle: read by an Unpickler that builds one class of ours, in this file alone.
RESTRICTED_PICKLE = REPO / "ttl_monai" / "data" / "sources" / "penet.py"
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|mnt|work|scratch)/\w|\b[A-Z]:\\Users\\")

every_module = pytest.mark.parametrize("path", PACKAGE + SCRIPTS, ids=lambda path: str(path.relative_to(REPO)))


def room(path):
    parts = path.relative_to(REPO).with_suffix("").parts
    return parts[1] if parts[0] == "ttl_monai" and len(parts) > 2 else None


def imported_modules(path):
    """Dotted names of all imports of a file, those within functions too; the names of `from` imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(REPO).parts[: -node.level] if node.level else ()
            base = [*package, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def code_lines(function, source):
    """Lines of a function's body that are neither docstring, comment nor blank."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    lines = source[body[0].lineno - 1 : body[-1].end_lineno] if body else []
    return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))


def rank(name):
    return next(number for number, rooms in enumerate(ORDER) if name in rooms)


@pytest.mark.parametrize("path", [path for path in PACKAGE if room(path)], ids=lambda path: str(path.relative_to(REPO)))
def test_imports_run_one_way(path):
    here = room(path)
    there = {name.split(".")[1] for name in imported_modules(path) if name.startswith("ttl_monai.")}
    rooms = {name for name in there - {here} if (REPO / "ttl_monai" / name).is_dir()}
    assert not {name for name in rooms if rank(name) >= rank(here)}, f"{here} must not import these"


@every_module
def test_module_is_short_and_its_functions_too(path):
    source = path.read_text(encoding="utf-8").splitlines()
    assert len(source) < 300
    functions = [node for node in ast.walk(ast.parse("\n".join(source))) if isinstance(node, ast.FunctionDef)]
    assert not {each.name: code_lines(each, source) for each in functions if code_lines(each, source) > 60}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(REPO)))
def test_public_names_have_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    public = [node for scope in [tree, *classes] for node in scope.body if isinstance(node, ast.FunctionDef)]
    names = [node for node in public if not node.name.startswith("_")] + classes
    assert not [node.name for node in names if not ast.get_docstring(node)]


@every_module
def test_nothing_is_unpickled_and_no_shell_is_started(path):
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal"}
    modules = set(imported_modules(path)) - {"pickle.UnpicklingError"}  # what torch.load raises, for an `except`
    modules -= {"pickle.Unpickler"} if path == RESTRICTED_PICKLE else set()
    assert not {name for name in modules if name.split(".")[0] in forbidden}
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    given = {(word.arg, ast.unparse(word.value)) for call in calls for word in call.keywords}
    assert not given & {("weights_only", "False"), ("shell", "True")}


def test_the_one_unpickler_is_a_base_class_that_chooses_what_is_built():
    tree = ast.parse(RESTRICTED_PICKLE.read_text(encoding="utf-8"))
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    choosing = [each for each in classes if "find_class" in {f.name for f in each.body if hasattr(f, "name")}]
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Unpickler"]
    assert uses
    assert uses == [base for each in choosing for base in each.bases]


def test_configs_do_not_unpickle_either():
    configs = sorted(REPO.glob("bundles/**/*.json"))
    assert not [path for path in configs if re.search(r"weights_only\W+False|\bpickle\b", path.read_text("utf-8"))]


def test_no_file_names_a_place_of_one_machine():
    git = shutil.which("git")
    if git is None or not (REPO / ".git").exists():
        pytest.skip("the tracked files are known only in a git checkout")
    listing = subprocess.run([git, "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True)
    files = [REPO / name for name in listing.stdout.split("\0") if name]
    assert len(files) > 10
    texts = {path: path.read_bytes().decode("utf-8", "ignore") for path in files if path.is_file()}
    found = {
        str(path.relative_to(REPO)): match[0] for path, text in texts.items() if (match := MACHINE_PATH.search(text))
    }
    assert not found


@pytest.mark.parametrize(
    ("text", "bad"), [("cd /home" + "/me", True), ("see /root" + "/x", True), ("@a/home/x", False)]
)
def test_the_pattern_of_machine_paths_works(text, bad):
    assert bool(MACHINE_PATH.search(text)) == bad
