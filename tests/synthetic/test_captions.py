"""Captions: true, varied, and spoken with the words of `acfun.descriptions`."""

from itertools import pairwise

import numpy as np

from acfun.descriptions import Attributes
from acfun.synthetic.captions import STYLE_TEMPLATES, caption, drop_attributes

FULL = Attributes(
    gender="woman",
    age="old",
    expression="smiling",
    hair="grey",
    glasses=True,
    beard=False,
    skin="dark",
    medium=("oil painting", "red and blue"),
)


def draw(attributes: Attributes, count: int = 400, seed: int = 0) -> list[str]:
    generator = np.random.default_rng(seed)
    return [caption(attributes, generator) for _ in range(count)]


def test_same_generator_same_captions() -> None:
    assert draw(FULL, seed=3) == draw(FULL, seed=3) != draw(FULL, seed=4)


def test_captions_vary_and_always_name_the_medium() -> None:
    captions = draw(FULL)
    assert len(set(captions)) > 200
    assert all("oil painting" in text for text in captions)
    for word in (
        "woman",
        "person",
        "old",
        "elderly",
        "smiling",
        "grey hair",
        "gray hair",
        "glasses",
        "red and blue",
    ):
        share = np.mean([word in text for text in captions])
        assert 0.05 < share < 0.9, word


def test_nothing_false_is_said() -> None:
    for text in draw(FULL):
        assert not {"beard", "man", "young", "bald", "photo", "{"} & set(text.replace(",", " ").split())


def test_photos_are_called_photos_or_nothing_else() -> None:
    captions = draw(Attributes(gender="man", age="young"))
    assert all("photo" in text for text in captions)
    assert not any("style" in text or "painting" in text for text in captions)


def test_articles_fit() -> None:
    captions = [*draw(FULL), *draw(Attributes(gender="man", medium=("woodcut",)))]
    for text in captions:
        words = text.replace(",", "").split()
        for article, word in pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), text


def test_the_construction_of_fitted_styles_occurs() -> None:
    assert any(text.endswith("in woodcut style") for text in draw(Attributes(medium=("woodcut",))))
    assert "a painting of {subject} in {medium} style" in STYLE_TEMPLATES


def test_dropping_keeps_or_forgets() -> None:
    generator = np.random.default_rng(0)
    assert drop_attributes(FULL, generator, keep_probability=1.0) == FULL
    assert drop_attributes(FULL, generator, keep_probability=0.0) == Attributes(medium=FULL.medium)
    kept = np.mean([drop_attributes(FULL, generator, 0.75).hair == "grey" for _ in range(400)])
    assert 0.68 < kept < 0.82
