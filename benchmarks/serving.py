"""How much of a bare Ray Serve deployment's requests/s the scorer keeps. What failures cost:
``benchmarks.serving_failures``.

    python -m benchmarks.serving                    JSON and binary, 1, 16, 64 clients, beside constants
    python -m benchmarks.serving --tags 1000000 --latent 1024    the same with a million tags
    python -m benchmarks.serving --landmarks 4500   the same with a kernel regression, as `best` has; --dims
    python -m benchmarks.serving --decide macro     the same of a model that knows probabilities
    python -m benchmarks.serving --ingress ray      the same with Serve's own proxy
    python -m benchmarks.serving --part million     a million tags: codes beside every tag, and faiss; --graph

Everything runs on this machine: client, proxy and replicas share its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.device_workload import BEST
from benchmarks.http_client import Connection, request
from distributed.data.replay_buffer import RESERVOIR
from distributed.serving.ingress import chosen_ingress
from drel_core.annotators.drel import write_table_part, write_towers
from drel_core.bundle.format import write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.decision.calibration import Calibration
from drel_core.decision.decider import DECISION, Decider
from drel_core.decision.kernel import KERNEL, KernelHead
from drel_core.model.towers import DREL, ModelConfig
from drel_core.scoring.reliability import RELIABILITY_BINS
from drel_core.scoring.tag_search import find_search
from drel_core.scoring.topk import topk_blockwise

PORT = 8391


def best_model(dim: int, **changes: Any) -> DREL:
    """The preset ``best`` with random weights."""
    return DREL(dim, ModelConfig(**{**BEST, **changes}))


def bundle(
    folder: Path,
    dim: int,
    tags: int,
    seed: int = 0,
    landmarks: int = 0,
    dims: int = 0,
    decides: bool = False,
    **changes: Any,
) -> Path:
    """A bundle with random weights.

    Args:
        landmarks, dims: of a kernel regression in so many components (0: all); 0 landmarks: without one.
        decides: its scores are probabilities, from which it decides.
    """
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    model = best_model(dim, **changes)
    rows = torch.randn(tags, model.config.tag_dim)
    write_table_part(folder, 0, 1, 0, rows)
    write_towers(folder, model)
    if landmarks:
        KernelHead(
            landmark_Rd=torch.randn(landmarks, dims or dim),
            basis_Dd=torch.linalg.qr(torch.randn(dim, dims)).Q if dims else None,
            sharpness=torch.full((1,), 0.5 / (dims or dim)),
            weight_RT=torch.randn(landmarks, tags) / landmarks,
            share_T=torch.full((tags,), 0.01),
            floor=torch.full((1,), 0.5 / landmarks),
            factor=torch.full((1,), 5.0),
            noise=torch.full((tags,), 0.015),
        ).save(folder / KERNEL)
    if decides:
        Decider(
            Calibration(torch.ones(1), -torch.rand(tags), torch.tensor([0.9, -0.4, 0.3, -0.2])),
            gain_T=torch.rand(tags) + 0.1,
            offset_T=-torch.rand(tags),
            cut_T=torch.full((tags,), 0.05),
            reliability_b2=torch.full((RELIABILITY_BINS, 2), 20),
        ).save(folder / DECISION)
    about = {"model": model.to_dict(), "table_parts": 1, "train": {}, "image_dim": dim}
    vocabulary = Vocabulary(
        tuple(f"tag {tag}" for tag in range(tags)), np.ones(tags, dtype=np.int64)
    )
    write_bundle(folder, "drel", vocabulary, about)
    # Rows that codes of many tags are tried with, as every trained bundle keeps some.
    rows_ND = np.random.default_rng(seed).normal(size=(256, dim)).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(rows_ND.reshape(-1)), dim)
    ids, none = pa.array([str(row) for row in range(256)]), pa.array([["tag 0"]] * 256)
    kept = pa.table({"image_id": ids, "features": flat, "tags": none})
    pq.write_table(kept, folder / RESERVOIR)
    return folder


@dataclass
class Load:
    """What clients saw."""

    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        return (
            float(np.percentile(self.latencies, share)) * 1000 if self.latencies else float("nan")
        )


async def _client(port: int, sent: bytes, until: float, seen: Load) -> None:
    """One connection that asks again as soon as it is answered."""
    connection = Connection(port)
    while time.perf_counter() < until:
        started = time.perf_counter()
        try:
            status, _, _ = await connection.ask(sent)
        except (OSError, EOFError) as error:
            seen.failures.append(type(error).__name__)
            await asyncio.sleep(0.05)
            continue
        if status != 200:
            seen.failures.append(str(status))
            await asyncio.sleep(0.05)
            continue
        seen.latencies.append(time.perf_counter() - started)
    connection.close()


def load(path: str, body: bytes, kind: str, clients: int, seconds: float) -> Load:
    sent = request(path, body, kind)
    seen = Load()

    async def every() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(_client(PORT, sent, until, seen) for _ in range(clients)))

    started = time.perf_counter()
    asyncio.run(every())
    seen.seconds = time.perf_counter() - started
    return seen


def serve_app(model: Path, replicas: str = "1", poll: float = 1.0, threads: int = 1) -> None:
    from ray import serve

    from distributed.runtime.ray_session import start_ray
    from distributed.serving.app import build_app
    from distributed.serving.config import ScorerConfig

    start_ray(int(replicas) + 1)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    config = ScorerConfig(model=str(model), replicas=replicas, poll_seconds=poll, threads=threads)
    serve.run(build_app(config), name="drel", route_prefix="/")


def stop() -> None:
    import ray
    from ray import serve

    serve.delete("drel")
    ray.shutdown()


def measure_load(
    seconds: float,
    rounds: int,
    tags: int,
    latent: int,
    landmarks: int,
    dims: int,
    decide: str | None,
    threads: int,
) -> None:
    """Beside two constants: one looks at nothing, the other reads the request's body as the scorer must.

    Args:
        decide: what requests ask for; None: nothing, of a model that knows no probabilities.
    """
    from ray import serve
    from starlette.responses import JSONResponse

    options: dict[str, Any] = {
        "max_ongoing_requests": 2048,
        "logging_config": {"enable_access_log": False, "log_level": "INFO"},
        "ray_actor_options": {"num_cpus": 0},
    }

    @serve.deployment(**options)
    class Bare:
        async def __call__(self, request: Any) -> Any:
            return JSONResponse({"answer": "constant"})

    @serve.deployment(**options)
    class Reader:
        async def __call__(self, request: Any) -> Any:
            await request.body()
            return JSONResponse({"answer": "constant"})

    with tempfile.TemporaryDirectory() as folder:
        changes = {"latent": latent} if latent else {}
        at = Path(folder) / "m"
        decides = decide is not None
        serve_app(
            bundle(at, 1280, tags, landmarks=landmarks, dims=dims, decides=decides, **changes),
            threads=threads,
        )
        serve.run(Bare.bind(), name="bare", route_prefix="/bare")
        serve.run(Reader.bind(), name="reader", route_prefix="/reader")
        row = np.random.default_rng(0).normal(size=(1, 1280)).astype("<f4")
        wanted = {"decide": decide, "k": 5} if decide else {}
        asked = json.dumps({"features": row.tolist(), **wanted}).encode()
        query = f"?{urlencode(wanted)}" if wanted else ""
        bodies = {
            "json": ("/v1/annotate", asked, "application/json"),
            "binary": (f"/v1/annotate{query}", row.tobytes(), "application/octet-stream"),
        }
        heads = [
            "body",
            "clients",
            "scorer/s",
            "p50, ms",
            "p99, ms",
            "reading constant/s",
            "p50",
            "p99",
            "ratio",
            "constant/s",
            "ratio",
        ]
        print(f"{tags} tags\n| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|")
        for name, (scored, body, kind) in bodies.items():
            for clients in (1, 16, 64):
                seen = []
                for _ in range(rounds + 1):  # the first round warms up
                    paths = (scored, "/reader", "/bare")
                    loads = [load(path, body, kind, clients, seconds) for path in paths]
                    assert not any(one.failures for one in loads), loads
                    seen.append(loads)
                seen = sorted(seen[1:], key=lambda loads: loads[0].rate / loads[1].rate)
                ours, reader, bare = seen[len(seen) // 2]
                print(
                    f"| {name} | {clients} | {ours.rate:.0f} | {ours.percentile(50):.1f} | "
                    f"{ours.percentile(99):.1f} | {reader.rate:.0f} | {reader.percentile(50):.1f} | "
                    f"{reader.percentile(99):.1f} | {ours.rate / reader.rate:.2f} | {bare.rate:.0f} | "
                    f"{ours.rate / bare.rate:.2f} |",
                    flush=True,
                )
        stop()


def measure_million(tags: int, latent: int, batch: int, graph: bool) -> None:
    """The scorer's top k by codes beside every tag scored, and faiss's indexes: time a row, recall, memory.

    Args:
        graph: also build the graph of HNSW, which takes minutes at a million tags.
    """
    import faiss

    threads = torch.get_num_threads()
    faiss.omp_set_num_threads(threads)
    print(f"{tags:,} tags, L = {latent}, {threads} threads; random tags and images", flush=True)
    generator = torch.Generator().manual_seed(0)
    tag_TL = torch.randn(tags, latent, generator=generator) / latent**0.5
    bias_T = -torch.rand(tags, generator=generator)
    image_NL = torch.randn(max(batch, 64), latent, generator=generator)
    exact_Nk = topk_blockwise(image_NL, tag_TL, 50, bias_T)[1]
    print("| search | built, s | MB | 1 row, ms | a row of a batch, ms | recall at 5 | at 50 |")
    print("|" + " --- |" * 7)

    def show(name: str, built: float, size: float, best: Callable[[Tensor], Tensor]) -> None:
        times: list[list[float]] = [[], []]
        for _ in range(5):
            for seen, image_BL in zip(times, (image_NL[:1], image_NL[:batch]), strict=True):
                started = time.perf_counter()
                best(image_BL)
                seen.append((time.perf_counter() - started) / len(image_BL) * 1000)
        one, many = map(statistics.median, times)
        found_Nk = best(image_NL)
        hit = (found_Nk[:, :, None] == exact_Nk[:, None, :]).any(1)
        print(
            f"| {name} | {built:.1f} | {size / 1e6:.0f} | {one:.2f} | {many:.2f} | "
            f"{hit[:, :5].float().mean():.4f} | {hit.float().mean():.4f} |",
            flush=True,
        )

    whole = 4.0 * tags * (latent + 1)
    show("every tag", 0, whole, lambda x: topk_blockwise(x, tag_TL, 50, bias_T)[1])
    started = time.perf_counter()
    codes, search = find_search(tag_TL, bias_T, image_NL[:64])
    built = time.perf_counter() - started
    name = f"codes of {codes.parts // 2} bytes, {search.candidates} candidates"
    show(name, built, codes.code_Th.numel(), lambda x: search.best(x, 50)[1])
    del codes
    with_bias_TM = torch.cat([tag_TL, bias_T[:, None]], 1)

    def query(image_BL: Tensor) -> np.ndarray:
        return torch.cat([image_BL, torch.ones(len(image_BL), 1)], 1).numpy()

    for factory, probes in (
        ("Flat", (0,)),
        ("SQ8", (0,)),
        (f"IVF{4 * round(tags**0.5)},SQ8", (64, 512)),
        *([("HNSW32", (64, 512))] if graph else []),
    ):
        started = time.perf_counter()
        index = faiss.index_factory(latent + 1, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(with_bias_TM[:: max(1, tags // 100_000)].numpy())
        index.add(with_bias_TM.numpy())
        built = time.perf_counter() - started
        size = 1.0 if factory.endswith("SQ8") else 4.0
        for probe in probes:
            if factory.startswith("IVF"):
                index.nprobe = probe
            elif factory.startswith("HNSW"):
                index.hnsw.efSearch = probe
            name = f"faiss {factory}" + (f", {probe}" if probe else "")
            show(
                name,
                built,
                size * tags * (latent + 1),
                lambda x, index=index: torch.from_numpy(index.search(query(x), 50)[1]),  # type: ignore[misc]
            )
        del index


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=["load", "million"], default="load")
    parser.add_argument("--ingress", choices=["haproxy", "ray"])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--tags", type=int, default=0, help="0: 374 for load, 1,000,000 for million"
    )
    parser.add_argument("--latent", type=int, default=0, help="0: the preset's; 1024 for million")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of the scorer, for load")
    parser.add_argument(
        "--graph", action="store_true", help="for million: HNSW too, which takes minutes"
    )
    parser.add_argument(
        "--landmarks",
        type=int,
        default=0,
        help="of a kernel regression beside the towers, for load",
    )
    parser.add_argument("--dims", type=int, default=0, help="principal components it sees; 0: all")
    parser.add_argument(
        "--decide",
        choices=["top", "macro", "threshold"],
        help="for load: what is asked of a model that knows probabilities; else of one without",
    )
    given = parser.parse_args()
    if given.part == "million":
        measure_million(given.tags or 1_000_000, given.latent or 1024, given.batch, given.graph)
        return
    with chosen_ingress(given.ingress, "127.0.0.1"):
        measure_load(
            given.seconds,
            given.rounds,
            given.tags or 374,
            given.latent,
            given.landmarks,
            given.dims,
            given.decide,
            given.threads,
        )


if __name__ == "__main__":
    main()
