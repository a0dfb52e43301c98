"""Annotate a store: python -m jobs.annotate --model DIR --data PATH --out PATH [--k 5] [--decide top]"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from distributed.bundles.open import open_annotator
from distributed.data.columns import Columns
from distributed.data.survey import OnBadRow
from distributed.inference import annotate
from distributed.inference.annotate_part import AnnotatePlan
from distributed.inference.open_for import open_for
from distributed.runtime.progress import saying
from distributed.storage.folder import Folder
from drel_core.annotators.base import decision_of
from drel_core.decision.decider import Decide, check_precision, most_tags
from drel_core.scoring.tag_search import Search
from jobs import dry_run
from jobs.cli import NOTHING, OneLineParser, build, run_job, say


@dataclass(kw_only=True)
class AnnotateConfig:
    """What to annotate, with what, and where to."""

    model: str
    """model bundle, training folder, or folder of versions with `latest`"""
    data: str
    """store of features (methods cnn-*: of pictures), with or without tags: a Parquet file or folder"""
    out: str
    """folder or s3:// prefix for Parquet files of image_id, tags, scores and model, and unseen where the \
    model has tags by name alone; the same one resumes"""
    k: int | None = None
    """most tags for an image; null: 5, and 50 with decide threshold"""
    decide: Decide = "top"
    """top: the most probable tags; macro: those that maximise expected macro F1, which finds rare tags; \
    threshold: as many as are worth saying"""
    precision: float | None = None
    """with decide threshold, the wanted share of said tags that are right, above 0, at most 1"""
    threshold: float | None = None
    """least probability of a tag; images may end up without any"""
    search: Search = "auto"
    """how the best of many tags are found: by codes from 32,768 tags on where they find 99.9% of them \
    (auto), or by scoring all (exact)"""
    workers: int = 0
    """processes; 0: one a CPU core (small stores need none)"""
    columns: Columns = field(default_factory=Columns)
    """names of the store's columns"""
    on_bad_row: OnBadRow = "fail"
    """fail: a bad row ends the run; skip: it is left out and counted"""

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise ValueError(f"k is {self.k}; it must be 1 or more")
        check_precision(self.decide, self.precision)
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}; it must be 0 or more")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ValueError(f"threshold is {self.threshold}; it must be a number")


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.annotate",
        description="Tags for every image of a store. The same command on the same --out resumes.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(AnnotateConfig)
    given = parser.parse_args(arguments)
    config = build(parser, given, AnnotateConfig)
    out = Folder.of(config.out)
    out.check("--out")
    data = Folder.of(config.data).address
    opened = open_for(config.model, data, config.columns, tags_needed=False)
    with saying(say, f"opening {config.model}"):
        annotator = open_annotator(opened.address, config.search)
    decision_of(annotator, config.decide, config.precision, opened.address)  # told before any work
    plan = AnnotatePlan(
        opened.address,
        out.address,
        opened.store.columns,
        opened.store.dims,
        config.k or most_tags(config.decide),
        config.threshold,
        config.decide,
        config.precision,
        config.on_bad_row,
        config.search,
    )
    if given.dry_run:
        annotate.check_begun(plan, opened.store, opened.info.version)
        dry_run.annotation(plan, opened.store, opened.info, config.workers)
        say(NOTHING)
        return
    done = annotate.run(plan, opened.store, opened.info.version, config.workers, say)
    skipped = f", {done['skipped']} bad rows left out" if done["skipped"] else ""
    print(
        f"{done['rows']:,} images in {done['files']} files{skipped}, "
        f"{done['rows_per_second']:,.0f} rows/s: {config.out}"
    )


if __name__ == "__main__":
    run_job(main)
