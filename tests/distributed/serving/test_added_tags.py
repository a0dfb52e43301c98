"""Tags that are added by name at a running scorer."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distributed.data.added_names import FOLDER, AddedNames, NameReader, append_names
from distributed.data.feedback import Correction, append
from distributed.driver import train, update
from distributed.driver.in_process import launch
from distributed.driver.update_config import UpdateConfig
from distributed.serving.asgi import create_app
from distributed.serving.config import ScorerConfig
from distributed.serving.service import ScorerService
from distributed.training.config import TrainConfig, with_option
from drel_core.bundle.format import read_info, read_vocabulary
from drel_core.errors import InputError
from tests.helpers.named_store import TEXT, NamedStore, write_named
from tests.helpers.training import small_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NamedStore]:
    """A training folder whose model keeps text vectors."""
    folder = tmp_path_factory.mktemp("added")
    store = write_named(folder / "store")
    config: TrainConfig = small_config(store.train, folder / "v0", epochs=4)
    config = with_option(config, "tags.text", str(store.vectors))
    config = replace(config, model=replace(config.model, tag_tower="none", metric="none"))
    train.run(config, log=lambda line: None, launcher=launch)
    return folder / "v0", store


Ask = Callable[..., Awaitable[tuple[int, Any]]]


def serving(
    path: Path, feedback: Path, act: Callable[[Ask, ScorerService], Awaitable[None]]
) -> None:
    """What a replica of a scorer answers, without a server."""

    async def run() -> None:
        service = ScorerService(ScorerConfig(model=str(path), feedback=str(feedback)))
        service.metrics.record = lambda *_: None  # type: ignore[method-assign]
        app = create_app(service)
        await service.model.follow(str(path), poll_seconds=0.05)

        async def ask(method: str, where: str, content: Any = None) -> tuple[int, Any]:
            return await request(app, method, where, content)

        await act(ask, service)

    asyncio.run(run())


async def request(app: Any, method: str, where: str, content: Any) -> tuple[int, Any]:
    sent: list[Any] = []
    coming = [{"type": "http.request", "body": json.dumps(content).encode(), "more_body": False}]

    async def receive() -> Any:
        return coming.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    path, _, query = where.partition("?")
    scope = {
        **{"type": "http", "http_version": "1.1", "method": method, "scheme": "http"},
        **{"path": path, "query_string": query.encode(), "root_path": ""},
        **{"client": None, "server": None, "headers": [(b"content-type", b"application/json")]},
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def rows_with(store: NamedStore, tag: str) -> list[list[float]]:
    table = pq.read_table(store.test)
    rows = zip(table.column("features").to_pylist(), table.column("tags").to_pylist(), strict=True)
    return [features for features, tags in rows if tag in tags][:4]


def test_a_tag_is_there_when_it_is_answered(model: tuple[Path, NamedStore], tmp_path: Path) -> None:
    """By name it is found on images, marked; known from a restart on, and by other replicas."""
    path, store = model
    first, second = store.unseen[:2]
    version = read_info(path / "model").version
    rows = rows_with(store, first)

    async def said(ask: Ask) -> tuple[str, dict[str, Any]]:
        _, answer = await ask("POST", "/v1/annotate", {"features": rows, "k": 40})
        return answer["model"], {one["tag"]: one for one in answer["results"][0]["tags"]}

    async def add(ask: Ask, service: ScorerService) -> None:
        answers, tags = await said(ask)
        assert answers == version and first not in tags
        assert all("unseen" not in one for one in tags.values())
        status, answer = await ask("POST", "/v1/tags", {"tags": [first, f" {first} ", "name 00x"]})
        assert (status, answer["added"], answer["known"]) == (200, [first], ["name 00x"])
        assert answer["model"].startswith(f"{version}.names-")
        answers, tags = await said(ask)
        assert answers == answer["model"] and tags[first]["unseen"] is True
        assert 0 < tags[first]["score"] < 1 and "unseen" not in tags["name 00x"]
        _, listed = await ask("GET", f"/v1/tags?prefix={first.replace(' ', '%20')}")
        assert listed["tags"] == [{"tag": first, "count": 0, "unseen": True}]
        again = await ask("POST", "/v1/tags", {"tags": [first]})
        assert again == (200, {"model": answers, "added": [], "known": [first]})
        assert len(list((tmp_path / FOLDER).iterdir())) == 1

    async def restarted(ask: Ask, service: ScorerService) -> None:
        answers, tags = await said(ask)
        assert tags[first]["unseen"] is True and answers.startswith(f"{version}.names-")
        # What another replica keeps is taken up.
        other = ScorerService(service.config)
        await other.model.follow(str(path), poll_seconds=60)
        other.added.keep([second], other.model.ready())
        for _ in range(200):
            if second in (await said(ask))[1]:
                break
            await asyncio.sleep(0.05)
        assert (await said(ask))[1][second]["unseen"] is True

    serving(path, tmp_path, add)
    serving(path, tmp_path, restarted)


def test_an_update_takes_them_along(model: tuple[Path, NamedStore], tmp_path: Path) -> None:
    path, store = model
    (name, *_) = store.unseen

    async def add(ask: Ask, service: ScorerService) -> None:
        assert (await ask("POST", "/v1/tags", {"tags": [name]}))[0] == 200

    feedback = tmp_path / "feedback"
    serving(path, feedback, add)
    row_D = np.array(rows_with(store, name)[0], dtype=np.float32)
    append(str(feedback), [Correction("x", row_D, [name], [], "v")])

    def learned(out: Path, **options: Any) -> Any:
        lines: list[str] = []
        config = UpdateConfig(
            model=str(path), out=str(out), from_feedback=str(feedback), epochs=1, **options
        )
        update.run(config, lines.append, launcher=launch)
        assert any("1 tag added by name at the scorer" in line for line in lines)
        return read_vocabulary(out / "model")

    vocabulary = learned(tmp_path / "v1")  # with the correction
    assert (vocabulary.names[-1], vocabulary.counts[-1]) == (name, 1)
    for file in feedback.glob("*.parquet"):
        file.unlink()
    vocabulary = learned(tmp_path / "v2")  # by name alone
    assert (vocabulary.names[-1], vocabulary.counts[-1]) == (name, 0)

    async def taken(ask: Ask, service: ScorerService) -> None:
        """The bundle has the name: nothing is added to it."""
        assert service.model.version == read_info(tmp_path / "v2" / "model").version

    serving(tmp_path / "v2", feedback, taken)


def test_rules_that_a_model_got_later_hold_for_names(
    model: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    """A name that was added is blocked or another spelling by now, as after jobs.tags --rename."""
    path, store = model
    names, feedback = store.unseen[:3], tmp_path / "feedback"
    append_names(str(feedback), AddedNames(str(store.vectors), names, torch.eye(3, TEXT)))
    shutil.copytree(path / "model", tmp_path / "v1" / "model")
    (tmp_path / "v1" / "model" / "vocabulary.yaml").write_text(
        f"aliases:\n  {names[0]}: name 00x\n  {names[2]}: a word\nblocked: [{names[1]}]\n"
    )

    async def listed(ask: Ask, service: ScorerService) -> None:
        _, found = await ask("GET", "/v1/tags?limit=1000")
        tags = [one["tag"] for one in found["tags"]]
        assert "a word" in tags and not {*names} & {*tags}
        assert len(service.model.ready().names) == len(read_vocabulary(path / "model")) + 1

    serving(tmp_path / "v1", feedback, listed)
    config = UpdateConfig(
        model=str(tmp_path / "v1"), out=str(tmp_path / "v2"), from_feedback=str(feedback)
    )
    update.run(config, lambda line: None, launcher=launch)
    before, after = (read_vocabulary(tmp_path / one / "model").names for one in ("v1", "v2"))
    assert after == (*before, "a word")


def test_what_cannot_be_added_is_said(model: tuple[Path, NamedStore], tmp_path: Path) -> None:
    path, store = model
    plain = tmp_path / "plain"
    shutil.copytree(path / "model", plain / "model")
    (plain / "model" / "tag_text.safetensors").unlink()
    config = json.loads((plain / "model" / "config.json").read_text())
    del config["text"]
    (plain / "model" / "config.json").write_text(json.dumps(config))

    async def refused(ask: Ask, service: ScorerService) -> None:
        version = service.model.version
        for tags, code in (
            (["no such", store.unseen[0], "nor <b>this</b>"], "no_vector"),
            ([], "invalid_request"),
            (["  "], "invalid_request"),
            (["x" * 1001], "invalid_request"),
            ([1], "invalid_request"),
            ("sky", "invalid_request"),
            (["a"] * 1001, "invalid_request"),
        ):
            status, answer = await ask("POST", "/v1/tags", {"tags": tags})
            assert (status, answer["error"]["code"]) == (422, code), answer
        _, answer = await ask("POST", "/v1/tags", {"tags": ["no such", store.unseen[0]]})
        assert "'no such'" in answer["error"]["message"]
        assert store.unseen[0] not in answer["error"]["message"]
        assert service.model.version == version and not (tmp_path / "f" / FOLDER).exists()

    async def without(ask: Ask, service: ScorerService) -> None:
        status, answer = await ask("POST", "/v1/tags", {"tags": [store.unseen[0]]})
        assert (status, answer["error"]["code"]) == (422, "no_text")

    serving(path, tmp_path / "f", refused)
    serving(plain, tmp_path / "f", without)


def test_a_damaged_file_does_not_stop_the_scorer(
    model: tuple[Path, NamedStore], tmp_path: Path
) -> None:
    path, store = model
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "tags-1.json").write_text('{"source": 1}')

    async def answers(ask: Ask, service: ScorerService) -> None:
        rows = rows_with(store, store.unseen[0])
        assert (await ask("POST", "/v1/annotate", {"features": rows}))[0] == 200

    serving(path, tmp_path, answers)
    with pytest.raises(InputError, match=r"tags-1\.json: damaged"):
        NameReader(str(tmp_path)).files()
