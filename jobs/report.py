"""Show what a model does, as one HTML page: python -m jobs.report --model DIR --data PATH --out FILE.html"""

from __future__ import annotations

from distributed.bundles.open import open_annotator
from distributed.inference.open_for import open_for
from distributed.reporting.report import ReportConfig, check_given, write_report
from jobs import dry_run
from jobs.cli import NOTHING, OneLineParser, build, run_job, say


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.report",
        description="One HTML file: figures beside the popularity floor, pictures with true and predicted "
        "tags, calibration, curves, a map of the tags, the best and worst tags.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_dry_run()
    parser.add_class_arguments(ReportConfig)
    given = parser.parse_args(arguments)
    config = build(parser, given, ReportConfig)
    if given.dry_run:
        check_given(config)
        opened = open_for(config.model, config.data, config.columns)
        dry_run.evaluation(open_annotator(opened.address, config.search), opened.store, config)
        say(NOTHING)
        return
    write_report(config, log=say)
    print(f"report  {config.out}")


if __name__ == "__main__":
    run_job(main, goes_on=False)
