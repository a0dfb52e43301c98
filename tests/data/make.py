"""Made the bundles and checkpoints beside it, in a checkout of the commit that they are of; see README.md.

It speaks to the modules as they were called in those commits, so it runs there alone.
"""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OUT = Path("/tmp/made")
SMALL = {"image_hidden": 8, "tag_dim": 6, "tag_hidden": 6, "latent": 5}
BEST = {**SMALL, "tag_bias": True, "normalise": True, "tag_prior": 0.75, "power": 0.5}
RUN = {"epochs": 2, "batch_size": 16, "seed": 3}


def one_rank(settings: dict[str, Any], kept: str) -> None:
    """What a worker of jobs.train did, without Ray; checkpoints stay in the folder ``kept``."""
    from contextlib import nullcontext

    import torch.distributed as dist
    from distributed.pipeline import inline_blocks

    from distributed import train_loop

    config, data, mark = settings["config"], settings["data"], settings["fingerprint"]
    blocks = inline_blocks(config.data.columns, data.names)

    def place(metrics: dict[str, Any]) -> Path:
        return Path(kept) / f"epoch-{metrics['epoch']}-step-{metrics['step']}"

    def report(folder: Path, metrics: dict[str, Any]) -> Path:
        shutil.copytree(folder, place(metrics), dirs_exist_ok=True)
        dist.barrier()
        return place(metrics)

    def recall(metrics: dict[str, Any]) -> nullcontext[str]:
        return nullcontext(str(place(metrics)))

    learner = train_loop.build_learner(config, data, torch_cpu())
    more = [recall] if "recall" in train_loop.train.__code__.co_varnames else []
    train_loop.train(
        config, data, settings["features"], learner, blocks, mark, None, report, *more, print
    )


def one_rank_first(config: Any, data: Any, mark: dict[str, Any], kept: str) -> None:
    """The same for the first commit."""
    from distributed.pipeline import inline_blocks

    from distributed import train_loop

    stepper = train_loop.build_stepper(config, data, torch_cpu())
    blocks = inline_blocks(config.data.columns, data.names)
    train_loop.train(config, data, stepper, blocks, mark, None, lambda *_: None, print)


def torch_cpu() -> Any:
    import torch

    torch.set_num_threads(1)
    return torch.device("cpu")


def train(name: str, store: str, workers: int = 2, **options: Any) -> Path:
    """``jobs.train --out OUT/name`` with gloo ranks in the place of Ray's workers."""
    from distributed.config import DataConfig, TrainConfig
    from tests.spawn_ranks import spawn_ranks

    from distributed import trainer

    out = OUT / name
    shutil.rmtree(out, ignore_errors=True)
    (out / "kept").mkdir(parents=True)
    validation = options.pop("validation", 0.0)
    data = DataConfig(train=str(HERE / store), validation=validation)
    config = TrainConfig(data=data, out=str(out), workers=workers, threads=1, **options)
    if hasattr(trainer, "_fit"):  # the first commit

        def fit(config: Any, store: Any, survey: Any, mark: Any, say: Any) -> None:
            names = ("image_dim", "names", "count_T", "mean_D", "std_D", "train", "validation")
            held = {part: getattr(survey, part) for part in names}
            data = trainer.TrainData(item_bytes=store.dtype.itemsize, **held)
            spawn_ranks(workers, one_rank_first, out, config, data, mark, str(out / "kept"))

        trainer._fit = fit
    else:
        from distributed import methods

        def launch(_enter: Any, settings: dict[str, Any], **_: Any) -> None:
            spawn_ranks(workers, one_rank, out, settings, str(out / "kept"))

        methods.launch = launch
    trainer.run(config)
    return out


def images(bundle: Path, image_dim: int) -> Any:
    """Some images to score: the first eight of the store, or pixels."""
    import numpy as np
    import pyarrow.parquet as pq
    import torch

    if image_dim > 100:
        return (torch.arange(4 * image_dim) * 37 % 251).reshape(4, image_dim).float()
    table = pq.read_table(HERE / "store.parquet").slice(0, 8)
    return torch.from_numpy(np.stack(table["features"].to_numpy(zero_copy_only=False)))


def record_bundle(out: Path) -> None:
    """Into HERE: the bundle and what it gives."""
    from drel_core.bundle import load_bundle

    annotator = load_bundle(out / "model")
    images_BD = images(out / "model", annotator.image_dim)
    score_Bk, tag_Bk = annotator.annotate(images_BD, 3)
    expected = {
        "version": annotator.about["version"],
        "scores": annotator.scores(images_BD).tolist(),
        "best_scores": score_Bk.tolist(),
        "best_tags": tag_Bk.tolist(),
    }
    keep(out / "model", f"bundle-{out.name}", expected)


