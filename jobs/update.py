"""Online learning: python -m jobs.update --model DIR --data PATH --out DIR"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from distributed.bundles.locate import local_bundle, publish
from distributed.driver import update
from distributed.driver.dry_run_update import dry_run_update
from distributed.driver.launch import Launcher, launch
from distributed.driver.update_config import UpdateConfig
from distributed.driver.verdict import verdict
from distributed.storage.files import write_json, write_text
from distributed.storage.folder import Folder
from drel_core.bundle.format import read_info
from drel_core.errors import InputError
from drel_core.scoring.metrics import format_table
from jobs.cli import NOTHING, OneLineParser, build, run_job, say

_SHORT = {"--data": "--data.new", "--tags": "--tags.new"}


@dataclass(kw_only=True)
class UpdateJob(UpdateConfig):
    """An update, and whether the scorer shall take it up."""

    publish: bool = False
    """let `latest` beside --out name the new model: scorers that serve that folder move to it"""


def main(arguments: list[str], launcher: Launcher = launch) -> None:
    parser = OneLineParser(
        prog="python -m jobs.update",
        description="Teach a model new images and new tags; older ones are rehearsed. --data PATH is "
        "short for --data.new PATH, --tags FILE for --tags.new FILE. The same command on the same --out "
        "resumes.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(UpdateJob)
    namespace = parser.parse_args([_long(argument) for argument in arguments])
    config = build(parser, namespace, UpdateJob)
    out = Folder.of(config.out)
    if config.publish and ".." in out.address.split("/"):
        raise InputError(f"{out}: with --publish give --out without `..`")
    for name in ("new", "replay", "test"):
        path = getattr(config.data, name)
        if path and "://" not in path:
            setattr(config.data, name, str(Path(path).expanduser().absolute()))
    if config.tags.vocabulary and "://" not in config.tags.vocabulary:
        config.tags.vocabulary = str(Path(config.tags.vocabulary).expanduser().absolute())
    if namespace.dry_run:
        dry_run_update(config, say)
        say(NOTHING)
        return
    resolved = yaml.safe_load(parser.dump(namespace, skip_unset=False))
    for name in ("config", "dry_run"):
        resolved.pop(name, None)
    write = lambda: write_text(out.file("config.yaml"), yaml.safe_dump(resolved, sort_keys=False))  # noqa: E731
    metrics = update.run(config, log=say, begin=write, launcher=launcher)
    info = read_info(local_bundle(out.address))
    if metrics is not None:
        write_json(out.file("metrics.json"), metrics["new"])
        rows = [("popularity", metrics["new"]["floor"]), ("old model", metrics["old"])]
        print(format_table([*rows, ("new model", metrics["new"])]))
    print(f"model        {out / 'model'} (version {info.version}, from {info.parent})")
    if config.publish:
        publish(out.parent.address, out.name)
        print(f"published    {out.parent / 'latest'} names {out.name}")
    for line in verdict(info, None if metrics is None else metrics["new"]).lines:
        print(line)


def _long(argument: str) -> str:
    """``--data PATH`` as ``--data.new PATH``, ``--tags FILE`` as ``--tags.new FILE``."""
    name, mark, value = argument.partition("=")
    return _SHORT.get(name, name) + mark + value


if __name__ == "__main__":
    run_job(main)
