"""Tables with features beside them or in them: what is read, what is rejected, what is refused."""

from __future__ import annotations

import csv
import importlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io

from distributed.ingest.sources import tag_files
from distributed.ingest.sources.base import Chunk
from distributed.ingest.sources.table import TableOptions, TableSource
from drel_core.errors import InputError

B, D = 40, 6
IDS = [f"bild-{row:02d}" for row in range(B)]
TAGS = [["café", f"t{row % 5}", 'say "hi"'][: 1 + row % 3] for row in range(B)]
SPLITS = ["test" if row % 4 == 0 else "train" for row in range(B)]
VALUE_BD = np.random.default_rng(0).normal(size=(B, D)).astype(np.float32)
Rows = dict[str, list[Any]]


def rows(**replaced: list[Any]) -> Rows:
    return {"image_id": IDS, "tags": list(TAGS), "part": list(SPLITS), **replaced}


# ---- writers of every form


def write_csv(path: Path, columns: Rows, separator: str = ",") -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            cells = [separator.join(c) if isinstance(c, list) else c for c in row]
            writer.writerow(["" if cell is None else cell for cell in cells])


def write_json(path: Path, columns: Rows) -> None:
    lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text(text + "\n", "utf-8")


def write_parquet(path: Path, columns: Rows, **options: Any) -> None:
    pq.write_table(pa.table(columns), path, **options)


TABLES: dict[str, Callable[[Path, Rows], None]] = {
    "csv": write_csv,
    "tsv": write_csv,
    "jsonl": write_json,
    "parquet": write_parquet,
}


