"""Kernel regression is scikit-learn's, its evidence goes into scores, and a wrong file is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor

from drel_core.annotators.drel import DRELAnnotator
from drel_core.annotators.load import load_bundle
from drel_core.decision.calibration import Calibration
from drel_core.decision.decider import DECISION, Decider
from drel_core.decision.kernel import (
    KERNEL,
    KernelConfig,
    KernelHead,
    RidgeSums,
    gaussian,
    median_square_distance,
    principal_basis,
)
from drel_core.errors import InputError
from drel_core.scoring.topk import topk
from tests.helpers.bundles import write_drel


def problem(rows: int = 90, dim: int = 6, tags: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    input_ND = torch.randn(rows, dim)
    return input_ND, input_ND @ torch.randn(dim, tags) > 2.0


def fitted(
    input_ND: Tensor, relevant_NT: Tensor, landmark_Rd: Tensor, ridge: float, factor: float = 1.0
) -> KernelHead:
    sharpness = 2.0 / median_square_distance(landmark_Rd)
    sums = RidgeSums(landmark_Rd, sharpness, relevant_NT.float().mean(0))
    for start in (0, 40):  # in pieces of any size
        sums.add(input_ND[start : start + 40 or None], relevant_NT[start : start + 40 or None])
    sums.add(input_ND[80:], relevant_NT[80:])
    return sums.solve(ridge, factor, len(input_ND)).head


def test_with_every_image_a_landmark_it_is_scikit_learns() -> None:
    input_ND, relevant_NT = problem()
    head = fitted(input_ND, relevant_NT, input_ND, 0.3, 1.5)
    share = relevant_NT.double().mean(0).numpy()
    gamma = float(head.sharpness)
    other = KernelRidge(alpha=0.3, kernel="rbf", gamma=gamma)
    other.fit(input_ND.double().numpy(), relevant_NT.double().numpy() - share)
    new_BD = torch.randn(20, 6)
    noise = 0.01 + share / 2
    expected = np.log(np.maximum(other.predict(new_BD.double().numpy()) + share, 0) + noise)
    found = head.evidence(head.kernel(new_BD), slice(None)).numpy()
    assert found == pytest.approx(1.5 * expected, abs=2e-2)
    some_p = torch.tensor([5, 1])
    torch.testing.assert_close(
        head.evidence(head.kernel(new_BD), some_p),
        head.evidence(head.kernel(new_BD), slice(None))[:, some_p],
        atol=1e-3,
        rtol=1e-4,
    )


def test_fewer_landmarks_minimise_what_they_should() -> None:
    input_ND, relevant_NT = problem()
    landmark_Rd = input_ND[::6]
    head = fitted(input_ND, relevant_NT, landmark_Rd, 0.3)
    kernel_NR = gaussian(input_ND, landmark_Rd, float(head.sharpness)).double()
    own_RR = gaussian(landmark_Rd, landmark_Rd, float(head.sharpness)).double()
    weight_RT = head.weight_RT.double().requires_grad_()
    left_NT = relevant_NT.double() - head.share_T - kernel_NR @ weight_RT
    loss = left_NT.square().sum() + 0.3 * (weight_RT * (own_RR @ weight_RT)).sum()
    loss.backward()
    assert weight_RT.grad is not None
    assert float(weight_RT.grad.abs().max()) < 1e-2 * loss.item()


def test_what_is_known_of_images_that_are_not_taken_in_stays() -> None:
    """The minimiser of the penalty on what departs from a start; without contradiction the start itself."""
    input_ND, relevant_NT = problem()
    landmark_Rd, sharpness = input_ND[::3], 0.2
    share_T = relevant_NT.float().mean(0)
    sums = RidgeSums(landmark_Rd, sharpness, share_T)
    start_RT = torch.randn(len(landmark_Rd), relevant_NT.shape[1])
    assert torch.equal(sums.solve(0.3, 1.0, 90, start_RT).head.weight_RT, start_RT)
    sums.add(input_ND[:20], relevant_NT[:20])
    head = sums.solve(0.3, 1.0, 90, start_RT).head
    kernel_NR = gaussian(input_ND[:20], landmark_Rd, sharpness).double()
    own_RR = gaussian(landmark_Rd, landmark_Rd, sharpness).double()
    weight_RT = head.weight_RT.double().requires_grad_()
    left_NT = relevant_NT[:20].double() - share_T - kernel_NR @ weight_RT
    away_RT = weight_RT - start_RT
    loss = left_NT.square().sum() + 0.3 * (away_RT * (own_RR @ away_RT)).sum()
    loss.backward()
    assert weight_RT.grad is not None
    assert float(weight_RT.grad.abs().max()) < 1e-3 * loss.item()
    assert head.rows == 90


def test_the_landmarks_with_the_largest_weights_stay() -> None:
    input_ND, relevant_NT = problem()
    head = fitted(input_ND, relevant_NT, input_ND, 0.3)
    few = head.largest(10)
    size_R = head.weight_RT.norm(dim=1)
    best = sorted(range(len(size_R)), key=lambda mark: -float(size_R[mark]))[:10]
    assert torch.equal(few.weight_RT, head.weight_RT[sorted(best)])
    assert torch.equal(few.landmark_Rd, head.landmark_Rd[sorted(best)])
    assert head.largest(1000) is head


def test_landmarks_that_are_alike_do_no_harm() -> None:
    input_ND, relevant_NT = problem()
    once = fitted(input_ND, relevant_NT, input_ND, 0.3)
    # Kernels of near 1 everywhere, many times over: float32 sums alone are not positive definite.
    near_ND = 1e-3 * input_ND.repeat(20, 1)
    flat = RidgeSums(near_ND, 1.0, relevant_NT.float().mean(0))
    flat.add(near_ND, relevant_NT.repeat(20, 1))
    assert torch.isfinite(flat.solve(1e-3, 1.0, 1800).head.weight_RT).all()
    twice = fitted(input_ND, relevant_NT, torch.cat([input_ND, input_ND]), 0.3)
    new_BD = torch.randn(20, 6)
    torch.testing.assert_close(
        twice.evidence(twice.kernel(new_BD), slice(None)),
        once.evidence(once.kernel(new_BD), slice(None)),
        atol=2e-2,
        rtol=1e-2,
    )


def test_principal_components_are_those_of_an_exact_svd() -> None:
    torch.manual_seed(0)
    input_RD = torch.randn(200, 40) * 0.8 ** torch.arange(40)
    random_state = torch.random.get_rng_state()
    basis_Dd = principal_basis(input_RD, 6)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert basis_Dd is not None
    torch.testing.assert_close(basis_Dd.T @ basis_Dd, torch.eye(6), atol=1e-5, rtol=0)
    exact_Dd = torch.linalg.svd(input_RD.double())[2][:6].T
    # The same subspace: every component of the one lies in the other.
    assert float((exact_Dd.T @ basis_Dd.double()).square().sum()) == pytest.approx(6, abs=1e-4)


@pytest.mark.parametrize(("rows", "dims"), [(50, 0), (50, 8), (50, 9), (5, 5), (5, 7), (0, 3)])
def test_there_is_no_basis_where_nothing_would_be_left_out(rows: int, dims: int) -> None:
    assert principal_basis(torch.randn(rows, 8), dims) is None


def test_in_a_basis_it_is_the_regression_on_features_in_that_basis() -> None:
    input_ND, relevant_NT = problem()
    basis_Dd = principal_basis(input_ND, 3)
    assert basis_Dd is not None
    inside = fitted(input_ND @ basis_Dd, relevant_NT, input_ND[::3] @ basis_Dd, 0.3)
    sums = RidgeSums(inside.landmark_Rd, float(inside.sharpness), inside.share_T, basis_Dd)
    sums.add(input_ND, relevant_NT)
    head = sums.solve(0.3, 1.0, len(input_ND)).head
    new_BD = torch.randn(20, 6)
    torch.testing.assert_close(
        head.evidence(head.kernel(new_BD), slice(None)),
        inside.evidence(inside.kernel(new_BD @ basis_Dd), slice(None)),
        atol=2e-2,
        rtol=1e-2,
    )
    assert head.largest(7).basis_Dd is head.basis_Dd


def test_a_basis_is_kept_in_the_bundle(tmp_path: Path) -> None:
    folder = write_drel(tmp_path / "model")
    model = load_bundle(folder)
    input_ND, relevant_NT = torch.randn(80, model.image_dim), torch.rand(80, model.num_tags) > 0.8
    basis_Dd = principal_basis(input_ND, 3)
    assert basis_Dd is not None
    sums = RidgeSums(input_ND[:9] @ basis_Dd, 0.1, relevant_NT.float().mean(0), basis_Dd)
    sums.add(input_ND, relevant_NT)
    head = sums.solve(0.3, 1.0, 80).head
    head.save(folder / KERNEL)
    again = KernelHead.load(folder, model.image_dim, model.num_tags)
    assert again is not None and again.basis_Dd is not None
    assert torch.equal(again.kernel(input_ND), head.kernel(input_ND))
    replace(head, basis_Dd=basis_Dd[:, :2]).save(folder / KERNEL)
    with pytest.raises(InputError, match="landmarks of 3 dimensions in a basis of 2"):
        load_bundle(folder)
    replace(head, basis_Dd=basis_Dd[1:]).save(folder / KERNEL)
    with pytest.raises(InputError, match=f"for {model.image_dim - 1} features"):
        load_bundle(folder)


def test_distances_of_one_or_no_landmark() -> None:
    assert median_square_distance(torch.zeros(1, 3)) == 1.0
    assert median_square_distance(torch.zeros(4, 3)) > 0
    two = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    assert median_square_distance(two) == pytest.approx(25.0)


@pytest.mark.parametrize("noise", ["of each tag", "one", "none"])
@pytest.mark.parametrize("decides", [False, True])
def test_a_bundle_with_a_regression_adds_its_evidence(
    tmp_path: Path, decides: bool, noise: str
) -> None:
    """``one`` and ``none``: files of versions that had one noise for all tags, and of those that had none and
    took the log of the estimate itself."""
    folder = write_drel(tmp_path / "model")
    plain = load_bundle(folder)
    assert isinstance(plain, DRELAnnotator)
    features_BD = torch.randn(5, plain.image_dim)
    head = fitted(
        torch.randn(80, plain.image_dim),
        torch.rand(80, plain.num_tags) > 0.8,
        torch.randn(30, plain.image_dim),
        0.3,
        0.7,
    )
    if noise != "of each tag":
        head = replace(head, noise=torch.full((1,), 0.02) if noise == "one" else None)
    head.save(folder / KERNEL)
    expected_BT = plain.scores(features_BD).clone()
    input_BD = plain.model.standardised(features_BD)
    for i in range(5):
        for t in range(plain.num_tags):
            near = [
                np.exp(-float(head.sharpness) * float((input_BD[i] - mark).square().sum()))
                for mark in head.landmark_Rd
            ]
            estimate = float(np.dot(near, head.weight_RT[:, t].numpy()) + head.share_T[t])
            of_tag = 0.01 + float(head.share_T[t]) / 2 if noise == "of each tag" else 0.02
            least = max(estimate, 0.5 / 80) if noise == "none" else max(estimate, 0.0) + of_tag
            expected_BT[i, t] += 0.7 * np.log(least)
    if decides:
        tags = plain.num_tags
        calibration = Calibration(
            torch.full((1,), 0.8), torch.randn(tags), torch.tensor([1.0, -0.3, 0.2, 0.1])
        )
        decider = Decider(calibration, torch.rand(tags), torch.randn(tags))
        decider.save(folder / DECISION)
        expected_BT = decider.all_probabilities(calibration.order(expected_BT, slice(None)))
    both = load_bundle(folder)
    torch.testing.assert_close(both.scores(features_BD), expected_BT, atol=1e-3, rtol=1e-3)
    assert (both.annotate(features_BD, 3)[1] == topk(both.scores(features_BD), 3)[1]).all()


@pytest.mark.parametrize("noise", ["of each tag", "one", "none"])
def test_of_tags_without_images_it_says_nothing(tmp_path: Path, noise: str) -> None:
    folder = write_drel(tmp_path / "model")
    model = load_bundle(folder)
    dim, tags = model.image_dim, model.num_tags
    head = fitted(torch.randn(80, dim), torch.rand(80, tags) > 0.8, torch.randn(9, dim), 0.3)
    if noise != "of each tag":
        head = replace(head, noise=torch.full((1,), 0.02) if noise == "one" else None)
    silent_T = torch.arange(tags) == 2
    head.silenced(silent_T).save(folder / KERNEL)
    known = KernelHead.load(folder, dim, tags)
    assert known is not None and torch.equal(known.silent_T, silent_T)
    assert known.noise_is_of_tags == (noise == "of each tag")
    grown = known.grown(3)
    assert grown.silent_T.tolist() == [*silent_T.tolist(), True, True, True]
    near_BR = grown.kernel(torch.randn(20, dim))
    evidence_BT = grown.evidence(near_BR, slice(None))
    torch.testing.assert_close(evidence_BT[:, grown.silent_T], torch.zeros(20, 4))
    others_T = torch.nn.functional.pad(~silent_T, (0, 3))
    expected_BT = head.evidence(near_BR, slice(None))[:, ~silent_T]
    torch.testing.assert_close(evidence_BT[:, others_T], expected_BT)


def test_a_regression_of_other_features_or_tags_is_refused(tmp_path: Path) -> None:
    folder = write_drel(tmp_path / "model")
    model = load_bundle(folder)
    for dim, tags in ((model.image_dim + 1, model.num_tags), (model.image_dim, model.num_tags + 1)):
        relevant_NT = torch.rand(80, tags) > 0.8
        fitted(torch.randn(80, dim), relevant_NT, torch.randn(9, dim), 1.0).save(folder / KERNEL)
        with pytest.raises(InputError, match="but the model has"):
            load_bundle(folder)


@pytest.mark.parametrize(
    "values", [{"landmarks": -2}, {"width": 0.0}, {"ridge": -1.0}, {"factor": 0.0}]
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="kernel"):
        KernelConfig(**values)  # type: ignore[arg-type]
