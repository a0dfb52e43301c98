"""Probabilities and decisions, learned from scores of rows that the scoring model was not fitted to.

Where rows are held out anyway, for validation or to watch F1, those are taken. Of a smaller store none are
spared for good: a second fit leaves some out and scores them, and the kernel regression says in closed form
what it would have estimated without them.

Shapes: n rows, M candidate tags of each, T tags.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from distributed.data.blocks import BlockSource
from distributed.data.epoch import ShardReader
from distributed.data.feature_store import RowSelection
from distributed.data.rows import Rows
from distributed.runtime.progress import Log, Progress, saying
from distributed.storage.folder import Folder
from distributed.training import collectives
from distributed.training.build import build_drel_learner, is_resident, make_reader
from distributed.training.config import TrainConfig
from distributed.training.divergence import check_finite
from distributed.training.drel_learner import DRELLearner
from distributed.training.optim import sum_counts
from distributed.training.run_spec import RunSpec
from distributed.training.score_moments import ScoreMoments, for_moments
from drel_core.annotators.popularity import floor_counts
from drel_core.decision.decider import DECISION, Decider, learn_decider
from drel_core.decision.held_out import LEAST_ROWS
from drel_core.decision.kernel import FittedKernel
from drel_core.model.sampling import mix_seed
from drel_core.scoring.floor import beside_floor
from drel_core.scoring.metrics import MetricCounts

_ROWS_OF_BOTH = 1000
# Code before each tag had its own noise wrote another name: what it learned does not go with these kernels.
# So did code that knew how far scores spread and not where they lie.
_FACTOR, _SCORES = "evidence_factor", "score_moments"


def split_rows(
    selections: list[RowSelection], parts: int, most: int, seed: int
) -> tuple[list[RowSelection], list[RowSelection]]:
    """All rows but one part of ``parts``, and that part (at most ``most`` rows of it, the others stay in the
    rest); the part of a row depends on its place and the seed."""
    total = sum(selection.take for selection in selections)
    order = np.random.default_rng(seed).permutation(total)
    is_held = np.zeros(total, dtype=bool)
    is_held[order[: total // parts][:most]] = True
    rest: list[RowSelection] = []
    held: list[RowSelection] = []
    at = 0
    for selection in selections:
        here = is_held[at : at + selection.take]
        at += selection.take
        for some, into in ((selection.only(~here), rest), (selection.only(here), held)):
            if some.take:
                into.append(some)
    return rest, held


def takes_second_fit(spec: RunSpec) -> bool:
    """Whether rows must be left out of a fit of their own; the run holds out none."""
    config, survey = spec.config, spec.survey
    share = config.decision.held_out
    spared = not survey.held_rows and spec.parent is None
    return bool(share) and spared and survey.train_rows * share >= LEAST_ROWS


def without_probabilities(spec: RunSpec) -> str:
    """A line where a run has too few rows to learn probabilities; empty where it has enough, wants none or
    takes its parent's."""
    share, survey = spec.config.decision.held_out, spec.survey
    if not share or spec.parent is not None or takes_second_fit(spec):
        return ""
    if survey.held_rows >= LEAST_ROWS:
        return ""
    needed = (
        f"{survey.held_rows} rows are held out, {LEAST_ROWS} are needed"
        if survey.held_rows
        else f"{survey.train_rows} images are too few, {math.ceil(LEAST_ROWS / share)} are needed"
    )
    return f"scores will be no probabilities and tags chosen by top alone: {needed}"


