"""The words for a face: one vocabulary for the captions a base is trained on and the prompts it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

Gender = Literal["woman", "man"]
Age = Literal["young", "middle-aged", "old"]
Expression = Literal["neutral", "smiling"]
Hair = Literal["dark", "black", "brown", "blond", "grey", "red", "bald"]
Skin = Literal["pale", "tanned", "brown", "dark"]

# The first word of each is what `describe_face` says when nobody chooses; the others make captions vary.
GENDER_WORDS: dict[Gender | None, tuple[str, ...]] = {
    "woman": ("woman", "woman", "woman", "lady", "female"),
    "man": ("man", "man", "man", "gentleman", "male"),
    None: ("person",),
}
AGE_WORDS: dict[Age, tuple[str, ...]] = {
    "young": ("young",),
    "middle-aged": ("middle-aged",),
    "old": ("old", "old", "elderly"),
}
EXPRESSION_WORDS: dict[Expression, tuple[str, ...]] = {
    "smiling": ("smiling", "smiling", "happy"),
    "neutral": ("serious", "calm"),
}
HAIR_WORDS: dict[Hair, tuple[str, ...]] = {
    "dark": ("dark hair",),
    "black": ("black hair", "black hair", "dark hair"),
    "brown": ("brown hair", "brown hair", "dark hair"),
    "blond": ("blond hair", "blonde hair"),
    "grey": ("grey hair", "gray hair"),
    "red": ("red hair", "ginger hair"),
    "bald": ("a bald head",),
}
SKIN_WORDS: dict[Skin, tuple[str, ...]] = {
    "pale": ("pale skin", "fair skin"),
    "tanned": ("tanned skin", "olive skin"),
    "brown": ("brown skin",),
    "dark": ("dark skin",),
}
GLASSES_WORDS = ("glasses", "glasses", "spectacles")
BEARD_WORDS = ("a beard",)

Chooser = Callable[[Sequence[str]], str]


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What can be said about a portrait; None is "not known" (or not said).

    Attributes:
        gender: woman or man.
        age: young (up to about 35), middle-aged (to about 55) or old.
        expression: neutral or smiling.
        hair: its colour, or bald.
        glasses: True when worn.
        beard: True when there is one.
        skin: its tone.
        medium: what the picture is, then its further words: ("photo",) or ("duotone poster", "red and blue").

    Raises:
        ValueError: a word that is not in the vocabulary; the message lists the ones that are.
    """

    gender: Gender | None = None
    age: Age | None = None
    expression: Expression | None = None
    hair: Hair | None = None
    glasses: bool | None = None
    beard: bool | None = None
    skin: Skin | None = None
    medium: tuple[str, ...] = ("photo",)

    def __post_init__(self) -> None:
        words = {"gender": Gender, "age": Age, "expression": Expression, "hair": Hair, "skin": Skin}
        for field in fields(self):
            value, allowed = getattr(self, field.name), get_args(words.get(field.name))
            if allowed and value is not None and value not in allowed:
                raise ValueError(f"{field.name} {value!r} is unknown: use one of {', '.join(allowed)}, or None")
        if not self.medium:
            raise ValueError('medium is empty: give at least one word, such as ("photo",)')


def add_article(words: str) -> str:
    """ "oil painting" → "an oil painting"."""
    return f"{'an' if words[:1].lower() in set('aeiou') else 'a'} {words}"


def first_word(words: Sequence[str]) -> str:
    """The chooser of plain descriptions: always the first of the synonyms."""
    return words[0]


def describe_face(attributes: Attributes, choose: Chooser = first_word) -> str:
    """Describe the person, not the picture: "a smiling young woman with dark hair and glasses".

    `choose` picks one of several synonyms. A neutral expression is said only when `choose` wants it; the
    absence of a beard or of glasses never is.
    """
    a = attributes
    adjectives: list[str] = []
    if a.expression == "smiling" or (a.expression == "neutral" and choose(("", "say")) == "say"):
        adjectives.append(choose(EXPRESSION_WORDS[a.expression]))
    if a.age is not None:
        adjectives.append(choose(AGE_WORDS[a.age]))
    is_bald_adjective = a.hair == "bald" and choose(("bald", "a bald head")) == "bald"
    if is_bald_adjective:
        adjectives.append("bald")
    belongings: list[str] = []
    if a.hair is not None and not is_bald_adjective:
        belongings.append(choose(HAIR_WORDS[a.hair]))
    if a.beard:
        belongings.append(choose(BEARD_WORDS))
    if a.glasses:
        belongings.append(choose(GLASSES_WORDS))
    if a.skin is not None:
        belongings.append(choose(SKIN_WORDS[a.skin]))
    subject = add_article(" ".join([*adjectives, choose(GENDER_WORDS[a.gender])]))
    return f"{subject} with {join_words(belongings)}" if belongings else subject


def join_words(words: Sequence[str]) -> str:
    """["a", "b", "c"] → "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
