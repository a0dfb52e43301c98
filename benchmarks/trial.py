"""What a shadow, a canary and looking for drift cost the answers of a replica.

    python -m benchmarks.trial                    1 and 16 clients, with nothing, shadow and canary, in turn
    python -m benchmarks.trial --tags 100000      the same of a larger vocabulary

In one process, without HTTP: what is timed is the wait for an answer in a replica. Rounds alternate; medians
are shown. Both models have random weights, the preset ``best`` and probabilities.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.serving import bundle
from distributed.serving.config import TrialPlan
from distributed.serving.hot_swap import HotSwapModel
from distributed.serving.model import ServedModel
from distributed.serving.requests import ScoreRequest


async def closed_loop(
    held: HotSwapModel, rows_ND: np.ndarray, clients: int, seconds: float, think: float
) -> tuple[float, np.ndarray]:
    """Answers a second, and the ms of each. A client waits ``think`` seconds after an answer."""
    spent: list[float] = []
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        place = number
        while (started := time.perf_counter()) < until:
            row = place % len(rows_ND)
            await held.score(ScoreRequest(rows_ND[row : row + 1], [], k=5))
            spent.append(1000 * (time.perf_counter() - started))
            place += clients
            await asyncio.sleep(think)

    await asyncio.gather(*map(client, range(clients)))
    return len(spent) / seconds, np.array(spent)


async def measure(options: argparse.Namespace, folder: Path) -> None:
    live, tried = (
        bundle(folder / name, options.dim, options.tags, seed, decides=True)
        for seed, name in enumerate(("live", "tried"))
    )
    plans = {
        "nothing": None,
        "shadow": TrialPlan("shadow", str(tried)),
        "canary": TrialPlan("canary", str(tried), 0.05),
    }
    rows_ND = np.random.default_rng(0).normal(size=(2000, options.dim)).astype(np.float32)
    held = HotSwapModel(ServedModel, 1024, 4096)
    await held.follow(str(live), 3600)
    for clients, think in ((1, 0.01), (16, 0.01), (16, 0.0)):
        found: dict[str, list[Any]] = {name: [] for name in plans}
        for _ in range(options.rounds):
            for name, plan in plans.items():
                await held.follow(str(live), 3600, plan)
                while plan and held.trial.report()["state"] != "running":
                    await asyncio.sleep(0.01)
                rate, ms = await closed_loop(held, rows_ND, clients, options.seconds, think)
                report = held.trial.report()
                compared = (report["compared"] or {"rows": 0})["rows"]
                found[name].append((rate, *np.percentile(ms, [50, 99]), compared))
        for name, rounds in found.items():
            rate, p50, p99, compared = map(statistics.median, zip(*rounds, strict=True))
            print(
                f"{clients:3d} clients, {1000 * think:.0f} ms between: {name:8s} {rate:7.0f}/s, "
                f"p50 {p50:6.2f} ms, p99 {p99:6.2f} ms, {compared:.0f} rows compared",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--tags", type=int, default=374)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(options, Path(folder)))


if __name__ == "__main__":
    main()
