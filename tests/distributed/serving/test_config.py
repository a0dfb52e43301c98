"""One ScorerConfig for jobs.serve, `serve run` and Serve's config files."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from pydantic import ValidationError

from distributed.serving.config import ScorerConfig, TrialPlan
from drel_core.errors import InputError
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
        ("share", 0, "share is 0.0; it must be above 0, and 1 at most"),
        ("share", 1.5, "share is 1.5; it must be above 0, and 1 at most"),
        ("share", 0.5, "share is for canary; name the model that is to answer it"),
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


def test_a_scorer_tries_one_model_at_a_time(job: Job, tmp_path: Path) -> None:
    done = job("serve", "--model", tmp_path, "--canary", "a", "--shadow", "b")
    assert (done.returncode, done.stdout) == (2, "")
    line = "error: canary and shadow: give one of them; a scorer tries one model at a time"
    assert done.stderr == f"{line} (see --help)\n"


def test_user_config_moves_the_model_and_starts_and_ends_a_trial() -> None:
    config = ScorerConfig(model="OUT", canary="V2", share=0.2)
    assert config.trial == TrialPlan("canary", "V2", 0.2)
    assert config.changed_by({}) == config
    moved = config.changed_by({"model": "NEW"})
    assert (moved.model, moved.trial) == ("NEW", config.trial)
    assert config.changed_by({"canary": "V3"}).trial == TrialPlan("canary", "V3", 0.05)
    assert config.changed_by({"canary": "V3", "share": 1}).trial == TrialPlan("canary", "V3", 1.0)
    assert config.changed_by({"shadow": "V3"}).trial == TrialPlan("shadow", "V3")
    ended = config.changed_by({"canary": ""})
    assert ended.trial is None and ended.model == "OUT"


@pytest.mark.parametrize(
    ("user_config", "line"),
    [
        ({"path": "V2"}, "user_config: path: not known; known are model, canary, shadow, share"),
        ({"canary": "a", "shadow": "b"}, "user_config: canary and shadow: give one of them"),
        ({"canary": "a", "share": 0}, "user_config: share is 0.0; it must be above 0"),
        ({"canary": "a", "share": "x"}, "user_config: share: Input should be a valid number"),
        ({"model": 3}, "user_config: model: Input should be a valid string"),
    ],
)
def test_a_user_config_that_does_not_fit_is_one_line(
    user_config: dict[str, object], line: str
) -> None:
    with pytest.raises(InputError) as caught:
        ScorerConfig(model="OUT").changed_by(user_config)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
