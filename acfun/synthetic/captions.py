"""Captions for synthetic portraits: what is in the picture, said in many ways and never all of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from acfun.descriptions import Attributes, add_article, describe_face

KEEP_PROBABILITY = 0.75
PHOTO = "photo"
PHOTO_WORDS = (PHOTO, PHOTO, "photograph", "portrait photo", "close-up photo")

PHOTO_TEMPLATES = (
    "{a_medium} of {subject}",
    "{a_medium} of {subject}",
    "{medium} of {subject}",
    "{medium}, {subject}",
    "{subject}, {medium}",
    "a portrait of {subject}, {medium}",
)
# "in … style" is what a prompt with a fitted style's placeholder says, so the base must have read it.
STYLE_TEMPLATES = (
    "{a_medium} of {subject}",
    "{a_medium} of {subject}",
    "{a_medium} portrait of {subject}",
    "a painting of {subject} in {medium} style",
    "a portrait of {subject} in {medium} style",
    "{subject} in {medium} style",
    "{subject}, {medium}",
    "{medium}, {subject}",
)


def caption(attributes: Attributes, generator: np.random.Generator) -> str:
    """One caption of the picture, e.g. "an oil painting of an old man with a beard, red and blue".

    Template, synonyms and the attributes left out are drawn; the medium's first word is always said, the
    others mostly. A false "glasses" or "beard" is never mentioned.
    """

    def choose(words: Sequence[str]) -> str:
        return words[int(generator.integers(len(words)))]

    subject = describe_face(drop_attributes(attributes, generator), choose)
    medium, *details = attributes.medium
    is_photo = medium == PHOTO
    medium = choose(PHOTO_WORDS) if is_photo else medium
    template = choose(PHOTO_TEMPLATES if is_photo else STYLE_TEMPLATES)
    text = template.format(a_medium=add_article(medium), medium=medium, subject=subject)
    spoken = [detail for detail in details if generator.random() < KEEP_PROBABILITY]
    return ", ".join([text, *spoken])


def drop_attributes(
    attributes: Attributes, generator: np.random.Generator, keep_probability: float = KEEP_PROBABILITY
) -> Attributes:
    """Forget each attribute of the person with probability 1 - `keep_probability`; the medium stays."""
    names = ("gender", "age", "expression", "hair", "glasses", "beard", "skin")
    unknown: dict[str, Any] = {name: None for name in names if generator.random() >= keep_probability}
    return replace(attributes, **unknown)
