"""Show what a model does, as one HTML page: python -m jobs.report --model DIR --data PATH --out FILE.html"""

from __future__ import annotations

from distributed.reporting.report import ReportConfig, write_report
from jobs.cli import OneLineParser, build, run_job


def main(arguments: list[str]) -> None:
    parser = OneLineParser(
        prog="python -m jobs.report",
        description="One HTML file: figures beside the popularity floor, pictures with true and predicted "
        "tags, calibration, curves, a map of the tags, the best and worst tags.",
    )
    parser.add_argument("--config", action="config", help="YAML file of any of these options")
    parser.add_class_arguments(ReportConfig)
    config = build(parser, parser.parse_args(arguments), ReportConfig)
    write_report(config, log=lambda line: print(line, flush=True))
    print(f"report  {config.out}")


if __name__ == "__main__":
    run_job(main, goes_on=False)
