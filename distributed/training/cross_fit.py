"""Scores of rows that the model was not fitted to, from fits that leave some out; the decision rule of them.

Shapes: n rows held out of one fit, T tags.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distributed.data.epoch import ShardReader
from distributed.data.feature_store import RowSelection
from distributed.data.survey import StoreSurvey
from distributed.storage.folder import Folder
from distributed.training import collectives
from distributed.training.config import TrainConfig
from distributed.training.drel_learner import DRELLearner
from distributed.training.kernel_fit import fit_kernel
from drel_core.decision.rule import DECISION, DecisionRule, learn_rule
from drel_core.model.sampling import mix_seed

_PAIRS = 8 << 20  # (image, tag) pairs that the rule is learned from: half a GiB while it is
_LEAST_ROWS = 400  # with fewer a rule follows chance
Build = Callable[[TrainConfig], DRELLearner]
Read = Callable[[TrainConfig, list[RowSelection], bool], ShardReader]


def split_rows(
    reads: list[RowSelection], parts: int, part: int, most: int, seed: int
) -> tuple[list[RowSelection], list[RowSelection]]:
    """All rows but one part of ``parts``, and that part (at most ``most`` rows of it, the others stay in the
    rest); the part of a row depends on its place and the seed."""
    total = sum(read.take for read in reads)
    order = np.random.default_rng(seed).permutation(total)
    is_held = np.zeros(total, dtype=bool)
    is_held[order[part * total // parts : (part + 1) * total // parts][:most]] = True
    rest: list[RowSelection] = []
    held: list[RowSelection] = []
    at = 0
    for read in reads:
        here = is_held[at : at + read.take]
        at += read.take
        for some, into in ((read.only(~here), rest), (read.only(here), held)):
            if some.take:
                into.append(some)
    return rest, held


def has_room(num_tags: int) -> bool:
    """The vocabulary is small enough for a rule: its scores of enough rows fit into memory."""
    return _PAIRS // max(1, num_tags) >= _LEAST_ROWS


def learn_decision(
    config: TrainConfig,
    data: StoreSurvey,
    build: Build,
    read: Read,
    fingerprint: dict[str, Any],
    say: Callable[[str], None],
) -> DecisionRule:
    """The rule of ``config.decision``, alike on all ranks; kept in ``OUT`` for a run that is taken up again.

    Args:
        build: makes a learner at its start.
        read: makes the reader of some rows, in training or (False) as one pass.
    """
    out, mark = Folder.of(config.out), json.dumps(fingerprint, sort_keys=True)
    tags = len(data.count_T)
    if (found := _kept(out, mark, tags)) is not None:
        collectives.barrier()
        return found
    fits, parts = config.decision.fits, round(1 / config.decision.held_out)
    most = max(1, _PAIRS // (fits * tags))
    scores: list[Tensor] = []
    masks: list[Tensor] = []
    count_T = torch.from_numpy(data.count_T)
    for fit in range(fits):
        rest, held = split_rows(data.train, parts, fit, most, config.seed)
        if collectives.rank() == 0:
            say(f"decision rule: fit {fit + 1} of {fits}, without {sum(r.take for r in held)} rows")
        # Another start and order of rows: the rule should not follow those of one run.
        own = replace(config, seed=mix_seed(config.seed, 5, fit) % 2**31)
        torch.manual_seed(own.seed)
        learner = build(own)
        training = read(own, rest, True)
        _fit(own, learner, training)
        reader = read(own, held, False)
        rows = reader.load()
        counts = list(reader.plan.rows_per_rank)
        if config.kernel.landmarks:
            learner.kernel = fit_kernel(config.kernel, learner.model, training, count_T, own.seed)
        scores.append(collectives.gather_rows(learner.scores(rows), counts).cpu())
        mask_nT = rows.tags.mask(tags).to(learner.device, torch.uint8)
        masks.append(collectives.gather_rows(mask_nT, counts).cpu())
        del learner
    score_nT, hit_nT = torch.cat(scores), torch.cat(masks).bool()
    rule = learn_rule(score_nT, hit_nT, count_T, data.train_rows, config.k, config.decision)
    if collectives.rank() == 0:
        with out.writing(DECISION) as path:
            rule.save(path, {"of": mark})
    collectives.barrier()
    return rule


def _fit(config: TrainConfig, learner: DRELLearner, reader: ShardReader) -> None:
    """Train from start to end, without checkpoints: a fit that is cut off begins anew."""
    learner.model.train()
    steps = reader.plan.steps
    for epoch in range(config.epochs):
        for step, batch in enumerate(reader.epoch(epoch)):
            learner.run(
                batch.features_BD,
                batch.tags,
                epoch=epoch,
                step=step,
                progress=(epoch * steps + step) / (steps * config.epochs),
                global_batch=reader.plan.global_size(step),
            )


def _kept(out: Folder, mark: str, tags: int) -> DecisionRule | None:
    """What this run, and no other, learned before."""
    if not out.has(DECISION):
        return None
    with out.local(DECISION) as path:
        try:
            with safe_open(path, "pt") as file:
                said = file.metadata() or {}
        except SafetensorError:
            return None
        return DecisionRule.load(path.parent, tags) if said.get("of") == mark else None
