"""README, docs and cluster/ say what is there: what is generated is fresh, what is described exists."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, get_args, get_origin

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
from docs import reading_ease
from docs.generate.__main__ import DOCS, PAGES
from jobs.__main__ import verbs
from jobs.parsers import parser_of
from tests.helpers import markdown
from tests.helpers.commands import ROOT


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


PAGES_READ = {page.relative_to(ROOT).as_posix(): page for page in markdown.pages(ROOT)}
every_page = pytest.mark.parametrize("name", PAGES_READ)


def text_of(name: str) -> str:
    return PAGES_READ[name].read_text("utf-8")


@every_page
def test_links_lead_somewhere(name: str) -> None:
    dead = []
    for link in markdown.links(text_of(name)):
        if re.match(r"[a-z]+:", link):
            if not re.fullmatch(r"(https?://[\w.-]+(:\d+)?(/\S*)?|mailto:\S+@\S+)", link):
                dead.append(link)
            continue
        file, _, anchor = link.partition("#")
        target = (PAGES_READ[name].parent / file).resolve() if file else PAGES_READ[name]
        inside = target.is_relative_to(ROOT) and target.exists()
        if not inside or (anchor and anchor not in markdown.anchors(target.read_text("utf-8"))):
            dead.append(link)
    assert dead == []


def test_a_dead_link_is_seen() -> None:
    text = "[a](b.md#c) ![d](e.png) `[no](code)` [![f](g.svg)](h.md)\n\n    [no](block)\n"
    assert markdown.links(text) == ["b.md#c", "e.png", "h.md"]
    assert markdown.anchors("# A `b.c` (d)\n## Same\n## Same\n```\n# no\n```\n") == {
        "a-bc-d",
        "same",
        "same-1",
    }


@pytest.mark.parametrize("name", [name for name in PAGES_READ if name.startswith("docs/")])
def test_a_page_begins_with_what_it_answers(name: str) -> None:
    """After the title one paragraph of one sentence, a question."""
    head, first = text_of(name).split("\n\n")[:2]
    assert re.fullmatch(r"# [^\n]+", head.strip())
    assert first.rstrip().endswith("?"), f"{name} begins with {first[:80]!r}"
    assert len(reading_ease.sentences(first)) == 1
    assert reading_ease.words(first) <= reading_ease.MOST_WORDS


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_sentences_are_short(name: str) -> None:
    found = reading_ease.sentences(text_of(name))
    assert [one for one in found if reading_ease.words(one) > reading_ease.MOST_WORDS] == []


def test_a_long_sentence_is_seen() -> None:
    long = "word " * 36
    text = f"# T {long}\n\n{long}.\n- {long}. `jobs.x` {long}\n\n    {long}\n\n```\n{long}\n```\n| {long} |\n"
    found = reading_ease.sentences(text)
    assert [reading_ease.words(one) for one in found] == [36, 36, 37]
    assert [reading_ease.words(one) for one in reading_ease.sentences("A `b c d` (e) — f. g?")] == [
        5
    ]
    assert reading_ease.sentences("One. `two` is. Three.") == ["One.", "two is.", "Three."]


def test_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 130


def actions_of(verb: str) -> dict[str, Any]:
    return {
        name: one
        for _, actions in parser_of(verb).sections()
        for one in actions
        for name in one.option_strings
    }


def wrong_in(module: str, words: list[str]) -> list[str]:
    """Options of a call that are not there, and choices that are not allowed. Words in capitals, and what
    stands in brackets or is left out (…), may be anything."""
    package, _, verb = module.partition(".")
    if package == "benchmarks":
        source = ROOT / "benchmarks" / f"{verb}.py"
        if not source.is_file():
            return [module]
        text = source.read_text("utf-8")
        given = [
            word.partition("=")[0].strip("[]") for word in words if word.strip("[").startswith("--")
        ]
        return [f"{module} {one}" for one in given if f'"{one}"' not in text]
    if not verb.isupper() and verb not in verbs():
        return [module]
    known = actions_of(verb)
    if verb == "update":
        known["--data"] = known["--data.new"]  # short for it
    wrong = []
    for place, word in enumerate(words):
        name, mark, value = word.strip("[]").partition("=")
        if not name.startswith("--"):
            continue
        name = "--" + name[2:].replace("-", "_")
        if name not in known:
            wrong.append(f"{module} {name}")
            continue
        value = value if mark else (words[place + 1 :] or [""])[0].strip("[]")
        hint = getattr(known[name], "_typehint", None)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        if choices and value and not value.isupper() and "|" not in value and value not in choices:
            wrong.append(f"{module} {name} {value}")
    return wrong


SAYS_WHAT_WAS = ("CHANGELOG.md", "docs/log.md")
pages_of_today = pytest.mark.parametrize(
    "name", [name for name in PAGES_READ if name not in SAYS_WHAT_WAS]
)


@pages_of_today
def test_commands_are_there_with_their_options(name: str) -> None:
    text = text_of(name)
    pieces = markdown.code_pieces(text)
    calls = [
        call for line in [*markdown.code_lines(text), *pieces] for call in markdown.jobs_calls(line)
    ]
    calls += [  # without `python -m`, as sentences name them
        (words[0], words[1:])
        for piece in pieces
        for words in markdown.commands(piece)
        if words and re.fullmatch(r"(jobs|benchmarks)\.[a-z_]+", words[0]) and len(words) > 1
    ]
    assert [one for call in calls for one in wrong_in(*call)] == []


def completed(verb: str, words: list[str]) -> list[str]:
    """The arguments of a call: 1 where a number in capitals stands, and without `--config FILE`."""
    known = actions_of(verb)
    words = [word.strip("[]") for word in words if word not in ("…", "...")]
    done: list[str] = []
    for word in words:
        last = done[-1].replace("-", "_").replace("__", "--", 1) if done else ""
        hint = getattr(known.get(last), "_typehint", None)
        if last == "--config":
            done.pop()
        elif word.isupper() and {int, float} & {hint, *get_args(hint)}:
            done.append("1")
        else:
            done.append(word)
    return done


@pages_of_today
def test_commands_of_code_blocks_parse(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole commands: what must be given is there, and every value has its type."""
    monkeypatch.chdir(ROOT)
    for line in markdown.code_lines(text_of(name)):
        for module, words in markdown.jobs_calls(line):
            package, _, verb = module.partition(".")
            if package == "jobs" and verb in verbs() and not {"--help", "-h"} & {*words}:
                try:
                    parser_of(verb, completed(verb, words), check=True)
                except SystemExit:
                    pytest.fail(f"{name}: {line}\n{capsys.readouterr().err}")


