"""Every method under one protocol: python -m jobs.compare --data.train PATH --data.test PATH --out DIR"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from distributed.data.canonical_tags import open_rules
from distributed.data.columns import Columns
from distributed.data.feature_store import FeatureStore
from distributed.data.replay_buffer import RESERVOIR
from distributed.data.survey import survey_store
from distributed.driver import train
from distributed.driver.dry_run import dry_run
from distributed.inference.evaluate import evaluate_store, upper_bound
from distributed.runtime.progress import counted, duration
from distributed.runtime.signals import wish_to_stop
from distributed.runtime.worker_range import ONE, Workers
from distributed.storage.files import write_json
from distributed.storage.folder import Folder
from distributed.storage.owner import check_free, owned
from distributed.storage.resume import CONTENT, Plan, claim
from distributed.training.config import PICTURE_METHODS
from drel_core.annotators.popularity import PopularityAnnotator
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.answer_rules import AnswerRules
from drel_core.decision.kernel import KERNEL
from drel_core.errors import InputError, TooLargeError
from jobs.cli import NOTHING, OneLineParser, build, run_job, say
from jobs.comparison import Entry, write_comparison
from jobs.train import parse, write_config

METHODS = ("knn", "knn:knn-chosen", "svm", "wsabie", "drel:paper", "drel:best")


@dataclass(kw_only=True)
class CompareData:
    """The stores that all methods share."""

    train: str
    """training store: a Parquet file or folder, local or s3://"""
    test: str
    """test store of the same kind"""
    columns: Columns = field(default_factory=Columns)
    """names of the stores' columns"""


@dataclass(kw_only=True)
class CompareImages:
    """The same images as pictures, for the methods cnn-*."""

    train: str = ""
    """training store with a column image or path"""
    test: str = ""
    """test store of the same kind"""


@dataclass(kw_only=True)
class CompareTags:
    """What holds between tags, for all methods."""

    vocabulary: str = ""
    """vocabulary.yaml, local or s3://: all methods train and are scored by its rules"""


