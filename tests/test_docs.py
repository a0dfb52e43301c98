"""README, docs and cluster/ say what is there: what is generated is fresh, what is described exists."""

from __future__ import annotations

import json

import pytest

from distributed.serving.asgi import create_api
from distributed.serving.requests import parse_either, parse_json
from distributed.serving.schemas import (
    AnnotateRequest,
    FeedbackRequest,
    InferRequest,
    NamedAnnotateRequest,
    NamedFeedbackRequest,
)
from docs.generate.__main__ import DOCS, PAGES
from jobs.__main__ import verbs
from jobs.parsers import parser_of


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    there = (DOCS / name).read_text("utf-8")
    made = PAGES[name]()
    # A comparison of such long texts by pytest would take minutes.
    same = there == made
    assert same, f"docs/{name} is older than the code: run `make docs` and commit it"


def test_every_option_says_what_it_is() -> None:
    silent = [
        f"{verb} --{one.dest}"
        for verb in verbs()
        for _, actions in parser_of(verb).sections()
        for one in actions
        if len(str(one.help or "")) < 5
    ]
    assert silent == [], "no help text: write a docstring below the field"


def test_every_route_field_and_parameter_says_what_it_is() -> None:
    api = create_api(None).openapi()  # type: ignore[arg-type]
    silent = []
    for path, methods in api["paths"].items():
        for method, route in methods.items():
            bodies = route.get("requestBody", {}).get("content", {}).values()
            forms = [body["schema"] for body in bodies]
            described = {"": route, **{one["name"]: one for one in route.get("parameters", ())}}
            for form in forms:
                described |= form.get("properties", {})
            silent += [
                f"{method} {path} {name}"
                for name, one in described.items()
                if not one.get("description")
            ]
    for kind, schema in api["components"]["schemas"].items():
        fields = schema.get("properties", {}).items()
        silent += [f"{kind}.{name}" for name, one in fields if not one.get("description")]
    framework = ("HTTPValidationError", "ValidationError")  # FastAPI's own, which nothing answers
    assert [one for one in silent if not one.startswith(framework)] == []


def test_the_examples_of_bodies_are_taken() -> None:
    for kind, named in (
        (AnnotateRequest, NamedAnnotateRequest),
        (FeedbackRequest, NamedFeedbackRequest),
        (InferRequest, None),
    ):
        for example in kind.model_json_schema()["examples"]:
            body = json.dumps(example).encode()
            assert parse_either(kind, named, body) if named else parse_json(kind, body)
