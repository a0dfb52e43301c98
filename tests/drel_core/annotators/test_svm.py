"""One-vs-all SVMs against scikit-learn's own calibrated classifiers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.svm import LinearSVC

from distributed.driver.svm import choose_rows
from drel_core.annotators.base import row_by_row
from drel_core.annotators.svm import SVMAnnotator, SVMConfig, fit_sigmoid, fit_tag
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


def test_sampled_log_odds_are_of_machines_that_did_not_see_the_image() -> None:
    raw, mean, std, tag = case()
    standard = (raw - mean) / std
    config = SVMConfig(C=0.01)
    sample = np.array([1, 7, 20, 149])
    single, none, every = (fit_tag(standard, tag[:, t], config, 3, sample) for t in (2, 3, 4))
    for t, folds in ((0, 3), (1, 2)):
        found = fit_tag(standard, tag[:, t], config, 3, sample)
        machine = LinearSVC(C=0.01, dual=True, class_weight="balanced", random_state=3)
        split = StratifiedKFold(folds, shuffle=True, random_state=3)
        value = cross_val_predict(
            machine, standard, tag[:, t], cv=split, method="decision_function"
        )
        expected = np.empty(150)
        for rest, fold in split.split(standard, tag[:, t]):
            a, c = fit_sigmoid(value[rest], tag[rest, t])
            expected[fold] = -(a * value[fold] + c)
        np.testing.assert_allclose(found.odds_n, expected[sample], rtol=1e-5)
        own = standard[sample] @ found.weight_D + found.b
        assert np.abs(found.odds_n + found.a * own + found.c).max() > 0.01
    # The only image of a tag: without it, nothing speaks for the tag.
    assert single.odds_n[1] == pytest.approx(-np.log(151))
    said = -(single.a * (standard[7] @ single.weight_D + single.b) + single.c)
    assert said > single.odds_n[1] + 1
    assert (none.odds_n == -20).all() and (every.odds_n == 20).all()
    missing = fit_tag(standard, ~tag[:, 2], config, 3, sample)
    assert missing.odds_n[1] == pytest.approx(np.log(151))
    assert len(fit_tag(standard, tag[:, 0], config, 3).odds_n) == 0


def test_a_sigmoid_of_equal_values_is_the_share() -> None:
    positive = np.arange(50) < 10
    a, c = fit_sigmoid(np.full(50, 3.0), positive)
    target = np.where(positive, 11 / 12, 1 / 42).mean()
    assert 1 / (1 + np.exp(3 * a + c)) == pytest.approx(target, abs=1e-6)


def test_rows_left_out_spare_rare_tags() -> None:
    tag = np.concatenate([np.zeros(5000, int), np.ones(3, int)])
    row = np.concatenate([np.arange(5000), np.array([11, 500, 4999])])
    sample = np.array([2, 77, 4000])
    chosen = choose_rows(5000, tag, row, 300, 0, sample)
    assert len(chosen) == len(set(chosen.tolist())) == 300
    assert {11, 500, 4999, *sample.tolist()} <= set(chosen.tolist())
    assert (np.diff(chosen) > 0).all()
    assert choose_rows(5000, tag, row, 3, 0, sample).tolist() == sample.tolist()
    assert choose_rows(10, tag[:0], row[:0], 300, 0, sample[:0]).tolist() == list(range(10))
    with pytest.raises(ValueError, match="must be 2 or more"):
        SVMConfig(folds=1)


def test_an_infinite_margin_is_no_probability() -> None:
    raw, mean, std, tag = case()
    machines = [fit_tag((raw - mean) / std, tag[:, t], SVMConfig(), seed=3) for t in range(2)]
    annotator = SVMAnnotator.of(machines, mean, std / 100)
    rows = torch.from_numpy(raw[:3]).float()
    rows[1] = 3e38
    assert annotator.scores(rows).isnan().any(1).tolist() == [False, True, False]
    found, bad_B = row_by_row(lambda rows_BD: annotator.annotate(rows_BD, 1), rows)
    assert bad_B.tolist() == [False, True, False]
    assert found[0].isfinite().all()