@dataclass(kw_only=True)
class CompareConfig:
    """What to compare, and on what."""

    data: CompareData
    """feature stores"""
    images: CompareImages = field(default_factory=CompareImages)
    """stores of pictures"""
    tags: CompareTags = field(default_factory=CompareTags)
    """rules of tags"""
    out: str
    """folder for results.json, table.md, table.png, and each method's own folder; the same one resumes"""
    methods: str = ""
    """METHOD, METHOD:PRESET or METHOD:FILE.yaml, separated by commas; empty: knn, knn:knn-chosen, svm, \
    wsabie, drel:paper, drel:best, and with --images.train and --images.test the three cnn-*"""
    seeds: int = 1
    """repetitions, with seeds 0, 1, …; mean and spread are given"""
    workers: Workers = ONE
    """data-parallel processes; 2:8 for as many as the cluster has"""
    epochs: int = 0
    """passes over the training rows; 0: as each method's preset says"""
    k: int = 5
    """tags predicted for each image"""
    max_hours: float = 2.0
    """leave one-vs-all SVMs out when all tags would take longer, judged by the time of one; 0: no limit"""

    def __post_init__(self) -> None:
        if self.max_hours < 0:
            raise ValueError(f"max_hours is {self.max_hours}; it must be 0 (no limit) or more")
        for name in ("seeds", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")


def chosen(config: CompareConfig) -> list[str]:
    """The entries to run, in order."""
    names = [name.strip() for name in config.methods.split(",") if name.strip()]
    pictures = bool(config.images.train and config.images.test)
    names = names or [*METHODS, *(PICTURE_METHODS if pictures else ())]
    if len(set(names)) != len(names):
        raise InputError(f"--methods {','.join(names)}: names one twice")
    return [name for name in names if name != "popularity"]  # it is the floor of every table


def without_pictures(config: CompareConfig, name: str) -> str:
    """Why an entry cannot be run for want of pictures; empty where it can."""
    if name.partition(":")[0] not in PICTURE_METHODS or (
        config.images.train and config.images.test
    ):
        return ""
    return (
        "it takes pictures; give --images.train and --images.test, stores of the same images with a "
        "column image or path"
    )


def train_arguments(config: CompareConfig, name: str, seed: int) -> list[str]:
    """The command line of jobs.train that trains one entry."""
    method, _, preset = name.partition(":")
    out = Folder.of(config.out) / name.replace(":", "-").replace("/", "-") / f"seed-{seed}"
    stores: Any = config.images if method in PICTURE_METHODS else config.data
    arguments = [
        "--method",
        method,
        "--data.train",
        stores.train,
        "--data.test",
        stores.test,
        "--out",
        out.address,
        "--seed",
        str(seed),
        "--workers",
        str(config.workers),
        "--k",
        str(config.k),
        "--decide",
        "top",
    ]
    if preset.endswith((".yaml", ".yml")):
        arguments = ["--config", preset, *arguments]
    elif preset:
        arguments += ["--preset", preset]
    if method == "svm":
        arguments += ["--svm.max_hours", str(config.max_hours)]
    if config.epochs:
        arguments += ["--epochs", str(config.epochs)]
    if config.tags.vocabulary:
        arguments += ["--tags.vocabulary", config.tags.vocabulary]
    for column, given in vars(config.data.columns).items():
        arguments += [f"--data.columns.{column}", given]
    return arguments


def run_entry(config: CompareConfig, name: str, seed: int) -> dict[str, Any]:
    """Train (or take up) one entry and score it: its metrics, the bytes of its bundle, what is in it."""
    settings, text, _ = parse(train_arguments(config, name, seed))

    metrics = train.run(
        settings,
        log=lambda line: print(f"  {line}", flush=True),
        begin=lambda resolved: write_config(resolved, text),
    )
    assert metrics is not None
    out = Folder.of(settings.out)
    write_json(out.file("metrics.json"), metrics)
    files = (out / "model").files()
    size = sum(size for name, size in files.items() if name != RESERVOIR)  # no part of scoring
    return {**metrics, "model_bytes": size, "has_kernel": KERNEL in files}


def attempt(config: CompareConfig, name: str) -> Entry:
    """All seeds of an entry; what fails or cannot be done here is kept as such, so that the others go on."""
    entry = Entry(name, skipped=without_pictures(config, name))
    if entry.skipped:
        print(f"{name} is left out: {entry.skipped}", file=sys.stderr, flush=True)
        return entry
    for seed in range(config.seeds):
        print(f"{name}, seed {seed}", flush=True)
        started = time.perf_counter()
        try:
            entry.runs.append(run_entry(config, name, seed))
        except TooLargeError as error:
            entry.skipped = str(error)
            print(f"{name} is left out: {error}", file=sys.stderr, flush=True)
            break
        except (Exception, SystemExit) as error:
            if (wish := wish_to_stop(error)) is not None:
                raise wish from None
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            entry.failed = f"seed {seed}: {first}"
            print(f"{name} failed: {first}", file=sys.stderr, flush=True)
            break
        found = entry.runs[-1]
        print(
            f"{name}, seed {seed}: F1 {found['F1']:.3f}, N+ {found['N+']}, "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )
        for warning in found["warnings"]:
            print(f"{name}, seed {seed}: WARNING: {warning}", flush=True)
    return entry


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.compare",
        description="Train and score several methods under one protocol; the same --out resumes.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(CompareConfig)
    given = parser.parse_args(arguments)
    config = build(parser, given, CompareConfig)
    names, out = chosen(config), Folder.of(config.out)
    out.check("--out")
    if names and all(without_pictures(config, name) for name in names):
        raise InputError(f"--methods {','.join(names)}: {without_pictures(config, names[0])}")
    for name in names:  # a wrong name or option is told before hours of training
        if not without_pictures(config, name):
            settings, _, _ = parse(train_arguments(config, name, 0))
            if (own := settings.tags.vocabulary) != config.tags.vocabulary:
                raise InputError(
                    f"--methods {name}: it names tags.vocabulary {own}; figures are of one set of tags: give "
                    "all methods the same by --tags.vocabulary"
                )
    if given.dry_run:
        plan(config, names, out)
        return
    with owned(out):
        entries = compare(config, names, out)
    print((out.read("table.md") or b"").decode())
    if any(entry.failed for entry in entries):
        raise SystemExit(1)


def plan(config: CompareConfig, names: list[str], out: Folder) -> None:
    """Say what each entry would do; nothing is written."""
    check_free(out)
    seconds, unknown = 0.0, []
    for name in names:
        say(f"{name}, {counted(config.seeds, 'seed')}")
        if why := without_pictures(config, name):
            say(f"  left out: {why}")
            continue
        settings, _, _ = parse(train_arguments(config, name, 0))
        try:
            found = dry_run(settings, lambda line: say(f"  {line}"))
        except TooLargeError as error:
            say(f"  left out: {error}")
            continue
        seconds += 0 if found is None else found.total * config.seeds
        unknown += [name] if found is None else []
    also = f", and {', '.join(unknown)}" if unknown else ""
    say(f"all      about {duration(seconds)}{also}")
    say(NOTHING)


def compare(config: CompareConfig, names: list[str], out: Folder) -> list[Entry]:
    """Train and score every entry, and write the tables."""
    columns, rules = config.data.columns, open_rules(config.tags.vocabulary)
    train, test = (
        survey_store(
            FeatureStore.open(path, columns, option),
            "fail",
            statistics=False,
            workers=config.workers.least,
            log=say,
            rules=rules,
        )
        for path, option in ((config.data.train, "--data.train"), (config.data.test, "--data.test"))
    )
    content = {**train.content, **{f"test: {name}": mark for name, mark in test.content.items()}}
    by = {"tags.vocabulary": rules.digest if rules else ""}
    claim(
        out,
        "compare.json",
        Plan(
            {"k": config.k, "epochs": config.epochs, CONTENT: content, **by},
            unsaid={"tags.vocabulary": ""},
        ),
        "holds a comparison with another {names} ({values}); choose a new --out",
    )
    vocabulary = Vocabulary(tuple(train.names.to_pylist()), train.count_T)
    floor, popularity = Entry("popularity"), PopularityAnnotator(vocabulary)
    popularity.rules = AnswerRules(rules, vocabulary.names) if rules else None
    floor.runs.append(evaluate_store(popularity, vocabulary, test, columns, config.k))
    bound = Entry("upper bound", [upper_bound(vocabulary, test, columns, config.k)])
    tried = [attempt(config, name) for name in names]
    for entry in tried:  # pictures come from stores of their own
        for run in entry.runs:
            if any(run[key] != floor.runs[0][key] for key in ("images", "tags", "tags_scored")):
                entry.failed = (
                    f"{run['images']} images and {run['tags_scored']} of {run['tags']} tags scored, the "
                    f"others {floor.runs[0]['images']} and {floor.runs[0]['tags_scored']} of "
                    f"{floor.runs[0]['tags']}: --images and --data hold different images"
                )
    entries = [floor, *tried, bound]
    write_comparison(
        out, entries, config.data.train, config.data.test, config.k, config.tags.vocabulary
    )
    return entries


if __name__ == "__main__":
    run_job(main)