def record_checkpoint(out: Path, step: str, name: str) -> None:
    """Into HERE: a checkpoint, its run's configuration, and what its next steps give on one rank."""
    import pyarrow.parquet as pq
    import torch
    from distributed.feature_store import FeatureStore
    from distributed.trainer import survey_store
    from drel_core.tag_lists import TagLists

    from distributed import checkpoint, train_loop
    from drel_core.bundle import load_bundle

    about = load_bundle(out / "model").about
    config = config_of(about["config"])
    survey = survey_store(FeatureStore.open(config.data.train), "fail")
    learner = train_loop.build_learner(config, survey, torch_cpu())
    learner.model.train()
    folder = out / "kept" / step
    mark = json.loads((folder / "drel.json").read_text())["fingerprint"]
    cursor = checkpoint.load(folder, learner, mark)
    place = {tag: at for at, tag in enumerate(survey.names.to_pylist())}
    tags = pq.read_table(HERE / "store.parquet").slice(0, 8)["tags"].to_pylist()
    lists = TagLists.from_lists([[place[tag] for tag in row] for row in tags])
    losses = []
    for step_of in range(cursor.step, cursor.step + 2):
        result = learner.run(
            images(out, 8), lists, epoch=cursor.epoch, step=step_of, progress=0.5, global_batch=8
        )
        losses.append(float(result.stats.loss / result.stats.weight))
    rows = learner.table.rows(torch.arange(learner.num_tags))
    expected = {
        "epoch": cursor.epoch,
        "step": cursor.step,
        "losses": losses,
        "tag_rows": rows.detach().tolist(),
        "config": about["config"],
    }
    keep(folder, name, expected)


def config_of(held: dict[str, Any]) -> Any:
    from distributed import config

    return config.config_from(config.TrainConfig, held)


def keep(folder: Path, name: str, expected: dict[str, Any]) -> None:
    place = HERE / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place / ("model" if name.startswith("bundle") else "checkpoint"))
    if not expected:
        return
    text = json.dumps(expected).replace(str(HERE), "tests/data")
    (place / "expected.json").write_text(text + "\n", encoding="utf-8")


def make_4e03bd3() -> None:
    from distributed.config import KNNConfig
    from distributed.reservoir import ReservoirConfig
    from distributed.step import PoolConfig
    from drel_core.baselines.cnn import CNNConfig
    from drel_core.kernel import KernelConfig
    from tests.pictures import tiny_network, write_pictures
    from tests.stores import write_planted

    from distributed import svm
    from drel_core.decision import DecisionConfig
    from drel_core.model import ModelConfig

    write_planted(HERE / "store.parquet", 120, row_group=32, dim=8, tags=7)
    write_pictures(HERE / "pictures.parquet", 24)
    tiny_network(HERE / "network.pt")
    svm.ray = types.SimpleNamespace(put=lambda value: value, get=lambda value: value)
    svm.start_ray = lambda *_: None
    svm.map_units = lambda work, units, size: map(work, units)

    out = train(
        "drel",
        "store.parquet",
        model=ModelConfig(**BEST),
        validation=0.2,
        decision=DecisionConfig(fits=2),
        kernel=KernelConfig(landmarks=24, dims=4),
        reservoir=ReservoirConfig(rows=20),
        **RUN,
    )
    record_bundle(out)
    none = ReservoirConfig(rows=0)
    pool = PoolConfig(candidates=4)
    small = ModelConfig(**SMALL)
    out = train(
        "plain", "store.parquet", model=small, pool=pool, reservoir=none, checkpoint=every(5), **RUN
    )
    record_bundle(out)
    record_checkpoint(out, "epoch-1-step-7", "checkpoint-2")
    flat = {"metric": "none", "image_tower": "linear", "tag_tower": "none", "max_norm": 0.3}
    model = ModelConfig(tag_dim=5, latent=5, standardise=False, **flat)
    record_bundle(
        train("wsabie", "store.parquet", method="wsabie", model=model, reservoir=none, **RUN)
    )
    knn = KNNConfig(k=5, weighting="distance")
    record_bundle(train("knn", "store.parquet", method="knn", knn=knn))
    record_bundle(train("svm", "store.parquet", method="svm", validation=0.2))
    record_bundle(train("popularity", "store.parquet", method="popularity"))
    cnn = CNNConfig(backbone="file:tests/data/network.pt", size=32)
    record_bundle(train("cnn", "pictures.parquet", method="cnn-warp", cnn=cnn, workers=1, epochs=1))


def make_1af1dbd() -> None:
    from distributed.step import PoolConfig

    from drel_core.model import ModelConfig

    pool, model = PoolConfig(candidates=4), ModelConfig(**SMALL)
    out = train("older", "store.parquet", model=model, pool=pool, checkpoint=every(5), **RUN)
    keep(out / "kept" / "epoch-1-step-7", "checkpoint-1", {})


def make_dd14846() -> None:
    from drel_core.model import ModelConfig

    record_bundle(train("first", "store.parquet", model=ModelConfig(**SMALL), **RUN))


def every(steps: int) -> Any:
    from distributed.config import CheckpointConfig

    return CheckpointConfig(every=steps)


if __name__ == "__main__":
    sys.path.insert(0, ".")
    globals()[f"make_{sys.argv[1]}"]()
