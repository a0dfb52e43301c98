"""docs/reference/http.md: every route of the scorer, from its OpenAPI document, and its metrics."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray.util.metrics import Metric

from distributed import serving
from distributed.serving.asgi import create_api
from distributed.serving.auth import OPEN, VARIABLE
from distributed.serving.config import ScorerConfig
from distributed.serving.haproxy_guard import _ERRORS as PROXY_ERRORS
from distributed.serving.schemas import ERRORS, MAX_CELLS
from distributed.serving.service import ScorerService
from docs.generate.markdown import GENERATED, cell

_ADDRESS = "localhost:8000"
_SERVING = Path(serving.__file__).parent
_BYTES = {
    "application/octet-stream": ("rows.f32", "", "float32 little-endian, B rows of D numbers"),
    "image/*": ("PICTURE.jpg", "image/jpeg", "one encoded picture, as it is in the file"),
}
"""Bodies that are no JSON: a file for the example, its Content-Type, what it holds."""


def http_page() -> str:
    api = create_api(None).openapi()  # type: ignore[arg-type]
    schemas = api["components"]["schemas"]
    routes = [(path, *route) for path, methods in api["paths"].items() for route in methods.items()]
    lines = [
        *("# The scorer over HTTP", ""),
        *("Which requests does the scorer answer, with what, and what do errors say?", ""),
        *(GENERATED, ""),
        f"`python -m jobs.serve --model OUT` listens on {_ADDRESS}; `GET /docs` shows the same to click on, "
        "`GET /openapi.json` gives it to programs. B rows, D numbers a row, k tags a row.",
        "",
        "| route | what it does |",
        "|---|---|",
        "| `GET /` | The page to try the scorer on. |",
        *(
            f"| [`{method.upper()} {path}`](#{_anchor(method, path)}) | {cell(route['description'])} |"
            for path, method, route in routes
        ),
        "",
        *_limits(),
        *_errors(),
    ]
    for path, method, route in routes:
        lines += _route(path, method, route, schemas)
    return "\n".join(lines) + "\n"


def _anchor(method: str, path: str) -> str:
    """As GitHub makes one of a heading."""
    return re.sub(r"[^\w -]", "", f"{method} {path}".lower()).replace(" ", "-")


def _limits() -> Iterator[str]:
    fields = ScorerConfig.model_fields
    yield from ("## Limits and the token", "")
    yield f"- A request has at most {fields['max_rows'].default:,} rows or pictures (`--max_rows`)."
    yield (
        f"- A body has at most {fields['max_body_mib'].default} MiB, as sent and unpacked "
        "(`--max_body_mib`). It may be packed: `Content-Encoding: gzip` or `deflate`."
    )
    yield f"- An answer has at most {MAX_CELLS:,} tags: rows times k."
    yield (
        f"- {fields['queue_rows'].default:,} rows may wait in a replica (`--queue_rows`); beyond, requests "
        "get 503."
    )
    yield (
        f"- With a token ({VARIABLE} or `--token_file`) every request needs the header "
        "`Authorization: Bearer TOKEN`, but for "
        f"{', '.join(f'`{path}`' for path in sorted({re.sub('^/page/.*', '/page/*', one) for one in OPEN}))}."
    )
    yield ""


def _errors() -> Iterator[str]:
    codes: dict[int, set[str]] = {status: set() for status in ERRORS}
    for status, code in _raised():
        codes[status].add(code)
    others = {
        401: ({"unauthorized"}, "no token, or another one"),
        405: ({"method_not_allowed"}, "the path is there, but not for this method"),
        500: ({"internal"}, "the scorer failed; its log says why"),
    }
    codes[404].add("not_found")
    for status, (code, _) in PROXY_ERRORS.items():
        codes.setdefault(status, set()).add(code)
    said = {**ERRORS, **{status: what for status, (_, what) in others.items()}}
    said[404] += ", or no such path"
    for status, (found, _) in others.items():
        codes.setdefault(status, set()).update(found)
    for status, (_, message) in PROXY_ERRORS.items():
        said.setdefault(status, f"from the proxy: {message}")
    yield from ("## Errors", "")
    yield 'Every error has the body `{"error": {"code": "WORD", "message": "one line for people"}}`.'
    yield "Where one row or picture of several is at fault, `row` says which: the others would do."
    yield from ("", "| status | `code` | what it means |", "|---|---|---|")
    for status in sorted(codes):
        words = ", ".join(f"`{code}`" for code in sorted(codes[status]))
        yield f"| {status} | {words} | {cell(said[status])} |"
    yield ""


def _raised() -> Iterator[tuple[int, str]]:
    """Status and code of each error that the scorer's files raise."""
    for file in sorted(_SERVING.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ApiError":
                status, code = (getattr(one, "value", None) for one in node.args[:2])
                if isinstance(status, int) and isinstance(code, str):
                    yield status, code


def _route(path: str, method: str, route: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield from (f"## {method.upper()} {path}", "", cell(route["description"]), "")
    yield from _curl(path, method, route)
    if parameters := route.get("parameters"):
        yield from ("Query:", "", "| name | value | default | |", "|---|---|---|---|")
        for one in parameters:
            default = "must be given" if one["required"] else _shown(one["schema"].get("default"))
            kind = _values(one["schema"], schemas)
            yield f"| `{one['name']}` | {kind} | {default} | {cell(one['description'])} |"
        yield ""
    body = route.get("requestBody", {}).get("content", {})
    for media, described in body.items():
        if media == "application/json":
            yield from ("Body, `application/json`:", "")
            yield from _fields(described["schema"], schemas, asked=True)
            if rule := described["schema"].get("oneOf"):
                names = " or ".join(f"`{one['required'][0]}`" for one in rule)
                yield from (f"Exactly one of {names} must be given.", "")
        else:
            yield from (f"Body, `{media}`: {_BYTES[media][2]}.", "")
    for media, described in route["responses"]["200"].get("content", {}).items():
        if media == "application/json":
            yield from ("Answer, 200:", "")
            yield from _fields(described["schema"], schemas)
        elif media == "text/plain":
            yield from ("Answer, 200, in Prometheus' text format:", "", *_metrics(), "")
    errors = [status for status in route["responses"] if status != "200"]
    if errors:
        yield from (f"Errors: {', '.join(f'[{status}](#errors)' for status in errors)}.", "")


def _curl(path: str, method: str, route: dict[str, Any]) -> Iterator[str]:
    needed = [one for one in route.get("parameters", ()) if one["required"]]
    query = "&".join(f"{one['name']}={one['schema']['examples'][0]}" for one in needed)
    address = f"{_ADDRESS}{path}" + (f"?{query}" if query else "")
    words = ["curl", "-s", address]
    for media, described in route.get("requestBody", {}).get("content", {}).items():
        if media == "application/json":
            body = ["-d", _example(described["schema"])]
            kind = media
        else:
            file, kind, _ = _BYTES[media]
            body = ["--data-binary", f"@{file}"]
        yield "    " + shlex.join([*words, "-H", f"Content-Type: {kind or media}", *body])
    if method == "get":
        yield "    " + shlex.join(words)
    yield ""
    if method == "post":
        yield (
            "The numbers stand for a model with D = 2. `GET /v1/model` says D of yours, `GET /v1/examples` "
            "gives rows that fit it."
        )
        yield ""


def _example(schema: dict[str, Any]) -> str:
    """JSON of the body's example, its fields in the order of the tables."""
    example = schema["examples"][0]
    return json.dumps({name: example[name] for name in schema["properties"] if name in example})


def _fields(schema: dict[str, Any], schemas: dict[str, Any], asked: bool = False) -> Iterator[str]:
    yield "| field | value | | |" if asked else "| field | value | |"
    yield "|---|---|---|---|" if asked else "|---|---|---|"
    for name, one, must in _leaves(schema, schemas):
        needed = f" {'must be given' if must else ''} |" if asked else ""
        yield f"| `{name}` | {_values(one, schemas)} |{needed} {cell(one['description'])} |"
    yield ""


def _leaves(
    schema: dict[str, Any], schemas: dict[str, Any], above: str = ""
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Each field by its dotted name, fields of objects in lists and objects after them."""
    schema = _looked_up(schema, schemas)
    for name, one in schema.get("properties", {}).items():
        yield f"{above}{name}", one, name in schema.get("required", ())
        forms = [_looked_up(form, schemas) for form in one.get("anyOf", [one])]
        for form in forms:
            if form.get("type") == "array":
                yield from _leaves(form["items"], schemas, f"{above}{name}[].")
            else:
                yield from _leaves(form, schemas, f"{above}{name}.")


def _looked_up(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    if name := str(schema.get("$ref", "")).rpartition("/")[2]:
        return schemas[name]
    return schema


def _values(schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    """What a value may be, in words, with its limits."""
    if "anyOf" in schema:
        return " or ".join(_values(one, schemas) for one in schema["anyOf"])
    schema = _looked_up(schema, schemas)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        inner = _values(schema["items"], schemas)
        few, many = schema.get("minItems", 0), schema.get("maxItems")
        size = f" ({few} to {many})" if many and few != many else f" ({many})" if many else ""
        return f"list{size} of {inner}"
    if kind == "object":
        rows = schema.get("additionalProperties")
        return f"object of {_values(rows, schemas)}" if isinstance(rows, dict) else "object"
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None and abs(high) > 1e38:
        low, high = None, None  # as far as float32 goes
    if kind == "string":
        few, many = schema.get("minLength", 0), schema.get("maxLength")
        return f"text, {few} to {many:,} characters" if many else "text"
    named = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    limits = f", {low:,} to {high:,}" if low is not None and high is not None else ""
    if "exclusiveMinimum" in schema:
        limits = f", above {schema['exclusiveMinimum']}, at most {high}"
    return named.get(str(kind), "`null`" if kind == "null" else "any") + limits


def _shown(value: Any) -> str:
    return "" if value is None else f"`{value}`" if value != "" else "empty"


def _metrics() -> Iterator[str]:
    """A line for each metric that a scorer declares."""
    declared: dict[str, Any] = {}
    plain = Metric.__init__

    def noted(self: Any, name: str, description: str = "", tag_keys: Any = None) -> None:
        plain(self, name, description, tag_keys)
        declared[name] = self

    with patch.object(Metric, "__init__", noted):
        ScorerService(ScorerConfig(model="OUT"))
    yield from ("| name | kind | labels | |", "|---|---|---|---|")
    for name, metric in sorted(declared.items()):
        kind = type(metric).__name__.lower()
        end = {"counter": "_total", "histogram": "_bucket"}.get(kind, "")
        labels = ", ".join(f"`{key}`" for key in metric.info["tag_keys"])
        yield f"| `ray_{name}{end}` | {kind} | {labels} | {cell(metric.info['description'])} |"
    yield from ("", "Metrics of Ray Serve, `ray_serve_*`, follow; Ray documents them.")
