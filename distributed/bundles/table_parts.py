"""The rows of a bundle's tag table, which lie in one file for each rank that wrote them.

Shapes: n rows, E embedding size.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from drel_core.annotators.drel import table_file, write_table_part
from drel_core.bundle.info import BundleInfo
from drel_core.bundle.safe_loading import load_tensors
from drel_core.bundle.tensor_files import open_tensors, save_tensors

_BLOCK = 65536


@dataclass(frozen=True)
class TableParts:
    """The files of a table, in a bundle on this machine.

    Attributes:
        count: their number.
    """

    folder: Path
    count: int

    @staticmethod
    def of(folder: Path, info: BundleInfo) -> TableParts:
        return TableParts(folder, int(info.content["table_parts"]))

    @property
    def names(self) -> list[str]:
        """Of the files, in order."""
        return [table_file(part, self.count) for part in range(self.count)]

    @property
    def keep_state(self) -> bool:
        """Whether the rows can be learned on: their optimiser state is there."""
        return all(has_state for _, _, has_state in map(self._about, range(self.count)))

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """Rows ``[n, E]`` and optimiser state ``[n]`` of the tags from ``start`` to ``stop``, no others read;
        fewer where there are fewer. The state is None where a file keeps none."""
        weights, states = [torch.empty(0, 0)], [torch.empty(0)]
        for part in range(self.count):
            first, last, has_state = self._about(part)
            low, high = max(start, first) - first, min(stop, last) - first
            if low < high:
                with open_tensors(self.folder / table_file(part, self.count)) as file:
                    weights.append(file.get_slice("weight")[low:high])
                    if has_state:
                        states.append(file.get_slice("state")[low:high])
        found = torch.cat(weights[1:] or weights)
        return found, torch.cat(states) if len(states) == len(weights) else None

    def rows(self, tag_n: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same of any tags that the table has. No more than a block of it is in memory."""
        order_n = tag_n.argsort()
        wanted_n, found = tag_n[order_n].contiguous(), []
        for start, stop in self._blocks():
            low, high = torch.searchsorted(wanted_n, torch.tensor([start, stop])).tolist()
            if low < high:
                here_n = wanted_n[low:high] - start
                weight_nE, state_n = self.between(start, stop)
                found.append((weight_nE[here_n], None if state_n is None else state_n[here_n]))
        back_n = order_n.argsort()
        states = [state_n for _, state_n in found if state_n is not None]
        state_n = torch.cat(states)[back_n] if len(states) == len(found) else None
        return torch.cat([weight_nE for weight_nE, _ in found])[back_n], state_n

    def write_grown(self, folder: Path, weight_nE: Tensor, state_n: Tensor | None) -> int:
        """Leave the table with more rows at its end in the folder of another bundle: the same files under
        new numbers, and one more.

        Returns:
            the number of its files.
        """
        end = 0
        for part, name in enumerate(self.names):
            shutil.copyfile(self.folder / name, folder / table_file(part, self.count + 1))
            end = max(end, self._about(part)[1])
        write_table_part(folder, self.count, self.count + 1, end, weight_nE, state_n)
        return self.count + 1

    def overwrite(self, tag_n: Tensor, weight_nE: Tensor) -> None:
        """Put other rows in place of those of some tags, in a bundle that is being written."""
        for part in range(self.count):
            start, stop, _ = self._about(part)
            here_n = (tag_n >= start) & (tag_n < stop)
            if here_n.any():
                path = self.folder / table_file(part, self.count)
                held = {name: value.clone() for name, value in load_tensors(path).items()}
                held["weight"][tag_n[here_n] - start] = weight_nE[here_n].to(held["weight"].dtype)
                save_tensors(held, path)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """First tag of each block, and the one after its last."""
        for part in range(self.count):
            start, stop, _ = self._about(part)
            for low in range(start, stop, _BLOCK):
                yield low, min(low + _BLOCK, stop)

    def _about(self, part: int) -> tuple[int, int, bool]:
        """First tag of a file, the one after its last, and whether it keeps their state."""
        with open_tensors(self.folder / table_file(part, self.count)) as file:
            start, rows = int(file.get_tensor("start")), file.get_slice("weight").get_shape()[0]
            return start, start + rows, "state" in file.keys()  # noqa: SIM118
