"""vocabulary.yaml: what it says, what it refuses, and that nothing is lost when it is written again."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drel_core.bundle.tag_rules import TagGroup, TagRules
from drel_core.errors import InputError
from drel_core.tag_text import clean_tag

WRITTEN = """
aliases:        # other spelling: tag
  dogs: dog
  pup: puppy
  puppy: dog
  1999: "2000"
  no: yes
implies:        # tag: what is true as well
  dog: [animal, pet]
  pet: living
groups:
  season: {tags: [spring, summer, autumn, winter], at_most: 1}
  people: [man, woman]
blocked: [nsfw]
split:
  crane: [bird crane, machine crane]
names:
  dog: {de: Hund, pt-BR: cão, no: hund}
"""


def test_a_file_says_what_stands_in_it():
    rules = TagRules.parse(WRITTEN)
    assert rules.aliases == {
        "dogs": "dog",
        "pup": "dog",
        "puppy": "dog",
        "1999": "2000",
        "no": "yes",
    }
    assert rules.implied == {"dog": ("animal", "pet", "living"), "pet": ("living",)}
    assert rules.groups["season"] == TagGroup(("spring", "summer", "autumn", "winter"), 1)
    assert rules.groups["people"].at_most is None and rules.groups_of("man") == ["people"]
    assert rules.blocked == ("nsfw", "crane")  # a tag that is split is neither learned nor said
    assert rules.split == {"crane": ("bird crane", "machine crane")}
    assert rules.languages == ["de", "no", "pt-br"]


def test_what_an_image_is_that_somebody_gave_tags():
    rules = TagRules.parse(WRITTEN)
    assert rules.applied(["pup", "nsfw", "sky", "dog", "pet"]) == [
        "dog",
        "animal",
        "pet",
        "living",
        "sky",
    ]
    assert rules.applied([]) == []
    # A tag that is too special is blocked, and its general one stays.
    assert TagRules(implies={"poodle": ("dog",)}, blocked=("poodle",)).applied(["poodle"]) == [
        "dog"
    ]


def test_a_split_tag_says_nothing_unless_a_part_is_named_too():
    rules = TagRules.parse(
        "aliases: {cranes: crane}\nimplies: {heron: bird crane, crane: thing}\n"
        "split: {crane: [bird crane, machine crane], bat: [animal bat]}"
    )
    assert rules.applied(["cranes", "sky"]) == ["thing", "sky"]
    assert rules.applied(["cranes", "sky"], keep_split=True) == ["crane", "thing", "sky"]
    assert rules.undecided(["cranes", "sky", "bat"]) == ["crane", "bat"]
    for part in ("bird crane", "machine crane", "heron"):
        assert rules.undecided(["crane", part]) == []
    assert rules.undecided(["sky"]) == TagRules().undecided(["crane"]) == []
    assert rules.parts_of(["cranes", "sky", "crane"]) == ["bird crane", "machine crane", "sky"]


def test_a_name_in_a_language_falls_back_to_its_tag():
    rules = TagRules.parse(WRITTEN)
    shown = [rules.display_name("dog", language) for language in ("de-AT", "pt-BR", "pt", "fr", "")]
    assert shown == ["Hund", "cão", "dog", "dog", "dog"]
    assert rules.display_name("cat", "de") == "cat"


def test_empty_headings_and_files_are_no_rules():
    for text in ("", "# nothing yet\n", "aliases:\n  # dogs: dog\nblocked:\n", "---\n"):
        assert not TagRules.parse(text)
    assert TagRules.parse("").to_yaml() == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("aliases:\n  a: b\n  b: a", "line 2: aliases: a: is another spelling of itself ('a' -> 'b' -> 'a')"),
        ("aliases:\n  a: a", "line 2: aliases: a: is another spelling of itself"),
        ("implies:\n  a: b\n  b: c\n  c: a", "line 4: implies: c: implies itself ('a' -> 'b' -> 'c' -> 'a')"),
        ("implies:\n  a: a", "line 2: implies: a: implies itself"),
        ("aliases: {x: y}\nimplies:\n  x: z", "line 3: implies: x: 'x' is another spelling of 'y'"),
        ("aliases: {x: y}\nimplies:\n  z: [q, x]", "line 3: implies: z: 'x' is another spelling of 'y'"),
        ("aliases: {x: y}\nblocked:\n - z\n - x", "line 4: blocked: x: 'x' is another spelling of 'y'"),
        ("aliases: {x: y}\ngroups:\n  g: [x]", "line 3: groups: g: 'x' is another spelling"),
        ("aliases: {x: y}\nnames: {x: {de: z}}", "line 2: names: x: 'x' is another spelling"),
        ("implies:\n  a: [b, c]\nblocked: c", "line 2: implies: a: 'c' is blocked"),
        ("split:\n  a: [b, a]", "line 2: split: a: 'a' cannot be a part of itself"),
        ("split:\n  a: [b, c]\nblocked: [c]", "line 2: split: a: 'c' is blocked"),
        ("split:\n  a: [b, c]\n  c: [d, e]", "line 2: split: a: 'c' is split as well; write its parts here"),
        ("aliases: {x: y}\nsplit:\n  a: [x, b]", "line 3: split: a: 'x' is another spelling of 'y'"),
        ("split: {a: b}\nimplies:\n  c: a", "line 3: implies: c: 'a' is blocked"),
        ("split:\n  a:", "line 2: split: a: a name is missing or empty"),
        ("groups:\n  g:\n    tags: [a]\n    at_most: 0", "line 4: groups: g: at_most: is 0"),
        ("groups:\n  g: {tags: [a], at_most: one}", "line 2: groups: g: at_most: is 'one'"),
        ("groups:\n  g: {tags: [a, b], at_most: 1}\nimplies: {a: b}", "'a' implies 'b', which is in it"),
        ("groups:\n  g: {tags: [b, c], at_most: 1}\nimplies: {a: b, b: d, d: c}", "line 2: groups: g: at"),
        ("groups:\n  g: {tags: [b, c], at_most: 1}\nimplies: {a: [b, c]}", "'a' implies 'b' and 'c'"),
        ("groups:\n  g: {tag: [a]}", "line 2: groups: g: unknown key 'tag'; did you mean tags?"),
        ("groups:\n  g: {at_most: 3}", "line 2: groups: g: has no tags"),
        ("alias: {a: b}", "line 1: unknown key 'alias'; did you mean aliases?"),
        ("aliases:\n  a: b\n  a: c", "line 3: 'a' stands here twice"),
        ('aliases:\n  a: b\n  "a ": c', "line 3: aliases: 'a' stands here twice"),
        ("aliases: {a: b}\naliases: {c: d}", "line 2: 'aliases' stands here twice"),
        ("aliases:\n  a:", "line 2: aliases: a name is missing or empty"),
        ('implies:\n  a: [b, " "]', "line 2: implies: a: a name is missing or empty"),
        ("aliases:\n  a: [b]", "line 2: aliases: a: must be one name, not a list"),
        ("aliases: [a]", "line 1: aliases: must be lines of 'name: value', not a list"),
        ("blocked: [[a]]", "line 1: blocked: must be one name, not a list"),
        ("names:\n  dog: Hund", "line 2: names: dog: must be lines of 'name: value', not 'Hund'"),
        ("names:\n  dog: {German!: Hund}", "line 2: names: dog: german!: is no language"),
        ("- a", "line 1: must be lines of 'name: value', not a list"),
        ("aliases: {a: b}\n---\n", "line 2: a second document"),
        ("aliases: &x\n  a: b", "line 1: anchors"),
        ("aliases:\n  a: &x b\n  c: *x", "line 2: anchors"),
        ("!!python/object:os.system x: y", "line 1: types"),
        ("? [a]\n: b", "line 1: a name is needed"),
        ("[" * 100_000, "line 1: too deep"),
        ("aliases: [", "not YAML"),
        ("a: \x00", "not YAML"),
    ],
)  # fmt: skip
def test_what_cannot_hold_is_one_line_with_its_place(text, says):
    with pytest.raises(InputError) as error:
        TagRules.parse(text, "FILE")
    message = str(error.value)
    assert message.startswith("FILE") and says in message and "\n" not in message


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none.yaml: cannot read it: No such file"):
        TagRules.load(tmp_path / "none.yaml")
    path = tmp_path / "vocabulary.yaml"
    path.write_bytes("aliases:\n  hündin: hund".encode("latin-1"))
    with pytest.raises(InputError, match=r"vocabulary.yaml line 2: not UTF-8"):
        TagRules.load(path)
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(InputError, match="more than 64 MiB"):
        TagRules.load(path)
    path.write_text("\ufeffblocked: a", "utf-8")  # as some editors save it
    assert TagRules.load(path).blocked == ("a",)


def test_large_files_load_in_seconds_and_bombs_are_refused():
    begun = time.monotonic()
    rules = TagRules.parse("aliases:\n" + "".join(f"  {i}: {i + 1}\n" for i in range(100_000)))
    assert rules.aliases["0"] == "100000"
    with pytest.raises(InputError, match="lead to more than"):
        TagRules(implies={f"{i}": (f"{i + 1}",) for i in range(100_000)})
    assert time.monotonic() - begun < 60  # 8 s on a busy core


def test_notes_on_what_a_vocabulary_does_not_have():
    rules = TagRules.parse(WRITTEN)
    notes = rules.check(["dog", "dogs", "anima", "nsfw", "yes", "2000", "man", "woman", "spring"])
    assert notes == [
        "tags of the vocabulary that the rules call other spellings: 'dogs'",
        "tags of the vocabulary that are blocked: 'nsfw'",
        "implies: no tags of the vocabulary: 'animal' (did you mean anima?), 'living', 'pet'",
        "groups: season: no tags of the vocabulary: 'autumn', 'summer', 'winter'",
        "split: no tags of the vocabulary: 'bird crane', 'machine crane'",
    ]
    every = {*rules.tags()} - {"nsfw", "crane"}
    assert rules.check([*every, "crane"]) == ["tags of the vocabulary that are split: 'crane'"]
    assert rules.check(sorted(every)) == []


def test_the_digest_names_the_rules():
    one, same = TagRules.parse(WRITTEN), TagRules.parse(WRITTEN.replace("# tag", "# any"))
    assert one == same and one.digest == same.digest
    assert one.digest != TagRules.parse(WRITTEN.replace("nsfw", "other")).digest


name = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8).map(
    clean_tag
).filter(bool)  # fmt: skip


@st.composite
def any_rules(draw: st.DrawFn) -> TagRules:
    tags = draw(st.lists(name, min_size=4, max_size=12, unique=True))
    spellings = draw(st.lists(name.filter(lambda n: n not in tags), max_size=4, unique=True))
    implies = {
        tag: tuple(draw(st.lists(st.sampled_from(tags[place + 1 :]), max_size=3)))
        for place, tag in enumerate(tags[:-1])
    }
    implied = {other for others in implies.values() for other in others}
    free = st.sampled_from(tags).filter(lambda tag: tag not in implied)
    blocked = draw(st.lists(free, max_size=2))
    split = draw(st.lists(name.filter(lambda n: n not in tags and n not in spellings), max_size=1))
    parts = st.lists(st.sampled_from(tags).filter(lambda tag: tag not in blocked), max_size=3)
    return TagRules(
        {spelling: draw(st.sampled_from(tags)) for spelling in spellings},
        implies,
        {
            draw(name): TagGroup(
                tuple(draw(st.lists(st.sampled_from(tags), min_size=1))), len(tags)
            ),
            draw(name): TagGroup(tuple(draw(st.lists(st.sampled_from(tags), min_size=1)))),
        },
        tuple(blocked),
        {draw(st.sampled_from(tags)): {"de": draw(name), "no": draw(name)}},
        {tag: tuple(draw(parts)) for tag in split},
    )


@settings(max_examples=60, deadline=None)
@given(any_rules())
def test_rules_are_read_as_they_were_written(rules):
    again = TagRules.parse(rules.to_yaml())
    assert again == rules and again.digest == rules.digest
    assert again.to_yaml() == rules.to_yaml()


@settings(max_examples=60, deadline=None)
@given(any_rules())
def test_implications_are_closed_and_ordered(rules):
    place = {tag: at for at, tag in enumerate(rules.order())}
    for tag, others in rules.implied.items():
        assert len(set(others)) == len(others) and tag not in others
        for other in others:
            assert place[tag] < place[other]
            assert set(rules.implied.get(other, ())) <= set(others)
    applied = rules.applied(rules.tags())
    assert set(rules.applied(applied)) == set(applied)  # once is enough
    assert not set(rules.blocked) & set(applied)
