"""Pictures for the identity encoder: every person several times, photographed and painted; as shards on disk.

    python -m train.identity_bank --output BANK --portrait-landmarks FOUND.npz --num-morphs 2000
    python -m train.identity_bank --output HELD --portrait-landmarks FOUND.npz --held-out

Each sample's label holds `attributes["identity"]`. People made of others (`morph_…`) are fixed mixtures of shape and
texture, turned into a person like any other and photographed anew for each sample.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from acfun.synthetic.data import FloatArray, list_faces, list_portraits, load_landmarks, require_data_dir, split_people
from acfun.synthetic.morphs import MorphFactory, MorphOptions
from acfun.synthetic.people import Person, load_people, segment_person, to_canonical
from acfun.synthetic.renderers import HELD_OUT_RENDERERS, TRAINING_RENDERERS
from acfun.synthetic.renderers.base import Renderer
from acfun.synthetic.samples import find_expressions, load_landmark_table
from acfun.synthetic.shards import Labels, Sample, write_shards

MORPH_PREFIX = "morph_"
MORPH_OVERSAMPLING = 1.3
MAX_LEAD_WEIGHT = 0.72
STYLIZED_KINDS = ("neutral", "colour")
# Canonical framing at 128 px has 29 px between the pupils, an identity crop 35: photographs come closer.
PHOTO_SCALE, RENDERING_SCALE = (1.1, 1.35), (0.95, 1.3)
STILL = MorphOptions(
    max_parents=1,
    scale=(1, 1),
    max_rotation=0,
    max_shift=0,
    expression_probability=0,
    background_probability=0,
    light=0,
    grey_probability=0,
)


class TrainingSampler:
    """Sample i of the bank: one of the pictures of one photograph or morph; depends on the seed and i alone.

    Args:
        people: photographs of the people to be told apart.
        expressions: (189,2) shape differences in the canonical frame.
        num_morphs: further people, made of two or three.
        samples_per_photo: pictures of each photograph.
        samples_per_morph: pictures of each morph.
        size: width and height, pixels.
        seed: of the bank.
    """

    def __init__(
        self,
        people: Sequence[Person],
        expressions: list[FloatArray],
        *,
        num_morphs: int,
        samples_per_photo: int,
        samples_per_morph: int,
        size: int,
        seed: int,
    ) -> None:
        self.people, self.expressions, self.size, self.seed = list(people), expressions, size, seed
        self.samples_per_photo, self.samples_per_morph = samples_per_photo, samples_per_morph
        self.num_photo_samples = samples_per_photo * len(self.people)
        self.count = self.num_photo_samples + samples_per_morph * num_morphs
        self.mixer = MorphFactory(
            self.people,
            round(size * MORPH_OVERSAMPLING),
            options=replace(STILL, max_parents=3),
        )
        self._last_morph: tuple[int, Person] | None = None

    def __call__(self, index: int) -> Sample:
        """Draw sample `index`: even ones are photographs, odd ones rendered."""
        generator = np.random.default_rng([self.seed, index])
        if index < self.num_photo_samples:
            person, turn = self.people[index // self.samples_per_photo], index % self.samples_per_photo
        else:
            number, turn = divmod(index - self.num_photo_samples, self.samples_per_morph)
            person = self._mix_person(number)
        return self._picture(person, turn % 2 == 1, generator)

    def _mix_person(self, number: int) -> Person:
        """The morph `number` as a person; samples of one morph follow each other, so the last one is kept."""
        if self._last_morph is None or self._last_morph[0] != number:
            generator = np.random.default_rng([self.seed, number, 1])
            self._last_morph = (number, mix_person(self.mixer, f"{MORPH_PREFIX}{self.seed}_{number:05d}", generator))
        return self._last_morph[1]

    def _picture(self, person: Person, is_rendered: bool, generator: np.random.Generator) -> Sample:
        options = MorphOptions(
            max_parents=1,
            scale=RENDERING_SCALE if is_rendered else PHOTO_SCALE,
            expression_probability=0.5,
            background_probability=0.5,
            grey_probability=0.15,
        )
        photo = MorphFactory([person], self.size, expressions=self.expressions, options=options).sample(generator)
        if not is_rendered:
            return build_sample(photo.image, photo.landmarks, "", person)
        renderer = list(TRAINING_RENDERERS.values())[generator.integers(len(TRAINING_RENDERERS))]
        rendering = renderer.render(photo.image, photo.landmarks, generator)
        return build_sample(rendering.image, rendering.landmarks, renderer.name, person)


class HeldOutSampler:
    """Every photograph of the held-out people as it is; each neutral or colour one also in every held-out style.

    Args:
        people: photographs of the held-out people.
        size: width and height, pixels.
        seed: of the renderings.
    """

    def __init__(self, people: Sequence[Person], *, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        styled = [person for person in people if person.key.split("_")[-1].startswith(STYLIZED_KINDS)]
        self.pictures: list[tuple[Person, Renderer | None]] = [(person, None) for person in people]
        self.pictures += [(person, style) for person in styled for style in HELD_OUT_RENDERERS.values()]
        self.count = len(self.pictures)

    def __call__(self, index: int) -> Sample:
        """Draw sample `index`."""
        generator = np.random.default_rng([self.seed, index])
        person, style = self.pictures[index]
        options = STILL if style else replace(STILL, scale=(PHOTO_SCALE[1],) * 2)
        photo = MorphFactory([person], self.size, options=options).sample(generator)
        if style is None:
            return build_sample(photo.image, photo.landmarks, "", person)
        rendering = style.render(photo.image, photo.landmarks, generator)
        return build_sample(rendering.image, rendering.landmarks, style.name, person)


def mix_person(mixer: MorphFactory, identity: str, generator: np.random.Generator) -> Person:
    """Draw a morph that is far enough from each of its parents, as a person."""
    while True:
        morph = mixer.sample(generator)
        if len(morph.parents) > 1 and morph.parent_weights[0] < MAX_LEAD_WEIGHT:
            break
    mask, is_clean = segment_person(morph.image, morph.landmarks)
    return Person(
        identity=identity,
        key="+".join(morph.parents),
        image=np.dstack([morph.image, mask]).astype(np.float32),
        landmarks=morph.landmarks,
        shape=to_canonical(morph.landmarks),
        has_clean_background=is_clean,
    )


def build_sample(image: FloatArray, landmarks: FloatArray, renderer: str, person: Person) -> Sample:
    """A labelled sample of `person`."""
    labels = Labels(caption="", renderer=renderer, parents=(person.key,), attributes={"identity": person.identity})
    return Sample(image=image, landmarks=landmarks, labels=labels)


def build_sampler(args: argparse.Namespace) -> TrainingSampler | HeldOutSampler:
    """Read the photographs and build the sampler that the command line asks for."""
    data_dir = require_data_dir()
    landmarks = load_landmarks(data_dir)
    for path in args.portrait_landmarks:
        found = load_landmark_table(path)
        landmarks = {key: points for key, points in found.items() if np.isfinite(points).all()} | landmarks
    photos = [*list_faces(data_dir), *list_portraits(data_dir)]
    identities = split_people(data_dir)[1 if args.held_out else 0]
    photos = [photo for photo in photos if photo.identity in identities]
    people = load_people(photos, landmarks, args.size)
    if args.held_out:
        return HeldOutSampler(people, size=args.size, seed=args.seed)
    return TrainingSampler(
        people,
        find_expressions(photos, landmarks),
        num_morphs=args.num_morphs,
        samples_per_photo=args.samples_per_photo,
        samples_per_morph=args.samples_per_morph,
        size=args.size,
        seed=args.seed,
    )


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--portrait-landmarks", type=Path, nargs="*", default=[], help=".npz of found landmarks, the first ones count"
    )
    parser.add_argument("--held-out", action="store_true", help="the people and the styles kept out of training")
    parser.add_argument("--num-morphs", type=int, default=2000)
    parser.add_argument("--samples-per-photo", type=int, default=8)
    parser.add_argument("--samples-per-morph", type=int, default=4)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    count = build_sampler(args).count
    write_shards(args.output, partial(build_sampler, args), count=count, size=args.size, workers=args.workers)


if __name__ == "__main__":
    main()
