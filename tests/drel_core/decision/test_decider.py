"""Three ways to choose tags by one set of probabilities, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from drel_core.annotators.base import choose, decision_of
from drel_core.annotators.load import load_bundle
from drel_core.decision.calibration import LEVEL_TAGS, Calibration
from drel_core.decision.cuts import DEPTH
from drel_core.decision.decider import (
    DECISION,
    Decider,
    DecisionConfig,
    check_precision,
    learn_decider,
    most_tags,
)
from drel_core.decision.held_out import HeldOut
from drel_core.errors import InputError
from drel_core.scoring.topk import topk
from tests.helpers.bundles import write_drel


def random_decider(tags: int, seed: int = 0) -> Decider:
    generator = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator)

    calibration = Calibration(
        torch.tensor([0.7]), rand(tags) - 0.5, torch.tensor([1.0, -0.3, 0.2, 0.1])
    )
    table_b2 = torch.zeros(1000, 2, dtype=torch.int64)
    table_b2[:, 0] = 10
    table_b2[:, 1] = torch.arange(1000) // 100
    return Decider(calibration, rand(tags) + 0.1, -rand(tags), rand(tags) / 2, table_b2)


def best_of(decider: Decider, tags: int, images: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    z_BT = torch.randn(images, tags, generator=torch.Generator().manual_seed(9)) * 2
    z_BM, tag_BM = topk(z_BT, tags)
    return decider.probabilities(z_BM, tags), tag_BM


def test_top_gives_the_most_probable_tags() -> None:
    decider = random_decider(80)
    probability_BM, tag_BM = best_of(decider, 80)
    chosen = decider.choose(probability_BM, tag_BM, 4, "top", None)
    assert (chosen.tag_Bk == tag_BM[:, :4]).all() and chosen.keep_Bk is None
    assert (chosen.ids == tag_BM[:, :4]).all()
    assert decider.candidates(4, "top") == LEVEL_TAGS and decider.candidates(200, "top") == 200


def test_macro_gives_the_tags_of_highest_utility_most_probable_first() -> None:
    decider = random_decider(80)
    probability_BM, tag_BM = best_of(decider, 80)
    chosen = decider.choose(probability_BM, tag_BM, 4, "macro", None)
    for row in range(len(tag_BM)):
        tags = tag_BM[row, :DEPTH]
        utility = probability_BM[row, :DEPTH] * decider.gain_T[tags] + decider.offset_T[tags]
        assert set(chosen.tag_Bk[row].tolist()) == set(tags[utility.topk(4).indices].tolist())
    assert (chosen.probability_Bk.diff(dim=1) <= 0).all()
    assert decider.candidates(4, "macro") == DEPTH


def test_threshold_gives_as_many_as_pass() -> None:
    decider = random_decider(80)
    probability_BM, tag_BM = best_of(decider, 80)
    cut_T = decider.cuts(None)
    assert (cut_T == decider.cut_T).all()
    chosen = decider.choose(probability_BM, tag_BM, DEPTH, "threshold", cut_T)
    for row in range(len(tag_BM)):
        passing = [
            tag
            for tag, p in zip(tag_BM[row, :DEPTH], probability_BM[row], strict=False)
            if p >= cut_T[tag]
        ]
        ids = chosen.ids[row]
        assert ids[ids >= 0].tolist() == passing
        assert (ids[len(passing) :] == -1).all()
    two = decider.choose(probability_BM, tag_BM, 2, "threshold", cut_T)
    assert (two.ids == chosen.ids[:, :2]).all()


def test_a_wanted_precision_has_one_cut_for_all_tags() -> None:
    decider = random_decider(7)  # a pair with probability p is right in floor(10 p) of 10 cases
    cut_T = decider.cuts(0.8)
    assert cut_T.shape == (7,) and len(cut_T.unique()) == 1
    cut = float(cut_T[0])
    assert decider.reliability_b2 is not None
    pairs, hits = decider.reliability_b2[round(cut * 1000) :].sum(0).tolist()
    assert hits / pairs >= 0.8
    with pytest.raises(InputError, match=r"precision 0\.95.*ask for less"):
        decider.cuts(0.95)


def test_few_tags_are_no_problem() -> None:
    for tags in (1, 2, 5):
        decider = random_decider(tags)
        probability_BM, tag_BM = best_of(decider, tags)
        for how in ("top", "macro", "threshold"):
            chosen = decider.choose(probability_BM, tag_BM, 5, how, decider.cuts(None))  # type: ignore[arg-type]
            assert chosen.tag_Bk.shape == (6, tags)


def test_what_is_saved_loads_again_and_another_number_of_tags_is_refused(tmp_path: Path) -> None:
    decider = random_decider(9)
    assert Decider.load(tmp_path, 9) is None
    decider.save(tmp_path / DECISION)
    again = Decider.load(tmp_path, 9)
    assert again is not None and again.cut_T is not None and again.reliability_b2 is not None
    assert (again.gain_T == decider.gain_T).all() and (again.cut_T == decider.cut_T).all()
    assert (again.calibration.link == decider.calibration.link).all()
    assert (again.reliability_b2 == decider.reliability_b2).all()
    with pytest.raises(InputError, match="there are 10"):
        Decider.load(tmp_path, 10)


def test_a_rule_of_before_gives_probabilities_and_no_cuts(tmp_path: Path) -> None:
    parts = {"slope": torch.tensor([0.5]), "shift_T": torch.zeros(4)}
    parts |= {"gain_T": torch.ones(4), "offset_T": torch.zeros(4)}
    save_file(parts, tmp_path / DECISION)
    decider = Decider.load(tmp_path, 4)
    assert decider is not None
    z_BM = decider.calibration.order(torch.tensor([[2.0, 0.0]]), torch.tensor([1, 3]))
    assert decider.probabilities(z_BM, 2)[0].tolist() == pytest.approx([0.7310586, 0.5])
    with pytest.raises(InputError, match="train it again"):
        decider.cuts(None)


def test_new_tags_take_values_of_tags_of_like_count() -> None:
    decider = random_decider(50)
    count_T = torch.arange(1, 51)
    grown = decider.extended(count_T, torch.cat([count_T, torch.tensor([1, 50])]))
    assert len(grown) == len(grown.calibration) == 52 and grown.cut_T is not None
    assert decider.cut_T is not None
    for new, old in ((grown.gain_T, decider.gain_T), (grown.cut_T, decider.cut_T)):
        assert (new[:50] == old).all()
        assert float(new[50]) == pytest.approx(float(old[:20].mean()))
    shift_T = decider.calibration.shift_T
    assert float(grown.calibration.shift_T[51]) == pytest.approx(float(shift_T[30:].mean()))


def test_a_bundle_with_a_decider_gives_probabilities_and_all_decisions(tmp_path: Path) -> None:
    folder = write_drel(tmp_path / "model")
    plain = load_bundle(folder)
    features_BD = torch.randn(5, plain.image_dim)
    with pytest.raises(InputError, match="can only decide by top"):
        decision_of(plain, "macro")
    assert (
        choose(plain, features_BD, 3, decision_of(plain, "top")).tag_Bk
        == plain.annotate(features_BD, 3)[1]
    ).all()
    decider = random_decider(plain.num_tags)
    decider.save(folder / DECISION)
    deciding = load_bundle(folder)
    z_BT = decider.calibration.order(plain.scores(features_BD).clone(), slice(None))
    expected_BT = decider.all_probabilities(z_BT)
    torch.testing.assert_close(deciding.scores(features_BD), expected_BT)
    probability_Bk, tag_Bk = deciding.annotate(features_BD, 3)
    expected_Bk, expected_tag_Bk = topk(expected_BT, 3)
    assert (tag_Bk == expected_tag_Bk).all()
    torch.testing.assert_close(probability_Bk, expected_Bk)
    best = topk(expected_BT, DEPTH)
    for how in ("macro", "threshold"):
        decision = decision_of(deciding, how)  # type: ignore[arg-type]
        found = choose(deciding, features_BD, 3, decision)
        by_hand = decider.choose(*best, 3, how, decision.cut_T)  # type: ignore[arg-type]
        assert (found.ids == by_hand.ids).all()


def test_nothing_is_learned_from_images_that_say_nothing() -> None:
    tag_nM = torch.tensor([[0, 1], [1, 0]])
    for rate in (False, True):
        held = HeldOut(tag_nM, torch.randn(2, 2), torch.full((2, 2), rate), 4)
        assert learn_decider(held, torch.tensor([3, 4]), 7, 5) is None


def test_a_decider_is_learned_from_held_out_images() -> None:
    torch.manual_seed(1)
    score_nT = torch.randn(300, 20)
    hit_nT = torch.rand(300, 20) < (score_nT * 2 - 2).sigmoid()
    order = score_nT.argsort(dim=1, descending=True)
    held = HeldOut(order, score_nT.gather(1, order), hit_nT.gather(1, order), int(hit_nT.sum()))
    learned = learn_decider(held, hit_nT.sum(0), 300, 5)
    assert learned is not None
    decider, fitted = learned
    assert len(decider) == 20 and decider.cut_T is not None and (decider.gain_T > 0).all()
    assert decider.reliability_b2 is not None and int(decider.reliability_b2[:, 0].sum()) == 6000
    z_BT = decider.calibration.order(score_nT.clone(), slice(None))
    error = (decider.all_probabilities(z_BT) - (score_nT * 2 - 2).sigmoid()).abs()
    assert float(error.mean()) < 0.03
    assert fitted.kernel_factor is None


@pytest.mark.parametrize("values", [{"held_out": -0.1}, {"held_out": 0.6}, {"rows": 0}])
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="decision"):
        DecisionConfig(**values)  # type: ignore[arg-type]


def test_a_precision_is_a_share_and_needs_a_threshold() -> None:
    check_precision("top", None)
    check_precision("threshold", 1.0)
    for how, precision in (("top", 0.9), ("threshold", 0.0), ("threshold", 1.5)):
        with pytest.raises(ValueError, match="precision"):
            check_precision(how, precision)  # type: ignore[arg-type]
    assert most_tags("macro") == 5 and most_tags("threshold") == DEPTH


@pytest.mark.parametrize("spread", [0.0, 1.0, 40.0, 1e30])
@pytest.mark.parametrize("tags", [1, 5, DEPTH])
def test_an_image_alone_gets_the_probabilities_that_it_gets_among_others(
    tags: int, spread: float
) -> None:
    decider = random_decider(60)
    torch.manual_seed(0)
    z_BM = spread * torch.randn(2, tags).sort(descending=True).values
    one_1k = decider.probabilities(z_BM[:1], 5)
    assert one_1k.dtype == torch.float32
    torch.testing.assert_close(one_1k, decider.probabilities(z_BM, 5)[:1], rtol=1e-5, atol=1e-7)
