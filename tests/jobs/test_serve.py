"""The scorer over HTTP: one server, real requests."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmarks.processes import command_line, descendants
from distributed.bundles.locate import publish
from distributed.data.feedback import read_feedback
from drel_core.annotators.base import choose, decision_of
from drel_core.annotators.load import load_bundle
from tests.conftest import Job
from tests.helpers.bundles import random_decider, write_drel
from tests.helpers.server import Server, serving, start

D = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    versions = tmp_path_factory.mktemp("versions")
    write_drel(versions / "v1", decider=random_decider(12))
    write_drel(versions / "plain", seed=2)
    publish(versions, "v1")
    options = ("--poll_seconds", "0.3", "--queue_rows", "64", "--max_body_mib", "1")
    with serving(versions, *options) as running:
        yield running


def rows(count: int, dim: int = D, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def test_every_route_of_the_interface_answers(server: Server) -> None:
    version = load_bundle(server.versions / "v1").info.version
    status, model, _ = server.ask("/v1/model")
    assert status == 200
    assert {**model, "trained_at": "", "metrics": {}} == {
        "version": version,
        "method": "drel",
        "tags": 12,
        "D": D,
        "columns": [{"name": "features", "D": D}],
        "trained_at": "",
        "metrics": {},
        "takes": ["features"],
        "decisions": ["top", "macro", "threshold"],
        "probabilities": True,
        "search": None,
        "limits": {"rows": 1024, "body_bytes": 1 << 20},
        "groups": [],
        "languages": [],
        "pictures": False,
        "parent": None,
        "refused": None,
    }
    for path, body in (("/v1/pictures?image_id=a", None), ("/v1/similar", {"features": [0.0] * D})):
        status, answer, _ = server.ask(path, body)  # what nobody asked for by --pictures
        assert (status, answer["error"]["code"]) == (404, "no_pictures")
    status, tags, _ = server.ask("/v1/tags?prefix=TAG-1&limit=1")
    assert (status, tags["tags"]) == (200, [{"tag": "tag-11", "count": 12}])
    assert server.ask("/v1/neighbours?tag=tag-03&limit=4")[1]["model"] == version
    assert server.ask("/v1/health/live")[1]["status"] == "live"
    assert server.ask("/v1/health/ready")[:2] == (200, {"status": "ready", "model": version})
    assert server.ask("/v2/health/live")[0] == server.ask("/v2/health/ready")[0] == 200
    assert server.ask("/v2/models/drel")[1]["versions"] == [version]
    assert server.ask("/v2/models/drel/ready")[0] == 200
    assert "/v1/annotate" in server.ask("/openapi.json")[1]["paths"]
    for page in ("/", "/docs"):
        status, text, _ = server.ask(page)
        assert status == 200 and "html" in text
    assert server.ask("/v1/examples")[0] == 200


def test_served_top_k_is_the_offline_scorers(server: Server) -> None:
    """Invariant 7, by rows sent alone and together, as JSON, as bytes and by the open protocol."""
    features_BD = rows(300)
    annotator = load_bundle(server.versions / "v1")
    score_Bk, tag_Bk = annotator.annotate(torch.from_numpy(features_BD), 7)
    names = np.array(annotator.vocabulary.names)[tag_Bk.numpy()]

    def check(start: int, results: list[dict[str, Any]]) -> None:
        for row, result in enumerate(results, start):
            assert [tag["tag"] for tag in result["tags"]] == names[row].tolist()
            assert [tag["score"] for tag in result["tags"]] == pytest.approx(
                score_Bk[row].tolist(), abs=1e-5
            )

    def alone(row: int) -> None:
        content = {"features": features_BD[row : row + 1].tolist(), "k": 7}
        check(row, server.ask("/v1/annotate", content)[1]["results"])

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(alone, range(100)))
    for start_row in range(0, 300, 50):
        part = features_BD[start_row : start_row + 50]
        check(
            start_row, server.ask("/v1/annotate", {"features": part.tolist(), "k": 7})[1]["results"]
        )
        answer = server.ask("/v1/annotate?k=7", part.tobytes(), "application/octet-stream")[1]
        check(start_row, answer["results"])
    tensor = {
        "name": "x",
        "shape": [2, D],
        "datatype": "FP32",
        "data": features_BD[:2].ravel().tolist(),
    }
    answer = server.ask("/v2/models/drel/infer", {"inputs": [tensor], "parameters": {"k": 7}})[1]
    assert answer["outputs"][0]["data"] == names[:2].ravel().tolist()


def test_served_top_k_is_the_offline_scorers_on_corel5k(guarded: Server, shared_data: Path) -> None:
    """Every test row. The model's weights are random: which tags come out does not matter."""
    store = pq.read_table(shared_data / "corel5k-cnn1280" / "test.parquet")
    features_BD = store.column("features").combine_chunks().flatten().to_numpy().reshape(-1, 1280)
    model = write_drel(guarded.versions / "corel5k", dim=1280, tags=374)
    _, tag_Bk = load_bundle(model).annotate(torch.from_numpy(features_BD.copy()), 5)
    before = guarded.ask("/v1/model")[1]["version"]
    publish(guarded.versions, "corel5k")
    try:
        guarded.wait_for("version", load_bundle(model).info.version)
        kind = "application/octet-stream"
        answer = guarded.ask("/v1/annotate?k=5", features_BD.tobytes(), kind)[1]
    finally:
        publish(guarded.versions, "v1")
    guarded.wait_for("version", before)
    found = [[tag["tag"] for tag in result["tags"]] for result in answer["results"]]
    assert found == [[f"tag-{tag:02d}" for tag in row] for row in tag_Bk.tolist()]
    assert len(found) == 499


