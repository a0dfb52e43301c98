"""NUS-WIDE: the whole, any range of it, and every way in which a folder can be broken."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distributed.ingest.sources import line_files
from distributed.ingest.sources.line_files import index_lines
from distributed.ingest.sources.nuswide import NusWideSource
from drel_core.errors import InputError
from tests.helpers.nuswide_layout import CONCEPTS, SIZES, Layout, write_layout

CH, BOW = "Low_Level_Features/Train_Normalized_CH.dat", "Low_Level_Features/BoW_Test_int.dat"
WT = "Low_Level_Features/Test_Normalized_WT.dat"
TAGS, TAG_LIST = "NUS_WID_Tags/Train_Tags1k.dat", "NUS_WID_Tags/TagList1k.txt"
TRAIN, TEST = "ImageList/TrainImagelist.txt", "ImageList/TestImagelist.txt"
ZEBRA = "Groundtruth/TrainTestLabels/Labels_zebra_Test.txt"
LISTED = "ConceptsList/Concepts81.txt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return write_layout(tmp_path_factory.mktemp("nuswide") / "NUS-WIDE")


@pytest.fixture
def folder(whole: Layout, tmp_path: Path) -> Iterator[Path]:
    """A copy to break."""
    shutil.copytree(whole.root, tmp_path / "NUS")
    yield tmp_path / "NUS"


def matrix(table: pa.Table) -> np.ndarray:
    column = table.column("features").combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), column.type.list_size)


def parts(source: NusWideSource) -> list[tuple[int, int]]:
    total = source.num_rows
    return [(0, total), (0, 1), (total - 1, 1), (170, 20), (180, 7), (3, 177), (total - 5, 50)]


# ---- what is read


def test_the_official_split(whole: Layout) -> None:
    source = NusWideSource.open(str(whole.root))
    assert (source.num_rows, source.dim) == (300, 1134)
    chunk = source.read(0, 300)
    kept = [row for row in range(300) if whole.tags_BT[row].any()]
    assert len(kept) < 299
    assert chunk.table.column("image_id").to_pylist() == [whole.ids[row] for row in kept]
    assert chunk.table.schema.field("features").type == pa.list_(pa.float32(), 1134)
    np.testing.assert_allclose(matrix(chunk.table), whole.features_BD[kept], rtol=1e-5)
    assert chunk.table.column("tags").to_pylist() == [whole.tags()[row] for row in kept]
    assert chunk.table.column("split").to_pylist() == [
        "test" if r >= 180 else "train" for r in kept
    ]
    gone = chunk.rejected.to_pylist()
    assert [row["image_id"] for row in gone] == [whole.ids[r] for r in range(300) if r not in kept]
    assert {
        "image_id": whole.ids[200],
        "where": f"{whole.root}/NUS_WID_Tags/Test_Tags1k.dat line 21",
        "reason": "no tags",
    } in gone


def test_concepts_are_read_from_their_files(whole: Layout) -> None:
    chunk = NusWideSource.open(str(whole.root), tags="concepts").read(0, 300)
    kept = [row for row in range(300) if whole.concepts_BC[row].any()]
    assert chunk.table.column("tags").to_pylist() == [whole.tags(True)[row] for row in kept]
    assert len(chunk.table) + len(chunk.rejected) == 300
    assert chunk.rejected.column("where")[0].as_py().startswith(f"{whole.root}/{TRAIN} line ")


def test_features_can_be_chosen_and_keep_their_order(whole: Layout) -> None:
    source = NusWideSource.open(str(whole.root), features=["WT", "CH"])
    table = source.read(0, 300).table
    full = matrix(NusWideSource.open(str(whole.root)).read(0, 300).table)
    starts = dict(zip(SIZES, np.cumsum([0, *SIZES.values()]), strict=False))
    expected = np.concatenate(
        [full[:, starts[kind] : starts[kind] + SIZES[kind]] for kind in ("CH", "WT")], 1
    )
    assert source.dim == 64 + 128
    np.testing.assert_array_equal(matrix(table), expected)
    assert source.describe()["features"] == ["CH", "WT"]


@pytest.mark.parametrize("options", [{}, {"tags": "concepts"}])
def test_any_range_equals_a_slice_of_the_whole(
    whole: Layout, options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_files, "_EVERY_BYTES", 5000)
    source = NusWideSource.open(str(whole.root), **options)  # type: ignore[arg-type]
    table, gone = source.read(0, 300).table, source.read(0, 300).rejected
    again = pickle.loads(pickle.dumps(source))
    place = {image_id: row for row, image_id in enumerate(whole.ids)}
    rows = np.array([place[i] for i in table.column("image_id").to_pylist()])
    gone_rows = np.array([place[i] for i in gone.column("image_id").to_pylist()])
    for start, count in parts(source):
        chunk = again.read(start, count)
        assert chunk.table.equals(table.filter((rows >= start) & (rows < start + count)))
        assert chunk.rejected.equals(
            gone.filter((gone_rows >= start) & (gone_rows < start + count))
        )
    assert source.read(300, 10).table.schema == table.schema


def test_a_pickled_source_is_small(whole: Layout) -> None:
    assert len(pickle.dumps(NusWideSource.open(str(whole.root)))) < 20_000


def test_files_beside_their_folders_are_found(folder: Path) -> None:
    before = NusWideSource.open(str(folder)).read(0, 300).table
    for name in ("Low_Level_Features", "ImageList", "NUS_WID_Tags"):
        for file in (folder / name).iterdir():
            file.rename(folder / file.name)
    assert NusWideSource.open(str(folder)).read(0, 300).table.equals(before)


@pytest.mark.parametrize(
    ("text", "lines"),
    [(b"", 0), (b"\n\n", 0), (b"a", 1), (b"a\n", 1), (b"a\n\nb\r\n \n\n", 3), (b"\na", 2)],
)
@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_lines_are_counted_over_block_borders(
    text: bytes, lines: int, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_files, "_BLOCK_BYTES", block)
    monkeypatch.setattr(line_files, "_EVERY_BYTES", 2)
    (tmp_path / "file").write_bytes(text)
    file = index_lines(tmp_path / "file")
    assert file.lines == lines
    expected = text.split(b"\n")
    for start in range(lines):
        for stop in range(start + 1, lines + 1):
            got = file.read(start, stop).split(b"\n")
            assert [line.strip() for line in got[:-1]] == [e.strip() for e in expected[start:stop]]


@pytest.mark.parametrize("value", ["nan", "inf", "1e40"])
def test_features_that_are_not_finite_are_rejected(folder: Path, value: str) -> None:
    edit(folder / TAGS, 2, lambda line: "1" + line[1:])
    clean = NusWideSource.open(str(folder)).read(0, 300)
    edit(folder / CH, 2, lambda line: re.sub(r"^\S+ \S+", f"0.5 {value}", line))
    chunk = NusWideSource.open(str(folder)).read(0, 300)
    kind = "NaN" if value == "nan" else "Inf"
    (new,) = [r for r in chunk.rejected.to_pylist() if r not in clean.rejected.to_pylist()]
    assert new["where"] == f"{folder}/{CH} line 2"
    assert new["reason"] == f"features hold {kind} at position 1"
    assert len(chunk.table) == len(clean.table) - 1


# ---- what is refused


def edit(path: Path, line: int, change: Callable[[str], str | None]) -> None:
    """Change a line (counted from 1), or take it out with None."""
    lines = path.read_bytes().decode().split("\n")
    new = change(lines[line - 1])
    lines[line - 1 : line] = [] if new is None else new.split("\n")
    path.write_bytes("\n".join(lines).encode())


BROKEN: dict[str, tuple[str, int, Callable[[str], str | None], str]] = {
    "a line short": (
        WT,
        120,
        lambda _: None,
        "{WT}: 119 lines, but {TEST} has 120; line 120 is missing",
    ),
    "a line too many": (
        CH,
        1,
        lambda line: f"{line}\n{line}",
        "{CH}: 181 lines, but {TRAIN} has 180; line 181 is one too many",
    ),
    "tags a line short": (
        TAGS,
        5,
        lambda _: None,
        "{TAGS}: 179 lines, but {TRAIN} has 180; line 180 is missing",
    ),
    "a column short at the start": (
        CH,
        1,
        lambda line: line.rpartition(" ")[0].rpartition(" ")[0],
        "{CH} line 1: 63 values; it must have 64",
    ),
    "a column too many": (
        BOW,
        77,
        lambda line: line + " 5",
        "{BOW} line 77: 501 values; it must have 500",
    ),
    "an empty line": (BOW, 77, lambda _: "", "{BOW} line 77: 0 values; it must have 500"),
    "no number": (
        CH,
        33,
        lambda line: line.replace(" ", " x1 ", 1).rsplit(" ", 2)[0],
        "{CH} line 33: 'x1', value 2, is not a number",
    ),
    "a Windows NaN": (
        CH,
        3,
        lambda line: "-1.#IND " + line.split(" ", 1)[1],
        "{CH} line 3: '-1.#IND', value 1, is not a number",
    ),
    "a tag that is 2": (
        TAGS,
        9,
        lambda line: "2" + line[1:],
        "{TAGS} line 9: '2'; every value must be 0 or 1",
    ),
    "a tag that is 11": (
        TAGS,
        9,
        lambda line: "11" + line[1:],
        "{TAGS} line 9: '11' is value 1; it must be 0 or 1",
    ),
    "tags of another width": (
        TAGS,
        9,
        lambda line: "1\t" + line,
        "{TAGS} line 9: 41 values; it must have 40",
    ),
    "a tag list too short": (
        TAG_LIST,
        40,
        lambda _: None,
        "{TAGS} line 1: 40 values, but the list of tags has 39 lines",
    ),
    "an empty tag": (TAG_LIST, 4, lambda _: "", "{TAG_LIST} line 4: empty"),
    "an image twice": (
        TEST,
        8,
        lambda _: "a\\b.jpg\na\\b.jpg\n",
        "{TEST} line 9: 'a/b.jpg' is on {TEST} line 8 already",
    ),
    "an image without a name": (TRAIN, 8, lambda _: " ", "{TRAIN} line 8: empty"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_line(folder: Path, case: str) -> None:
    name, line, change, message = BROKEN[case]
    edit(folder / name, line, change)
    if case == "an image twice":
        edit(folder / TEST, 10, lambda _: None)
        edit(folder / TEST, 10, lambda _: None)
    known = {"WT": WT, "CH": CH, "BOW": BOW, "TAGS": TAGS, "TAG_LIST": TAG_LIST, "TEST": TEST}
    paths = {key: f"{folder}/{value}" for key, value in (known | {"TRAIN": TRAIN}).items()}
    with pytest.raises(InputError) as raised:
        NusWideSource.open(str(folder)).read(0, 300)
    assert message.format(**paths) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_image_in_both_lists_is_refused(folder: Path) -> None:
    name = (folder / TRAIN).read_text().split("\n")[10].strip()
    edit(folder / TEST, 3, lambda _: name)
    with pytest.raises(InputError, match=r"TestImagelist.txt line 3: .*TrainImagelist.txt line 11"):
        NusWideSource.open(str(folder))


def test_broken_concepts_are_named(folder: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            NusWideSource.open(str(folder), tags="concepts").read(0, 300)

    edit(folder / ZEBRA, 6, lambda _: "yes")
    refused("Labels_zebra_Test.txt line 6: 'yes'; every value must be 0 or 1")
    edit(folder / ZEBRA, 6, lambda _: "0 1")
    refused("Labels_zebra_Test.txt line 6: 2 values; it must have 1")
    edit(folder / ZEBRA, 6, lambda _: None)
    refused(
        "Labels_zebra_Test.txt: 119 lines, but .*TestImagelist.txt has 120; line 120 is missing"
    )
    (folder / ZEBRA).unlink()
    refused("Concepts81.txt line 81: 'zebra' has no file Labels_zebra_Test.txt")
    edit(folder / LISTED, 81, lambda _: None)
    refused("Labels_zebra_Train.txt: concept 'zebra' is on no line of .*Concepts81.txt")
    edit(folder / LISTED, 5, lambda _: CONCEPTS[1])
    refused("Concepts81.txt line 5: 'animal' is on line 2 already")


@pytest.mark.parametrize("name", [CH, BOW, TAGS, TAG_LIST, TRAIN])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {Path(name).name} in"):
        NusWideSource.open(str(folder))


def test_a_file_that_changes_is_noticed(folder: Path) -> None:
    source = NusWideSource.open(str(folder))
    edit(folder / CH, 3, lambda line: line + " ")
    with pytest.raises(InputError, match=r"CH.dat: has changed since"):
        source.read(0, 10)
    (folder / CH).unlink()
    with pytest.raises(InputError, match=r"CH.dat: cannot be read"):
        source.read(0, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tags": "tags5k"}, "use tags1k or concepts"),
        ({"features": ["CH", "SIFT"]}, "'SIFT': use some of CH, CORR"),
        ({"features": []}, "no features chosen"),
    ],
)
def test_wrong_options_are_refused(whole: Layout, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NusWideSource.open(str(whole.root), **options)  # type: ignore[arg-type]


def test_only_a_local_folder_will_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="copy it to one first"):
        NusWideSource.open("s3://bucket/NUS-WIDE")
    with pytest.raises(InputError, match="no such folder"):
        NusWideSource.open(str(tmp_path / "nothing"))
