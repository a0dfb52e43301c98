"""A model for use without this project: python -m jobs.export --model DIR --out PATH [--format onnx]"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.bundles.locate import local_bundle
from distributed.runtime.progress import saying
from distributed.storage.folder import Folder
from distributed.storage.owner import LOCK, owned
from distributed.storage.s3 import unreachable
from distributed.storage.scratch import scratch_folder
from drel_core.errors import InputError
from drel_core.export.export import MODEL, Format, check_out, export_bundle, work_folder
from jobs import dry_run
from jobs.cli import NOTHING, OneLineParser, build, run_job, say


@dataclass(kw_only=True)
class ExportConfig:
    """What to export, and where to."""

    model: str
    """model bundle, training folder, or folder of versions with `latest`; of any method but knn"""
    out: str
    """new or empty folder, or s3:// prefix; whole when it holds model.json"""
    format: Format = "onnx"
    """program of the image tower beside its weights: ONNX, torch.export, or both"""


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.export",
        description="Weights, image tower, tag matrix, vocabulary, calibration and decisions, and an example "
        "that gives the same scores with numpy alone.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(ExportConfig)
    given = parser.parse_args(arguments)
    config = build(parser, given, ExportConfig)
    out = Folder.of(config.out)
    out.check("--out")
    bundle = local_bundle(config.model)
    if given.dry_run:
        if not out.remote:
            check_out(bundle, out.path)
        dry_run.export(bundle, out)
        say(NOTHING)
        return
    with saying(say, f"exporting {config.model}"):
        if out.remote:
            done = _export_to_s3(bundle, out, config.format)
        else:
            check_out(bundle, out.path)
            with owned(Folder(str(work_folder(out.path))), given=out):
                done = export_bundle(bundle, out.path, config.format)
    size = sum(out.files().values())
    programs = ", ".join(done["programs"]) or "no program: the method has no image tower"
    print(
        f"{done['method']} {done['version']}: {done['T']:,} tags, {programs}, {size / 1e6:,.1f} MB: {out}"
    )


def _export_to_s3(bundle: Path, out: Folder, form: Format) -> dict[str, Any]:
    """Export here and upload it. Files of an upload that was stopped are written again.

    Raises:
        InputError: ``out`` holds a finished export, or something else; S3 cannot be reached.
    """
    with unreachable(str(out)), owned(out):
        there = set(out.files()) - {LOCK}
        if MODEL in there:
            raise InputError(f"{out}: --out holds files; give a new or empty folder")
        local = scratch_folder() / "export"
        done = export_bundle(bundle, local, form)
        made = {path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()}
        if strange := sorted(there - made):
            raise InputError(f"{out}: --out holds {strange[0]}; give a new or empty folder")
        out.put_all(local, last=MODEL)
    shutil.rmtree(local.parent)
    return done


if __name__ == "__main__":
    run_job(main, goes_on=False)
