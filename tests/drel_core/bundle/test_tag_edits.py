"""Merging, renaming, removing and splitting tags: what becomes of names, ids and rules."""

from __future__ import annotations

from typing import Any

import pytest

from drel_core.bundle.tag_edits import TagEdits, edited
from drel_core.bundle.tag_rules import TagGroup, TagRules
from drel_core.errors import InputError

NAMES = ("dog", "dogs", "cat", "crane", "animal", "hound", "bird")
RULES = TagRules(
    aliases={"kitty": "cat"},
    implies={"hound": ("dog",), "dog": ("animal",), "crane": ("bird",)},
    groups={"pets": TagGroup(("cat", "dog", "crane"))},
    names={"dog": {"de": "Hund"}, "dogs": {"de": "Hunde", "fr": "chiens"}},
)


def test_a_merged_tag_keeps_its_id_and_becomes_an_alias() -> None:
    after = edited(NAMES, RULES, TagEdits(merge={"dogs": "dog"}))
    assert after.names == NAMES and after.start == ()
    assert after.rules.tag_of("dogs") == "dog"
    # Display names of both, those of the tag that stays first.
    assert after.rules.names["dog"] == {"de": "Hund", "fr": "chiens"}


def test_merges_are_followed_to_their_end_and_rules_of_both_are_kept() -> None:
    after = edited(NAMES, RULES, TagEdits(merge={"hound": "dogs", "dogs": "dog"})).rules
    assert after.aliases == {"kitty": "cat", "hound": "dog", "dogs": "dog"}
    assert after.implies == {"dog": ("animal",), "crane": ("bird",)}


def test_a_renamed_tag_keeps_its_id_and_old_name() -> None:
    after = edited(NAMES, RULES, TagEdits(rename={"dog": "Canis"}))
    assert after.names == ("Canis", *NAMES[1:])
    assert after.rules.tag_of("dog") == "Canis"
    assert after.rules.implied["hound"] == ("Canis", "animal")
    assert after.rules.groups["pets"].tags == ("cat", "Canis", "crane")
    assert after.rules.names["Canis"] == {"de": "Hund"}


def test_an_alias_may_become_the_name() -> None:
    after = edited(NAMES, RULES, TagEdits(rename={"cat": "kitty"}))
    assert after.names[2] == "kitty"
    assert after.rules.aliases == {"cat": "kitty"}


def test_a_removed_tag_is_blocked_and_what_implied_it_implies_what_it_did() -> None:
    after = edited(NAMES, RULES, TagEdits(remove=("dog",)))
    assert after.names == NAMES
    assert after.rules.blocked == ("dog",)
    assert after.rules.implied["hound"] == ("animal",)
    assert "dog" not in after.rules.names


def test_parts_of_a_split_tag_come_last_and_start_as_it() -> None:
    parts = ("bird crane", "machine crane")
    after = edited(NAMES, RULES, TagEdits(split={"crane": parts}))
    assert after.names == (*NAMES, *parts) and after.start == (3, 3)
    assert after.rules.blocked == ("crane",)
    assert {after.rules.implied[part] for part in parts} == {("bird",)}
    assert after.rules.groups["pets"].tags == ("cat", "dog", *parts)
    assert after.rules.split == {"crane": parts}


def test_parts_that_are_edited_stay_parts() -> None:
    first = edited(NAMES, RULES, TagEdits(split={"crane": ("a", "b", "c", "d")}))
    edits = TagEdits({"a": "dog"}, {"b": "B"}, ("c",), {"d": ("d1", "d2")})
    after = edited(first.names, first.rules, edits).rules
    assert after.split == {"crane": ("dog", "B", "d1", "d2"), "d": ("d1", "d2")}
    assert after.blocked == ("crane", "c", "d")
    gone = edited(first.names, first.rules, TagEdits(remove=("a", "b", "c", "d"))).rules
    assert not gone.split and gone.blocked == ("crane", "a", "b", "c", "d")
    with pytest.raises(InputError, match="'crane' is split already; name one of its parts"):
        edited(first.names, first.rules, TagEdits(remove=("crane",)))


def test_a_split_tag_that_is_one_of_its_parts_stays() -> None:
    after = edited(NAMES, RULES, TagEdits(split={"dog": ("dog", "puppy")}))
    assert after.names == (*NAMES, "puppy") and after.start == (0,)
    assert not after.rules.blocked and not after.rules.split


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ({"merge": {"dogs": "dgo"}}, "no tag 'dgo'; did you mean dog?"),
        ({"remove": ("DOGS",)}, "no tag 'DOGS'"),
        ({"merge": {"dog": "cat", "cat": "dog"}}, "circle (dog -> cat -> dog)"),
        ({"merge": {"dog": "dog"}}, "into itself"),
        ({"merge": {"dogs": "dog"}, "remove": ("dog",)}, "'dog' is removed by the same command"),
        ({"merge": {"dogs": "dog"}, "remove": ("dogs",)}, "'dogs' is in two edits"),
        ({"merge": {"kitty": "dog"}}, "'kitty' is another spelling of 'cat' already"),
        ({"rename": {"dog": "cat"}}, "--merge dog=cat"),
        ({"rename": {"dog": "dog"}}, "its name already"),
        ({"rename": {"dog": "pet", "cat": "pet"}}, "two tags would have the name 'pet'"),
        ({"rename": {"dog": "kitty"}}, "another spelling of 'cat'"),
        ({"split": {"dog": ("cat", "puppy")}}, "there is a tag 'cat' already"),
        ({"split": {"dog": ("puppy",)}}, "two parts or more"),
        ({"split": {"dog": ("puppy", "puppy")}}, "names a part twice"),
        ({"merge": {"animal": "hound"}}, "the rules would not hold"),
    ],
)
def test_edits_that_cannot_be_made(edits: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        edited(NAMES, RULES, TagEdits(**edits))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_earlier_edit_is_not_made_twice() -> None:
    first = edited(NAMES, RULES, TagEdits(merge={"dogs": "dog"}, remove=("bird",), split={})).rules
    for edits, says in (
        (TagEdits(merge={"cat": "dogs"}), "another spelling of 'dog'"),
        (TagEdits(remove=("bird",)), "'bird' is blocked"),
        (TagEdits(rename={"cat": "dogs"}), "there is a tag 'dogs' already"),
    ):
        with pytest.raises(InputError, match=says):
            edited(NAMES, first, edits)
