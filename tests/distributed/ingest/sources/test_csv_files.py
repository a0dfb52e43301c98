"""CSV and JSON of tags as people save them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed.ingest.sources.tag_files import column_names, read_text_table
from drel_core.errors import InputError

COLUMNS = {"image_id": "--id_column", "tags": "--tags_column"}
ROWS = [("a", "x,y"), ("b", "z")]


def read(path: Path) -> list[tuple[str, str]]:
    assert column_names(str(path))[:2] == ["image_id", "tags"]
    table = read_text_table(str(path), COLUMNS)
    return list(zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        'image_id,tags\ra,"x,y"\rb,z\r',
        'image_id,tags\r\na,"x,y"\r\nb,z\r\n',
        'image_id,tags\na,"x,y"\nb,z',
        '\ufeffimage_id,tags\na,"x,y"\nb,z\n',
        'image_id, tags\na,"x,y"\nb,z\n',
        'image_id, tags\na, "x,y"\nb, z\n',
        'image_id,tags\na, "x,y"\nb,z\n',
        ' image_id , tags \r\na, "x,y"\r\nb, z\r\n',
        'image_id, tags\ra, "x,y"\rb, z\r',
        "image_id;tags\na;x,y\nb;z\n",
        "image_id\ttags\na\tx,y\nb\tz\n",
        'image_id,tags,"a note\nof two lines"\na,"x,y",1\nb,z,2\n',
    ],
)
def test_forms_of_csv(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    assert read(path) == ROWS


@pytest.mark.parametrize(
    "text",
    [
        'image_id,tags\na,"x,y"\nb,z\n',
        "image_id\ttags\na\tx,y\nb\tz\n",
        '{"image_id": "a", "tags": "x,y"}\n{"image_id": "b", "tags": "z"}\n',
        '[{"image_id": "a", "tags": "x,y"}, {"image_id": "b", "tags": "z"}]',
    ],
)
@pytest.mark.parametrize("name", ["tags.txt", "tags"])
def test_a_name_that_does_not_say_the_form(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read(tmp_path / name) == ROWS


def test_quotes_after_blanks_hold_one_value(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('image_id,tags\na, "x;y"\nb,z\n')
    assert read(path) == [("a", "x;y"), ("b", "z")]
    path.write_text('image_id,tags\na, "x" and y\nb,z\n')
    assert read(path) == [("a", ' "x" and y'), ("b", "z")]


def test_utf16_without_a_mark_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image_id,tags\na,x\n", "utf-16-le")
    with pytest.raises(InputError, match="UTF-16; save it as UTF-8"):
        read(path)


def test_half_a_character_in_json_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('[{"image_id": "a", "tags": "\\ud83d\\ude00"}, {"image_id": "b", "tags": "z"}]')
    assert read(path) == [("a", "\U0001f600"), ("b", "z")]
    path.write_text('[{"image_id": "a", "tags": "\\ud83d"}]')
    with pytest.raises(InputError, match="surrogates not allowed"):
        read_text_table(str(path), COLUMNS)


def test_one_array_of_objects(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text('\n[{"image_id": 1, "tags": ["x", "y"]}, {"image_id": 2, "tags": null}]\n')
    table = read_text_table(str(path), COLUMNS)
    assert table.to_pydict() == {"image_id": [1, 2], "tags": [["x", "y"], None]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "image_id,tags\na,x\nb,caf\u00e9\n".encode("latin-1"),
            r"t.csv line 3: not UTF-8 \(as Latin-1 it would be 'b,caf\u00e9'\); save",
        ),
        ("image_id, tags\na, x\nb, caf\u00e9\n".encode("latin-1"), "t.csv line 3: not UTF-8"),
        ("image_id,tags\ra,x\rb,caf\u00e9\r".encode("latin-1"), "t.csv line 3: not UTF-8"),
        ("imag\u00e9_id,tags\na,x\n".encode("latin-1"), "t.csv line 1: not UTF-8"),
        ("image_id,tags\na,x\n".encode("utf-16"), "t.csv: UTF-16; save it as UTF-8"),
        (b"\nimage_id,tags\n", "line 1: empty"),
        (b"image_id, tags\na, x, y\n", "line 2: 3 values, but 2 columns; values that hold ','"),
        (b'image_id, tags\na, "x\n', "unexpected end of data; values"),
        (b"image_id,tags, tags\na,x,y\n", "two columns are named 'tags'"),
        (b"image_id,label\na,x\n", "no column 'tags'; it has image_id, label; name"),
    ],
)
def test_what_cannot_be_read_is_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as raised:
        read_text_table(str(path), COLUMNS)
    assert "\n" not in str(raised.value)


def test_a_header_longer_than_the_csv_module_takes(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image_id,tags," + "x" * 200_000 + "\na,b,c\n")
    with pytest.raises(InputError, match=r"line 1: cannot be read \(field larger"):
        read_text_table(str(path), COLUMNS)
