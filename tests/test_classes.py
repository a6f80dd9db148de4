"""A class is found by whatever a person types for it, and what is not there is answered with what is near."""

from __future__ import annotations

from collections.abc import Callable
from typing import SupportsIndex

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strait.commands.arguments import split_labels
from strait.data.classes import ClassNames
from strait.randomness import as_seed, key

NAMES = ["n01443537 goldfish", "n02509815 lesser panda", "n04399382 teddy", "n04398044 teapot", "plain_folder"]
CLASSES = ClassNames(NAMES)


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("goldfish", 0),
        ("GoldFish", 0),
        ("n01443537", 0),
        ("N01443537", 0),
        ("n01443537 goldfish", 0),
        ("lesser panda", 1),
        ("lesser_panda", 1),
        ("Lesser   Panda ", 1),
        ("n02509815_lesser_panda", 1),
        ("plain_folder", 4),
        ("plain folder", 4),
        ("PLAIN FOLDER", 4),
        (0, 0),
        ("3", 3),
        (4, 4),
    ],
)
def test_found_by_name_id_and_index(label: str | int, index: int) -> None:
    assert CLASSES.find(label) == index


@given(index=st.integers(0, len(NAMES) - 1), data=st.data())
def test_found_in_any_case_and_spacing(index: int, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([CLASSES.title(index), NAMES[index]]))
    letters = [data.draw(st.sampled_from([letter.upper(), letter.lower()])) for letter in name]
    spaced = "".join(data.draw(st.sampled_from([" ", "_", "  "])) if c in " _" else c for c in letters)
    assert CLASSES.find(spaced) == index


def test_a_title_has_no_wordnet_id() -> None:
    assert [CLASSES.title(index) for index in range(5)] == [
        "goldfish",
        "lesser panda",
        "teddy",
        "teapot",
        "plain_folder",
    ]
    assert list(CLASSES) == NAMES
    assert ClassNames(["n04399382"]).title(0) == "n04399382"
    assert ClassNames(["n04399382"]).find("n04399382") == 0


@pytest.mark.parametrize(
    ("label", "near"), [("tedy", "teddy"), ("goldfsh", "goldfish"), ("panda", "lesser panda"), ("teapots", "teapot")]
)
def test_what_is_unknown_lists_the_nearest(label: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"no class is called '{label}'; the nearest are .*{near}") as caught:
        CLASSES.find(label)
    assert "\n" not in str(caught.value)


def test_what_is_like_nothing_lists_none() -> None:
    with pytest.raises(ValueError, match="the nearest are none"):
        CLASSES.find("qqqqqqqq")


@pytest.mark.parametrize("label", [5, "5", -1, "-1", 10**12])
def test_an_index_out_of_range_names_the_range(label: int | str) -> None:
    with pytest.raises(ValueError, match=rf"index {label} is not among the 5 classes \(0 to 4\)"):
        CLASSES.find(label)


def test_a_model_without_classes_says_so() -> None:
    assert len(ClassNames([])) == 0
    assert not ClassNames([])
    with pytest.raises(ValueError, match="'teddy' was given, but this model has no classes"):
        ClassNames([]).find("teddy")


def test_two_classes_of_one_word_are_told_apart_by_id() -> None:
    cranes = ClassNames(["n02012849 crane", "n03126707 crane"])
    assert cranes.find("crane") == 0
    assert cranes.find("n03126707") == 1
    assert cranes.find("n03126707 crane") == 1


def test_names_that_are_numbers_are_names_first() -> None:
    digits = ClassNames(["7", "8", "9"])
    assert digits.find("8") == 1
    assert digits.find("2") == 2  # no class is called 2: an index


def test_where_classes_are_called_by_numbers_names_win_and_a_sign_means_the_index(
    capsys: pytest.CaptureFixture[str],
) -> None:
    classes = ClassNames(["1", "10", "2", "3"])
    assert [classes.find(label) for label in ("1", "10", "2", "3", 1, "#1", " #0 ", "#3")] == [0, 1, 2, 3, 1, 1, 0, 3]
    lines = capsys.readouterr().err.splitlines()
    # 10 is no index, 2 is of the class number 2, and 3 of the number 3: nothing to be said.
    assert lines == ["label: 1 is read as a class name; for the class with this index, type #1"]
    classes.find("1")
    assert capsys.readouterr().err == ""
    assert classes.numbers_as_names() == (
        "class names are numbers: label 1 means the class with this name; #1 means class number 1, '10'"
    )
    with pytest.raises(ValueError, match="index 4 is not among the 4 classes"):
        classes.find("#4")
    assert ClassNames(["b", "#0"]).find("#0") == 1
    for harmless in (["0", "1", "2"], ["1001", "1002"], NAMES, []):
        assert ClassNames(harmless).numbers_as_names() is None


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("tomato___early_blight", "Tomato Early-Blight"),
        ("Tomato Early blight", "tomato___early_blight"),
        ("café au lait", "cafe\u0301_au_lait"),
        ("cafe\u0301 au lait", "café-au-lait"),
        ("ﬁsh", "FISH"),
        ("cats,dogs", "Cats, dogs"),
        ("n01440764 tench, Tinca tinca", "tench,tinca TINCA"),
    ],
)
def test_what_people_write_differently_is_the_same(name: str, typed: str) -> None:
    assert ClassNames(["other", name]).find(typed) == 1


@pytest.mark.parametrize(("names", "text"), [(["emu", "cats,dogs"], "cats,dogs,emu"), (NAMES, "goldfish, TEDDY")])
def test_commas_within_names_are_found_in_any_case(names: list[str], text: str) -> None:
    classes = ClassNames(names)
    for typed in (text, text.upper(), text.replace(",", ", ")):
        indices = [classes.find(label) for label in split_labels(typed, classes)]
        assert indices == ([1, 0] if names[0] == "emu" else [0, 2])


def test_an_index_among_classes_that_are_called_by_numbers_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    folders = ClassNames(["1", "10", "2", "3"])
    assert folders.find("0") == 0
    assert "no class is called 0; it is read as the index of '1'" in capsys.readouterr().err
    assert ClassNames(["0", "1"]).find("1") == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor])
def test_integers_of_any_library_are_indices(kind: Callable[[int], SupportsIndex]) -> None:
    assert CLASSES.find(kind(3)) == 3
    with pytest.raises(TypeError):
        CLASSES.find(1.0)  # type: ignore[arg-type]
    assert key(kind(3), kind(4)).equal(key(3, 4))
    assert as_seed(kind(3)) == as_seed(3)
