"""What TorchScript's text calls: all that our networks say passes, ways around the lists do not."""

import io
import zipfile

import pytest
import torch

from ttl_monai.deploy.script_code import check_script
from ttl_monai.networks import TransferClassifier, TransferUNet

NETWORKS = {
    **{name: (TransferClassifier, name) for name in ("resnet18", "efficientnet_b0", "mobilenetv3_large_100")},
    **{name: (TransferClassifier, name) for name in ("resnext3d14", "convnext_atto", "tf_efficientnet_lite0")},
    "U-Net": (TransferUNet, "resnet18"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_pass(name):
    kind, backbone = NETWORKS[name]
    with io.BytesIO() as file:
        torch.jit.save(torch.jit.script(kind(backbone, weights="none", in_channels=1).eval()), file)
        with zipfile.ZipFile(file) as archive:
            texts = [archive.read(each).decode() for each in archive.namelist() if each.endswith(".py")]
    assert texts
    assert [finding for text in texts for finding in check_script(text)] == []


HOSTILE = {
    "operator": ("torch.save(x, 'p')", "torch.'save'"),
    "alias of an operator": ("_0 = torch.save", "torch.'save'"),
    "method": ("x.save('p')", "the call \"x.save('p')\""),
    "method of its own name": ("self.save('p')", "the call \"self.save('p')\""),
    "alias of a method": ("_0 = x.save\n  _0('p')", "the call \"_0('p')\""),
    "alias of two kinds": ("_0 = __torch__.a.b\n  _0 = x.save\n  _0(x)", "the call '_0(x)'"),
    "alias of a module": ("_0 = torch\n  _0.save(x, 'p')", "the call \"_0.save(x, 'p')\""),
    "getattr": ("getattr(x, 'save')('p')", "the call \"getattr(x, 'save')('p')\""),
    "other __torch__": ("__torch__ = torch\n  __torch__.save(x, 'p')", "another meaning of __torch__"),
    "other word": ("len = getattr(torch, 'save')\n  len(x, 'p')", "another meaning of len"),
    "getattr of torch": ("y = getattr(torch, 'save')", "torch as a value"),
    "getattr of operators": ("y = getattr(ops.prim, 'save')", "ops.'prim'"),
    "getattr of libraries": ("y = getattr(__torch__.torch, 'classes')", "__torch__.'torch'"),
    "annotated alias": ("_0 = __torch__.a.b\n  _0 : Any = x.save\n  _0(x)", "the call '_0(x)'"),
    "alias by a loop": ("_0 = __torch__.a.b\n  for _0 in [x.save]:\n    _0(x)", "the call '_0(x)'"),
    "alias of an argument": ("x = __torch__.a.b\n  x(x)", "the call 'x(x)'"),
    "statement": ("with x:\n    pass", "the statement With"),
    "subscript": ("[x][0]('p')", "the call \"[x][0]('p')\""),
    "operator of a library": ("ops.aten.save(x, 'p')", "ops.'aten.save'"),
    "class of a library": ("__torch__.torch.classes.io.File('p')", "__torch__.'torch.classes.io.File'"),
    "word of Python": ("open('p')", "the call \"open('p')\""),
    "import": ("import os", "the statement Import"),
    "lambda": ("x = lambda: 0", "the statement Lambda"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_ways_around_are_found(name):
    line, expected = HOSTILE[name]
    text = f"class M(Module):\n def forward(self, x: Tensor) -> Tensor:\n  {line}\n  return x\n"
    assert expected in [found for found, _ in check_script(text)]


# What Python's reader and torch's might take for different things.
UNLIKE = [
    "x = 1  # a",
    "x = 1\r",
    "x = 1\f",
    'x = """a"""',
    'x = f"{a}"',
    "x = 'a\\\n'",
    "x = '\xe9'",
    "@f\ndef g():\n  pass",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(:", "code that cannot be read (SyntaxError)"),
        ("x = f(1)", "a call outside of a function, 'f(1)'"),
        ("def f():\n  return x" + "()" * 400, "code that cannot be read (RecursionError)"),
        *((text, "code that cannot be read (ValueError)") for text in UNLIKE),
    ],
)
def test_what_torch_does_not_write_is_found(text, expected):
    assert [found for found, _ in check_script(text)] == [expected]