@pytest.mark.parametrize("query", ["", "?k=3", "?k=999", "?k=0", "?k=1001", "?k=x"])
@pytest.mark.parametrize("size", [2, 0, 201])
def test_the_short_path_and_the_router_answer_alike(server: Server, query: str, size: int) -> None:
    """A query that says nothing (``&``) sends the request through FastAPI's router."""
    body = rows(max(size, 1)).tobytes()[: size * D * 4 if size < 200 else -1]
    path, kind = "/v1/annotate", "application/octet-stream"
    short = server.ask(f"{path}{query}", body, kind)
    routed = server.ask(f"{path}{query or '?'}&", body, kind)
    assert short[:2] == routed[:2]
    assert short[2].get("content-type") == routed[2].get("content-type")


@pytest.mark.parametrize(
    ("wanted", "k"),
    [
        ({}, 5),
        ({"k": 12, "threshold": 0.25}, 12),
        ({"decide": "macro"}, 5),
        ({"decide": "macro", "k": 3, "threshold": 0.1}, 3),
        ({"decide": "threshold"}, 50),
        ({"decide": "threshold", "k": 2}, 2),
        ({"decide": "threshold", "precision": 0.6}, 50),
    ],
)
def test_served_decisions_are_the_librarys(server: Server, wanted: dict[str, Any], k: int) -> None:
    """By rows together and alone, as JSON and as bytes."""
    features_BD = rows(40)
    annotator = load_bundle(server.versions / "v1")
    decision = decision_of(annotator, wanted.get("decide", "top"), wanted.get("precision"))
    chosen = choose(annotator, torch.from_numpy(features_BD), k, decision)
    keep_Bk = (chosen.ids >= 0) & (chosen.probability_Bk >= wanted.get("threshold", 0))
    names = annotator.vocabulary.names
    expected = [
        [(names[t], s) for t, s, keep in zip(*row, strict=True) if keep]
        for row in zip(
            chosen.tag_Bk.tolist(), chosen.probability_Bk.tolist(), keep_Bk.tolist(), strict=True
        )
    ]
    query = urlencode(wanted)
    found = [
        server.ask("/v1/annotate", {**wanted, "features": features_BD.tolist()}),
        server.ask(f"/v1/annotate?{query}", features_BD.tobytes(), "application/octet-stream"),
    ]
    for row in range(5):
        one = {**wanted, "features": features_BD[row : row + 1].tolist()}
        found.append(server.ask("/v1/annotate", one))
    for (status, answer, _), rows_of in zip(
        found, [expected, expected, *([row] for row in expected[:5])], strict=True
    ):
        assert status == 200
        for result, pairs in zip(answer["results"], rows_of, strict=True):
            assert [tag["tag"] for tag in result["tags"]] == [name for name, _ in pairs]
            scores = [score for _, score in pairs]
            assert [tag["score"] for tag in result["tags"]] == pytest.approx(scores, abs=1e-6)


