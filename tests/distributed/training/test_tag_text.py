"""Rows that begin by the names of their tags."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distributed.training import collectives
from distributed.training.sharded_table import ShardedTagEmbedding
from distributed.training.tag_text import RunText, start_by_names
from drel_core.bundle.text_vectors import TAG_TEXT, TagText
from drel_core.model.tag_embedding import TableConfig
from drel_core.model.towers import ModelConfig, init_embedding_rows
from tests.helpers.ranks import spawn_ranks

TAGS, DIM = 9, 6


def write_text(folder: Path) -> RunText:
    vector_Td = torch.randn(TAGS, DIM, generator=torch.Generator().manual_seed(1))
    vector_Td /= vector_Td.norm(dim=1, keepdim=True)
    vector_Td[1] = vector_Td[0]  # two names of one meaning
    vector_Td[2] = 0.0  # and one of none
    TagText.of(vector_Td).save(folder / TAG_TEXT)
    return RunText(str(folder), {})


def rows_of(text: RunText, seed: int = 3) -> torch.Tensor:
    """All rows, gathered over the ranks."""
    model = ModelConfig(tag_dim=256, embedding_std=0.1)
    table = ShardedTagEmbedding(TAGS, model, TableConfig(), seed=3)
    start_by_names(table, model, text, seed)
    counts = table.split_pool(torch.arange(TAGS))[1]
    return collectives.gather_rows(table.local.weight_nE, counts).clone()


def random_rows() -> torch.Tensor:
    return init_embedding_rows(torch.arange(TAGS), ModelConfig(embedding_std=0.1), 3)


def test_like_names_begin_alike_and_no_name_at_random(tmp_path: Path) -> None:
    row_TE = rows_of(write_text(tmp_path))
    assert torch.equal(row_TE[2], random_rows()[2])
    named_TE = row_TE[torch.arange(TAGS) != 2]
    assert named_TE.std().item() == pytest.approx(0.1, rel=0.1)
    alike = torch.cosine_similarity(row_TE[0], row_TE[1], dim=0)
    assert alike.item() == pytest.approx(0.5, abs=0.15)  # the other half is random
    assert torch.cosine_similarity(random_rows()[0], random_rows()[1], dim=0).abs() < 0.2


def test_another_seed_is_another_map(tmp_path: Path) -> None:
    text = write_text(tmp_path)
    assert torch.equal(rows_of(text), rows_of(text))
    assert not torch.allclose(rows_of(text), rows_of(text, seed=4))


def test_rows_are_the_same_at_any_world_size(tmp_path: Path) -> None:
    text = write_text(tmp_path)
    one = rows_of(text)
    for world in (2, 3):
        for found in spawn_ranks(world, rows_of, tmp_path, text):
            assert torch.allclose(found, one, rtol=0, atol=1e-7)
