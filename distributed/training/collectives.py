"""Collectives of the pooled step. With one rank, or no process group, communication falls away.

Communication of a step, in order:
  1. all-gather of the relevant tag ids of each rank (only when the pool is smaller than T);
     with ``pool.hard``: of the ranks' batch sizes, of latents of 64 images, of these images' highest scores
     and of one number for each sought tag (no gradient);
  2. all-gather of encoded pool tags, each rank giving the rows that it owns (backward:
     their gradients go to the owner, which gets the sum), in bfloat16 where scores are computed in it;
  3. all-reduce of one number, the weight of the global batch;
  4. all-reduce of the towers' gradients, by DistributedDataParallel.
Few ranks that are all on one machine, without GPUs, do this in memory that they share (``shared_memory``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.training.shared_memory import shared_memory

# torch 2.13 gave both a new name; a machine with GPUs may come with an older torch.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_all_to_all = dist.all_to_all_single
_FEW = 1 << 14  # numbers; what is summed once, not in steps, needs no place in shared memory
_AVERAGED = 4 << 20  # numbers that are averaged at once
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


def _exchanged(
    value: Tensor, rows: list[int] | None = None, divisor: int = 1
) -> list[Tensor] | None:
    """All ranks' values in memory that they share, see ``SharedMemory``; None where they share none."""
    shared = shared_memory() if value.device.type == "cpu" else None
    return None if shared is None else shared.exchange(value, rows)


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of ``value`` over ranks, without gradient."""
    if is_alone():
        return value
    value = value.detach()
    few = value.numel() <= _FEW
    if few and (parts := _exchanged(value.reshape(-1))) is not None:
        return _summed(parts).view(value.shape)
    total = value.clone()
    dist.all_reduce(total)
    return total


def gather_ids(local_id_n: Tensor) -> Tensor:
    """All ranks' int64 ids, in rank order; their numbers may differ. Two collectives."""
    if is_alone():
        return local_id_n
    lengths = local_id_n.new_tensor([len(local_id_n)])
    if (parts := _exchanged(lengths)) is not None:
        length = torch.cat(parts).tolist()
    else:
        gathered = local_id_n.new_empty(world_size())
        _all_gather(gathered, lengths)
        length = gathered.tolist()
    if (parts := _exchanged(local_id_n, length)) is not None:
        return torch.cat(parts)
    longest = max(max(length), 1)
    padded = local_id_n.new_zeros(longest)
    padded[: len(local_id_n)] = local_id_n
    gathered = local_id_n.new_empty(longest * world_size())
    _all_gather(gathered, padded)
    return _without_padding(gathered, length)


class _GatherRows(torch.autograd.Function):
    """All-gather forward, sum to the owner backward."""

    @staticmethod
    def forward(ctx: Any, local_pL: Tensor, rows_per_rank: list[int]) -> Tensor:
        ctx.rows_per_rank = rows_per_rank
        if (parts := _exchanged(local_pL, rows_per_rank)) is not None:
            return torch.cat(parts)
        longest = max(rows_per_rank)
        padded_rL = torch.cat(
            [local_pL, local_pL.new_zeros(longest - len(local_pL), *local_pL.shape[1:])]
        )
        gathered = padded_rL.new_empty(world_size() * longest, *local_pL.shape[1:])
        _all_gather(gathered, padded_rL)
        return _without_padding(gathered, rows_per_rank)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient_PL, rows_per_rank = gradients[0].contiguous(), ctx.rows_per_rank
        if (parts := _exchanged(gradient_PL)) is not None:
            start = sum(rows_per_rank[: rank()])
            mine = slice(start, start + rows_per_rank[rank()])
            return _summed([part[mine] for part in parts]), None
        gradient_RL = _padded(gradient_PL, rows_per_rank)
        rows, longest = rows_per_rank[rank()], max(rows_per_rank)
        if gradient_PL.device.type == "cpu":
            # gloo's reduce-scatter takes twice the time of this exchange (docs/performance.md).
            sent_RL = torch.empty_like(gradient_RL)
            _all_to_all(sent_RL, gradient_RL)
            return _summed([part[:rows] for part in sent_RL.split(longest)]), None
        local = gradient_RL.new_empty(longest, *gradient_RL.shape[1:])
        _reduce_scatter(local, gradient_RL)
        return local[:rows], None


def _summed(part_WpL: Sequence[Tensor]) -> Tensor:
    """Of bfloat16 in float32."""
    if part_WpL[0].dtype != torch.bfloat16:
        total = part_WpL[0] + part_WpL[1]
        for part in part_WpL[2:]:
            total += part
        return total
    return torch.stack(tuple(part_WpL)).sum(0, dtype=torch.float32).to(part_WpL[0].dtype)


def _padded(value_PL: Tensor, rows_per_rank: list[int]) -> Tensor:
    """Each rank's rows with zeros after them, so that all have as many."""
    longest = max(rows_per_rank)
    if min(rows_per_rank) == longest:
        return value_PL
    padded = value_PL.new_zeros(len(rows_per_rank), longest, *value_PL.shape[1:])
    for place, part in zip(padded, value_PL.split(rows_per_rank), strict=True):
        place[: len(part)] = part
    return padded.flatten(0, 1)


def _without_padding(gathered: Tensor, rows_per_rank: list[int]) -> Tensor:
    longest = len(gathered) // world_size()
    if min(rows_per_rank) == longest:
        return gathered
    parts = gathered.split(longest)
    return torch.cat([part[:count] for part, count in zip(parts, rows_per_rank, strict=True)])


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
    gathered: Tensor = _GatherRows.apply(local_pL, rows_per_rank)
    return gathered


def average(values: Sequence[Tensor]) -> None:
    """Make float tensors the mean over ranks, in place; all ranks must call with such of the same sizes."""
    if is_alone():
        return
    flat = [value.detach().reshape(-1) for value in values]
    for group in _groups([piece for value_n in flat for piece in value_n.split(_AVERAGED)]):
        _average(group)
    for value, value_n in zip(values, flat, strict=True):
        if not value.is_contiguous():  # reshape has copied it
            value.detach().copy_(value_n.view(value.shape))


def _groups(pieces: list[Tensor]) -> list[list[Tensor]]:
    """Pieces in their order, together as long as they have at most ``_AVERAGED`` numbers."""
    groups: list[list[Tensor]] = []
    numbers = 0
    for piece in pieces:
        numbers += len(piece)
        if not groups or numbers > _AVERAGED:
            groups.append([])
            numbers = len(piece)
        groups[-1].append(piece)
    return groups


def _average(pieces: list[Tensor]) -> None:
    world = world_size()
    shared = shared_memory() if pieces[0].device.type == "cpu" else None
    parts = None if shared is None else shared.exchange_pieces(pieces, world)
    if parts is None:
        for piece in pieces:
            dist.all_reduce(piece.div_(world))
        return
    sizes = [len(piece) for piece in pieces]
    for piece, of_ranks in zip(
        pieces, zip(*[part.split(sizes) for part in parts], strict=True), strict=True
    ):
        torch.add(of_ranks[0], of_ranks[1], out=piece)
        for other in of_ranks[2:]:
            piece += other
