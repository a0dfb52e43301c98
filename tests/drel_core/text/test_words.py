"""Words of names: where they end, which of them mean nothing, and in what forms they are looked for."""

from __future__ import annotations

import pytest

from drel_core.text.words import counted, forms, is_number, words_of


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("golden retriever", ["golden", "retriever"]),
        ("golden_retriever", ["golden", "retriever"]),
        ("sky-blue", ["sky", "blue"]),
        ("GoldenRetriever", ["Golden", "Retriever"]),
        ("New York", ["New", "York"]),
        ("NASA", ["NASA"]),
        ("dog's", ["dog's"]),
        ("'quoted'", ["quoted"]),
        ("img_0042", ["img", "0042"]),
        ("animal/dog:puppy", ["animal", "dog", "puppy"]),
        ("façade", ["façade"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("東京", ["東京"]),
        ("—!?", []),
        ("", []),
    ],
)
def test_words_end_where_a_reader_sees_it(name: str, words: list[str]) -> None:
    assert words_of(name) == words


def test_a_name_of_a_megabyte_is_read_to_its_thousandth_letter() -> None:
    assert words_of("x" * 10**6) == ["x" * 1000]


def test_words_that_say_nothing_do_not_count_unless_there_are_no_others() -> None:
    assert counted(["Statue", "of", "Liberty"]) == ["Statue", "Liberty"]
    assert counted(["the", "and"]) == ["the", "and"]


@pytest.mark.parametrize("word", ["12345", "0042", "dsc0042", "²"])
def test_numbers(word: str) -> None:
    assert is_number(word)


@pytest.mark.parametrize("word", ["mp3", "3d", "b52", "dog", "東京"])
def test_words_with_a_digit_are_no_numbers(word: str) -> None:
    assert not is_number(word)


@pytest.mark.parametrize(
    ("word", "form"),
    [
        ("Dogs", "dog"),
        ("berries", "berry"),
        ("boxes", "box"),
        ("dog", "dogs"),
        ("dog's", "dog"),
        ("cafés", "cafe"),
    ],
)
def test_forms_of_a_word(word: str, form: str) -> None:
    assert next(forms(word)) == word  # as it is written comes first
    assert form in list(forms(word))
