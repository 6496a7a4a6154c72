"""What the code in a TorchScript archive calls, read as text: nothing of it is compiled or run."""

from __future__ import annotations

import ast
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
_OPS = frozenset(["prim", *(f"prim.{name}" for name in ("RaiseException", "device", "dtype", "max", "min"))])
_WORDS = frozenset(
    [
        *("annotate", "bool", "float", "getattr", "int", "isinstance", "len", "list", "range", "str"),
        *("unchecked_cast", "uninitialized"),
    ]
)
_METHODS = frozenset(["_check_input_dim", "_conv_forward", "forward", "get_relative_position_bias", "normalise"])
_STATEMENTS = (ast.Import, ast.ImportFrom, ast.With, ast.Try, ast.Global, ast.Nonlocal, ast.Delete)
_EXPRESSIONS = (ast.Lambda, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.AsyncFunctionDef, ast.AsyncWith)
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
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield f"code that cannot be read ({type(error).__name__})", "TorchScript as torch writes it"
        return
    found = dict.fromkeys(each for node in ast.walk(tree) for each in _in_node(node))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found |= dict.fromkeys(each for function in functions for each in _called_names(function))
    inside = {id(node) for function in functions for node in ast.walk(function)}
    outside = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and id(node) not in inside)
    found |= dict.fromkeys(f"a call outside of a function, {_said(node)}" for node in outside)
    yield from ((each, _CALLS) for each in found)


def _in_node(node: ast.AST) -> Iterator[str]:
    """What is wrong with a node by itself."""
    if isinstance(node, _STATEMENTS + _EXPRESSIONS):
        yield f"the statement {type(node).__name__}"
    elif isinstance(node, ast.Attribute):
        root, names = _chain(node)
        if root in ("torch", "ops") and names not in (_TORCH if root == "torch" else _OPS):
            # Of a chain within another one (`torch.classes` of `torch.classes.a.b`) the whole is a finding, too.
            yield f"{root}.{shown(names)}"
        elif root == "__torch__" and f"{names}.".startswith(("torch.classes.", "classes.")):
            yield f"{root}.{shown(names)}"
    elif isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
        if not isinstance(node.func, ast.Attribute):
            yield f"the call {_said(node)}"
            return
        root, _ = _chain(node.func)
        if root not in ("torch", "ops", "__torch__") and node.func.attr not in _METHODS:
            yield f"the call {_said(node)}"
    elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.decorator_list:
        yield f"a decorator of {shown(node.name)}"


def _called_names(function: ast.FunctionDef) -> Iterator[str]:
    """Names that are called and are neither words of TorchScript nor, wherever they are assigned, of the archive."""
    values: dict[str, list[ast.expr]] = {}
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
        if not given or not all(_chain(value)[0] == "__torch__" for value in given):
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
