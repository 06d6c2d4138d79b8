"""Captioned training portraits: a morph, in part rendered in a procedural style, with what can truly be said of it."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from acfun.descriptions import Age, Attributes, Expression, Gender, Hair
from acfun.synthetic.captions import caption
from acfun.synthetic.data import FloatArray, Photo, list_faces, list_portraits, load_landmarks, split_people
from acfun.synthetic.morphs import Morph, MorphFactory, MorphOptions
from acfun.synthetic.people import load_people, to_canonical
from acfun.synthetic.renderers import HELD_OUT_RENDERERS, TRAINING_RENDERERS
from acfun.synthetic.renderers.base import Renderer, Rendering
from acfun.synthetic.shards import Labels, Sample

ATTRIBUTES_FILE = Path(__file__).with_name("attributes.csv")
GREY_MEDIUM = ("photo", "black and white")
PLAIN = MorphOptions(
    max_parents=1,
    scale=(1, 1),
    max_rotation=0,
    max_shift=0,
    expression_probability=0,
    background_probability=0,
    light=0,
    grey_probability=0,
)
"""People as they were photographed, in canonical framing."""
ALIGNED = MorphOptions(
    scale=(0.98, 1.06),
    max_rotation=0.03,
    max_shift=0.015,
    expression_probability=0.2,
    background_probability=0.4,
    light=0.4,
    grey_probability=0.04,
)
"""Nearly in canonical framing, in nearly the light that they were photographed in: what a generator is to learn."""


class PortraitSampler:
    """Sample i of a data set: `sampler(i)` depends on the seed and i alone.

    Args:
        morphs: where faces come from.
        renderers: styles to draw from.
        attributes: what is known of each photograph, by key.
        rendering_probability: share of samples that are rendered.
        seed: of the data set.
        each_person_once: sample i starts from person i (mod their number) rather than a random one.
    """

    def __init__(
        self,
        morphs: MorphFactory,
        renderers: Sequence[Renderer],
        attributes: dict[str, Attributes],
        *,
        rendering_probability: float,
        seed: int,
        each_person_once: bool = False,
    ) -> None:
        self.morphs = morphs
        self.renderers = list(renderers)
        self.attributes = attributes
        self.rendering_probability = rendering_probability
        self.seed = seed
        self.each_person_once = each_person_once

    def __call__(self, index: int) -> Sample:
        """Draw sample `index`."""
        generator = np.random.default_rng([self.seed, index])
        morph = self.morphs.sample(generator, index % len(self.morphs.people) if self.each_person_once else None)
        known = describe_morph(morph, self.attributes)
        if generator.random() >= self.rendering_probability:
            known = replace(known, medium=GREY_MEDIUM if morph.is_grey else ("photo",))
            return _build_sample(morph, Rendering(morph.image, morph.landmarks, known.medium), "", known, generator)
        renderer = self.renderers[generator.integers(len(self.renderers))]
        rendering = renderer.render(morph.image, morph.landmarks, generator)
        return _build_sample(morph, rendering, renderer.name, replace(known, medium=rendering.words), generator)


def build_sampler(
    data_dir: Path,
    size: int,
    *,
    is_held_out: bool,
    rendering_probability: float,
    seed: int,
    portrait_landmarks: Path | None = None,
    held_out_renderers: bool = False,
    is_plain: bool = False,
    is_aligned: bool = False,
) -> PortraitSampler:
    """Build the sampler of training people, or of held-out people photographed as they are.

    Args:
        data_dir: of the licensed photographs.
        size: width and height, pixels.
        is_held_out: people of the held-out split, unmorphed and in plain framing.
        rendering_probability: share of samples that are rendered.
        seed: of the data set.
        portrait_landmarks: .npz with `keys`, `landmarks` (N,189,2) in pixels of the files; portraits join when given.
        held_out_renderers: draw from the families kept out of all training.
        is_plain: training people photographed as they are, too.
        is_aligned: training people photographed in colour, framed and lit as in `ALIGNED`, women as often as men, and
            no morphs between them.
    """
    identities = split_people(data_dir)[1 if is_held_out else 0]
    landmarks = load_landmarks(data_dir)
    if portrait_landmarks is not None:
        landmarks |= load_landmark_table(portrait_landmarks)
    photos = [photo for photo in [*list_faces(data_dir), *list_portraits(data_dir)] if photo.identity in identities]
    people = load_people(photos, landmarks, size)
    expressions = find_expressions(photos, landmarks)
    attributes = load_attributes()
    is_unmorphed = is_held_out or is_plain
    options, groups = PLAIN if is_unmorphed else None, None
    if is_aligned and not is_unmorphed:
        genders = {key: known.gender for key, known in attributes.items() if known.gender is not None}
        people = [person for person in people if person.key in genders and not person.is_grey]
        options, groups = ALIGNED, [genders[person.key] for person in people]
    return PortraitSampler(
        MorphFactory(people, size, expressions=expressions, options=options, groups=groups),
        list((HELD_OUT_RENDERERS if held_out_renderers else TRAINING_RENDERERS).values()),
        attributes,
        rendering_probability=rendering_probability,
        seed=seed,
        each_person_once=is_unmorphed,
    )


def load_landmark_table(path: Path) -> dict[str, FloatArray]:
    """Read found landmarks: key → (189, 2) pixels of the file."""
    with np.load(path) as table:
        return dict(zip(table["keys"].tolist(), table["landmarks"].astype(np.float32), strict=True))


def load_attributes() -> dict[str, Attributes]:
    """Read what was seen in each photograph, by key."""
    with ATTRIBUTES_FILE.open(newline="", encoding="utf-8") as file:
        return {row["file"]: _parse_attributes(row) for row in csv.DictReader(file)}


def find_expressions(photos: Sequence[Photo], landmarks: dict[str, FloatArray]) -> list[FloatArray]:
    """Shape differences (189, 2) smiling − neutral, in the canonical frame, of everybody photographed both ways."""
    shapes = {
        (photo.identity, photo.kind): to_canonical(landmarks[photo.key]) for photo in photos if photo.key in landmarks
    }
    return [
        shape - shapes[identity, "neutral"]
        for (identity, kind), shape in shapes.items()
        if kind == "smiling" and (identity, "neutral") in shapes
    ]


def describe_morph(morph: Morph, table: dict[str, Attributes]) -> Attributes:
    """Say what is true of a morph: hair, glasses and beard of the first parent; gender where all parents agree."""
    known = [table.get(key, Attributes()) for key in morph.parents]
    lead = known[0]
    genders = {attributes.gender for attributes in known}
    return replace(
        lead,
        gender=lead.gender if len(genders) == 1 else None,
        age=lead.age if morph.parent_weights[0] > 0.6 else None,
        expression=None if morph.expression_added else lead.expression,
        hair=None if morph.is_grey and lead.hair in {"red", "blond", "brown"} else lead.hair,
    )


def _build_sample(
    morph: Morph, picture: Rendering, renderer: str, known: Attributes, generator: np.random.Generator
) -> Sample:
    labels = Labels(
        caption=caption(known, generator),
        renderer=renderer,
        parents=morph.parents,
        attributes={name: value for name, value in asdict(known).items() if value is not None},
    )
    return Sample(image=picture.image, landmarks=picture.landmarks, labels=labels)


def _parse_attributes(row: dict[str, str]) -> Attributes:
    def choose(name: str, vocabulary: Any) -> Any:
        return row[name] if row[name] in get_args(vocabulary) else None

    return Attributes(
        gender=choose("gender", Gender),
        age=choose("age_group", Age),
        expression=choose("expression", Expression),
        hair=choose("hair", Hair),
        glasses=row["glasses"] == "1",
        beard=row["beard"] == "beard",
    )
