"""What import-linter cannot see: submodules of other packages, and names reached as attributes."""

from __future__ import annotations

import ast
import re
import subprocess

import pytest

from tests.helpers.commands import ROOT
from tests.helpers.source import dotted

FORBIDDEN = {
    "drel_core": (
        *("ray", "pyarrow", "fastapi", "starlette", "torch.distributed"),
        *("distributed", "jobs", "benchmarks", "tests"),
    ),
    "distributed": ("jobs", "benchmarks", "tests"),
    "jobs": ("benchmarks", "tests"),
}


def names_used(source: str) -> set[str]:
    """The modules that the source imports, and dotted names that start with one of them."""
    tree = ast.parse(source)
    modules: set[str] = set()
    real_name: dict[str, str] = {}  # what an imported name stands for: th -> torch
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules.add(alias.name)
                top = alias.name.split(".")[0]
                real_name[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            # `from torch import distributed` imports a module just as well.
            for alias in node.names:
                modules.add(f"{node.module}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = dotted(node).partition(".")
            if first in real_name:
                modules.add(f"{real_name[first]}.{rest}")
    return modules


def offences(source: str, forbidden: tuple[str, ...]) -> set[str]:
    return {
        bad
        for bad in forbidden
        for name in names_used(source)
        if name == bad or name.startswith(f"{bad}.")
    }


@pytest.mark.parametrize(
    "source",
    [
        "import torch.distributed",
        "import torch.distributed as dist",
        "import torch.distributed.checkpoint as dcp",
        "from torch import distributed as dist",
        "from torch import nn, distributed",
        "from torch.distributed import all_reduce",
        "from torch.distributed.tensor import DTensor",
        "import torch\ntorch.distributed.barrier()",
        "import torch as th\ndef f():\n    return th.distributed.get_rank()",
        "def f():\n    import torch.distributed",
    ],
)
def test_every_way_to_reach_a_process_group_is_seen(source: str) -> None:
    assert offences(source, FORBIDDEN["drel_core"]) == {"torch.distributed"}


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.distributions.Normal(0, 1)",
        "from torch import nn, Tensor",
        "from drel_core.errors import InputError",
        "import raytracer",
        "distributed = 3",
    ],
)
def test_what_only_looks_like_it_is_let_through(source: str) -> None:
    assert offences(source, FORBIDDEN["drel_core"]) == set()


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no Python file in {package}/: this test looks in the wrong place"
    found = {
        str(file.relative_to(ROOT)): bad
        for file in files
        if (bad := offences(file.read_text(encoding="utf-8"), FORBIDDEN[package]))
    }
    assert found == {}


def test_no_test_imports_from_another_test() -> None:
    """What tests share is in tests/helpers/ or a fixture: a test module can be moved or removed alone."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    assert files
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files
        for name in names_used(file.read_text(encoding="utf-8"))
        if name.startswith("tests.") and ".test_" in name
    }
    assert found == set()


# Spelled in pieces, so that this file itself passes.
HOSTS = ["py" + "pi.org", "python" + "hosted.org", "download.py" + "torch.org", "ana" + "conda.org"]
ELSEWHERE = re.compile(
    "|".join(re.escape(host) for host in HOSTS)
    # An absolute path of one machine; `a/work/b` and `~/root` are none.
    + r"|(?<![\w.~/$})-])/(?:wo"
    + "rk|ro"
    + r"ot)(?![\w-])",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        *((f"--index-url https://{host}/simple", True) for host in HOSTS),
        ("cd /wo" + "rk/main", True),
        ("'/ro" + "ot/.cache'", True),
        ("docs/work/list.md and ROOT/root", False),
        ("a /workers folder, /rootless", False),
    ],
)
def test_a_host_or_a_path_of_one_machine_is_seen(text: str, wrong: bool) -> None:
    assert bool(ELSEWHERE.search(text)) == wrong


def test_no_tracked_text_names_a_package_host_or_one_machines_path() -> None:
    try:
        listing = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60
        ).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no git checkout here, so nothing says which files are tracked")
    found = []
    for name in filter(None, listing.decode().split("\0")):
        path = ROOT / name
        if not path.is_file() or b"\0" in (content := path.read_bytes()):
            continue  # deleted in the working tree, or no text
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
            if ELSEWHERE.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []
