"""Search for a better configuration: python -m jobs.tune --data.train PATH --out DIR --trials 20"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from distributed.data.canonical_tags import open_rules
from distributed.data.check_rows import Validation
from distributed.data.feature_store import FeatureStore
from distributed.data.survey import StoreSurvey, survey_store
from distributed.driver.dry_run import dry_run
from distributed.driver.search import SPACE, TRIALS, domains, search, with_values
from distributed.driver.train import fingerprint, power_of, with_power
from distributed.runtime.progress import duration
from distributed.storage.files import write_json, write_text
from distributed.storage.folder import Folder
from distributed.storage.owner import owned
from distributed.storage.resume import Plan, check_same, claim, read_note
from distributed.storage.s3 import unreachable
from distributed.training.config import NO_TEXT, TrainConfig
from distributed.training.size_rule import DataSize, apply_size_rule
from drel_core.errors import InputError
from jobs.cli import NOTHING, run_job, say
from jobs.train import parse, training_parser

VALIDATION = 0.15


def read_space(path: str | None) -> dict[str, Any]:
    """The default space, or a YAML file that maps options to choices or ranges."""
    if path is None:
        return SPACE
    try:
        space = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: the search space cannot be read ({error})") from None
    if not isinstance(space, dict) or not space:
        raise InputError(f"{path}: a search space maps options of jobs.train to choices or ranges")
    return {str(name): entry for name, entry in space.items()}


def main(arguments: list[str]) -> None:
    parser = training_parser("tune", arguments)
    parser.add_dry_run()
    parser.add_argument("--trials", type=int, default=20, help="configurations to try")
    parser.add_argument("--space", help="YAML: OPTION: [choices] or {low: , high: , log: true}")
    parser.add_argument(
        "--concurrent", type=int, default=0, help="trials at a time; 0: one a GPU, or one"
    )
    parser.add_argument("--grace", type=int, default=3, help="epochs that every trial gets")
    config, _, extra = parse(arguments, parser)
    if extra.trials < 1 or extra.grace < 1 or extra.concurrent < 0:
        raise InputError("--trials and --grace must be 1 or more, --concurrent 0 or more")
    if config.method not in ("drel", "wsabie"):
        raise InputError(f"--method {config.method}: jobs.tune searches for drel and wsabie")
    space = read_space(extra.space)
    domains(space, config)
    out = Folder.of(config.out)
    out.check("--out")
    config.out = out.address
    if extra.dry_run:
        plan(config, space, extra)
        return
    reached = unreachable(out.address) if out.remote else nullcontext()
    with reached, owned(out):
        run(config, space, extra)


def plan(config: TrainConfig, space: dict[str, Any], extra: Namespace) -> None:
    """Say what the search would do; nothing is written."""
    config.data.validation = config.data.validation or VALIDATION
    # Of the finished model alone:
    config.tags.text, config.kernel.landmarks, config.reservoir.rows = NO_TEXT, 0, 0
    found = dry_run(config, say)
    assert found is not None, "methods that are searched for learn in steps"
    if found.exact and (before := read_note(Folder(config.out), _NOTE)) is not None:
        check_same(
            Folder(config.out),
            before,
            _mark(found.spec.config, found.spec.survey, space, extra),
            _OTHER,
        )
    longest = duration(extra.trials * found.total)
    say(
        f"search   {extra.trials} trials, each as above or shorter: those behind the others end after "
        f"{extra.grace} epochs or some more; one at a time at most {longest}"
    )
    say(NOTHING)


_NOTE, _OTHER = "tune.json", "holds a search with another {names}; choose a new --out"


def _mark(
    config: TrainConfig, survey: StoreSurvey, space: dict[str, Any], extra: Namespace
) -> Plan:
    """What must be the same when a search goes on."""
    mark = fingerprint(config, survey).also({"space": space, "trials": extra.trials})
    return Plan({**mark, "grace": extra.grace}, {**mark.unsaid, "grace": extra.grace})


def run(config: TrainConfig, space: dict[str, Any], extra: Namespace) -> None:
    """Search, or go on searching, in ``config.out``."""
    given = config.data.validation
    config.data.validation = given or VALIDATION
    config.tags.text = NO_TEXT  # of the finished model alone
    store = FeatureStore.open(config.data.train, config.data.columns)
    config = with_power(config, store)
    validation = Validation(config.data.validation, config.seed)
    survey = survey_store(
        store,
        config.data.on_bad_row,
        validation,
        power=power_of(config.model),
        log=say,
        rules=open_rules(config.tags.vocabulary),
    )
    if not survey.validation_rows:
        raise InputError(f"data.validation {config.data.validation} holds out no row; raise it")
    config, settings = apply_size_rule(config, DataSize.of(survey))
    config.patience = config.epochs  # ASHA decides
    domains(space, config)
    out = Folder(config.out)
    claim(out, _NOTE, _mark(config, survey, space, extra), _OTHER)
    say(
        f"{survey.train_rows} training images, {survey.validation_rows} for validation, "
        f"{extra.trials} trials of up to {config.epochs} epochs"
    )
    if not given:
        say(
            f"--data.validation is not given: a search judges by held-out rows, here {VALIDATION:g}"
        )
    if line := survey.shortfall(config.data.validation):
        say(line)
    if settings:
        say(settings)
    found = search(config, survey, space, extra.trials, extra.concurrent, extra.grace, say)
    best = with_values(config, found.values)
    write_json(out.file("trials.json"), found.trials)
    write_text(out.file("best.yaml"), best_yaml(best, found.trials[0]["F1"]))
    print(f"best F1 {found.trials[0]['F1']:.3f} on validation: {out / 'best.yaml'}")
    rules = f"--tags.vocabulary {config.tags.vocabulary} " if config.tags.vocabulary else ""
    print(
        f"train with it  python -m jobs.train --config {out / 'best.yaml'} --data.train PATH "
        f"{rules}--out DIR"
    )
    print(f"TensorBoard    tensorboard --logdir {out / TRIALS}")


def best_yaml(config: Any, f1: float) -> str:
    """What ``jobs.train --config`` takes: everything that decides the model, but no data and no --out."""
    whole = asdict(config)
    names = ("method", "epochs", "batch_size", "model", "table", "loss", "pool", "optim")
    text: str = yaml.safe_dump({name: whole[name] for name in names}, sort_keys=False)
    return (
        f"# jobs.tune: F1 {f1:.4f} on validation rows, of the towers alone. Not in here, because a search\n"
        "# does not vary them: data, tags, out, seed, kernel, decision, reservoir. jobs.train takes its "
        "preset's.\n"
        f"{text}"
    )


if __name__ == "__main__":
    run_job(main)
