"""Train a model: python -m jobs.train --data.train PATH --out DIR"""

from __future__ import annotations

from functools import reduce

import yaml
from jsonargparse import Namespace

from distributed.bundles.locate import local_bundle
from distributed.driver import train
from distributed.driver.dry_run import dry_run
from distributed.driver.launch import Launcher, launch
from distributed.driver.verdict import verdict
from distributed.storage.files import write_json, write_text
from distributed.storage.folder import Folder
from distributed.training.config import TrainConfig
from distributed.training.size_rule import settled
from drel_core.bundle.format import read_info
from drel_core.scoring.metrics import format_table
from jobs.cli import NOTHING, OneLineParser, build, preset_files, run_job, say


def training_parser(verb: str, arguments: list[str]) -> OneLineParser:
    """Every option of a training run, and the preset's values as defaults."""
    what = {
        "train": "Train a model on a feature store.",
        "tune": "Search for the options that train the best model, on validation rows.",
    }
    parser = OneLineParser(
        prog=f"python -m jobs.{verb}",
        description=f"{what[verb]} The same command on the same --out resumes.",
        default_config_files=preset_files(arguments),
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_argument(
        "--preset",
        help="values of a file in jobs/presets: best, paper (as printed), or the method's own "
        "(default: that, else best)",
    )
    parser.add_class_arguments(TrainConfig, fail_untyped=False)
    return parser


def parse(
    arguments: list[str], parser: OneLineParser | None = None
) -> tuple[TrainConfig, str, Namespace]:
    """The resolved configuration: as an object, as YAML that reproduces it, and as parsed."""
    parser = parser or training_parser("train", arguments)
    namespace = parser.parse_args(arguments)
    text = parser.dump(namespace, skip_unset=False)
    return build(parser, namespace, TrainConfig), text, namespace


def write_config(config: TrainConfig, text: str) -> None:
    """Write ``OUT/config.yaml``: running it again reproduces the run, from any folder."""
    resolved = yaml.safe_load(text)
    for name in ("config", "preset", "dry_run"):
        resolved.pop(name, None)
    for name in ("train", "test"):
        resolved["data"][name] = getattr(config.data, name)
    resolved["tags"]["vocabulary"] = config.tags.vocabulary
    resolved["out"] = config.out
    for name, value in settled(config).items():
        *parts, last = name.split(".")
        reduce(lambda place, part: place[part], parts, resolved)[last] = value
    write_text(Folder.of(config.out).file("config.yaml"), yaml.safe_dump(resolved, sort_keys=False))


def main(arguments: list[str], launcher: Launcher = launch) -> None:
    parser = training_parser("train", arguments)
    parser.add_dry_run()
    config, text, given = parse(arguments, parser)
    if given.dry_run:
        dry_run(config, say)
        say(NOTHING)
        return
    metrics = train.run(
        config, log=say, begin=lambda resolved: write_config(resolved, text), launcher=launcher
    )
    out = Folder.of(config.out)
    if metrics is not None:
        write_json(out.file("metrics.json"), metrics)
        print(format_table([("popularity", metrics["floor"]), (config.method, metrics)]))
    print(f"model        {out / 'model'}")
    print(f"TensorBoard  tensorboard --logdir {out / 'tensorboard'}")
    for line in verdict(read_info(local_bundle((out / "model").address)), metrics).lines:
        print(line)


if __name__ == "__main__":
    run_job(main)
