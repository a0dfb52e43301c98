"""A model trains, scores and keeps checkpoints where torch and numpy are all that is installed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.torch_alone import run_with_torch_alone

PROGRAM = """
import json, sys
from pathlib import Path

import torch

from distributed.data.rows import Rows
from distributed.training import checkpoint
from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.optim import OptimConfig
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import DREL, ModelConfig
from drel_core.scoring.tag_lists import TagLists

TAGS, DIM = 9, 6
MODEL = ModelConfig(image_hidden=8, tag_dim=4, tag_hidden=8, latent=5)


def learner(seed):
    torch.manual_seed(seed)
    return DRELLearner(
        DREL(DIM, MODEL),
        ShardedTagEmbedding(TAGS, MODEL, TableConfig(), seed),
        torch.ones(TAGS, dtype=torch.int64),
        LossConfig(),
        PoolConfig(candidates=4),
        OptimConfig(optimiser="adamw"),
        seed=0,
    )


features_BD = torch.randn(3, DIM)
tags = TagLists.from_lists([[0, 2], [8], [1, 5]])
first, second = learner(0), learner(1)


def step(one, number):
    result = one.run(features_BD, tags, epoch=0, step=number, progress=0.0, global_batch=3)
    return float(result.stats.loss)


step(first, 0)
folder = Path(sys.argv[1])
checkpoint.save(folder, first, checkpoint.Cursor(step=1), {"of": "this test"})
cursor = checkpoint.load(folder, second, {"of": "this test"})
metrics = first.evaluate([Rows(features_BD, tags)], 2, torch.ones(TAGS, dtype=torch.bool))
print(json.dumps({
    "step": cursor.step,
    "losses": [step(first, 1), step(second, 1)],
    "images": metrics["images"],
    "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
}))
"""


def test_step_evaluation_and_checkpoint_run_on_torch_and_numpy_alone(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run_with_torch_alone(str(tmp_path / "program.py"), tmp_path / "checkpoint")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["step"] == 1 and said["images"] == 3
    assert said["losses"][0] == said["losses"][1] != 0
    for package in ("ray", "pyarrow", "safetensors", "jsonargparse", "PIL", "tensorboard"):
        assert package not in said["loaded"]


def test_what_is_not_required_by_torch_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import pyarrow")
    done = run_with_torch_alone(str(tmp_path / "program.py"))
    assert done.returncode == 1 and "No module named 'pyarrow'" in done.stderr
