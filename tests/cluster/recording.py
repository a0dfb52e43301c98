"""jobs.train that also writes down which rows each rank took in each step.

``python -m tests.cluster.recording`` takes the options of jobs.train; the store's first feature has to
number the row.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from distributed.driver import worker_entry
from distributed.driver.launch import launch


def enter(arguments: dict[str, Any]) -> None:
    import pickle

    import torch.distributed as dist

    from distributed.training.drel_learner import DRELLearner

    folder = Path(pickle.loads(arguments["spec"]).config.out) / "seen"
    folder.mkdir(exist_ok=True)
    attempt: list[Any] = [len(list(folder.iterdir()))]
    dist.broadcast_object_list(attempt)
    # Steps of a millisecond would be over before a node has come or gone.
    pause = 0.01
    file = open(folder / f"{attempt[0]:06d}-{dist.get_rank()}.jsonl", "w")  # noqa: SIM115
    take = DRELLearner.run

    def run(self: Any, features_BD: Any, tags: Any, **place: Any) -> Any:
        rows = features_BD[:, 0].long().tolist() if len(features_BD) else []
        file.write(json.dumps([place["epoch"], place["step"], rows]) + "\n")
        file.flush()
        time.sleep(pause)
        return take(self, features_BD, tags, **place)

    DRELLearner.run = run  # type: ignore[method-assign]
    try:
        worker_entry.enter(arguments)
    finally:
        DRELLearner.run = take  # type: ignore[method-assign]
        file.close()


def rows_that_counted(out: Path) -> dict[int, list[int]]:
    """Rows by epoch: of a step that several attempts took, the last one's."""
    attempts: dict[int, dict[tuple[int, int], list[int]]] = defaultdict(dict)
    for path in sorted((out / "seen").iterdir()):
        mine = attempts[int(path.name.partition("-")[0])]
        for line in path.read_text().splitlines():
            try:
                epoch, step, rows = json.loads(line)
            except ValueError:
                continue  # cut off by kill -9
            mine.setdefault((epoch, step), []).extend(rows)
    counted: dict[tuple[int, int], list[int]] = {}
    for _, taken in sorted(attempts.items()):
        first = min(taken, default=(1 << 40, 0))
        counted = {place: rows for place, rows in counted.items() if place < first} | taken
    by_epoch: dict[int, list[int]] = defaultdict(list)
    for (epoch, _), rows in counted.items():
        by_epoch[epoch] += rows
    return by_epoch


if __name__ == "__main__":
    from jobs.cli import run_job
    from jobs.train import main
    from tests.cluster import recording

    run_job(partial(main, launcher=partial(launch, enter=recording.enter)))
    sys.exit(0)
