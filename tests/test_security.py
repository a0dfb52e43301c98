"""Nothing unpickles what others may have written, and no secret of the environment comes out of a run."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Job
from tests.helpers.commands import ROOT, run
from tests.helpers.source import dotted
from tests.helpers.stores import write_planted

# Calls that may run what is in a file, and how each is made safe; None: not at all.
UNSAFE = {
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "cloudpickle.load": None,
    "cloudpickle.loads": None,
    "dill.load": None,
    "joblib.load": None,
    "marshal.load": None,
    "marshal.loads": None,
    "shelve.open": None,
    "torch.jit.load": None,
    "torch.export.load": None,
    "dcp.load": None,
    "eval": None,
    "exec": None,
    "os.system": None,
    "os.popen": None,
    "pandas.read_pickle": None,
    "pd.read_pickle": None,
    "torch.load": ("weights_only", True),
}
ALLOWED = {
    # What this project's own driver sent to its own workers. Who can write to that can run code on the
    # cluster anyway: Ray itself sends pickles.
    ("distributed/driver/worker_entry.py", "pickle.loads"): "the spec of a run, from its driver",
    (
        "distributed/inference/annotate.py",
        "pickle.loads",
    ): "units of a store, from the run's driver",
    ("distributed/ingest/extraction/cnn.py", "pickle.loads"): "what a task of the same run read",
    # torch.distributed.checkpoint keeps its index as a pickle. Checkpoints belong to one run and are read
    # by it alone; what is handed on is the bundle.
    ("distributed/training/checkpoint.py", "dcp.load"): "checkpoints of the run itself",
    # Programs by nature. Only what the person who starts a job names: check_named_by_bundle.
    ("drel_core/images/backbone.py", "torch.jit.load"): "--backbone file:PATH",
    ("drel_core/images/backbone.py", "torch.export.load"): "--backbone file:PATH",
    (
        "drel_core/export/example/annotate_pictures.py",
        "torch.export.load",
    ): "the export it came with",
}


def unsafe_calls(source: str) -> list[str]:
    """Names of calls that may run what they read, and of imports that would hide one."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += sorted(names & set(UNSAFE))
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        if name in UNSAFE:
            needed = UNSAFE[name]
            if needed is None or given.get(needed[0]) is not needed[1]:
                found.append(name)
        if name.endswith(".load") and given.get("allow_pickle"):  # numpy's default refuses them
            found.append(name)
        if name.split(".")[-1] in ("run", "Popen", "call", "check_output") and given.get("shell"):
            found.append(f"{name} shell=True")
        if name == "yaml.load" and "Safe" not in ast.unparse(node):
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch.load(p)", ["torch.load"]),
        ("import torch\ntorch.load(p, weights_only=False)", ["torch.load"]),
        ("import torch\ntorch.load(p, weights_only=True)", []),
        ("np.load(p)", []),
        ("np.load(p, allow_pickle=True)", ["np.load"]),
        ("from pickle import loads", ["pickle.loads"]),
        ("pickle.loads(x)", ["pickle.loads"]),
        ("subprocess.run(x, shell=True)", ["subprocess.run shell=True"]),
        ("yaml.load(x, yaml.Loader)", ["yaml.load"]),
        ("yaml.safe_load(x)", []),
        ("model.eval()", []),
        ("eval(x)", ["eval"]),
    ],
)
def test_calls_that_run_what_they_read_are_seen(source: str, found: list[str]) -> None:
    assert unsafe_calls(source) == found


def test_nothing_else_runs_what_it_reads() -> None:
    seen = {
        (str(path.relative_to(ROOT)), name)
        for package in ("drel_core", "distributed", "jobs")
        for path in (ROOT / package).rglob("*.py")
        for name in unsafe_calls(path.read_text("utf-8"))
    }
    assert seen == set(ALLOWED)


SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-bucket-0123456789",
    "AWS_SESSION_TOKEN": "session-token-0123456789",
    "DREL_SCORER_TOKEN": "token-of-the-scorer-0123456789",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}
HIDDEN = [
    value for name, value in SECRETS.items() if value not in ("true", "1", "http://127.0.0.1:9")
]


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def assert_hidden(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    for secret in HIDDEN:
        assert secret not in done.stdout + done.stderr
        assert not any(secret.encode() in content for content in written)


def test_secrets_of_the_environment_are_in_no_output_of_a_failing_run(
    tmp_path: Path, secrets: None, job: Job
) -> None:
    """One that cannot reach its bucket, and one whose rows are bad."""
    out = tmp_path / "out"
    done = run("train", "--data.train", "s3://bucket/store", "--out", out)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert_hidden(done, tmp_path)
    store = write_planted(tmp_path / "store.parquet", 40)
    done = job("train", "--data.train", store, "--data.test", "s3://bucket/t", "--out", out)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert_hidden(done, tmp_path)


def test_a_config_that_is_printed_holds_no_secret_of_the_environment(
    tmp_path: Path, secrets: None, job: Job
) -> None:
    done = job("train", "--data.train", "s3://bucket/store", "--out", "x", "--print_config")
    assert done.returncode == 0 and "s3://bucket/store" in done.stdout
    assert_hidden(done, tmp_path)


@pytest.mark.parametrize("verb", ["train", "annotate", "serve", "ingest"])
def test_a_password_in_an_address_is_refused_and_not_shown(
    tmp_path: Path, secrets: None, job: Job, verb: str
) -> None:
    address = "s3://SOMEKEY:hidden-password@bucket/store"
    option = {
        "train": "--data.train",
        "annotate": "--data",
        "serve": "--model",
        "ingest": "--input",
    }[verb]
    done = job(verb, option, address, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "s3://…@…" in done.stderr
    assert "hidden-password" not in done.stderr + done.stdout and "SOMEKEY" not in done.stderr
    config = tmp_path / "config.yaml"
    config.write_text(f"data:\n  train: {address}\nout: {tmp_path / 'out'}\n")
    if verb == "train":
        done = job("train", "--config", config)
        assert done.returncode == 2 and "--data.train" in done.stderr, done.stderr
        assert "hidden-password" not in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()
