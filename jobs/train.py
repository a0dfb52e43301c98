"""Train a model: python -m jobs.train --data.train PATH --out DIR"""

from __future__ import annotations

from pathlib import Path

import yaml

from distributed import trainer
from distributed.config import TrainConfig
from drel_core.metrics import format_table
from jobs.cli import OneLineParser, build, preset_files, run_job, write_json, write_text


def parse(arguments: list[str]) -> tuple[TrainConfig, str]:
    """The resolved configuration, as an object and as YAML that reproduces it."""
    parser = OneLineParser(
        prog="python -m jobs.train",
        description="Train a model on a feature store. The same command on the same --out resumes.",
        default_config_files=preset_files(arguments),
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_argument(
        "--preset", help="paper (as printed), best, or the method's own (default: that, else best)"
    )
    parser.add_class_arguments(TrainConfig, fail_untyped=False)
    namespace = parser.parse_args(arguments)
    text = parser.dump(namespace, skip_unset=False)
    return build(parser, namespace, TrainConfig), text


def write_config(config: TrainConfig, text: str) -> None:
    """Write ``OUT/config.yaml``: running it again reproduces the run, from any folder."""
    resolved = yaml.safe_load(text)
    for name in ("config", "preset"):
        resolved.pop(name, None)
    for name in ("train", "test"):
        resolved["data"][name] = getattr(config.data, name)
    resolved["out"] = config.out
    write_text(Path(config.out) / "config.yaml", yaml.safe_dump(resolved, sort_keys=False))


def main(arguments: list[str]) -> None:
    config, text = parse(arguments)
    metrics = trainer.run(
        config,
        say=lambda line: print(line, flush=True),
        begin=lambda: write_config(config, text),
    )
    out = Path(config.out)
    if metrics is not None:
        write_json(out / "metrics.json", metrics)
        print(format_table([("popularity", metrics["floor"]), (config.method, metrics)]))
    print(f"model        {out / 'model'}")
    print(f"TensorBoard  tensorboard --logdir {out / 'tensorboard'}")


if __name__ == "__main__":
    run_job(main)
