"""Memory that ranks of one machine share: what they send each other goes through it, not through TCP.

Over the loopback every byte is copied several times by the cores that compute, and one number alone takes
four of gloo's threads. Here a rank copies what it gives into its own part, says so to each other rank by a
byte through a pipe, and reads what the others gave where it lies.

Memory and pipes have no names in any file system: a rank makes them, the others open them through ``/proc``,
and the system takes them back with the last of them, however they end. Ranks on several machines, or in
containers that do not see each other's processes, find that they are not there, and send.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from weakref import WeakKeyDictionary, finalize

import torch
import torch.distributed as dist
from torch import Tensor

_MOST_RANKS = 4  # each reads what all others give
_MOST_BYTES = (
    32 << 20
)  # that a rank gives at once; larger things are rare, and would hold memory for ever
_allowed = True


class SharedMemory:
    """Parts for all ranks, twice: what is read after one exchange stays while the next is under way."""

    def __init__(self) -> None:
        self.world, self.rank = dist.get_world_size(), dist.get_rank()
        self.size = 0  # bytes of a part
        self.turn = 0
        self.usable = True
        self._heard: list[int] = []  # ends of pipes from and to the other ranks
        self._told: list[int] = []

    def exchange(self, value: Tensor, rows: Sequence[int] | None = None) -> list[Tensor] | None:
        """Every rank's value, in rank order; all ranks must call.

        Args:
            value: this rank's, on the CPU, with one dimension or more; alike on all ranks but for its number
                of rows.
            rows: of each rank's value; None: all give as many.

        Returns:
            views that hold until the next call but one, to be read only. None, on all ranks, where the value
            is too large or the memory cannot be had.

        Raises:
            RuntimeError: another rank is gone.
        """
        shapes = [
            torch.Size((count, *value.shape[1:])) for count in rows or [len(value)] * self.world
        ]
        parts = self._begin(shapes, value)
        if parts is not None:
            parts[self.rank].copy_(value)
            self._wait()
        return parts

    def exchange_pieces(self, pieces: Sequence[Tensor], divisor: int) -> list[Tensor] | None:
        """``exchange`` for flat tensors of one type, one after the other, divided by a number."""
        numbers = torch.Size([sum(map(len, pieces))])
        parts = self._begin([numbers] * self.world, pieces[0])
        if parts is not None:
            places = parts[self.rank].split([len(piece) for piece in pieces])
            for piece, place in zip(pieces, places, strict=True):
                torch.div(piece, divisor, out=place)
            self._wait()
        return parts

    def _begin(self, shapes: list[torch.Size], like: Tensor) -> list[Tensor] | None:
        """Places for every rank's value, in rank order; None as for ``exchange``."""
        most = max(shape.numel() for shape in shapes) * like.element_size()
        if not self.usable or most > _MOST_BYTES:
            return None
        if most > self.size and not self._make(most):
            return None
        self.turn = 1 - self.turn
        return [self._part(rank, like, shape) for rank, shape in enumerate(shapes)]

    def _wait(self) -> None:
        """Until all ranks are here."""
        try:
            for end in self._told:
                os.write(end, b".")
            here = all(os.read(end, 1) for end in self._heard)
        except BrokenPipeError:
            here = False
        if not here:
            raise RuntimeError("another rank of this machine is gone")

    def _part(self, rank: int, like: Tensor, shape: torch.Size) -> Tensor:
        if not shape.numel():
            return like.new_empty(shape)
        offset = (self.turn * self.world + rank) * self.size
        flat = torch.frombuffer(self._map, dtype=like.dtype, count=shape.numel(), offset=offset)
        return flat.view(shape)

    def _make(self, least: int) -> bool:
        """Make room for parts of so many bytes; the same answer on all ranks."""
        size = -(-least // mmap.PAGESIZE) * mmap.PAGESIZE
        length, token = 2 * self.world * size, int.from_bytes(os.urandom(7), "big")
        mine = -1
        with suppress(OSError, AttributeError):  # AttributeError: no Linux
            mine = os.memfd_create(_name(token))
            os.truncate(mine, length)
        pid, descriptor, token = _all_told([os.getpid(), mine, token])[0]
        made = _mapped(pid, descriptor, token, length)
        self.usable = _all_have(made is not None) and (bool(self._told) or self._connect())
        if mine >= 0:
            os.close(mine)
        if made is not None and self.usable:
            self._map, self.size = made, size
        return self.usable

    def _connect(self) -> bool:
        """Open a pipe from each rank to each other one; whether all could."""
        others = [rank for rank in range(self.world) if rank != self.rank]
        ends = {rank: os.pipe() for rank in others}
        row = [os.getpid()] + [0] * 2 * self.world
        for rank, (_, writes) in ends.items():
            row[1 + 2 * rank : 3 + 2 * rank] = writes, os.fstat(writes).st_ino
        told = _all_told(row)
        at = 1 + 2 * self.rank
        opened = [_opened_pipe(told[rank][0], *told[rank][at : at + 2]) for rank in others]
        self._heard, self._told = (
            [end for end, _ in ends.values()],
            [end for end in opened if end >= 0],
        )
        finalize(self, _close, [*self._heard, *self._told])
        every = _all_have(min(opened) >= 0)
        _close(writes for _, writes in ends.values())  # so that a rank that is gone is heard
        return every


def _all_told(row: list[int]) -> list[list[int]]:
    """Every rank's whole numbers, in rank order."""
    told = torch.zeros(dist.get_world_size(), len(row), dtype=torch.int64)
    told[dist.get_rank()] = torch.tensor(row)
    dist.all_reduce(told)
    rows: list[list[int]] = told.tolist()
    return rows


def _all_have(it: bool) -> bool:
    agreed = torch.tensor(int(it))
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return bool(agreed)


def _name(token: int) -> str:
    return f"drel-{token:x}"


def _mapped(pid: int, descriptor: int, token: int, length: int) -> mmap.mmap | None:
    """The first rank's memory, if this process sees it. Its name says that it is no other process's."""
    path = f"/proc/{pid}/fd/{descriptor}"
    try:
        if not os.readlink(path).startswith(f"/memfd:{_name(token)}"):
            return None
        with open(path, "r+b") as file:
            return mmap.mmap(file.fileno(), length)
    except (OSError, ValueError):
        return None


def _opened_pipe(pid: int, descriptor: int, inode: int) -> int:
    """The end of another rank's pipe that is written to; -1 where this process does not see it."""
    path = f"/proc/{pid}/fd/{descriptor}"
    try:
        found = os.stat(path)
        if not stat.S_ISFIFO(found.st_mode) or found.st_ino != inode:
            return -1
        return os.open(path, os.O_WRONLY)
    except OSError:
        return -1


def _close(ends: Iterable[int]) -> None:
    for end in ends:
        os.close(end)


_open: WeakKeyDictionary[dist.ProcessGroup, SharedMemory] = WeakKeyDictionary()


def shared_memory() -> SharedMemory | None:
    """That of the process group; None where there are too many ranks for it."""
    group = dist.group.WORLD
    if not _allowed or group is None or not 1 < dist.get_world_size() <= _MOST_RANKS:
        return None
    if group not in _open:
        _open[group] = SharedMemory()
    return _open[group]


@contextmanager
def none_shared() -> Iterator[None]:
    """Ranks send, as they do on several machines."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before
