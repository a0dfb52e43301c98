"""The model on disk: what is written is what scores, and damage is told in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from drel_core.annotators.drel import write_table_part, write_towers
from drel_core.annotators.load import load_bundle
from drel_core.bundle.format import content_version, read_rules, write_bundle
from drel_core.bundle.vocabulary import Vocabulary
from drel_core.errors import InputError
from drel_core.model.towers import DREL, ModelConfig, init_embedding_rows

CONFIG = ModelConfig(
    image_hidden=8, tag_dim=6, tag_hidden=7, latent=5, tag_bias=True, tag_prior=0.5
)
TAGS = ("été", "sky", "sun", "tree", "雪")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Five tags in two parts."""
    torch.manual_seed(0)
    folder = tmp_path / "model"
    folder.mkdir()
    rows = init_embedding_rows(torch.arange(5), CONFIG, seed=1)
    write_table_part(folder, 0, 2, 0, rows[:3])
    write_table_part(folder, 1, 2, 3, rows[3:])
    model = DREL(4, CONFIG, torch.ones(4), torch.full((4,), 2.0))
    write_towers(folder, model)
    about = {"model": model.to_dict(), "table_parts": 2, "train": {}}
    write_bundle(folder, "drel", Vocabulary(TAGS, np.arange(1, 6)), about)
    return folder


def test_scores_are_those_of_the_model(bundle: Path) -> None:
    torch.manual_seed(0)
    model = DREL(4, CONFIG, torch.ones(4), torch.full((4,), 2.0)).eval()
    features = torch.randn(3, 4)
    rows = init_embedding_rows(torch.arange(5), CONFIG, seed=1)
    with torch.inference_mode():
        image = model.encode_images(features, with_metric=False)
        expected = model.score(image, model.encode_tags(rows, with_metric=True))
        expected -= 0.5 * torch.arange(1, 6).log()
    annotator = load_bundle(bundle)
    assert annotator.vocabulary.names == TAGS
    torch.testing.assert_close(annotator.scores(features), expected)


def test_damage_is_told_in_one_line(bundle: Path, tmp_path: Path) -> None:
    def broken(name: str, change: object) -> Path:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bundle, folder)
        if change is None:
            (folder / name).unlink()
        elif isinstance(change, int):
            (folder / name).write_bytes((folder / name).read_bytes()[:change])
        else:
            about = json.loads((folder / name).read_text("utf-8"))
            about.update(change)
            (folder / name).write_text(json.dumps(about), "utf-8")
        return folder

    parts = sorted(path.name for path in bundle.glob("*.safetensors"))
    cases: list[tuple[str, object]] = [(name, None) for name in parts]
    cases += [(name, 50) for name in parts] + [(name, -20) for name in parts]
    wrong_model = {"model": {"image_dim": 4, "depth": 9}}
    for change in (
        None,
        30,
        {"format": 99},
        {"method": "magic"},
        wrong_model,
        {"table_parts": 1},
        {"table_parts": 3},
    ):
        cases.append(("config.json", change))
    cases += [("vocabulary.json", None), ("vocabulary.json", 15)]
    for name, change in cases:
        with pytest.raises(InputError) as caught:
            load_bundle(broken(name, change))
        assert "\n" not in str(caught.value), (name, change)
        assert "broken" in str(caught.value)


def test_rules_of_tags_are_part_of_the_version(bundle: Path) -> None:
    before = content_version(bundle)
    assert load_bundle(bundle).info.version == before and not read_rules(bundle)
    (bundle / "vocabulary.yaml").write_text("blocked: [sun]\n")
    assert content_version(bundle) != before
    assert read_rules(bundle).blocked == ("sun",)
