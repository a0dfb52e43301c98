"""The vocabulary as it is shown."""

from __future__ import annotations

import numpy as np

from distributed.driver.tag_view import shown, summary, tag_lines, text_lines
from drel_core.bundle.tag_rules import TagGroup, TagRules

NAMES = ("sky", "dogs", "dog", "Sea", "new")
COUNTS = np.array([5, 2, 9, 5, 0])
RULES = TagRules(
    aliases={"dogs": "dog", "ocean": "Sea"},
    implies={"dog": ("animal",)},
    groups={"nature": TagGroup(("sky", "Sea"))},
    blocked=("sky",),
    split={"crane": ("bird crane", "Sea")},
)


def test_the_most_frequent_come_first_with_what_is_said_of_them() -> None:
    lines = [line.text().strip() for line in tag_lines(NAMES, COUNTS, RULES, True)]
    assert lines == [
        "9  dog  (also dogs; implies animal)",
        "5  Sea  (also ocean; in nature)",
        "5  sky  (blocked; in nature)",
        "2  dogs  (another spelling of dog)",
        "0  new  (unseen)",
    ]
    said = summary(NAMES, COUNTS, RULES)
    assert said.startswith("5 tags, 4 with images, 1 other spellings, 1 blocked, 1 split")
    crane = tag_lines(("crane",), np.array([3]), RULES, True)[0]
    assert crane.text().strip() == "3  crane  (split into bird crane, Sea)"
    assert crane.to_dict()["split"] == ["bird crane", "Sea"]


def test_a_prefix_finds_other_spellings_in_any_case() -> None:
    def found(prefix: str) -> list[str]:
        return [line.tag for line in tag_lines(NAMES, COUNTS, RULES, True, prefix, True)]

    assert found("s") == ["Sea", "sky"] and found("OCE") == ["Sea"] and found("x") == []


def test_what_is_not_so_is_left_out_of_json() -> None:
    every = tag_lines(NAMES, COUNTS, RULES, True)
    assert every[-1].to_dict() == {"tag": "new", "count": 0, "id": 4, "unseen": True}
    assert tag_lines(("a",), np.array([1]), TagRules(), False)[0].to_dict() == {
        "tag": "a",
        "count": 1,
    }


def test_names_cannot_move_the_cursor_and_what_is_left_out_is_said() -> None:
    assert shown("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
    lines = tag_lines(NAMES, COUNTS, RULES, True)
    assert list(text_lines(lines, 2))[-1] == "… and 3 more (--limit 0 shows all)"
    assert len(list(text_lines(lines, None))) == 5
