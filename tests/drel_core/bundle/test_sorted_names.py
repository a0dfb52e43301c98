"""Which names a model has, may not have, or does not know yet."""

from __future__ import annotations

from drel_core.bundle.sorted_names import sort_names
from drel_core.bundle.tag_rules import TagRules


def test_other_spellings_are_their_tags_and_each_tag_comes_once() -> None:
    rules = TagRules(aliases={"dogs": "dog", "cats": "cat", "junk": "trash"}, blocked=("trash",))
    names = ["cats", "owl", "dogs", "cat", "junk", "dog", "fox", "owl"]
    found = sort_names(names, ["dog", "hen"], rules)
    assert found.blocked == ["junk"] and found.known == ["dog"]
    assert found.fresh == {"cat": 0, "owl": 1, "fox": 6}


def test_without_rules_a_name_is_its_own_tag() -> None:
    found = sort_names(["dogs", "dog", "dogs"], {"dog"}, None)
    assert (found.blocked, found.known, found.fresh) == ([], ["dog"], {"dogs": 0})