def test_a_model_without_probabilities_says_what_it_cannot_decide(server: Server) -> None:
    before = server.ask("/v1/model")[1]["version"]
    plain = load_bundle(server.versions / "plain").info.version
    publish(server.versions, "plain")
    try:
        server.wait_for("version", plain)
        model = server.ask("/v1/model")[1]
        answers = [
            server.ask("/v1/annotate", {"features": rows(1).tolist(), "decide": "macro"}),
            server.ask(
                "/v1/annotate?decide=threshold", rows(1).tobytes(), "application/octet-stream"
            ),
        ]
        top = server.ask("/v1/annotate", {"features": rows(1).tolist(), "decide": "top"})
    finally:
        publish(server.versions, "v1")
        server.wait_for("version", before)
    assert (model["decisions"], model["probabilities"]) == (["top"], False)
    for status, answer, _ in answers:
        assert (status, answer["error"]["code"]) == (422, "cannot_decide")
        assert "it can only decide by top" in answer["error"]["message"]
    assert top[0] == 200 and len(top[1]["results"][0]["tags"]) == 5


@pytest.mark.parametrize(
    ("path", "content", "kind", "status", "code"),
    [
        ("/v1/annotate", {"features": [[1, 2]]}, "application/json", 422, "wrong_dimension"),
        ("/v1/annotate", b'{"features": [[NaN]]}', "application/json", 422, "invalid_request"),
        ("/v1/annotate", {"features": []}, "application/json", 422, "empty"),
        ("/v1/annotate", b"", "application/json", 400, "invalid_json"),
        ("/v1/annotate", b'{"features"', "application/json", 400, "invalid_json"),
        (
            "/v1/annotate",
            {"features": [[0] * D], "decide": "threshold", "precision": 2},
            "application/json",
            422,
            "invalid_request",
        ),
        (
            "/v1/annotate",
            {"features": [[0] * D], "precision": 0.5},
            "application/json",
            422,
            "invalid_request",
        ),
        (
            "/v1/annotate",
            {"features": [[0] * D], "decide": "threshold", "precision": 1},
            "application/json",
            422,
            "cannot_decide",
        ),
        (
            "/v1/annotate?decide=none",
            b"\0" * 32,
            "application/octet-stream",
            422,
            "invalid_request",
        ),
        ("/v1/annotate", b"\0" * 33, "application/octet-stream", 400, "truncated"),
        ("/v1/annotate?k=0", b"\0" * 32, "application/octet-stream", 422, "invalid_request"),
        ("/v1/annotate", b"hello", "text/plain", 415, "unsupported_media_type"),
        ("/v1/annotate", b"\xff\xd8\xff", "image/jpeg", 422, "no_images"),
        ("/v1/annotate", b"", "image/png", 422, "empty"),
        ("/v1/annotate", b" " * (3 << 20), "application/json", 413, "too_large"),
        ("/v1/annotate", {"features": [[0] * D] * 1025}, "application/json", 413, "too_many_rows"),
        (
            "/v1/annotate",
            {"images": [base64.b64encode(b"x").decode()]},
            "application/json",
            422,
            "no_images",
        ),
        ("/v1/tags?limit=0", None, "", 422, "invalid_request"),
        ("/v1/neighbours?tag=none", None, "", 404, "unknown_tag"),
        ("/v1/nothing", None, "", 404, "not_found"),
        ("/v1/annotate", None, "", 405, "method_not_allowed"),
        (
            "/v1/feedback",
            {"image_id": "", "features": [0] * D, "add": ["x"]},
            "application/json",
            422,
            "invalid_request",
        ),
        ("/v1/feedback", {"image_id": "a", "features": [0] * D}, "application/json", 422, "empty"),
        (
            "/v1/feedback",
            {"image_id": "a", "features": [0] * D, "add": ["x"], "remove": ["x"]},
            "application/json",
            422,
            "invalid_request",
        ),
        ("/v2/models/drel/infer", {"inputs": []}, "application/json", 422, "invalid_request"),
    ],
)
def test_bad_requests_get_the_documented_errors(
    server: Server, path: str, content: Any, kind: str, status: int, code: str
) -> None:
    got, answer, _ = server.ask(path, content, kind)
    assert (got, answer["error"]["code"]) == (status, code)
    assert answer["error"]["message"] and "Traceback" not in answer["error"]["message"]
    assert server.ask("/v1/health/ready")[0] == 200


