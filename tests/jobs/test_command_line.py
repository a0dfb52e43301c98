"""What a command line says to a newcomer: verbs, the options first needed, what a typo was meant to be."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from distributed.data.feature_store import FeatureStore
from drel_core.bundle.format import bundle_folder
from drel_core.errors import InputError
from jobs import __main__ as lister
from jobs.cli import FIRST
from jobs.parsers import parser_of
from jobs.train import parse
from tests.helpers.bundles import write_drel
from tests.helpers.commands import ROOT
from tests.helpers.stores import write_planted

NEEDED = ["--data.train", "x", "--out", "y"]


def test_every_verb_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    lister.main([])
    shown = capsys.readouterr().out
    files = [file for file in (ROOT / "jobs").glob("*.py") if "\n    run_job(" in file.read_text()]
    assert {file.stem for file in files} == set(lister.verbs()) >= {"train", "serve", "ingest"}
    for verb, what in lister.verbs().items():
        assert re.search(rf"^  {verb} +{re.escape(what)}$", shown, re.MULTILINE)
        assert 10 < len(what) < 90 and "python" not in what
    for command in lister.START:
        assert f"\n  {command}\n" in shown
        assert command.split()[3] in lister.verbs()


def test_a_verb_by_its_name_is_the_verb() -> None:
    """Same help, same exit code; the options after the name are the verb's."""
    done = [
        subprocess.run(
            [sys.executable, "-m", *words, "--trails", "3"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        for words in (["jobs.tune"], ["jobs", "tune"])
    ]
    assert [(one.returncode, one.stdout) for one in done] == [(2, ""), (2, "")]
    assert {one.stderr for one in done} == {
        "error: unrecognized arguments: --trails 3; did you mean --trials? (see --help)\n"
    }


def test_a_verb_without_any_option_names_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in set(lister.verbs()) - {"demo"}:
        with pytest.raises(SystemExit) as caught:
            importlib.import_module(f"jobs.{verb}").main([])
        assert caught.value.code == 2, verb
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and "required" in said, said


def test_the_line_of_what_is_needed_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([])
    wanted = "error: the following arguments are required: --data.train, --out (see --help)\n"
    assert capsys.readouterr().err == wanted


def test_every_option_that_is_true_or_false_is_a_flag() -> None:
    """So that ``--publish`` alone means ``--publish true``, in every verb; in a file both are spelled out."""
    for verb in lister.verbs():
        parser = parser_of(verb)
        for one in parser._actions:
            if bool in (kind := getattr(one, "_typehint", None), *get_args(kind)):
                assert one.option_strings[0] in parser.flags, (verb, one.option_strings)


def test_help_and_version_are_what_one_types_first(capsys: pytest.CaptureFixture[str]) -> None:
    lister.main(["help"])
    assert capsys.readouterr().out.startswith("Train, evaluate and serve image annotation")
    argv, sys.argv = sys.argv, ["jobs"]
    try:
        lister.main(["help", "tune"], run=lambda verb: print(verb, sys.argv[1:]))
    finally:
        sys.argv = argv
    lister.main(["--version"])
    assert capsys.readouterr().out.startswith("tune ['--help']\ndrel 0.")


def test_a_path_that_is_not_there_gets_the_one_that_was_meant(tmp_path: Path) -> None:
    store = write_planted(tmp_path / "train.parquet", 20)
    bundle = write_drel(tmp_path / "out" / "model", dim=16)
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    wrong = {"out/modle": out, "outt": out, "out/model/config.json": out, "emty": None}
    for given, meant in wrong.items():
        hint = f"; did you mean {meant}?" if meant else ""
        with pytest.raises(InputError, match=f"OUT/model{re.escape(hint)}$"):
            bundle_folder(tmp_path / given)
    assert bundle_folder(out) == bundle
    with pytest.raises(InputError, match=rf"; did you mean {re.escape(str(store))}\?$"):
        FeatureStore.open(str(tmp_path / "trian.parquet"))
    (bundle / "reservoir.parquet").touch()
    for folder in (out, bundle):
        with pytest.raises(InputError, match=r"holds a model, not a store; give --data\.train the"):
            FeatureStore.open(str(folder))


def test_an_unknown_verb_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, hint in {"trian": "; did you mean train?", "cli": "", "xyzzy": ""}.items():
        with pytest.raises(SystemExit) as caught:
            lister.main([verb, "--help"], run=pytest.fail)
        assert caught.value.code == 2
        wanted = f"error: there is no verb '{verb}'{hint} (python -m jobs lists them)\n"
        assert tuple(capsys.readouterr()) == ("", wanted)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            ["--data.trian", "x"],
            "unrecognized arguments: --data.trian x; did you mean --data.train?",
        ),
        (["--train", "x"], "unrecognized arguments: --train x; did you mean --data.train?"),
        (["--lr=3"], "unrecognized arguments: --lr=3; did you mean --optim.lr or --table.lr?"),
        (["--foo", "1", "--epcohs=2"], "--epcohs=2; did you mean --epochs?"),
        (["--foo", "1"], "unrecognized arguments: --foo 1"),
        (["--method", "knnn"], "cnn-hinge, cnn-warp, popularity; did you mean knn?"),
        (["--method", "resnet152"], "--method resnet152: choose one of drel, wsabie, knn, svm,"),
        (["--epochs", "ten"], "error: --epochs ten: give a whole number (see --help)"),
        (["--optim.lr=fast"], "error: --optim.lr fast: give a number (see --help)"),
        (["--workers", "2-4"], "error: --workers: workers is '2-4'; give a number (4), or least"),
        (
            ["--config", "/nowhere/my.yml"],
            "error: --config: File does not exist: '/nowhere/my.yml'",
        ),
        (["x.parquet"], "; every value needs its option before it, as in --data.train x.parquet"),
        (["--data", "x.parquet"], "error: --data x.parquet: give --data.train, --data.test, "),
        (["--data=x"], "error: --data x: give --data.train, --data.test, "),
        (["--model", "m"], "error: --model m: give --model.image_hidden, "),
        (["--model.start=torhc"], "choose one of torch, centred, shallow; did you mean torch?"),
    ],
)
def test_a_wrong_option_or_choice_gets_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], given: list[str], line: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([*NEEDED, *given])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.endswith(" (see --help)\n")
    assert said.count("\n") == 1 and line in said
    assert ("did you mean" in said) == ("did you mean" in line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{metod: knn}", "Option 'metod' is not accepted; did you mean method?"),
        ("{data: {trian: x}}", "does not accept option 'trian'; did you mean data.train?"),
        ("{method: knnn}", "did you mean knn?"),
    ],
)
def test_so_does_one_in_a_config_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, line: str
) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(SystemExit):
        parse(["--config", str(tmp_path / "my.yaml"), *NEEDED])
    assert f"{line} (see --help)\n" in capsys.readouterr().err