def write_hdf5(path: Path, **arrays: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            text = array.dtype.kind == "U"
            file.create_dataset(
                name,
                data=array.astype(object) if text else array,
                dtype=h5py.string_dtype() if text else None,
            )


def write_matlab_hdf5(path: Path, x: np.ndarray, names: np.ndarray) -> None:
    """MATLAB 7.3: columns first, texts as references to numbers, behind 512 bytes."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("x", data=x.T).attrs["MATLAB_class"] = np.bytes_("double")
        references = []
        for place, name in enumerate(names.tolist()):
            letters = np.array([[ord(c)] for c in name], dtype=np.uint16)
            references.append(file.create_dataset(f"#refs#/r{place}", data=letters).ref)
        cell = file.create_dataset("names", data=np.array([references], dtype=h5py.ref_dtype))
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


ARRAYS: dict[str, tuple[str, Callable[[Path, np.ndarray, np.ndarray], None]]] = {
    "npz": ("f.npz", lambda path, x, names: np.savez(path, x=x, names=names)),
    "npz fortran": (
        "f.npz",
        lambda path, x, names: np.savez(path, x=np.asfortranarray(x), names=names),
    ),
    "npz compressed": ("f.npz", lambda path, x, names: np.savez_compressed(path, x=x, names=names)),
    "mat": (
        "f.mat",
        lambda path, x, names: scipy.io.savemat(
            path, {"x": x.astype(np.float64), "names": names.astype(object)}
        ),
    ),
    "mat of letters": (
        "f.mat",
        lambda path, x, names: scipy.io.savemat(path, {"x": x, "names": names}),
    ),
    "mat 7.3": ("f.mat", write_matlab_hdf5),
    "hdf5": ("f.h5", lambda path, x, names: write_hdf5(path, x=x, names=names)),
}


# ---- what is read


def matrix(table: pa.Table) -> np.ndarray:
    column = table.column("features").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def content(chunk: Chunk) -> list[tuple[Any, ...]]:
    table = chunk.table
    names = ("image_id", "tags", "split")
    return list(zip(*(table.column(n).to_pylist() for n in names), strict=True))


def check_ranges(source: TableSource) -> Chunk:
    """Ranges put together are the whole, also from a source that has travelled."""
    whole = source.read(0, source.num_rows)
    again = pickle.loads(pickle.dumps(source))
    for size in (1, 7, source.num_rows):
        pieces = [again.read(start, size) for start in range(0, source.num_rows, size)]
        table = pa.concat_tables([piece.table for piece in pieces])
        assert table.equals(whole.table)
        assert pa.concat_tables([p.rejected for p in pieces]).equals(whole.rejected)
    assert source.read(source.num_rows, 5).table.schema == whole.table.schema
    return whole


@pytest.mark.parametrize("form", TABLES)
def test_a_table_beside_an_npy_file(form: str, tmp_path: Path) -> None:
    TABLES[form](tmp_path / f"tags.{form}", rows())
    np.save(tmp_path / "f.npy", VALUE_BD)
    options = TableOptions(features_file=str(tmp_path / "f.npy"), split="part")
    chunk = check_ranges(TableSource.open(str(tmp_path / f"tags.{form}"), options))
    assert content(chunk) == list(zip(IDS, TAGS, SPLITS, strict=True))
    np.testing.assert_array_equal(matrix(chunk.table), VALUE_BD)
    assert len(chunk.rejected) == 0


@pytest.mark.parametrize("kind", ARRAYS)
def test_every_array_file_by_row_and_by_id(kind: str, tmp_path: Path) -> None:
    name, write = ARRAYS[kind]
    order = np.random.default_rng(1).permutation(B)
    write(tmp_path / name, VALUE_BD[order], np.array(IDS)[order])
    write_csv(tmp_path / "tags.csv", rows())
    common = TableOptions(features_file=str(tmp_path / name), features_array="x")
    chunk = check_ranges(TableSource.open(str(tmp_path / "tags.csv"), common))
    np.testing.assert_array_equal(matrix(chunk.table), VALUE_BD[order])
    by_id = TableOptions(features_file=str(tmp_path / name), ids_array="names", features_array="x")
    chunk = check_ranges(TableSource.open(str(tmp_path / "tags.csv"), by_id))
    np.testing.assert_array_equal(matrix(chunk.table), VALUE_BD)
    assert chunk.table.column("image_id").to_pylist() == IDS


@pytest.mark.parametrize("form", TABLES)
def test_a_column_says_the_row(form: str, tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(B).tolist()
    place: list[Any] = [order.index(row) for row in range(B)]
    place[3], place[5] = B + 2, None
    TABLES[form](tmp_path / f"tags.{form}", rows(row=place))
    np.save(tmp_path / "f.npy", VALUE_BD[order])
    options = TableOptions(features_file=str(tmp_path / "f.npy"), row_column="row")
    chunk = check_ranges(TableSource.open(str(tmp_path / f"tags.{form}"), options))
    np.testing.assert_array_equal(matrix(chunk.table), np.delete(VALUE_BD, [3, 5], 0))
    assert [row["where"] for row in chunk.rejected.to_pylist()] == [
        f"{tmp_path}/tags.{form} row 3",
        f"{tmp_path}/tags.{form} row 5",
    ]
    assert chunk.rejected.column("reason")[0].as_py().endswith("f.npy has rows 0 to 39")


def test_ids_that_are_numbers(tmp_path: Path) -> None:
    names = [f"{row:03d}" if row % 2 else str(row * 1000) for row in range(B)]
    write_csv(tmp_path / "tags.csv", rows(image_id=names))
    np.savez(tmp_path / "f.npz", x=VALUE_BD, key=np.array(names))
    options = TableOptions(features_file=str(tmp_path / "f.npz"), ids_array="key")
    source = TableSource.open(str(tmp_path / "tags.csv"), options)
    assert source.read(0, B).table.column("image_id").to_pylist() == names
    write_json(tmp_path / "tags.jsonl", rows(image_id=list(range(B))))
    np.savez(tmp_path / "f.npz", x=VALUE_BD, key=np.arange(B))
    source = TableSource.open(str(tmp_path / "tags.jsonl"), options)
    np.testing.assert_array_equal(matrix(source.read(0, B).table), VALUE_BD)


@pytest.mark.parametrize("separator", ["|", " ", "; "])
def test_separators_and_other_column_names(separator: str, tmp_path: Path) -> None:
    words = [["straße", f"x{row}"] for row in range(B)]
    columns = {"other": ["2012-01-01"] * B, "Bild": IDS, "Wörter": words, "Größe": [1.5] * B}
    write_csv(tmp_path / "tags.csv", columns, separator)
    np.save(tmp_path / "f.npy", VALUE_BD)
    options = TableOptions(
        features_file=str(tmp_path / "f.npy"),
        id_column="Bild",
        tags_column="Wörter",
        separator=separator,
    )
    chunk = TableSource.open(str(tmp_path / "tags.csv"), options).read(0, B)
    assert chunk.table.column("tags").to_pylist() == words
    assert chunk.table.column("split").to_pylist() == ["train"] * B


def test_csv_with_quotes_line_breaks_a_mark_and_compression(tmp_path: Path) -> None:
    text = (
        '\ufeffimage_id,tags\r\n"a,b","x, ""y"",  ,z"\r\n"line\nbreak","日本, München"\r\nc,NA\r\n'
    )
    (tmp_path / "tags.csv").write_bytes(text.encode())
    np.save(tmp_path / "f.npy", VALUE_BD[:3])
    options = TableOptions(features_file=str(tmp_path / "f.npy"))
    chunk = TableSource.open(str(tmp_path / "tags.csv"), options).read(0, 3)
    assert chunk.table.column("image_id").to_pylist() == ["a,b", "line\nbreak", "c"]
    expected = [["x", '"y"', "z"], ["日本", "München"], ["NA"]]
    assert chunk.table.column("tags").to_pylist() == expected
    with pa.output_stream(str(tmp_path / "tags.csv.gz"), compression="gzip") as stream:
        stream.write(text.encode())
    again = TableSource.open(str(tmp_path / "tags.csv.gz"), options).read(0, 3)
    assert again.table.equals(chunk.table)


def test_json_texts_that_look_like_times_stay_texts(tmp_path: Path) -> None:
    times = ["2012-01-01 00:00:00", "2012-01-02", "x"]
    write_json(
        tmp_path / "t.jsonl",
        {"image_id": times, "tags": [[], ["2013-01-01"], ["b"]], "z": [{}, 1, ""]},
    )
    np.save(tmp_path / "f.npy", VALUE_BD[:3])
    options = TableOptions(features_file=str(tmp_path / "f.npy"))
    chunk = TableSource.open(str(tmp_path / "t.jsonl"), options).read(0, 3)
    assert chunk.table.column("image_id").to_pylist() == times[1:]
    assert chunk.rejected.to_pylist()[0]["reason"] == "no tags"


def parquet_of(value: list[Any], kind: pa.DataType, **columns: list[Any]) -> pa.Table:
    table = pa.table({"image_id": IDS, "tags": TAGS, "part": SPLITS, **columns})
    return table.append_column("features", pa.array(value, kind))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32(), D),
        pa.list_(pa.float64()),
        pa.large_list(pa.float16()),
        pa.list_(pa.int8(), D),
    ],
    ids=str,
)
@pytest.mark.parametrize("text", [False, True])
def test_parquet_that_holds_everything(kind: pa.DataType, text: bool, tmp_path: Path) -> None:
    value_BD = np.round(VALUE_BD).astype(kind.value_type.to_pandas_dtype())
    tags = [";".join(t) for t in TAGS] if text else TAGS
    table = parquet_of([list(row) for row in value_BD], kind, tags=tags)
    (tmp_path / "in").mkdir()
    pq.write_table(table.slice(0, 25), tmp_path / "in" / "a.parquet", row_group_size=10)
    pq.write_table(table.slice(25), tmp_path / "in" / "b.parquet")
    options = TableOptions(split="part", separator=";")
    chunk = check_ranges(TableSource.open(str(tmp_path / "in"), options))
    assert content(chunk) == list(zip(IDS, TAGS, SPLITS, strict=True))
    np.testing.assert_array_equal(matrix(chunk.table), value_BD.astype(np.float32))
    stored = pa.float16() if kind.value_type == pa.float16() else pa.float32()
    assert chunk.table.schema.field("features").type == pa.list_(stored, D)


def test_parquet_columns_can_be_named(tmp_path: Path) -> None:
    table = parquet_of(VALUE_BD.tolist(), pa.list_(pa.float32(), D))
    pq.write_table(table.rename_columns(["k", "w", "p", "v"]), tmp_path / "x.parquet")
    options = TableOptions(id_column="k", tags_column="w", features_column="v")
    chunk = TableSource.open(str(tmp_path / "x.parquet"), options).read(0, B)
    np.testing.assert_array_equal(matrix(chunk.table), VALUE_BD)


def test_a_split_can_be_left_to_others(tmp_path: Path) -> None:
    pq.write_table(parquet_of(VALUE_BD.tolist(), pa.list_(pa.float32())), tmp_path / "t.parquet")
    source = TableSource.open(str(tmp_path / "t.parquet"), TableOptions(split=""))
    assert source.read(0, B).table.column("split").null_count == B


def test_a_large_npy_file_is_not_read_whole(tmp_path: Path) -> None:
    file = np.lib.format.open_memmap(
        tmp_path / "f.npy", mode="w+", dtype=np.float32, shape=(50_000_000, D)
    )  # a hole of 1.2 GB on disk
    file[49_999_999] = 7
    file.flush()
    write_csv(tmp_path / "t.csv", {"image_id": ["a"], "tags": [["x"]], "row": [49_999_999]})
    options = TableOptions(features_file=str(tmp_path / "f.npy"), row_column="row")
    source = TableSource.open(str(tmp_path / "t.csv"), options)
    assert len(pickle.dumps(source)) < 5000
    assert matrix(source.read(0, 1).table).tolist() == [[7.0] * D]


def test_describe_says_what_was_chosen(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", rows())
    np.save(tmp_path / "f.npy", VALUE_BD)
    options = TableOptions(features_file=str(tmp_path / "f.npy"))
    said = TableSource.open(str(tmp_path / "t.csv"), options).describe()
    assert said["kind"] == "table" and said["input"] == str(tmp_path / "t.csv")
    assert said["options"]["features_file"] == str(tmp_path / "f.npy")
    json.dumps(said)


# ---- what is rejected


@pytest.mark.parametrize("form", TABLES)
def test_bad_rows_of_a_table_are_rejected(form: str, tmp_path: Path) -> None:
    ids: list[Any] = list(IDS)
    ids[2], ids[4], ids[30] = None, "", IDS[7]
    tags: list[Any] = list(TAGS)
    tags[9], tags[11] = None, ["", " "]
    part = list(SPLITS)
    part[13] = "val"
    value_BD = VALUE_BD.astype(np.float64)
    value_BD[20, 1], value_BD[21, 5], value_BD[22, 0] = np.nan, -np.inf, 1e300
    path = tmp_path / f"t.{form}"
    TABLES[form](path, rows(image_id=ids, tags=tags, part=part))
    np.save(tmp_path / "f.npy", value_BD)
    options = TableOptions(features_file=str(tmp_path / "f.npy"), split="part")
    chunk = check_ranges(TableSource.open(str(path), options))
    assert [tuple(row.values()) for row in chunk.rejected.to_pylist()] == [
        (None, f"{path} row 2", "image_id is null or empty"),
        (None, f"{path} row 4", "image_id is null or empty"),
        (IDS[9], f"{path} row 9", "no tags"),
        (IDS[11], f"{path} row 11", "no tags"),
        (IDS[13], f"{path} row 13", "column 'part' is neither train nor test"),
        (IDS[20], f"{path} row 20", "features hold NaN at position 1"),
        (IDS[21], f"{path} row 21", "features hold Inf at position 5"),
        (IDS[22], f"{path} row 22", "features hold 1e+300, beyond float32, at position 0"),
        (IDS[7], f"{path} row 30", "image_id occurs already"),
    ]
    gone = [2, 4, 9, 11, 13, 20, 21, 22, 30]
    np.testing.assert_array_equal(matrix(chunk.table), np.delete(VALUE_BD, gone, 0))


def test_bad_rows_of_parquet_are_rejected(tmp_path: Path) -> None:
    value: list[Any] = VALUE_BD.tolist()
    value[1], value[3], value[27] = None, [1.0], [1.0, None, 2, 3, 4, 5]
    value[28] = [1.0, 2, 3, 4, 5, float("nan")]
    ids = [*IDS[:39], IDS[0]]
    table = parquet_of(value, pa.list_(pa.float32()), image_id=ids)
    (tmp_path / "in").mkdir()
    pq.write_table(table.slice(0, 25), tmp_path / "in" / "a.parquet", row_group_size=10)
    pq.write_table(table.slice(25), tmp_path / "in" / "b.parquet")
    chunk = check_ranges(TableSource.open(str(tmp_path / "in")))
    first, second = (f"{tmp_path}/in/{name}.parquet" for name in "ab")
    assert [tuple(row.values()) for row in chunk.rejected.to_pylist()] == [
        (IDS[1], f"{first} row 1", "features are null"),
        (IDS[3], f"{first} row 3", f"features have D = 1, the others have D = {D}"),
        (IDS[27], f"{second} row 2", "features hold a null at position 1"),
        (IDS[28], f"{second} row 3", "features hold NaN at position 5"),
        (IDS[0], f"{second} row 14", "image_id occurs already"),
    ]


def test_null_vectors_of_a_fixed_size_do_not_shift_the_others(tmp_path: Path) -> None:
    value: list[Any] = VALUE_BD.tolist()
    value[5] = None
    pq.write_table(parquet_of(value, pa.list_(pa.float32(), D)), tmp_path / "t.parquet")
    chunk = check_ranges(TableSource.open(str(tmp_path / "t.parquet")))
    np.testing.assert_array_equal(matrix(chunk.table), np.delete(VALUE_BD, 5, 0))
    assert chunk.rejected.column("reason").to_pylist() == ["features are null"]


def test_ids_without_features_are_rejected(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", rows())
    np.savez(tmp_path / "f.npz", x=VALUE_BD[5:], key=np.array(IDS[5:]))
    options = TableOptions(features_file=str(tmp_path / "f.npz"), ids_array="key")
    chunk = check_ranges(TableSource.open(str(tmp_path / "t.csv"), options))
    np.testing.assert_array_equal(matrix(chunk.table), VALUE_BD[5:])
    assert chunk.rejected.to_pylist()[4]["reason"] == (
        f"no features: the id is not in {tmp_path}/f.npz"
    )


@pytest.mark.parametrize("how", ["ids", "rows", "side by side", "parquet"])
def test_rows_of_one_image_are_joined(how: str, tmp_path: Path) -> None:
    ids, tags = ["1", "1", "2", "2", "3"], ["cat", "dog", "", "sky", "sky"]
    value_BD = VALUE_BD[[0, 0, 1, 1, 2]]
    path = tmp_path / "t.csv"
    options = TableOptions(features_file=str(tmp_path / "f.npz"), features_array="x")
    write_csv(path, {"image_id": ids, "tags": tags, "row": [0, 0, 1, 1, 2]})
    np.savez(tmp_path / "f.npz", x=VALUE_BD[:3], key=np.array(["1", "2", "3"]))
    if how == "ids":
        options = replace(options, ids_array="key")
    elif how == "rows":
        options = replace(options, row_column="row")
    elif how == "side by side":
        np.savez(tmp_path / "f.npz", x=value_BD)
    else:
        path = tmp_path / "t.parquet"
        table = {"image_id": ids, "tags": tags, "features": value_BD.tolist()}
        write_parquet(path, table, row_group_size=2)
        options = TableOptions()
    chunk = check_ranges(TableSource.open(str(path), options))
    assert [row[:2] for row in content(chunk)] == [
        ("1", ["cat", "dog"]),
        ("2", ["sky"]),
        ("3", ["sky"]),
    ]
    np.testing.assert_allclose(matrix(chunk.table), VALUE_BD[:3])
    assert chunk.rejected.num_rows == 0


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_zeros_of_both_signs_are_the_same_features(form: str, tmp_path: Path) -> None:
    table = {"image_id": ["1", "1"], "tags": ["cat", "dog"]}
    value_BD = np.array([[0.0, 1.0], [-0.0, 1.0]], np.float32)
    np.save(tmp_path / "f.npy", value_BD)
    path, options = tmp_path / f"t.{form}", TableOptions(features_file=str(tmp_path / "f.npy"))
    if form == "csv":
        write_csv(path, table)
    else:
        write_parquet(path, {**table, "features": value_BD.tolist()})
        options = TableOptions()
    chunk = TableSource.open(str(path), options).read(0, 2)
    assert [row[:2] for row in content(chunk)] == [("1", ["cat", "dog"])]


def test_ids_that_an_array_has_twice(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write_csv(path, {"image_id": ["1", "2"], "tags": ["cat", "dog"]})
    options = TableOptions(features_file=str(tmp_path / "f.npz"), ids_array="key")
    value_BD, key = VALUE_BD[[0, 1, 1, 2, 3]], np.array(["1", "2", "2", "x", "x"])
    np.savez(tmp_path / "f.npz", x=value_BD, key=key)  # x is not asked for
    source = TableSource.open(str(path), options)
    np.testing.assert_allclose(matrix(source.read(0, 2).table), VALUE_BD[:2])
    value_BD[2, 0] += 1
    np.savez(tmp_path / "f.npz", x=value_BD, key=key)
    message = "'key' has '2' in rows 1 and 2, with other features; keep one of them"
    refused(path, message, features_file=str(tmp_path / "f.npz"), ids_array="key")


def test_ids_whose_accents_are_composed_or_not(tmp_path: Path) -> None:
    """Unless both forms are ids of their own."""
    one, other = "caf\u00e9", "cafe\u0301"
    path = tmp_path / "t.csv"
    write_csv(path, {"image_id": [one, "2"], "tags": ["cat", "dog"]})
    options = TableOptions(features_file=str(tmp_path / "f.npz"), ids_array="key")
    for key, rows in (([other, "2"], [0, 1]), ([other, "2", one], [2, 1])):
        np.savez(tmp_path / "f.npz", x=VALUE_BD[: len(key)], key=np.array(key))
        chunk = TableSource.open(str(path), options).read(0, 2)
        assert chunk.rejected.num_rows == 0
        np.testing.assert_allclose(matrix(chunk.table), VALUE_BD[rows])


def test_joined_rows_must_have_one_split(tmp_path: Path) -> None:
    table = {"image_id": ["1", "1"], "tags": ["a", "b"], "part": ["train", "test"]}
    path = tmp_path / "t.parquet"
    write_parquet(path, {**table, "features": VALUE_BD[[0, 0]].tolist()})
    refused(path, "row 0 and .* row 1: one image, '1', once train and once test", split="part")


# ---- what is refused


def refused(path: Path, message: str, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as raised:
        source = TableSource.open(str(path), TableOptions(**options))
        source.read(0, source.num_rows)
    assert "\n" not in str(raised.value)


@pytest.fixture
def npy(tmp_path: Path) -> str:
    np.save(tmp_path / "f.npy", VALUE_BD)
    return str(tmp_path / "f.npy")


@pytest.mark.parametrize("form", TABLES)
def test_missing_columns_are_named(form: str, tmp_path: Path, npy: str) -> None:
    path = tmp_path / f"t.{form}"
    TABLES[form](path, rows())
    refused(
        path,
        "no column 'label'; it has image_id, tags, part; name the right one with --tags_column",
        features_file=npy,
        tags_column="label",
    )
    refused(path, "no column 'id';.*--id_column", features_file=npy, id_column="id")
    refused(path, "no column 'fold';.*--split", features_file=npy, split="fold")
    refused(path, "no column 'row';.*--row_column", features_file=npy, row_column="row")
    refused(path, "says train or test in no row", features_file=npy, split="image_id")


def test_counts_that_disagree_are_both_named(tmp_path: Path, npy: str) -> None:
    columns = {name: values[:39] for name, values in rows().items()}
    write_csv(tmp_path / "t.csv", columns)
    refused(
        tmp_path / "t.csv",
        r"t.csv has 39 rows, but .*f.npy has 40; they must agree",
        features_file=npy,
    )
    np.savez(tmp_path / "f.npz", x=VALUE_BD, key=np.array(IDS[:38]))
    refused(
        tmp_path / "t.csv",
        "38 ids in 'key', but 40 rows in 'x'",
        features_file=str(tmp_path / "f.npz"),
        ids_array="key",
    )


def test_a_torn_csv_line_is_named(tmp_path: Path, npy: str) -> None:
    (tmp_path / "t.csv").write_text("image_id,tags\na,x\nb,y,z\n")
    refused(tmp_path / "t.csv", r"t\.csv: .*Row #3: Expected 2 columns, got 3", features_file=npy)
    (tmp_path / "t.csv").write_text("image_id,tags,tags\na,x,y\n")
    refused(tmp_path / "t.csv", "two columns are named 'tags'", features_file=npy)
    (tmp_path / "t.csv").write_bytes(b"image_id,tags\na,caf\xe9\n")
    refused(tmp_path / "t.csv", "t.csv line 2: not UTF-8", features_file=npy)
    (tmp_path / "t.csv").write_text("")
    refused(tmp_path / "t.csv", "line 1: empty; it must name the columns", features_file=npy)
    (tmp_path / "t.csv").write_text("image_id,tags\n")
    refused(tmp_path / "t.csv", "no rows; the table must have", features_file=npy)


def test_a_bad_json_line_is_named(
    tmp_path: Path, npy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_files, "_PEEK_LINES", 1)
    good = '{"image_id": "a", "tags": ["x"]}\n'
    path = tmp_path / "t.jsonl"
    for bad, message in (
        (
            '{"image_id": "b", "tags": "x"}',
            """'tags' is "x", but list<.*string> in the lines before""",
        ),
        ('{"image_id": 7, "tags": ["x"]}', "'image_id' is 7, but string in the lines before"),
        ('{"image_id": "b", ', "not JSON"),
        ("[1, 2]", "not a JSON object"),
        (
            '{"image_id": "b", "tags": ["y", 1]}',
            """'tags' is \\["y", 1\\], entries of several types; write all of them as text""",
        ),
        ('{"image_id": "b", "tags": [{"n": "y"}]}', """'tags' is .*, but list<.*string> in the"""),
    ):
        path.write_text(good + "\n" + bad + "\n")
        refused(path, f"t.jsonl line 3: {message}", features_file=npy)
    path.write_text("\n")
    refused(path, "no rows", features_file=npy)


def test_arrays_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", rows())
    table = tmp_path / "t.csv"
    for name, array, message in (
        ("flat", VALUE_BD[:, 0], r"0 arrays with rows and columns .* holds flat \(40,\)"),
        ("text", np.array([["a"]]), "0 arrays with rows"),
        ("complex", VALUE_BD * 1j, "0 arrays with rows"),
        ("objects", np.array([[None]]), "cannot be read"),
        ("narrow", VALUE_BD[:, :0], "D = 0"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        refused(table, f"{name}.npy: .*{message}", features_file=str(tmp_path / f"{name}.npy"))
    file = str(tmp_path / "f.npz")
    np.savez(file, x=VALUE_BD, y=VALUE_BD, key=VALUE_BD[:, 0] + 0.5)
    refused(table, r"2 arrays .* holds x \(40, 6\), y .*--features_array", features_file=file)
    refused(table, "no array 'z'; it holds x", features_file=file, features_array="z")
    refused(table, r"array 'key' is \(40,\)", features_file=file, features_array="key")
    common = {"features_file": file, "features_array": "x"}
    refused(table, "no array 'ids'; .*--ids_array", ids_array="ids", **common)
    refused(table, "ids must be text or whole numbers", ids_array="key", **common)
    np.savez(file, x=VALUE_BD, key=np.array([f"other{i}" for i in range(B)]))
    refused(table, "no image_id is in 'key' .*'bild-00'.*'other0'", ids_array="key", **common)


def test_files_that_are_no_arrays_are_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", rows())
    for name in ("f.npy", "f.npz", "f.mat", "f.h5"):
        if name == "f.h5":
            pytest.importorskip("h5py")
        for data in (b"", b"something else entirely" * 50):
            (tmp_path / name).write_bytes(data)
            refused(
                tmp_path / "t.csv", f"{name}: cannot be read", features_file=str(tmp_path / name)
            )
    (tmp_path / "f.txt").write_text("1 2")
    refused(
        tmp_path / "t.csv", "f.txt: not a file of arrays", features_file=str(tmp_path / "f.txt")
    )
    refused(tmp_path / "t.csv", "no such file", features_file=str(tmp_path / "g.npy"))
    refused(tmp_path / "t.csv", "a local or mounted file", features_file="s3://bucket/f.npy")


@pytest.mark.parametrize("name", ["f.h5", "f.mat"])
def test_hdf5_without_h5py_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(bytes(512) + b"\x89HDF\r\n\x1a\n" + bytes(100))
    write_csv(tmp_path / "t.csv", rows())

    def without(module: str) -> Any:
        raise ImportError(module)

    monkeypatch.setattr(importlib, "import_module", without)
    refused(tmp_path / "t.csv", "pip install h5py", features_file=str(tmp_path / name))


def test_an_array_that_changes_is_noticed(tmp_path: Path, npy: str) -> None:
    write_csv(tmp_path / "t.csv", rows())
    source = TableSource.open(str(tmp_path / "t.csv"), TableOptions(features_file=npy))
    np.save(npy, VALUE_BD[:30])
    with pytest.raises(InputError, match="has changed since"):
        source.read(0, B)


def test_wrong_options_are_refused(tmp_path: Path, npy: str) -> None:
    write_csv(tmp_path / "t.csv", rows())
    table = tmp_path / "t.csv"
    refused(table, "a table without features; name them with --features_file")
    refused(table, "--separator is empty", features_file=npy, separator="")
    refused(table, "give one", features_file=npy, row_column="a", ids_array="b")
    refused(tmp_path / "no.csv", "no such file", features_file=npy)
    refused(tmp_path / "no.parquet", "no such file or folder")
    (tmp_path / "t.xlsx").write_text("x")
    refused(tmp_path / "t.xlsx", "not a table by its name", features_file=npy)
    path = tmp_path / "t.parquet"
    pq.write_table(parquet_of(VALUE_BD.tolist(), pa.list_(pa.float32())), path)
    refused(path, "--row_column needs --features_file", row_column="r")
    refused(path, "column 'part' is string; it must be a list of numbers", features_column="part")
    refused(path, "column 'features' is list.*; it must be lists of text", tags_column="features")
    refused(
        path, "column 'features' is list.*; it must be text or whole numbers", id_column="features"
    )


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_repeated_id_with_other_features_and_tags_is_refused(form: str, tmp_path: Path) -> None:
    table = {"image_id": ["1", "1"], "tags": ["a", "b"]}
    path = tmp_path / f"t.{form}"
    np.save(tmp_path / "f.npy", VALUE_BD[:2])
    message = "row 0 and .* row 1: both are image '1', with other features and other tags .'b'."
    if form == "parquet":
        write_parquet(path, {**table, "features": VALUE_BD[:2].tolist()})
        refused(path, message)
    else:
        write_csv(path, table)
        refused(path, message, features_file=str(tmp_path / "f.npy"))


@pytest.mark.parametrize("name", ["image_id", "tags"])
def test_text_in_parquet_that_is_not_utf8_is_told(name: str, tmp_path: Path) -> None:
    latin = pa.array([b"caf\xe9", b"b"], pa.binary()).view(pa.string())
    table = {"image_id": ["1", "2"], "tags": ["a", "b"], "features": VALUE_BD[:2].tolist()}
    pq.write_table(pa.table({**table, name: latin}), tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", f"column '{name}' holds text that is not UTF-8")


def test_lists_written_as_text(tmp_path: Path) -> None:
    """pandas' own text of a column of lists."""
    frame = pd.DataFrame(
        {"image_id": list("abcd"), "tags": [["cat", "dog"], ["sky"], ["o'hara", "x"], []]}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    np.save(tmp_path / "f.npy", VALUE_BD[:4])
    options = TableOptions(features_file=str(tmp_path / "f.npy"))
    chunk = check_ranges(TableSource.open(str(tmp_path / "t.csv"), options))
    tags = chunk.table.column("tags").to_pylist()
    assert tags == [["cat", "dog"], ["sky"], ["o'hara", "x"]]
    assert chunk.rejected.column("reason").to_pylist() == ["no tags"]
    frame["tags"] = ['[{"name": "cat"}]'] * 4
    frame.to_csv(tmp_path / "t.csv", index=False)
    refused(tmp_path / "t.csv", "row 0: tags are .* a list of lists or objects", **vars(options))


def test_files_that_say_ids_and_tags_otherwise(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parts: list[Rows] = [
        {"image_id": [1, 2], "tags": ["a,b", "c"]},
        {"image_id": ["3", "4"], "tags": [["a"], ["b", "c"]]},
    ]
    for place, part in enumerate(parts):
        write_parquet(tmp_path / "in" / f"{place}.parquet", part)
    np.save(tmp_path / "f.npy", VALUE_BD[:4])
    options = TableOptions(features_file=str(tmp_path / "f.npy"))
    chunk = check_ranges(TableSource.open(str(tmp_path / "in"), options))
    assert [row[:2] for row in content(chunk)] == [
        ("1", ["a", "b"]),
        ("2", ["c"]),
        ("3", ["a"]),
        ("4", ["b", "c"]),
    ]


def test_a_wrong_separator_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, {"image_id": ["1"], "tags": ["a|b"], "features": VALUE_BD[:1].tolist()})
    refused(path, "give --separator '\\|'")


def test_parquet_files_of_different_d_are_refused(tmp_path: Path) -> None:
    for name, dim in (("a", 6), ("b", 5)):
        table = parquet_of(VALUE_BD[:, :dim].tolist(), pa.list_(pa.float32(), dim))
        pq.write_table(table, tmp_path / f"{name}.parquet")
    refused(tmp_path, r"b.parquet: features have D = 5, but .*a.parquet has D = 6")