def test_more_than_may_wait_is_turned_away(server: Server) -> None:
    content = rows(60).tobytes()

    def send(_: int) -> tuple[int, dict[str, str]]:
        status, _answer, headers = server.ask("/v1/annotate", content, "application/octet-stream")
        return status, headers

    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(send, range(200)))
    assert {status for status, _ in answers} == {200, 503}
    assert all(
        {k.lower(): v for k, v in h.items()}["retry-after"] == "1" for s, h in answers if s == 503
    )


def test_feedback_is_on_disk_when_it_is_answered(server: Server) -> None:
    features_BD = rows(20, seed=5)

    def give(row: int) -> None:
        content = {
            "image_id": f"image-{row}",
            "features": features_BD[row].tolist(),
            "add": [f"new-{row}"],
        }
        assert server.ask("/v1/feedback", content)[:2] == (
            200,
            {"image_id": f"image-{row}", "kept": True},
        )
        assert f"image-{row}" in read().column("image_id").to_pylist()

    def read() -> Any:
        return read_feedback(str(server.versions / "feedback"), D)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(give, range(20)))
    table = read()
    assert len(table) == 20
    row = table.column("image_id").to_pylist().index("image-7")
    np.testing.assert_array_equal(table.column("features")[row].as_py(), features_BD[7])
    assert table.column("add")[row].as_py() == ["new-7"]