@dataclass(frozen=True)
class Decided:
    """What held-out rows said.

    Attributes:
        decider: calibration and decisions.
        kernel_factor: the weight of the kernel's evidence; None without a kernel, and where it is left out.
        found: metrics of these rows, the k most probable tags, beside the popularity floor.
        scores: where those that it was learned from lie on ``rows_of_both``; None where they are the model's
            own.
        kernel_gain: the share of the loss that the kernel saves; None without a kernel, and in a run that was
            taken up.
    """

    decider: Decider
    kernel_factor: float | None
    found: dict[str, Any]
    scores: ScoreMoments | None = None
    kernel_gain: float | None = None

    def for_scores(self, scores: ScoreMoments) -> Decided:
        """What goes with the scores of the finished model, which lie there on the same rows.

        More rows make a model surer, of the images that it was fitted to as of all others.
        """
        decider, kernel_factor = for_moments(self.decider, self.kernel_factor, self.scores, scores)
        return replace(self, decider=decider, kernel_factor=kernel_factor)

    @property
    def without_kernel(self) -> str:
        """A line where a kernel was left out; else empty."""
        if self.kernel_gain is None or self.kernel_factor is not None:
            return ""
        saved = f"{max(self.kernel_gain, 0):.1%} of the loss on held-out rows"
        return f"kernel: left out, it saves {saved} (kernel.least_gain)"

    def give(self, learner: DRELLearner) -> None:
        """Let a learner use them."""
        give(learner, self.decider, self.kernel_factor)


def give(learner: DRELLearner, decider: Decider, kernel_factor: float | None) -> None:
    """Let a learner use a decider, and weigh the evidence of its kernel so; None: it goes without one."""
    learner.decider = decider.to(learner.device)
    kernel = learner.kernel
    if kernel_factor is None:
        learner.kernel = None
    elif kernel is not None:
        learner.kernel = replace(kernel, factor=torch.full_like(kernel.factor, kernel_factor))


def decide_by(
    spec: RunSpec, learner: DRELLearner, rows: Rows, kernel: FittedKernel | None = None
) -> Decided | None:
    """Learn from this and all other ranks' rows, which the learner's towers were not fitted to; alike on all
    ranks.

    Args:
        kernel: the learner's kernel as it was fitted, where the rows took part in that.

    Returns:
        None where they say nothing.
    """
    count_T, k = torch.from_numpy(spec.survey.count_T), spec.config.k
    held, start = learner.held_out(rows, kernel)
    # An update's rows are few, and what it leaves out no later one gets back: the parent's kernel stays.
    least_gain = spec.config.kernel.least_gain if spec.parent is None else 0.0
    learned = learn_decider(held, count_T, spec.survey.train_rows, k, least_gain)
    if learned is None:
        return None
    decider, fitted = learned
    mine = MetricCounts(len(count_T), k, keep_scores_bytes=0)
    mine.update_topk(fitted.tag_nM[start : start + len(rows), :k], rows.tags)
    floor = floor_counts(count_T, rows.tags, k)
    metrics, floor_metrics = (
        sum_counts(found, learner.device).result(count_T > 0) for found in (mine, floor)
    )
    found = {**metrics, "floor": floor_metrics, "kind": "rows left out of a fit"}
    return Decided(decider, fitted.kernel_factor, found, kernel_gain=fitted.kernel_gain)


