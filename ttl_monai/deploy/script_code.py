"""What the code in a TorchScript archive calls, read as text: nothing of it is compiled or run."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator

from ttl_monai.deploy.findings import shown

__all__ = ["check_script"]

# TorchScript has operators that read and write any file (torch.save, torch.from_file). What the networks of ttl_monai
# and those of torchvision and timm call is on these lists; anything else is a finding, also where it may be harmless.
_TORCH = frozenset(
    """
    __contains__ __is__ __isnot__ __not__ _set_item _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d abs
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d add add_ amax append
    avg_pool2d avg_pool3d batch_norm bernoulli_ bmm cat ceil chunk clamp clamp_ clamp_min clamp_min_ clone
    contiguous conv1d conv2d conv3d conv_transpose2d conv_transpose3d copy copy_ dim div div_ dropout dropout_
    elu empty eq exp expand expand_as flatten floor floordiv format gather ge gelu group_norm gt hardsigmoid
    hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ index instance_norm layer_norm le leaky_relu
    leaky_relu_ len linear list log lt masked_fill matmul max_pool1d max_pool2d max_pool3d maximum mean minimum
    mul mul_ ne neg new_zeros norm numel ones pad permute pow relu relu_ remainder reshape roll rsqrt select
    sigmoid silu silu_ size slice softmax softplus split sqrt squeeze stack sub sub_ sum tanh tensor to
    transpose unbind unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d var view warn where zero_ zeros
    """.split()  # noqa: SIM905 - as a list it would take a line a name
)
_OPS = frozenset(f"prim.{name}" for name in ("RaiseException", "device", "dtype", "max", "min"))
_WORDS = frozenset(
    [
        *("annotate", "bool", "float", "getattr", "int", "isinstance", "len", "list", "range", "str"),
        *("unchecked_cast", "uninitialized"),
    ]
)
_METHODS = frozenset(["_check_input_dim", "_conv_forward", "forward", "get_relative_position_bias", "normalise"])
_ROOTS = ("torch", "ops", "__torch__")
_CLASSES = "torch.classes."  # of __torch__: the classes of libraries in C++
# What torch's printer writes of Python's syntax.
_NODES = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Pass, ast.Return, ast.Expr),
    *(ast.Assign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.IfExp, ast.Call, ast.keyword, ast.Attribute),
    *(ast.Name, ast.Subscript, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.UnaryOp, ast.USub, ast.expr_context),
)
# Python and torch must read the same: no comments, prefixed or triple-quoted strings, or newlines of another kind.
_STRING = re.compile(r""" "(?:[^"\\\n]|\\[^\n])*" | '(?:[^'\\\n]|\\[^\n])*' """, re.VERBOSE)
_UNREADABLE = re.compile(r"[^\w\n (),.:=>\[\]{}+$-]|[\w$]\$", re.ASCII)
_CALLS = "the operators of convolutional networks, and what the archive itself defines"


def check_script(text: str) -> Iterator[tuple[str, str]]:
    """What a module of a TorchScript archive says that the networks of ttl_monai do not say.

    TorchScript is written in Python's syntax, so it is parsed as Python. What is not understood is a finding.

    Args:
        text: the content of a member `code/...py`.

    Yields:
        Found, allowed: each once.
    """
    try:
        if re.search(r"[^\n -~]", text) or _UNREADABLE.search(_STRING.sub("$", text)):
            raise ValueError("characters that torch does not write there")
        found = dict.fromkeys(_in_tree(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield f"code that cannot be read ({type(error).__name__})", "TorchScript as torch writes it"
        return
    yield from ((each, _CALLS) for each in found)


def _in_tree(tree: ast.Module) -> Iterator[str]:
    nodes = list(ast.walk(tree))
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        yield from _in_node(node, inner=id(node) in inner)
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    for function in functions:
        yield from _called_names(function)
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in nodes:
        if isinstance(node, ast.Call) and id(node) not in inside:
            yield f"a call outside of a function, {_said(node)}"


def _in_node(node: ast.AST, *, inner: bool) -> Iterator[str]:
    """What is wrong with a node by itself; `inner` where it is the `a` or `a.b` of `a.b.c`."""
    if not isinstance(node, _NODES):
        yield f"the statement {type(node).__name__}"
    # A name that is bound anew means something else from there on.
    bound = _bound(node)
    if bound in _ROOTS or bound in _WORDS:
        yield f"another meaning of {bound}"
    if isinstance(node, ast.Attribute | ast.Name) and not inner:
        root, names = _chain(node)
        allowed = {"torch": names in _TORCH, "ops": names in _OPS, "__torch__": names and not _of_library(names)}
        if not allowed.get(root, True):
            yield f"{root}.{shown(names)}" if names else f"{root} as a value"
    if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
        known = isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS
        if not known and not (isinstance(node.func, ast.Attribute) and _chain(node.func)[0] in _ROOTS):
            yield f"the call {_said(node)}"


def _of_library(names: str) -> bool:
    """Whether a name below `__torch__` is, or leads to, a class of a library."""
    return f"{names}.".startswith(_CLASSES) or _CLASSES.startswith(f"{names}.")


def _bound(node: ast.AST) -> str | None:
    """The name that a node gives a meaning."""
    if isinstance(node, ast.Name):
        return None if isinstance(node.ctx, ast.Load) else node.id
    if isinstance(node, ast.arg):
        return node.arg
    return node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else None


def _called_names(function: ast.FunctionDef) -> Iterator[str]:
    """Names that are called and are neither words of TorchScript nor, wherever they are assigned, of the archive."""
    values: dict[str, list[ast.expr]] = {}
    bindings = Counter(_bound(node) for node in ast.walk(function))
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for each in ast.walk(target):
                    if isinstance(each, ast.Name):
                        values.setdefault(each.id, []).append(node.value)
    for node in ast.walk(function):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id in _WORDS:
            continue
        given = values.get(node.func.id, [])
        other = len(given) != bindings[node.func.id]  # an argument, a loop, an annotated assignment
        if not given or other or not all(_chain(value)[0] == "__torch__" for value in given):
            yield f"the call {_said(node)}"


def _chain(node: ast.AST) -> tuple[str, str]:
    """Of `a.b.c`: `a` and `b.c`; the first is empty where the chain does not begin with a name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id if isinstance(node, ast.Name) else ""), ".".join(reversed(names))


def _said(node: ast.Call) -> str:
    return shown(ast.unparse(node)[:80])