def test_requests_made_from_the_schema_find_no_fault(server: Server, tmp_path: Path) -> None:
    """No 5xx, and no answer that the schema does not describe. That D is fixed no schema says here,
    so that a request that fits the schema may still be refused."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{server.address}/openapi.json",
            "--checks",
            "all",
            "--exclude-checks",
            "positive_data_acceptance",
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "30",
            "--seed",
            "1",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "19 passed" in done.stdout


def test_a_new_version_takes_over_under_load_and_a_broken_one_does_not(server: Server) -> None:
    versions = server.versions
    first = load_bundle(versions / "v1").info.version
    names = tuple(f"tag-{tag:02d}" for tag in range(12))
    write_drel(versions / "v2", seed=3, names=(*names, "brand new"))
    second = load_bundle(versions / "v2").info.version
    stop = threading.Event()
    seen: list[tuple[int, str, int]] = []

    def load(seed: int) -> None:
        content = {"features": rows(1, seed=seed).tolist(), "k": 20}
        while not stop.is_set():
            status, answer, _ = server.ask("/v1/annotate", content)
            tags = answer["results"][0]["tags"] if status == 200 else []
            seen.append((status, answer.get("model", ""), len(tags)))

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.5)
        publish(versions, "v2")
        server.wait_for("version", second)
        shutil.copytree(versions / "v2", versions / "v3")
        (versions / "v3" / "model.safetensors").write_bytes(b"broken")
        about = json.loads((versions / "v3" / "config.json").read_text())
        (versions / "v3" / "config.json").write_text(json.dumps({**about, "version": "other"}))
        publish(versions, "v3")
        until = time.monotonic() + 30
        while not (refused := server.ask("/v1/model")[1]["refused"]):
            assert time.monotonic() < until
            time.sleep(0.1)
        assert "damaged" in refused
        assert server.ask("/v1/model")[1]["version"] == second
        publish(versions, "v1")
        server.wait_for("version", first)
        server.wait_for("refused", None)
        time.sleep(0.3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {status for status, _, _ in seen} == {200}
    assert {(model, tags) for _, model, tags in seen} == {(first, 12), (second, 13)}
    order = [model for _, model, _ in seen]
    assert order[0] == order[-1] == first and second in order


def test_rows_by_the_name_of_their_column_are_scored_like_rows(server: Server) -> None:
    value_BD = rows(3).tolist()
    flat = server.ask("/v1/annotate", {"features": value_BD})
    named = server.ask("/v1/annotate", {"features": {"features": value_BD}})
    assert named[:2] == flat[:2] and flat[0] == 200
    status, answer, _ = server.ask("/v1/annotate", {"features": {"cnn": value_BD}})
    assert status == 422 and "features.cnn: no column of this model" in answer["error"]["message"]


def test_metrics_count_requests(server: Server) -> None:
    until = time.monotonic() + 40
    while "ray_drel_requests_total{" not in (text := server.ask("/metrics")[1]):
        assert time.monotonic() < until, text[:2000]
        time.sleep(1)
    assert "ray_drel_latency_ms_bucket" in text and "ray_drel_batch_rows" in text


def test_pictures_are_annotated_where_there_is_a_network(tmp_path: Path) -> None:
    from distributed.serving.model import ServedModel
    from drel_core.images.backbone import load_backbone

    model = ServedModel(str(write_drel(tmp_path / "m", dim=1280)), "efficientnet-lite0")
    assert model.takes_images and model.takes_features
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    )
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    backbone = load_backbone("efficientnet-lite0")
    expected = backbone(np.array([backbone.preprocessing.pixels(picture)]))
    np.testing.assert_allclose(model.features_of([buffer.getvalue()]), expected, atol=1e-5)


def test_a_port_that_is_taken_ends_in_one_line(tmp_path: Path, job: Job) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = job("serve", "--model", write_drel(tmp_path / "m"), "--port", port)
    assert done.returncode == 2
    assert f"--port {port}" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_a_model_ends_in_one_line(tmp_path: Path, job: Job) -> None:
    done = job("serve", "--model", tmp_path)
    assert done.returncode == 2
    assert "no model bundle" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_of_pictures_that_is_not_there_ends_in_one_line(tmp_path: Path, job: Job) -> None:
    model = write_drel(tmp_path / "m")
    done = job("serve", "--model", model, "--pictures", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "nowhere: no such folder" in done.stderr and done.stderr.count("\n") == 1


def replicas_of(process: int) -> int:
    """Scorers among the processes below one."""
    return sum("ServeReplica:drel" in command_line(one) for one in descendants(process))


@pytest.mark.heavy
def test_a_range_of_replicas_grows_under_load(tmp_path: Path) -> None:
    """--replicas 1:2: one answers until more than 32 requests wait, then two do; none fails."""
    names = tuple(f"t{tag}" for tag in range(50_000))
    model = write_drel(tmp_path / "model", names=names)
    running = start(model, "--replicas", "1:2", "--queue_rows", "100000", "--threads", "1")
    stop = threading.Event()
    statuses: list[int] = []

    def load(seed: int) -> None:
        body = rows(64, seed=seed).astype("<f4").tobytes()
        while not stop.is_set():
            statuses.append(running.ask("/v1/annotate?k=5", body, "application/octet-stream")[0])

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(80)]
    try:
        assert replicas_of(running.process.pid) == 1
        for thread in threads:
            thread.start()
        until = time.monotonic() + 150
        while replicas_of(running.process.pid) < 2:
            assert time.monotonic() < until, f"still one replica after {len(statuses)} answers"
            time.sleep(0.5)
        time.sleep(5)  # the second one loads the model and takes its share
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        code = running.stop()
    assert set(statuses) == {200}
    assert code == 0
