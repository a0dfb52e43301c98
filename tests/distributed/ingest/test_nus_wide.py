"""The NUS-WIDE layout: what is read is what was written; what is broken is named by file and line."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distributed.ingest.nus_wide import LineFile, NusWide, NusWideOptions
from distributed.ingest.parts import matrix
from drel_core.errors import InputError
from tests.distributed.ingest.nus_wide_folder import CONCEPTS, TAGS, write_nus_wide


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    root = tmp_path_factory.mktemp("nus") / "NUS WIDE"
    return root, write_nus_wide(root)


def test_features_tags_and_split_come_out_as_written(
    written: tuple[Path, dict[str, np.ndarray]],
) -> None:
    root, truth = written
    source: NusWide = pickle.loads(pickle.dumps(NusWide.open(str(root), NusWideOptions())))
    assert source.num_rows == 300
    table = source.read(0, 300).table
    value = matrix(table)
    assert value.shape == (300, 1134)
    expected = np.concatenate([truth["Train features"], truth["Test features"]])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert table.column("split").to_pylist() == ["train"] * 200 + ["test"] * 100
    assert table.column("image_id")[0].as_py() == "actor/Train_0000.jpg"
    flags = np.concatenate([truth["Train tags"], truth["Test tags"]])
    assert table.column("tags").to_pylist() == [
        [TAGS[t] for t in np.flatnonzero(row)] for row in flags
    ]
    for start, rows in ((0, 1), (190, 20), (199, 2), (200, 1), (299, 50), (150, 150)):
        assert source.read(start, rows).table.equals(table.slice(start, rows)), (start, rows)


def test_concepts_chosen_features_and_no_split(
    written: tuple[Path, dict[str, np.ndarray]],
) -> None:
    root, truth = written
    options = NusWideOptions(labels="both", features="bow, ch")
    source = NusWide.open(str(root), options, official=False)
    table = source.read(0, 300).table
    assert matrix(table).shape == (300, 564)  # always in the distribution's order: CH, then BOW
    np.testing.assert_allclose(matrix(table)[:200, :64], truth["Train features"][:, :64], rtol=1e-6)
    assert table.column("split").null_count == 300
    first = [TAGS[t] for t in np.flatnonzero(truth["Train tags"][1])]
    first += [CONCEPTS[t] for t in np.flatnonzero(truth["Train concepts"][1])]
    assert table.column("tags")[1].as_py() == first
    only = NusWide.open(str(root), NusWideOptions(labels="concepts81", features="EDH"))
    wanted = [CONCEPTS[t] for t in np.flatnonzero(truth["Test concepts"][3])]
    assert only.read(203, 1).table.column("tags")[0].as_py() == wanted


def test_lines_are_found_wherever_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [b"x" * (i % 7) for i in range(1000)]
    for block in (1, 3, 64, 1 << 20):
        monkeypatch.setattr("distributed.ingest.nus_wide._BLOCK", block)
        for end in (b"", b"\n"):
            path = tmp_path / "lines"
            path.write_bytes(b"\n".join([*lines, b"last"]) + end)
            file = LineFile.open(path)
            assert file.lines == 1001
            for start in (0, 255, 256, 257, 511, 900):
                assert file.read(start, 90) == [*lines, b"last"][start : start + 90]
    path.write_bytes(b"")
    assert LineFile.open(path).lines == 0


def edit(name: str, change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def work(root: Path) -> None:
        path = root / name
        path.write_bytes(b"\n".join(change(path.read_bytes().splitlines())) + b"\n")

    return work


def word(line: int, place: int, new: bytes) -> Callable[[list[bytes]], list[bytes]]:
    def work(lines: list[bytes]) -> list[bytes]:
        words = lines[line].split()
        words[place : place + 1] = [new] if new else []
        lines[line] = b" ".join(words)
        return lines

    return work


def moved(lines: list[bytes]) -> list[bytes]:
    """One number from the end of a line to the start of the next: the file's total is right."""
    words = lines[4].split()
    lines[4], lines[5] = b" ".join(words[:-1]), words[-1] + b" " + lines[5]
    return lines


LOW = "Low_Level_Features/"
BROKEN = {
    "missing file": (lambda root: (root / LOW / "Test_Normalized_WT.dat").unlink(),
                     "Test_Normalized_WT.dat: missing"),
    "missing list": (lambda root: (root / "TagList1k.txt").unlink(), "TagList1k.txt: missing"),
    "too few lines": (edit(LOW + "Test_Normalized_WT.dat", lambda lines: lines[:-1]),
                      "Test_Normalized_WT.dat: 99 lines, but .*TestImagelist.txt has 100; line 100"),
    "too many lines": (edit("NUS_WID_Tags/Train_Tags1k.dat", lambda lines: [*lines, lines[0]]),
                       "Train_Tags1k.dat: 201 lines, but .* has 200; line 201"),
    "a column less": (edit(LOW + "Train_Normalized_CH.dat", word(7, 3, b"")),
                      "Train_Normalized_CH.dat: line 8 has 63 numbers; it must have 64"),
    "shifted": (edit(LOW + "Train_Normalized_CH.dat", moved),
                "Train_Normalized_CH.dat: line 5 has 63 numbers"),
    "no number": (edit(LOW + "BoW_Test_int.dat", word(2, 9, b"x1")),
                  "BoW_Test_int.dat: line 3: 'x1' is not a number"),
    "no label": (edit("NUS_WID_Tags/Test_Tags1k.dat", word(5, 1, b"2")),
                 "Test_Tags1k.dat: line 6: 2 in column 2; labels must be 0 or 1"),
    "more tags than names": (edit("TagList1k.txt", lambda lines: lines[:-1]),
                             "Train_Tags1k.dat: line 1 has 40 numbers; it must have 39"),
    "a name twice": (edit("TagList1k.txt", lambda lines: [*lines[:-1], lines[0]]), "'tag0' is listed twice"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_is_named_by_file_and_line(
    written: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, kind: str
) -> None:
    root = tmp_path / "broken"
    shutil.copytree(written[0], root)
    spoil, message = BROKEN[kind]
    spoil(root)
    with pytest.raises(InputError, match=message):
        NusWide.open(str(root), NusWideOptions()).read(0, 300)


def test_archives_unpacked_elsewhere_are_found(
    written: tuple[Path, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    root = tmp_path / "flat"
    shutil.copytree(written[0], root)
    (root / "NUS_WID_Low_Level_Features").mkdir()
    (root / "Low_Level_Features").rename(root / "NUS_WID_Low_Level_Features" / "Low_Level_Features")
    for path in (root / "ImageList").iterdir():
        path.rename(root / path.name)
    one, other = (NusWide.open(str(at), NusWideOptions()) for at in (root, written[0]))
    assert one.read(150, 100).table.equals(other.read(150, 100).table)


def test_wrong_choices(written: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="GIST is not one of CH, CORR"):
        NusWide.open(str(written[0]), NusWideOptions(features="CH,gist"))
    with pytest.raises(InputError, match="no such folder"):
        NusWide.open(str(tmp_path / "none"), NusWideOptions())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="missing; give --input the folder of NUS-WIDE"):
        NusWide.open(str(tmp_path / "empty"), NusWideOptions())