def decide_by_second_fit(
    spec: RunSpec, blocks: BlockSource, learner: DRELLearner, kernel: FittedKernel | None, log: Log
) -> Decided | None:
    """Fit a second model without some rows, and learn from its scores of them; alike on all ranks. What was
    learned is kept in ``OUT`` for a run that is resumed.

    Args:
        blocks: reads the store.
        learner: of the run itself; it is left as it is.
        kernel: its kernel regression, fitted to all rows.
        log: takes a line of progress, on rank 0.

    Raises:
        Diverged: the fit ended in NaN.
    """
    config, survey = spec.config, spec.survey
    out, fingerprint = Folder.of(config.out), json.dumps(spec.fingerprint, sort_keys=True)
    if (saved := _saved(out, fingerprint, len(survey.count_T))) is not None:
        collectives.barrier()
        return saved
    rest, held = _parts(spec)
    if collectives.rank() == 0:
        log(f"calibration: a fit without {sum(r.take for r in held)} rows, which it then scores")
    # Another start and order of rows: what is learned should not follow those of one run.
    own = replace(config, seed=mix_seed(config.seed, 5, 0) % 2**31)
    torch.manual_seed(own.seed)
    second = build_drel_learner(own, survey, learner.device, spec.text)
    training = make_reader(own, survey, rest, blocks, is_resident(config, survey))
    shown = log if collectives.rank() == 0 else None
    norm = _fit(own, second, training, shown)
    check_finite(spec, second.model, norm, training.plan.steps * own.epochs)
    second.kernel = learner.kernel
    with saying(shown, "calibration: scoring and learning from the rows left out"):
        left_out = make_reader(own, survey, held, blocks, True).load()
        decided = decide_by(spec, second, left_out, kernel)
    if decided is not None:
        decided = replace(decided, scores=second.moments(rows_of_both(spec, blocks)))
    if collectives.rank() == 0:
        if decided is None:
            log("calibration: none of these rows has a tag that the fit knows; scores stay scores")
        else:
            log(f"calibration: on these rows, {beside_floor(decided.found)}")
            if decided.without_kernel:
                log(decided.without_kernel)
            about = {
                "of": fingerprint,
                "found": json.dumps(decided.found),
                _FACTOR: json.dumps(decided.kernel_factor),
                _SCORES: json.dumps(asdict(decided.scores) if decided.scores else None),
            }
            with out.writing(DECISION) as path:
                decided.decider.save(path, about)
    collectives.barrier()
    return decided


def _parts(spec: RunSpec) -> tuple[list[RowSelection], list[RowSelection]]:
    """The rows of the second fit, and those left out of it."""
    config = spec.config
    parts = round(1 / config.decision.held_out)
    return split_rows(spec.survey.train, parts, config.decision.rows, config.seed)


def rows_of_both(spec: RunSpec, blocks: BlockSource) -> Rows:
    """This rank's part of some rows that the run and its second fit were both fitted to."""
    _, some = split_rows(_parts(spec)[0], 1, _ROWS_OF_BOTH, spec.config.seed)
    return make_reader(spec.config, spec.survey, some, blocks, True).load()


def rows_of_parent(spec: RunSpec, blocks: BlockSource) -> Rows | None:
    """This rank's part of some rows that an update and its parent were both fitted to; None where it
    rehearses none."""
    if spec.parent is None:
        return None
    _, rehearsed = spec.parent.split(spec.survey.train)
    if not rehearsed:
        return None
    _, some = split_rows(rehearsed, 1, _ROWS_OF_BOTH, spec.config.seed)
    return make_reader(spec.config, spec.survey, some, blocks, True).load()


def _fit(
    config: TrainConfig, learner: DRELLearner, reader: ShardReader, log: Log | None
) -> torch.Tensor:
    """Train from start to end, without checkpoints: a fit that is cut off begins anew. Gives the norm of the
    last gradient."""
    norm = torch.zeros(())
    learner.model.train()
    steps = reader.plan.steps
    progress = Progress(log, "calibration", steps * config.epochs, "steps")
    for epoch in range(config.epochs):
        for step, batch in enumerate(reader.epoch(epoch)):
            norm = learner.run(
                batch.features_BD,
                batch.tags,
                epoch=epoch,
                step=step,
                progress=(epoch * steps + step) / (steps * config.epochs),
                global_batch=reader.plan.global_size(step),
            ).gradient_norm
            progress.step()
    return norm


def _saved(out: Folder, fingerprint: str, tags: int) -> Decided | None:
    """What this run, and no other, learned before."""
    if not out.has(DECISION):
        return None
    with out.local(DECISION) as path:
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
        except SafetensorError:
            return None
        if about.get("of") != fingerprint or not {"found", _FACTOR, _SCORES} <= about.keys():
            return None
        decider = Decider.load(path.parent, tags)
        if decider is None:
            return None
        factor, found, scores = (json.loads(about[name]) for name in (_FACTOR, "found", _SCORES))
        return Decided(decider, factor, found, ScoreMoments(**scores) if scores else None)
