"""Whether a device computes what the CPU does: the same start, the same batches, results side by side.

fp32 throughout, TF32 off. An error is ``|found - wanted| / |wanted|`` over all numbers together (Frobenius
norm); a tolerance is some ten times what another order of summation changes on a CPU.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.device_workload import BEST, Workload, precision
from distributed.training import checkpoint, collectives
from distributed.training.drel_learner import DRELLearner, PoolConfig
from distributed.training.optim import OptimConfig, StepResult
from drel_core.decision.calibration import Calibration
from drel_core.decision.decider import Decider
from drel_core.decision.kernel import RidgeSums
from drel_core.model.pooled_step import LossConfig
from drel_core.model.tag_embedding import TableConfig, TagEmbedding
from drel_core.model.towers import ModelConfig
from drel_core.scoring.topk import topk_blockwise

CPU = torch.device("cpu")
STEPS = 3


@dataclass
class Checks:
    """Comparisons so far."""

    done: list[dict[str, Any]] = field(default_factory=list)

    def close(self, name: str, found: Tensor, wanted: Tensor, tolerance: float) -> None:
        """Note whether two tensors agree; NaN agrees with nothing."""
        found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
        if found.shape != wanted.shape:
            self._note(name, math.inf, tolerance)
            return
        error = float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))
        self._note(name, error, tolerance)

    def equal(self, name: str, found: Tensor, wanted: Tensor) -> None:
        """Note whether two tensors are the same bit for bit."""
        self._note(name, 0.0 if torch.equal(found.cpu(), wanted.cpu()) else math.inf, 0.0)

    def _note(self, name: str, error: float, tolerance: float) -> None:
        passed = error <= tolerance
        shown = error if math.isfinite(error) else None  # JSON has no infinity
        self.done.append({"name": name, "passed": passed, "error": shown, "tolerance": tolerance})

    @property
    def passed(self) -> bool:
        return all(check["passed"] for check in self.done)


SMALL: dict[str, Any] = {"image_hidden": 256, "tag_dim": 64, "tag_hidden": 96, "latent": 128}
# What is drawn on the device differs between devices by nature.
_NO_NOISE = {"input_dropout": 0.0, "input_noise": 0.0, "dropout": 0.0}
_SIZES: dict[str, Any] = {"dim": 192, "batch": 48, "tags": 300}
# Rates so high that three steps change more than rounding does.
CASES = {
    "hinge, all tags, sgd": Workload(
        **_SIZES,
        model=ModelConfig(**SMALL),
        table=TableConfig(optimiser="sgd", lr=1000.0),
        optim=OptimConfig(lr=1.0, tf32=False),
    ),
    "smooth, sampled pool, adamw": Workload(
        **_SIZES,
        model=ModelConfig(**{**BEST, **SMALL, "tag_dim": 128, **_NO_NOISE}),
        loss=LossConfig(kind="smooth", tag_weight_power=0.5),
        pool=PoolConfig(candidates=64),
        table=TableConfig(lr=0.01),
        optim=OptimConfig(optimiser="adamw", lr=0.001, weight_decay=1.0, tf32=False),
    ),
    "warp, violating, linear towers": Workload(
        **_SIZES,
        model=ModelConfig(
            tag_dim=128,
            latent=128,
            image_tower="linear",
            tag_tower="none",
            metric="none",
            max_norm=1.0,
            embedding_std=0.1,
        ),
        loss=LossConfig(miner="violating", weighting="warp"),
        pool=PoolConfig(candidates=64),
        optim=OptimConfig(lr=0.01, clip_norm=1.0, tf32=False),
    ),
    "hardest negatives, cosine": Workload(
        **_SIZES,
        model=ModelConfig(**{**BEST, **SMALL, "tag_dim": 128, **_NO_NOISE}),
        loss=LossConfig(miner="hard", negatives=3),
        optim=OptimConfig(lr=1.0, schedule="cosine", warmup=0.1, tf32=False),
    ),
}


def _step(case: Workload, learner: DRELLearner, step: int) -> StepResult:
    return case.take(learner, case.rows(step), step)


def check_step(checks: Checks, device: torch.device) -> None:
    """Loss, gradients, and all that a step changes, after one and after three steps."""
    for name, case in CASES.items():
        here, there = case.learner(CPU), case.learner(device)
        for step in range(STEPS):
            wanted, found = _step(case, here, step), _step(case, there, step)
            label = f"step {step + 1} ({name})"
            for part in ("loss", "triplets", "active"):
                tolerance = 1e-5 if part == "loss" else 1e-3  # a margin just met may be just missed
                pair = getattr(found.stats, part), getattr(wanted.stats, part)
                checks.close(f"{label}: {part}", *pair, tolerance)
            if step == 0:
                checks.close(f"{label}: gradients", _gradients(there), _gradients(here), 1e-4)
        label, start = f"change in {STEPS} steps ({name})", case.learner(CPU)
        first = _parameters(start)
        towers = _parameters(there).cpu() - first, _parameters(here) - first
        checks.close(f"{label}: towers and M", *towers, 3e-3)
        mine, theirs = here.table.local, there.table.local
        first_nE = start.table.local.weight_nE
        rows = theirs.weight_nE.cpu() - first_nE, mine.weight_nE - first_nE
        checks.close(f"{label}: table rows", *rows, 1e-3)
        if case.table.optimiser == "rowwise-adagrad":
            checks.close(f"{label}: row states", theirs.state_n, mine.state_n, 1e-3)


def check_precisions(checks: Checks, device: torch.device) -> None:
    """The loss in lower precision is that of fp32, as near as the precision allows."""
    case = CASES["hinge, all tags, sgd"]
    wanted = _step(case, case.learner(device), 0).stats.loss
    for name, tolerance in (("tf32", 0.01), ("bf16", 0.03)):
        with precision(name) as options:
            found = _step(case, case.learner(device, **options), 0).stats.loss
        checks.close(f"loss in {name} beside fp32", found, wanted, tolerance)
    drawn = replace(case, loss=LossConfig(negatives=5))  # other ones on every device, as many
    triplets = [_step(drawn, drawn.learner(at), 0).stats.triplets for at in (device, CPU)]
    checks.equal("drawn negatives: triplets", *triplets)


def check_adagrad(checks: Checks, device: torch.device) -> None:
    """Updates of some rows; the other rows stay as they are, bit for bit."""
    model = ModelConfig(tag_dim=64, max_norm=7.0)
    tables = [TagEmbedding(0, 1000, model, TableConfig(lr=0.1), 0) for _ in range(2)]
    here, there = tables[0], tables[1].to(device)
    generator = torch.Generator().manual_seed(0)
    untouched = here.weight_nE[500:].clone()
    for _ in range(5):
        row_P = torch.randperm(500, generator=generator)[:128].sort().values
        gradient_PE = torch.randn(128, 64, generator=generator)
        here.apply_gradient(row_P, gradient_PE, 0.1)
        there.apply_gradient(row_P.to(device), gradient_PE.to(device), 0.1)
    checks.close("row-wise Adagrad: rows", there.weight_nE, here.weight_nE, 1e-6)
    checks.close("row-wise Adagrad: states", there.state_n, here.state_n, 1e-6)
    checks.equal("row-wise Adagrad: rows not touched", there.weight_nE[500:], untouched)


def check_topk(checks: Checks, device: torch.device) -> None:
    """By blocks, whole numbers exactly with their ties, others by the scores that were chosen."""
    generator = torch.Generator().manual_seed(0)
    images, tags, size = 33, 5000, 64

    def best(image_BL: Tensor, tag_TL: Tensor, bias_T: Tensor) -> tuple[Tensor, Tensor]:
        return topk_blockwise(image_BL, tag_TL, 10, bias_T, block=1024)

    shapes = ((images, size), (tags, size), (tags,))
    # Products and sums of small whole numbers are exact in fp32, whatever their order.
    whole = [torch.randint(-3, 4, shape, generator=generator).float() for shape in shapes]
    score_Bk, id_Bk = best(*whole)
    found_Bk, found_id_Bk = best(*(part.to(device) for part in whole))
    checks.equal("top k of whole numbers: scores", found_Bk, score_Bk)
    checks.equal("top k of whole numbers: tags, ties by lowest id", found_id_Bk, id_Bk)
    real = [torch.randn(shape, generator=generator) for shape in shapes]
    score_Bk, _ = best(*real)
    found_Bk, found_id_Bk = best(*(part.to(device) for part in real))
    exact_BT = torch.addmm(real[2].double(), real[0].double(), real[1].double().T)
    checks.close("top k: scores", found_Bk, score_Bk, 1e-5)
    checks.close(
        "top k: tags, by their scores", exact_BT.gather(1, found_id_Bk.cpu()), score_Bk, 1e-5
    )


def check_evaluation(checks: Checks, device: torch.device) -> None:
    """Held-out scores of the sharded table with kernel regression, and metrics of calibrated scores."""
    case = CASES["smooth, sampled pool, adamw"]
    rows, tags = case.rows(0), case.tags
    generator = torch.Generator().manual_seed(0)
    slope, shift_T, gain_T, offset_T = (
        torch.rand(size, generator=generator) + 0.5 for size in (1, tags, tags, tags)
    )
    decider = Decider(Calibration(slope, shift_T, torch.ones(4)), gain_T, offset_T)
    scores, metrics = [], []
    for place in (CPU, device):
        learner = case.learner(place)
        input_BD = learner.model.standardised(rows.features_BD.to(place))
        sums = RidgeSums(input_BD, 0.05, torch.full((tags,), 0.01, device=place))
        sums.add(input_BD, rows.tags.mask(tags).to(place))
        fitted = sums.solve(0.3, 3.0, len(rows))
        learner.kernel = fitted.head
        held, _ = learner.held_out(rows, fitted)
        assert held.evidence_nM is not None
        scores.append(held.score_nM + 3.0 * held.evidence_nM)
        learner.decider = decider
        metrics.append(learner.evaluate([rows], 5, torch.ones(tags, dtype=torch.bool)))
    checks.close(
        "evaluation: scores with the kernel, each row left out", scores[1], scores[0], 1e-3
    )
    figures = [torch.tensor([found["F1"], found["mP"], found["oF1"]]) for found in metrics]
    checks.close("evaluation: metrics of calibrated scores", figures[1], figures[0], 0.02)


def check_checkpoint(checks: Checks, device: torch.device, name: str) -> None:
    """What was saved and loaded again is the same, and so is the next step."""
    case = CASES["smooth, sampled pool, adamw"]
    first, second = case.learner(device), case.learner(device)
    _step(case, first, 0)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), first, checkpoint.Cursor(step=1), {})
        checkpoint.load(Path(folder), second, {})
    checks.equal(f"{name}: towers and M", _parameters(second), _parameters(first))
    rows = (second.table.local.weight_nE, first.table.local.weight_nE)
    checks.equal(f"{name}: table rows", *rows)
    found, wanted = (_step(case, learner, 1).stats.loss for learner in (second, first))
    checks.close(f"{name}: loss of the next step", found, wanted, 1e-5)


def check_collectives(checks: Checks, device: torch.device) -> dict[str, Any]:
    """All that ``collectives`` sends, and a step and a checkpoint over it, with one rank."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    case = CASES["smooth, sampled pool, adamw"]
    alone = case.learner(device)
    for step in range(STEPS):
        _step(case, alone, step)
    with tempfile.TemporaryDirectory() as folder:
        met = f"file://{folder}/ranks"  # no network
        dist.init_process_group(
            backend, init_method=met, rank=0, world_size=1, timeout=timedelta(minutes=1)
        )
        try:
            _check_group(checks, device, backend, case, alone)
        finally:
            dist.destroy_process_group()
    return {"backend": backend, "ranks": 1}