def test_a_wrong_command_is_seen() -> None:
    line = "  .venv/bin/python -m jobs.train --data.train X --optm.lr 1 --method dril"
    calls = list(markdown.jobs_calls(f"{line} && python -m jobs serve --k 3 # x"))
    assert [call[0] for call in calls] == ["jobs.train", "jobs.serve"]
    assert [one for call in calls for one in wrong_in(*call)] == [
        "jobs.train --optm.lr",
        "jobs.train --method dril",
        "jobs.serve --k",
    ]
    assert wrong_in("jobs.trian", []) == ["jobs.trian"]
    assert wrong_in("jobs.train", ["--method", "METHOD", "[--preset=paper]"]) == []
    assert wrong_in("benchmarks.update", ["--seeds", "0", "--sedes"]) == [
        "benchmarks.update --sedes"
    ]


@pages_of_today
def test_targets_of_make_are_there(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    text = text_of(name)
    code = [*markdown.code_lines(text), *markdown.code_pieces(text)]
    named = {
        words[1]
        for line in code
        for words in markdown.commands(line)
        if len(words) > 1 and words[0] == "make" and "=" not in words[1]
    }
    assert named <= targets


@pages_of_today
def test_files_that_are_named_are_there(name: str) -> None:
    files = [
        f"/{file.relative_to(ROOT).as_posix()}"
        for folder in (
            "jobs",
            "distributed",
            "drel_core",
            "benchmarks",
            "cluster",
            "tests",
            "docs",
            "examples",
        )
        for file in (ROOT / folder).rglob("*.py")
    ]
    missing = [
        file
        for file in re.findall(r"(?<![\w./*{])((?:\w+/)*\w+\.py)\b", text_of(name))
        if not re.search(r"[A-Z]{3}", file) and not any(one.endswith(f"/{file}") for one in files)
    ]
    assert missing == []


@pytest.mark.parametrize("name", ["docs/benchmarks.md", "docs/performance.md", "docs/results.md"])
def test_figures_have_a_command_and_a_commit(name: str) -> None:
    """Each part of a page that has a table of figures, or a part above it, names both."""
    without = []
    for heading, text in markdown.sections(text_of(name)):
        if not re.search(r"^\|.*\d.*\|\s*$", text, re.MULTILINE):
            continue
        if not re.search(r"python -m (jobs|benchmarks)|\b(jobs|benchmarks)\.[a-z_]+ --", text):
            without.append(f"{heading}: command")
        if not re.search(r"\bcommits?( \|)? `[0-9a-f]{7,40}`", text):
            without.append(f"{heading}: commit")
    assert without == []


def test_every_page_is_in_the_list_for_programs() -> None:
    listed = {
        (DOCS / link).resolve() for link in markdown.links((DOCS / "llms.txt").read_text("utf-8"))
    }
    assert listed == {page.resolve() for page in PAGES_READ.values()}
