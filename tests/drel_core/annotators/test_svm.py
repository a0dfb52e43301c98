"""One-vs-all SVMs against scikit-learn's own calibrated classifiers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from distributed.driver.svm import choose_rows
from drel_core.annotators.svm import SVMAnnotator, SVMConfig, fit_tag
from drel_core.bundle.vocabulary import Vocabulary


def case() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Raw features, their mean and deviation, and tags: common, rare, single, none, all."""
    generator = np.random.default_rng(0)
    raw = generator.normal(size=(150, 8)) * 4 + 3
    tag = np.zeros((150, 5), dtype=bool)
    tag[:, 0] = raw[:, 0] + raw[:, 1] > 6
    tag[:2, 1] = True
    tag[7, 2] = True
    tag[:, 4] = True
    return raw, raw.mean(0), raw.std(0), tag


def test_scores_agree_with_calibrated_classifiers(tmp_path: Path) -> None:
    raw, mean, std, tag = case()
    standard = (raw - mean) / std
    config = SVMConfig(C=0.01)
    machines = [fit_tag(standard, tag[:, t], config, seed=3) for t in range(5)]
    annotator = SVMAnnotator.of(machines, mean, std)
    queries = torch.from_numpy(raw[:40]).float()
    got = annotator.scores(queries).numpy()
    for t, folds in ((0, 3), (1, 2)):
        machine = LinearSVC(C=0.01, dual=True, class_weight="balanced", random_state=3)
        split = StratifiedKFold(folds, shuffle=True, random_state=3)
        whole = CalibratedClassifierCV(machine, method="sigmoid", cv=split, ensemble=False)
        whole.fit(standard, tag[:, t])
        np.testing.assert_allclose(got[:, t], whole.predict_proba(standard[:40])[:, 1], atol=1e-5)
    assert got[7, 2] == got[:, 2].max()  # the only image of its tag
    assert (got[:, 3] < 1e-6).all() and (got[:, 4] > 1 - 1e-6).all()

    annotator.save(tmp_path)
    vocabulary = Vocabulary(tuple("abcde"), tag.sum(0))
    loaded = SVMAnnotator.load(tmp_path, {}, vocabulary)
    assert torch.equal(loaded.scores(queries), annotator.scores(queries))
    assert (loaded.image_dim, loaded.num_tags) == (8, 5)


def test_rows_left_out_spare_rare_tags() -> None:
    tag = np.concatenate([np.zeros(5000, int), np.ones(3, int)])
    row = np.concatenate([np.arange(5000), np.array([11, 500, 4999])])
    chosen = choose_rows(5000, tag, row, 300, seed=0)
    assert len(chosen) == len(set(chosen.tolist())) == 300
    assert {11, 500, 4999} <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()
    assert choose_rows(10, tag[:0], row[:0], 300, 0).tolist() == list(range(10))
    with pytest.raises(ValueError, match="must be 2 or more"):
        SVMConfig(folds=1)
