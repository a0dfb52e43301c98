"""Completion in a shell: what Tab offers, asked of a real bash."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from jobs import completion
from jobs.__main__ import verbs
from jobs.cli import preset_names


@pytest.fixture(scope="module")
def known() -> dict[str, list[completion.Option]]:
    return completion.every_verb()


@pytest.fixture(scope="module")
def script(
    known: dict[str, list[completion.Option]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("completion") / "drel.bash"
    path.write_text(completion.bash(known))
    return path


def offered(script: Path, line: str, folder: Path) -> list[str]:
    """What Tab at the end of a line offers in bash; words as readline parts them, at blanks and at `=`."""
    words = [*shlex.split(line.replace("=", " = ")), *([""] if line.endswith(" ") else [])]
    array = " ".join(map(shlex.quote, words))
    asked = (
        f"source {script}; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}\n"
        '_drel_jobs python; [ -z "${COMPREPLY[*]}" ] || printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("python -m jobs tr", ["train"]),
        (".venv/bin/python -m jobs completion ", ["bash", "zsh", "fish"]),
        ("python -m jobs.tra", ["jobs.train"]),
        ("python3 -X dev -m jobs train --data.v", ["--data.validation"]),
        ("python -m jobs.train --method cnn", ["cnn-softmax", "cnn-hinge", "cnn-warp"]),
        ("python -m jobs.train --method=k", ["knn"]),
        ("python -m jobs serve --ingress ", ["haproxy", "ray"]),
        ("python -m jobs ingest --on_bad_row x", []),
        ("python -m jobs ingest --max-pixels ", []),
        ("python -m jobs update --publish f", ["false"]),
        ("python -m jobs train --data.train my", ["my store.parquet"]),
        ("python -m jobs train --config my", ["my store.parquet"]),
        ("python my", ["my store.parquet"]),
        ("python -m pyt", []),
    ],
)
def test_tab_offers_what_fits(script: Path, tmp_path: Path, line: str, wanted: list[str]) -> None:
    (tmp_path / "my store.parquet").touch()
    assert offered(script, line, tmp_path) == wanted


def test_names_with_odd_characters_are_offered_as_they_are(script: Path, tmp_path: Path) -> None:
    names = ["my $(touch x)", "my *", "my [a]", "my a"]
    for name in names:
        (tmp_path / name).touch()
    assert sorted(offered(script, "python -m jobs train --out my", tmp_path)) == names
    assert not (tmp_path / "x").exists()


def test_every_verb_every_preset_and_what_one_needs_first(script: Path, tmp_path: Path) -> None:
    assert set(offered(script, "python -m jobs ", tmp_path)) == set(verbs())
    assert offered(script, "python -m jobs train --preset ", tmp_path) == preset_names()
    first = offered(script, "python -m jobs train ", tmp_path)
    assert first[:3] == ["--data.train", "--data.test", "--out"] and "--optim.lr" not in first
    every = offered(script, "python -m jobs train --", tmp_path)
    assert set(first) < set(every) and "--optim.lr" in every and "--data" not in every


def test_it_switches_itself_on_beside_what_there_is(script: Path, tmp_path: Path) -> None:
    """`complete` is called for python; another completion of python goes on with its own commands."""
    asked = (
        "_others() { COMPREPLY=(theirs); }; complete -F _others python\n"
        f"source {script}; source {script}; complete -p python python3\n"
        "COMP_WORDS=(python -m pip); COMP_CWORD=2; _drel_jobs; echo ${COMPREPLY[*]}"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines == [
        *(f"complete -F _drel_jobs {name}" for name in ("python", "python3")),
        "theirs",
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "the following arguments are required: shell"),
        (["zhs"], "zhs: choose one of bash, zsh, fish; did you mean zsh?"),
    ],
)
def test_a_wrong_shell_is_one_line(
    capsys: pytest.CaptureFixture[str], given: list[str], line: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        completion.main(given)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert line in said.err


def test_other_shells_get_the_same_options(known: dict[str, list[completion.Option]]) -> None:
    fish = completion.fish(known)
    for verb, options in known.items():
        for one in options:
            assert f"'__drel_verb_is {verb}' -l {one.name.removeprefix('--')} " in fish
    assert completion.zsh(known).endswith(completion.bash(known))
    assert completion._fish_quoted("it's") == r"'it\'s'"
