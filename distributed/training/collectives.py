"""Collectives of the pooled step. With one rank, or no process group, communication falls away.

Communication of a step, in order:
  1. all-gather of the relevant tag ids of each rank (only when the pool is smaller than T);
     with ``pool.hard``: of the ranks' batch sizes, of latents of 64 images, of these images' highest scores
     and of one number for each sought tag (no gradient);
  2. all-gather of encoded pool tags, each rank giving the rows that it owns (backward:
     their gradients go to the owner, which gets the sum), in bfloat16 where scores are computed in it;
  3. all-reduce of one number, the weight of the global batch;
  4. all-reduce of the towers' gradients, by DistributedDataParallel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 gave both a new name; a machine with GPUs may come with an older torch.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_all_to_all = dist.all_to_all_single
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_alone() -> bool:
    """One rank: nothing is sent. A check of a backend replaces this, to send with one rank as well."""
    return world_size() == 1


def barrier() -> None:
    if not is_alone():
        dist.barrier()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of ``value`` over ranks, without gradient."""
    if is_alone():
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def gather_ids(local_id_n: Tensor) -> Tensor:
    """All ranks' int64 ids, in rank order; their numbers may differ. Two collectives."""
    if is_alone():
        return local_id_n
    lengths = local_id_n.new_empty(world_size())
    _all_gather(lengths, local_id_n.new_tensor([len(local_id_n)]))
    length = lengths.tolist()
    longest = max(max(length), 1)
    padded = local_id_n.new_zeros(longest)
    padded[: len(local_id_n)] = local_id_n
    gathered = local_id_n.new_empty(longest * world_size())
    _all_gather(gathered, padded)
    parts = gathered.view(world_size(), longest)
    return torch.cat([part[:count] for part, count in zip(parts, length, strict=True)])


class _GatherRows(torch.autograd.Function):
    """All-gather forward, sum to the owner backward; every rank gives ``rows`` rows."""

    @staticmethod
    def forward(ctx: Any, local_rL: Tensor) -> Tensor:
        ctx.rows = len(local_rL)
        gathered = local_rL.new_empty(world_size() * len(local_rL), *local_rL.shape[1:])
        _all_gather(gathered, local_rL.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient_RL = gradients[0].contiguous()
        if gradient_RL.device.type == "cpu":
            # gloo's reduce-scatter takes twice the time of this exchange (docs/performance.md). The sum is
            # float32, whatever was sent.
            sent_RL = torch.empty_like(gradient_RL)
            _all_to_all(sent_RL, gradient_RL)
            parts = sent_RL.view(world_size(), ctx.rows, *gradient_RL.shape[1:])
            return parts.sum(0, dtype=torch.float32).to(gradient_RL.dtype)
        local = gradient_RL.new_empty(ctx.rows, *gradient_RL.shape[1:])
        _reduce_scatter(local, gradient_RL)
        return local


def gather_rows(local_pL: Tensor, rows_per_rank: list[int]) -> Tensor:
    """All ranks' rows, in rank order, with gradient.

    Args:
        local_pL: this rank's ``rows_per_rank[rank]`` rows.
        rows_per_rank: how many rows each rank gives; known everywhere without communication.

    Returns:
        ``[sum(rows_per_rank), L]``; in backward each rank receives the summed gradient of its rows.
    """
    if is_alone():
        return local_pL
    longest = max(rows_per_rank)
    padding = longest - len(local_pL)
    padded = torch.cat([local_pL, local_pL.new_zeros(padding, local_pL.shape[1])])
    gathered = _GatherRows.apply(padded)
    if min(rows_per_rank) == longest:
        return gathered
    parts = gathered.view(world_size(), longest, -1)
    return torch.cat([part[:count] for part, count in zip(parts, rows_per_rank, strict=True)])
