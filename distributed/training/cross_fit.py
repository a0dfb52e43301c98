"""The decision rule, learned from scores of rows that the scoring model was not fitted to.

Shapes: n rows held out of one fit, T tags.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distributed.data.blocks import BlockSource
from distributed.data.epoch import ShardReader
from distributed.data.feature_store import RowSelection
from distributed.runtime.progress import Log
from distributed.storage.folder import Folder
from distributed.training import collectives
from distributed.training.build import build_drel_learner, is_resident, make_reader
from distributed.training.config import TrainConfig
from distributed.training.divergence import check_finite
from distributed.training.drel_learner import DRELLearner
from distributed.training.kernel_fit import fit_kernel
from distributed.training.run_spec import RunSpec
from drel_core.annotators.popularity import floor_counts
from drel_core.decision.rule import DECISION, DecisionRule, learn_rule
from drel_core.model.sampling import mix_seed
from drel_core.scoring.floor import beside_floor
from drel_core.scoring.metrics import MetricCounts
from drel_core.scoring.tag_lists import TagLists
from drel_core.scoring.topk import topk

_PAIRS = 8 << 20  # (image, tag) pairs that the rule is learned from: half a GiB while it is
_LEAST_ROWS = 400  # with fewer a rule follows chance


def split_rows(
    selections: list[RowSelection], parts: int, part: int, most: int, seed: int
) -> tuple[list[RowSelection], list[RowSelection]]:
    """All rows but one part of ``parts``, and that part (at most ``most`` rows of it, the others stay in the
    rest); the part of a row depends on its place and the seed."""
    total = sum(selection.take for selection in selections)
    order = np.random.default_rng(seed).permutation(total)
    is_held = np.zeros(total, dtype=bool)
    is_held[order[part * total // parts : (part + 1) * total // parts][:most]] = True
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


def has_room(num_tags: int) -> bool:
    """The vocabulary is small enough for a rule: its scores of enough rows fit into memory."""
    return _PAIRS // max(1, num_tags) >= _LEAST_ROWS


@dataclass(frozen=True)
class Decision:
    """What the fits gave.

    Attributes:
        rule: how scores become words.
        found: metrics of the scores of rows that their fit had not seen, without the rule, beside the
            popularity floor: how good a model of this configuration is on new images.
    """

    rule: DecisionRule
    found: dict[str, Any]


def learn_decision(spec: RunSpec, blocks: BlockSource, device: torch.device, log: Log) -> Decision:
    """The rule of ``config.decision``, alike on all ranks; saved in ``OUT`` for a run that is resumed.

    Args:
        blocks: reads the store.
        log: takes a line of progress, on rank 0.

    Raises:
        Diverged: a fit ended in NaN.
    """
    config, survey = spec.config, spec.survey
    out, fingerprint = Folder.of(config.out), json.dumps(spec.fingerprint, sort_keys=True)
    tags = len(survey.count_T)
    if (saved := _saved(out, fingerprint, tags)) is not None:
        collectives.barrier()
        return saved
    fits, parts = config.decision.fits, round(1 / config.decision.held_out)
    most = max(1, _PAIRS // (fits * tags))
    scores: list[Tensor] = []
    masks: list[Tensor] = []
    count_T = torch.from_numpy(survey.count_T)
    for fit in range(fits):
        rest, held = split_rows(survey.train, parts, fit, most, config.seed)
        if collectives.rank() == 0:
            log(f"decision rule: fit {fit + 1} of {fits}, without {sum(r.take for r in held)} rows")
        # Another start and order of rows: the rule should not follow those of one run.
        own = replace(config, seed=mix_seed(config.seed, 5, fit) % 2**31)
        torch.manual_seed(own.seed)
        learner = build_drel_learner(own, survey, device)
        training = make_reader(own, survey, rest, blocks, is_resident(config, survey))
        norm = _fit(own, learner, training)
        check_finite(spec, learner.model, norm, training.plan.steps * own.epochs)
        reader = make_reader(own, survey, held, blocks, resident=True)
        rows = reader.load()
        counts = list(reader.plan.rows_per_rank)
        if config.kernel.landmarks:
            learner.kernel = fit_kernel(config.kernel, learner.model, training, count_T, own.seed)
        scores.append(collectives.gather_rows(learner.scores(rows), counts).cpu())
        mask_nT = rows.tags.mask(tags).to(learner.device, torch.uint8)
        masks.append(collectives.gather_rows(mask_nT, counts).cpu())
        del learner
    score_nT, hit_nT = torch.cat(scores), torch.cat(masks).bool()
    rule = learn_rule(score_nT, hit_nT, count_T, survey.train_rows, config.k, config.decision)
    found = _figures(score_nT, hit_nT, count_T, config.k)
    if collectives.rank() == 0:
        log(f"decision rule: on the {len(score_nT)} rows left out, {beside_floor(found)}")
        with out.writing(DECISION) as path:
            rule.save(path, {"of": fingerprint, "found": json.dumps(found)})
    collectives.barrier()
    return Decision(rule, found)


def _figures(score_nT: Tensor, hit_nT: Tensor, count_T: Tensor, k: int) -> dict[str, Any]:
    """Metrics beside the popularity floor."""
    tag_n = hit_nT.nonzero()[:, 1]
    offsets = torch.zeros(len(hit_nT) + 1, dtype=torch.int64)
    torch.cumsum(hit_nT.sum(1), 0, out=offsets[1:])
    tags = TagLists(tag_n, offsets)
    mine = MetricCounts(len(count_T), k, keep_scores_bytes=0)
    mine.update_topk(topk(score_nT, k)[1], tags)
    known_T = count_T > 0
    floor = floor_counts(count_T, tags, k).result(known_T)
    return {**mine.result(known_T), "floor": floor, "kind": "rows left out of fits"}


def _fit(config: TrainConfig, learner: DRELLearner, reader: ShardReader) -> Tensor:
    """Train from start to end, without checkpoints: a fit that is cut off begins anew. Gives the norm of the
    last gradient."""
    norm = torch.zeros(())
    learner.model.train()
    steps = reader.plan.steps
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
    return norm


def _saved(out: Folder, fingerprint: str, tags: int) -> Decision | None:
    """What this run, and no other, learned before."""
    if not out.has(DECISION):
        return None
    with out.local(DECISION) as path:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
        except SafetensorError:
            return None
        if metadata.get("of") != fingerprint or "found" not in metadata:
            return None
        rule = DecisionRule.load(path.parent, tags)
        return None if rule is None else Decision(rule, json.loads(metadata["found"]))
