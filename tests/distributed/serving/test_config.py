"""One ScorerConfig for jobs.serve, `serve run` and Serve's config files."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from pydantic import ValidationError

from distributed.serving.config import ScorerConfig
from tests.conftest import Job


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("replicas", "many", "replicas is 'many'; give N or MIN:MAX"),
        ("replicas", "2:", "replicas is '2:'; give N or MIN:MAX"),
        ("replicas", "0", "replicas is '0'; at least 1, and MIN not above MAX"),
        ("replicas", "3:2", "replicas is '3:2'; at least 1, and MIN not above MAX"),
        ("max_rows", 0, "max_rows is 0; it must be 1 or more"),
        ("max_body_mib", -1, "max_body_mib is -1; it must be 1 or more"),
        ("queue_rows", 0, "queue_rows is 0; it must be 1 or more"),
        ("threads", -1, "threads must be 0 or more, poll_seconds above 0"),
        ("poll_seconds", 0, "threads must be 0 or more, poll_seconds above 0"),
    ],
)
def test_a_value_out_of_range_is_refused_alike_by_the_job_and_by_serve(
    job: Job, tmp_path: Path, option: str, value: object, message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        ScorerConfig.model_validate({"model": "x", option: value})
    assert message in str(caught.value)
    done = job("serve", "--model", tmp_path, f"--{option}={value}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {message} (see --help)\n"


def test_a_port_out_of_range_ends_in_one_line(job: Job, tmp_path: Path) -> None:
    done = job("serve", "--model", tmp_path, "--port", "70000")
    assert done.returncode == 2
    assert done.stderr == "error: port is 70000; it must be 0 to 65535 (see --help)\n"


def test_what_serve_run_takes_as_text_becomes_numbers() -> None:
    """``serve run distributed.serving.app:build_app model=OUT threads=2 replicas=1:4``."""
    given = {"model": "OUT", "threads": "2", "replicas": "1:4", "require_token": "true"}
    config = ScorerConfig.model_validate(given)
    assert (config.threads, config.require_token) == (2, True)
    assert (config.min_replicas, config.max_replicas, config.follows_load) == (1, 4, True)
    assert not ScorerConfig(model="OUT", replicas="4").follows_load


def test_serve_finds_the_config_at_build_app() -> None:
    """Serve makes a pydantic model of ``args`` only where the annotation is the class itself."""
    from distributed.serving.app import build_app

    (argument,) = inspect.signature(build_app).parameters.values()
    assert argument.annotation is ScorerConfig
