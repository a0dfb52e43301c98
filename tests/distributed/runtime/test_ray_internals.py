"""A Ray that has moved a private name costs a message its detail, never the run."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import ModuleType

import pytest
import ray._private.state as ray_state

from distributed.runtime.capacity import grows_by
from distributed.runtime.ray_internals import autoscaler_limit, autoscaler_status

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("module", ["ray._private.state", "ray._private"])
def test_the_limit_is_not_known_without_its_module(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.delitem(sys.modules, "ray._private.state")
    monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    assert autoscaler_limit() is None


def test_the_limit_is_not_known_without_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_state, "state", object())
    assert autoscaler_limit() is None


@pytest.mark.parametrize("module", ["ray._private.ray_constants", "ray.experimental.internal_kv"])
def test_the_status_is_not_known_without_its_names(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    assert autoscaler_status() is None


@pytest.mark.parametrize(
    "status", [b"no JSON", b"[]", b'{"autoscaler_report": {"active_nodes": 3}}']
)
def test_a_status_of_another_form_says_nothing(status: bytes) -> None:
    assert grows_by(status) is None


def test_no_module_takes_a_private_name_of_ray_when_it_is_imported() -> None:
    """Inside a function a missing name can be caught; at the top it stops whatever imports the module."""
    found = []
    for path in [*ROOT.glob("distributed/**/*.py"), *ROOT.glob("jobs/**/*.py")]:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            found += [
                f"{path.relative_to(ROOT)}: {name}"
                for name in names
                if name.startswith("ray.") and any(part.startswith("_") for part in name.split("."))
            ]
    assert found == []