def test_a_choice_that_may_be_left_out_is_named_alike(capsys: pytest.CaptureFixture[str]) -> None:
    from jobs.serve import main

    with pytest.raises(SystemExit):
        main(["--model", "x", "--ingress", "harpoxy"])
    wanted = (
        "error: --ingress harpoxy: choose one of haproxy, ray; did you mean haproxy? (see --help)\n"
    )
    assert capsys.readouterr().err == wanted


def test_a_wrong_preset_gets_the_one_that_was_meant() -> None:
    with pytest.raises(InputError, match=r"choose one of best, .*; did you mean best\?$"):
        parse([*NEEDED, "--preset", "bset"])
    with pytest.raises(InputError, match=r"choose one of [^;]*$"):
        parse([*NEEDED, "--preset", "xyzzy"])


def options_of(section: str) -> list[str]:
    return re.findall(r"^  (?:-h, )?--([\w.]+)", section, re.MULTILINE)


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"jobs.{verb}").main(["--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_shows_first_what_one_needs_first(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of("train", capsys)
    assert shown.startswith("usage: python -m jobs.train --data.train TRAIN --out OUT [options]\n")
    top, rest = shown.split("\nwhat one needs first:\n")[1].split("\nother options:\n")
    wanted = "data.train data.test out method preset workers epochs seed k decide dry_run config"
    assert options_of(top) == wanted.split()
    assert re.search(r"--seed SEED .*?default: 0\)", top, re.DOTALL)
    assert options_of(rest)[0] == "help" and "--optim.lr LR" in rest


def test_help_of_each_verb_has_each_option_once(capsys: pytest.CaptureFixture[str]) -> None:
    seen: set[str] = set()
    for verb in set(lister.verbs()) - {"completion"}:  # it has no options
        shown = help_of(verb, capsys)
        names = options_of(shown)
        assert len(names) == len(set(names)), verb
        assert {"help", "config"} <= set(names), verb
        top = options_of(shown.split("\nwhat one needs first:\n")[1].split("\nother options:\n")[0])
        usage = re.findall(r"--([\w.]+)", shown.partition("\n\n")[0])
        assert set(usage) <= set(top), verb
        seen |= set(top)
    assert seen >= set(FIRST), "an option that no job has any more"


def test_a_name_cut_short_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*NEEDED, "--epoch", "3"])
    assert ended.value.code == 2
    assert "--epoch 3; did you mean --epochs?" in capsys.readouterr().err
