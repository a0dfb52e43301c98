"""Score a model on a feature store: python -m jobs.evaluate --model DIR --data PATH"""

from __future__ import annotations

from dataclasses import dataclass

from distributed.bundles.open import open_annotator
from distributed.data.survey import survey_store
from distributed.inference.evaluate import check_scored, evaluate_store
from distributed.inference.open_for import open_for
from distributed.inference.score_config import ScoreConfig
from distributed.runtime.progress import saying
from distributed.storage.files import write_json
from distributed.storage.folder import check_file
from drel_core.annotators.base import rules_of
from drel_core.scoring.floor import BELOW, beats_floor, first_check
from drel_core.scoring.metrics import format_decisions, format_table
from jobs import dry_run
from jobs.cli import NOTHING, OneLineParser, build, run_job, say


@dataclass(kw_only=True)
class EvaluateConfig(ScoreConfig):
    """What to score, and on what."""

    json: str | None = None
    """file to write the metrics into"""


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.evaluate",
        description="mP, mR, F1, N+, mAP and overall figures, beside the popularity floor.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(EvaluateConfig)
    given = parser.parse_args(arguments)
    config = build(parser, given, EvaluateConfig)
    if config.json is not None:
        check_file(config.json, "--json", "metrics.json")
    opened = open_for(config.model, config.data, config.columns)
    with saying(say, f"opening {config.model}"):
        annotator = open_annotator(opened.address, config.search)
    if given.dry_run:
        dry_run.evaluation(annotator, opened.store, config)
        say(NOTHING)
        return
    survey = survey_store(
        opened.store, config.on_bad_row, statistics=False, log=say, rules=rules_of(annotator)
    )
    metrics = evaluate_store(
        annotator,
        annotator.vocabulary,
        survey,
        opened.store.columns,
        config.k,
        config.decide,
        config.precision,
        config.on_bad_row,
        say,
    )
    check_scored(metrics, config.data)
    metrics["train"] = annotator.info.train
    print(format_table([("popularity", metrics["floor"]), (annotator.name, metrics)]))
    print(
        f"{metrics['images']} images, {metrics['tags_scored']} tags scored, {metrics['k']} tags an image"
    )
    print(format_decisions(metrics))
    if annotator.name != "popularity" and not beats_floor(metrics):
        check = first_check(metrics["k"], metrics["tags"])
        print(f"WARNING: {BELOW} on these images. {check}.")
    if config.json is not None:
        write_json(config.json, metrics)


if __name__ == "__main__":
    run_job(main, goes_on=False)
