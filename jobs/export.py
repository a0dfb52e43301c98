"""A model for use without this project: python -m jobs.export --model DIR --out PATH [--format onnx]"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distributed.bundles.locate import local_bundle
from drel_core.errors import InputError
from drel_core.export.export import Format, export_bundle
from jobs.cli import OneLineParser, build, run_job


@dataclass(kw_only=True)
class ExportConfig:
    """What to export, and where to."""

    model: str
    """model bundle, training folder, or folder of versions with `latest`; of any method but knn"""
    out: str
    """new or empty folder; appears when it is whole"""
    format: Format = "onnx"
    """program of the image tower beside its weights: ONNX, torch.export, or both"""


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.export",
        description="Weights, image tower, tag matrix, vocabulary, calibration and decisions, and an example "
        "that gives the same scores with numpy alone.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_class_arguments(ExportConfig)
    config = build(parser, parser.parse_args(arguments), ExportConfig)
    if "://" in config.out:
        raise InputError(
            f"{config.out}: --out must be a folder on this machine; copy it from there"
        )
    out = Path(config.out).expanduser().absolute()
    done = export_bundle(local_bundle(config.model), out, config.format)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    programs = ", ".join(done["programs"]) or "no program: the method has no image tower"
    print(
        f"{done['method']} {done['version']}: {done['T']:,} tags, {programs}, {size / 1e6:,.1f} MB: {out}"
    )


if __name__ == "__main__":
    run_job(main)
