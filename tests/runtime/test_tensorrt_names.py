"""Every TensorRT and CUDA name that the toolkit uses exists in each version it claims."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import tlp_runtime.engines.tensorrt as adapter
from tests.fakes.cuda_runtime import FakeRuntime
from tests.fakes.tensorrt_binding import VERSIONS, names

FOLDER = Path(adapter.__file__).parent
OWN = {"Enterprise": ("10.16.1", "11.4.0"), "Rtx": ("1.7.1",)}
"""Classes of what one flavour does in its own way, and the versions they must hold for."""

ENUM_MEMBERS = {"name", "value", "values", "__members__"}


def _used(tree: ast.AST) -> Iterator[str]:
    """``Class.member`` for every attribute of an annotated variable, and chains from ``trt``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            chain = ast.unparse(node).split(".")
            for root in (["trt"], ["self", "_trt"], ["binding", "trt"]):
                rest = [part for part in chain[len(root) :] if part not in ENUM_MEMBERS]
                if chain[: len(root)] == root and rest and not rest[-1].startswith("__"):
                    yield ".".join(rest)
        if isinstance(node, ast.FunctionDef):
            classes = _annotated(node)
            for inner in ast.walk(node):
                if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
                    kind = classes.get(inner.value.id)
                    if kind in _CLASSES:
                        yield f"{kind}.{inner.attr}"


def _annotated(function: ast.FunctionDef) -> dict[str, str]:
    """Its variables and arguments that have an annotation."""
    found = {}
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = ast.unparse(node.annotation)
        elif isinstance(node, ast.arg) and node.annotation is not None:
            found[node.arg] = ast.unparse(node.annotation)
    return found


_CLASSES = frozenset(
    node.target.id
    for node in ast.walk(ast.parse((FOLDER / "names.py").read_text(encoding="utf-8")))
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
)


def _by_version() -> Iterator[tuple[str, str, str]]:
    for file in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        own = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name in OWN]
        for node in own:
            for name in _used(node):
                for version in OWN[node.name]:
                    yield file.name, name, version
        tree = ast.Module([n for n in tree.body if n not in own], [])
        for name in _used(tree):
            for version in VERSIONS:
                yield file.name, name, version


def test_every_name_is_in_the_lists_of_every_version() -> None:
    used = set(_by_version())
    found = {name for _, name, _ in used}
    # The walk sees calls on objects, enumerations and the module itself.
    assert {"IExecutionContext.execute_async_v3", "IBuilderConfig.set_timing_cache", "Builder",
            "EngineValidity.INVALID", "IRuntimeConfig.set_runtime_cache"} <= found  # fmt: skip
    assert len(found) > 50
    absent = [(file, name, v) for file, name, v in sorted(used) if name not in names(v)]
    assert not absent


def test_the_walk_finds_a_name_that_is_not_there() -> None:
    tree = ast.parse("def f(config: IBuilderConfig):\n config.set_calibrator(trt.BuilderFlag.FP16)")
    assert {"IBuilderConfig.set_calibrator", "BuilderFlag.FP16"} <= set(_used(tree))
    assert "BuilderFlag.FP16" in names("10.16.1")
    assert "BuilderFlag.FP16" not in names("11.4.0")


def test_no_tensorrt_name_is_used_outside_the_adapter() -> None:
    """Elsewhere the bindings are not even imported."""
    packages = [FOLDER.parents[2] / name for name in ("tlp_runtime", "tlp_export", "cli")]
    for package in packages:
        for file in package.rglob("*.py"):
            if FOLDER in file.parents:
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                imported = []
                if isinstance(node, ast.Import):
                    imported = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    imported = [node.module or ""]
                assert not [n for n in imported if n.split(".")[0] in ("tensorrt", "tensorrt_rtx")]


def test_the_toolkit_calls_no_cuda_name_that_the_stand_in_lacks() -> None:
    used = set()
    for file in FOLDER.parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self._rt":
                used.add(node.attr)
    used = {name for name in used if re.fullmatch(r"cuda[A-Z]\w+", name)}
    calls = {name for name in used if not name.startswith("cudaError")}
    assert "cudaMemcpyAsync" in calls
    assert calls <= set(dir(FakeRuntime))
