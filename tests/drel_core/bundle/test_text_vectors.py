"""The text vectors that a bundle keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drel_core.bundle.text_vectors import TAG_TEXT, TagText, text_source
from drel_core.errors import InputError

VECTORS = torch.tensor([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    text = TagText.of(VECTORS)
    assert text.describe("glove") == {"source": "glove", "dim": 2, "tags": 2}
    assert torch.allclose(text.mean_d, torch.tensor([0.8, 0.4]), atol=1e-3)
    text.save(tmp_path / TAG_TEXT)
    found = TagText.load(tmp_path, 3)
    assert found is not None and found.has_T.tolist() == [True, False, True]
    assert torch.equal(found.vector_Td, VECTORS.half()) and torch.equal(found.mean_d, text.mean_d)


def test_a_bundle_without_the_file_has_none(tmp_path: Path) -> None:
    assert TagText.load(tmp_path, 3) is None
    assert TagText.of(torch.zeros(2, 3)).mean_d.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "tensors",
    [
        {"vector": VECTORS[:2].half(), "mean": torch.zeros(2)},
        {"vector": VECTORS.half(), "mean": torch.zeros(3)},
        {"vector": VECTORS[:, 0].half(), "mean": torch.zeros(2)},
        {"vector": VECTORS.half()},
        {"vector": VECTORS.half() * torch.inf, "mean": torch.zeros(2)},
        None,
    ],
)
def test_a_file_of_other_tags_or_without_numbers_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor] | None
) -> None:
    if tensors is None:
        (tmp_path / TAG_TEXT).write_bytes(b"no tensors")
    else:
        save_file(tensors, tmp_path / TAG_TEXT)
    with pytest.raises(InputError) as error:
        TagText.load(tmp_path, 3)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{}, {"text": 3}, {"text": {"source": 3}}, {"text": {}}])
def test_a_source_that_is_not_said_is_none(content: dict[str, object]) -> None:
    assert text_source(content) == ""
    assert text_source({"text": {"source": "glove"}}) == "glove"
