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

# Imported when a table of text vectors is read, and by nothing else.
ALLOWED = {("drel_core/text/word_files.py", "pyarrow")}


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
        and not {(str(file.relative_to(ROOT)), name) for name in bad} <= ALLOWED
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


def test_distributed_holds_rooms_only() -> None:
    listing = {path.name for path in (ROOT / "distributed").iterdir()} - {"__pycache__"}
    assert {name for name in listing if "." in name} == {"__init__.py"}
    rooms = sorted(listing - {"__init__.py"})
    assert all((ROOT / "distributed" / room / "__init__.py").is_file() for room in rooms), rooms


MOST_LINES, MOST_PARAMETERS = 80, 8
EXCUSE = re.compile(r"#.*\b(long|parameters) because\b")


def oversized(source: str) -> dict[str, str]:
    """Functions over the limits, unless a comment ``# long because …`` or ``# so many parameters because …``
    stands on the line above."""
    lines = source.splitlines()
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or 0) - node.lineno + 1
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        is_excused = first > 1 and EXCUSE.search(lines[first - 2])
        if (length > MOST_LINES or count > MOST_PARAMETERS) and not is_excused:
            found[node.name] = f"{length} lines, {count} parameters"
    return found


def test_a_long_function_is_seen_and_a_reason_excuses_it() -> None:
    body = "\n".join(["    x = 1"] * MOST_LINES)
    assert oversized(f"def f():\n{body}\n") == {"f": "81 lines, 0 parameters"}
    assert (
        oversized(f"class A:\n    # long because it is one table\n    def f(self):\n    {body}\n")
        == {}
    )
    nine = ", ".join("abcdefghi")
    assert oversized(f"def f({nine}): ...") == {"f": "1 lines, 9 parameters"}
    assert oversized("def f(self, a, b, c, d, e, f, g, h): ...") == {}


@pytest.mark.parametrize("room", ["training", "driver", "serving"])
def test_functions_stay_short(room: str) -> None:
    files = sorted((ROOT / "distributed" / room).rglob("*.py"))
    assert files
    found = {
        str(file.relative_to(ROOT)): big for file in files if (big := oversized(file.read_text()))
    }
    assert found == {}


OWN = {"drel_core", "distributed", "jobs", "benchmarks", "tests"}


def private_imports(source: str) -> set[str]:
    """Private names of other packages that are imported when the module is."""
    found = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue  # imported when it is called
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first not in OWN and any(re.match(r"_[^_]", part) for part in rest):
                found.add(name)
        waiting += ast.iter_child_nodes(node)
    return found


def test_a_private_import_is_seen() -> None:
    assert private_imports("from ray._private import x\nimport torch._dynamo") == {
        "ray._private.x",
        "torch._dynamo",
    }
    assert private_imports("def f():\n    from ray._private import x") == set()
    assert (
        private_imports("from __future__ import annotations\nfrom drel_core.a import _b") == set()
    )


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_module_needs_a_private_name_to_be_imported(package: str) -> None:
    """A new version of Ray may move such a name; what does not need it must still start."""
    found = {
        str(file.relative_to(ROOT)): names
        for file in sorted((ROOT / package).rglob("*.py"))
        if (names := private_imports(file.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_the_tree_names_the_rooms_as_they_are() -> None:
    """Every line of the file tree names what is there, and every room and verb has a line."""
    text = (ROOT / "docs/explanation/layout.md").read_text("utf-8")
    tree = text.split("<!-- tree -->")[1].split("```")[1].splitlines()[1:]
    named, at = set(), [""]
    for line in filter(str.strip, tree):
        depth = (len(line) - len(line.lstrip())) // 2
        entry = line.split()[0]
        at = [*at[: depth + 1], entry.rstrip("/")]
        path = "/".join(filter(None, at))
        assert (ROOT / path).exists(), f"the tree names {path}, which is not there"
        assert (ROOT / path).is_dir() == entry.endswith("/"), path
        named.add(path)
    for package in ("distributed", "drel_core"):
        for room in (ROOT / package).iterdir():
            if (room / "__init__.py").is_file():
                assert f"{package}/{room.name}" in named, f"the tree has no line for {room.name}"