def _check_group(
    checks: Checks, device: torch.device, backend: str, case: Workload, alone: DRELLearner
) -> None:
    with patch.object(collectives, "is_alone", return_value=False):
        collectives.barrier()
        value = torch.randn(1000, device=device)
        checks.equal(f"{backend}: all-reduce", collectives.sum_over_ranks(value), value)
        ids = torch.arange(7, device=device)
        checks.equal(f"{backend}: all-gather of ids", collectives.gather_ids(ids), ids)
        for kind in (torch.float32, torch.bfloat16):
            rows_pL = torch.randn(9, 5, device=device, dtype=kind, requires_grad=True)
            gathered_PL = collectives.gather_rows(rows_pL, [9])
            gathered_PL.square().sum().backward()
            assert rows_pL.grad is not None
            label = f"{backend}: {str(kind).removeprefix('torch.')} rows"
            checks.equal(f"{label}, all-gather", gathered_PL, rows_pL)
            checks.equal(f"{label}, reduce-scatter", rows_pL.grad, 2 * rows_pL)
        wrapped = case.learner(device)
        for step in range(STEPS):
            _step(case, wrapped, step)
        pair = _parameters(wrapped), _parameters(alone)
        checks.close(f"{backend}: towers after {STEPS} steps beside no group", *pair, 1e-4)
        rows = wrapped.table.local.weight_nE, alone.table.local.weight_nE
        checks.close(f"{backend}: table after {STEPS} steps beside no group", *rows, 1e-4)
        check_checkpoint(checks, device, f"{backend}: checkpoint")


CHECKS: tuple[Callable[[Checks, torch.device], Any], ...] = (
    check_step,
    check_precisions,
    check_adagrad,
    check_topk,
    check_evaluation,
)


def _parameters(learner: DRELLearner) -> Tensor:
    """All of the towers and M in one piece."""
    return torch.cat([value.detach().flatten() for value in learner.model.parameters()])


def _gradients(learner: DRELLearner) -> Tensor:
    found = [value.grad for value in learner.model.parameters() if value.grad is not None]
    return torch.cat([gradient.flatten() for gradient in found])
