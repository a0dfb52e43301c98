"""Answers keep to the rules, whatever the scores are: no dog without an animal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drel_core.annotators.base import DenseScores, choose, decision_of
from drel_core.bundle.tag_rules import TagGroup, TagRules
from drel_core.decision.answer_rules import AnswerRules
from drel_core.decision.decider import Decide, Decider
from tests.helpers.bundles import random_decider
from tests.helpers.rules import SPELLINGS, TAGS, small_rules

NAMES = (*TAGS, *SPELLINGS[:2], *(f"other {tag}" for tag in range(60)))
DECISIONS: tuple[Decide, ...] = ("top", "macro", "threshold")


class Fixed(DenseScores):
    """Scores that are given as features."""

    name = "fixed"

    def __init__(self, names: tuple[str, ...], rules: TagRules, decider: Decider | None) -> None:
        self.names, self.num_tags = names, len(names)
        self.rules, self.decider = AnswerRules(rules, names), decider

    def plain_scores(self, features_BD: torch.Tensor) -> torch.Tensor:
        return features_BD.clone()

    log_scores = plain_scores


def answers(
    annotator: Fixed, score_BT: torch.Tensor, k: int, how: Decide = "top"
) -> list[dict[str, float]]:
    found = choose(annotator, score_BT, k, decision_of(annotator, how))
    return [
        {annotator.names[t]: p for t, p in zip(tags, scores, strict=True) if t >= 0}
        for tags, scores in zip(found.ids.tolist(), found.probability_Bk.tolist(), strict=True)
    ]


@settings(max_examples=300, deadline=None)
@given(
    small_rules(),
    st.integers(0, 2**31),
    st.sampled_from(DECISIONS),
    st.integers(1, 80),
    st.sampled_from((1, 3)),
)
def test_no_answer_breaks_a_rule(rules, seed, how, k, digits):
    generator = torch.Generator().manual_seed(seed)
    score_BT = 2 * torch.randn(5, len(NAMES), generator=generator)
    score_BT[:, : len(TAGS) + 2] += 1.5  # tags that rules speak of are among the best
    score_BT = score_BT.mul(digits).round().div(digits)  # with ties
    annotator = Fixed(NAMES, rules, random_decider(len(NAMES), seed % 1000))
    spoken = {name for name in NAMES if name not in rules.blocked and name not in rules.aliases}
    for said in answers(annotator, score_BT, k, how):
        assert set(said) <= spoken and len(said) <= k
        assert list(said.values()) == sorted(said.values(), reverse=True)
        for place, tag in enumerate(said):  # also of an answer that is cut short
            first = list(said)[:place]
            assert set(rules.implied.get(tag, ())) & set(NAMES) <= set(first), (tag, said)
        for group in rules.groups.values():
            assert group.at_most is None or len(set(group.tags) & set(said)) <= group.at_most
        if how != "threshold" and not rules.groups:
            assert len(said) == min(k, len(spoken))  # what fell out is filled by the next


@settings(max_examples=100, deadline=None)
@given(small_rules(), st.integers(0, 2**31), st.sampled_from((1, 5, 40)))
def test_the_best_of_a_deep_list_are_those_of_all_scores(rules, seed, k):
    """Without limits, the answer is the k best of all scores after implications."""
    rules = TagRules(rules.aliases, rules.implies, {}, rules.blocked)
    generator = torch.Generator().manual_seed(seed)
    score_BT = torch.randn(4, len(NAMES), generator=generator)
    annotator = Fixed(NAMES, rules, None)
    lifted_BT = annotator.rules.lifted(score_BT)
    for said, lifted_T in zip(answers(annotator, score_BT, k), lifted_BT, strict=True):
        assert list(said.values()) == lifted_T.sort(descending=True).values[: len(said)].tolist()
        assert all(lifted_T[NAMES.index(tag)] == score for tag, score in said.items())


def test_an_implied_tag_that_is_no_candidate_comes_in():
    names = ("dog", "animal", *(f"other {tag}" for tag in range(200)))
    score_BT = torch.linspace(1, 0, 202)[None].repeat(2, 1)
    score_BT[:, 1] = -1  # the last of all
    score_BT[1, 0] = -2
    annotator = Fixed(names, TagRules(implies={"dog": ("animal",)}), None)
    first, second = answers(annotator, score_BT, 3)
    assert first == pytest.approx({"animal": 1.0, "dog": 1.0, "other 0": score_BT[0, 2].item()})
    assert list(second) == ["other 0", "other 1", "other 2"]
    assert list(answers(annotator, score_BT, 1)[0]) == ["animal"]


def test_a_group_keeps_its_best_and_what_falls_out_is_filled():
    names = ("spring", "summer", "april", "sky")
    group = {"season": TagGroup(("spring", "summer"), 1)}
    annotator = Fixed(names, TagRules(implies={"april": ("spring",)}, groups=group), None)
    summer, spring = answers(
        annotator, torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.1, 0.4, 0.5, 0.3]]), 2
    )
    assert list(summer) == ["summer", "sky"]  # no april, since it would need spring
    assert list(spring) == ["spring", "april"]
    assert list(answers(annotator, torch.tensor([[0.1, 0.9, 0.5, 0.3]]), 4)[0]) == ["summer", "sky"]


def test_a_spelling_that_the_model_learned_counts_for_its_tag():
    rules = TagRules({"dogs": "dog", "cats": "cat"}, {"dog": ("animal",)})
    annotator = Fixed(("dogs", "dog", "animal", "cats", "sky"), rules, None)
    said = answers(annotator, torch.tensor([[0.9, 0.1, 0.2, 0.5, 0.3]]), 5)[0]
    # It does not have the tag cat, so that its spelling goes on being said.
    assert said == pytest.approx({"animal": 0.9, "dog": 0.9, "cats": 0.5, "sky": 0.3})


def test_a_spelling_of_a_blocked_tag_is_never_said():
    """The model may have learned it before the rules, and not have the tag itself."""
    rules = TagRules({"nsfw2": "nsfw"}, blocked=("nsfw",))
    annotator = Fixed(("nsfw2", "sky"), rules, None)
    assert list(answers(annotator, torch.tensor([[0.9, 0.1]]), 2)[0]) == ["sky"]


@pytest.mark.parametrize("how", DECISIONS)
def test_of_equally_probable_tags_the_order_of_scores_decides(how):
    """Far from all training images many probabilities are 1, and as many 0."""
    names = tuple(f"tag {tag}" for tag in range(80))
    generator = torch.Generator().manual_seed(0)
    score_BT = torch.linspace(300, 600, 80)[torch.randperm(80, generator=generator)][None]
    first = int(score_BT.argmax())
    implied = min(3, first - 1)  # of tags with the same z the first one is the better one
    rules = TagRules(implies={names[first]: (names[implied],)}, blocked=(names[first + 1],))
    decider = random_decider(80)
    decider = replace(decider, gain_T=torch.ones(80), offset_T=torch.zeros(80))
    z_T = decider.calibration.order(score_BT.clone(), slice(None))[0]
    z_T[implied], z_T[first + 1] = z_T[first], -torch.inf
    best = z_T.sort(descending=True, stable=True).indices[:6].tolist()
    said = answers(Fixed(names, rules, decider), score_BT, 6, how)[0]
    assert set(said.values()) == {1.0} and list(said) == [names[tag] for tag in best]


def test_so_many_blocked_tags_that_deeper_lists_are_needed():
    names = tuple(f"tag {tag}" for tag in range(500))
    annotator = Fixed(names, TagRules(blocked=names[:450]), None)
    score_BT = torch.linspace(1, 0, 500)[None]
    assert list(answers(annotator, score_BT, 60)[0]) == [*names[450:]]
    assert list(answers(annotator, score_BT, 2)[0]) == ["tag 450", "tag 451"]
    every = Fixed(names, TagRules(blocked=names), None)
    assert answers(every, score_BT, 3) == [{}]


def test_why_a_tag_is_said():
    rules = AnswerRules(
        TagRules(implies={"poodle": ("dog",), "dog": ("animal",), "cat": ("animal",)}),
        ("poodle", "dog", "animal", "cat", "sky"),
    )
    assert rules.implied_by([2, 1, 0, 4], [0.9, 0.9, 0.9, 0.1]) == [0, 0, None, None]
    assert rules.implied_by([2, 1, 3], [0.9, 0.8, 0.2]) == [None, None, None]
    assert rules.implied_by([], []) == []


def test_rules_of_other_tags_say_nothing():
    rules = AnswerRules(TagRules(implies={"dog": ("animal",)}, blocked=("nsfw",)), ("sky", "dog"))
    assert not rules and rules.spare == 0
    score_BT = torch.rand(2, 2)
    assert rules.lifted(score_BT) is score_BT


def test_many_tags_are_prepared_in_a_second():
    names = [f"tag {tag}" for tag in range(100_000)]
    implies = {name: (names[place // 10],) for place, name in enumerate(names) if place >= 10}
    rules = AnswerRules(TagRules(implies=implies), names)
    tag_BM = torch.from_numpy(np.random.default_rng(0).integers(10, 100_000, (1, 50))).unique()[
        None
    ]
    score_BM = torch.linspace(1, 0, tag_BM.shape[1])[None]
    _, tag_Bk, _ = rules.choose(score_BM, tag_BM, score_BM, 5)
    best = rules.rules.with_implied(names[int(tag_BM[0, 0])])
    assert {names[tag] for tag in tag_Bk[0, : len(best)].tolist()} == set(best)
