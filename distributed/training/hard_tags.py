"""Hard tags of a step: sought among tags that are not in its pool, by the ranks that own their rows.

Candidates are drawn blindly: of many tags, hardly one is hard to tell from the relevant ones. Here each rank
scores, without gradient, the rows it owns of a random sample of tags. Those that score highest for a few
images of the global batch join the pool. A tag that is relevant to any image of the batch is in the pool
before, so that a hard tag is irrelevant to all of them.

Images and sample follow from (seed, epoch, step), and hardness is gathered from all ranks. What is found
therefore does not depend on how batch and table are divided.

Shapes: B images of this rank, N images of the global batch that are looked at, S sought tags, s of them owned
here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distributed.training import collectives
from distributed.training.sharded_table import ShardedTagEmbedding
from drel_core.model.mining import hardness
from drel_core.model.towers import DREL

_IMAGES = 64  # scoring them costs little beside the step itself


def ramped_count(count: int, progress: float, ramp: float) -> int:
    """How many hard tags to take: rises from 0 to ``count`` over the first ``ramp`` share of training."""
    return count if ramp <= 0 else round(count * min(1.0, progress / ramp))


@torch.no_grad()
def find_hard_tags(
    model: DREL,
    table: ShardedTagEmbedding,
    features_BD: Tensor,
    sought_S: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Sorted ids of the ``count`` sought tags with the highest ``hardness``, alike on all ranks, which must
    all call.

    Args:
        features_BD: this rank's part of the global batch.
        sought_S: sorted, different tag ids, alike on all ranks.
        generator: in the same state on all ranks; chooses the images that are looked at.
    """
    training = model.training
    model.eval()
    image_NL = _some_images(model, features_BD, generator)
    owned_s, per_rank = table.split_pool(sought_S)
    tag_sL1 = model.encode_tags(table.rows(owned_s), with_metric=False)
    score_Ns = model.score(image_NL, tag_sL1).float()
    model.train(training)
    # A rank may own none of the sought tags: the column of -inf is its maximum.
    most_N = torch.cat([score_Ns, score_Ns.new_full((len(score_Ns), 1), -torch.inf)], 1).amax(1)
    most_N = collectives.gather_rows(most_N[None], [1] * collectives.world_size()).amax(0)
    hardness_S = collectives.gather_rows(hardness(score_Ns, most_N)[:, None], per_rank)[:, 0]
    return sought_S[hardness_S.topk(min(count, len(sought_S))).indices.sort().values]


def _some_images(model: DREL, features_BD: Tensor, generator: torch.Generator) -> Tensor:
    """Latents of random images of the global batch, of all ranks, in rank order."""
    images = collectives.gather_ids(torch.tensor([len(features_BD)], device=features_BD.device))
    chosen_N = torch.randperm(int(images.sum()), generator=generator)[:_IMAGES].sort().values
    stops = images.cpu().cumsum(0)
    cuts = torch.searchsorted(chosen_N, stops).tolist()
    per_rank = [stop - start for start, stop in zip([0, *cuts], cuts, strict=False)]
    rank = collectives.rank()
    mine = chosen_N[cuts[rank] - per_rank[rank] : cuts[rank]]
    mine = (mine - (stops[rank] - len(features_BD))).to(features_BD.device)
    image_nL = model.encode_images(features_BD[mine], with_metric=True)
    return collectives.gather_rows(image_nL, per_rank)
