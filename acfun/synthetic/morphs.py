"""New faces from licensed ones: piecewise-affine averages of two or three people, with light, pose and crop varied.

Shape and texture are mixed with weights of their own. Hair, neck and background come from one person only, since
averages of two hairstyles look like double exposures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator
from scipy.spatial import Delaunay
from skimage.draw import polygon2mask

from acfun.images import LUMA_WEIGHTS
from acfun.synthetic.backgrounds import sample_background
from acfun.synthetic.data import FloatArray
from acfun.synthetic.people import EYES_CENTRE, HEAD_OUTLINE, Person, canonical_similarity

_BORDER = np.asarray(
    [[-0.4, -0.4], [0.5, -0.4], [1.4, -0.4], [-0.4, 0.5], [1.4, 0.5], [-0.4, 1.4], [0.5, 1.4], [1.4, 1.4]], np.float32
)
_GRID_STEP = 2


@dataclass(frozen=True, kw_only=True)
class MorphOptions:
    """How far a morph may go from its parents.

    Attributes:
        max_parents: 1 keeps every face a real person.
        scale: (lowest, highest) zoom about the canonical framing.
        max_rotation: radians either way.
        max_shift: fraction of the width either way.
        expression_probability: chance that the difference between two expressions of somebody is added.
        background_probability: chance that a background that can be replaced is.
        light: 0 keeps the light, 1 is the full range of gamma, tint and side light.
        grey_probability: chance of a black and white photograph.
    """

    max_parents: int = 3
    scale: tuple[float, float] = (0.94, 1.18)
    max_rotation: float = 0.12
    max_shift: float = 0.05
    expression_probability: float = 0.3
    background_probability: float = 0.6
    light: float = 1.0
    grey_probability: float = 0.08


@dataclass(frozen=True, kw_only=True)
class Morph:
    """A face that nobody has.

    Attributes:
        image: (size, size, 3) float32 in [0, 1].
        landmarks: (189, 2) pixels.
        parents: keys of the photographs, the one that gave hair and background first.
        parent_weights: texture weights in the same order, sum 1.
        is_grey: whether it is a black and white photograph, as taken or turned into one.
        expression_added: whether another expression was put on.
    """

    image: FloatArray
    landmarks: FloatArray
    parents: tuple[str, ...]
    parent_weights: tuple[float, ...]
    is_grey: bool
    expression_added: bool


class MorphFactory:
    """Draws morphs of a set of people.

    Args:
        people: at least one.
        size: width and height of the morphs, pixels.
        expressions: (189, 2) shape differences in the canonical frame (e.g. smiling − neutral of one person).
        options: how far to go.
        groups: of each person; a morph has parents of one group, and all groups have as many morphs. One for all when
            left out.
    """

    def __init__(
        self,
        people: list[Person],
        size: int,
        *,
        expressions: list[FloatArray] | None = None,
        options: MorphOptions | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        if not people:
            raise ValueError("people is empty: a morph needs at least one person")
        if groups is not None and len(groups) != len(people):
            raise ValueError(f"{len(groups)} groups for {len(people)} people: each person needs one")
        self.people = people
        self.size = size
        self.expressions = expressions or []
        self.options = options or MorphOptions()
        self.groups = list(groups or [""] * len(people))
        self.members = {group: [i for i, own in enumerate(self.groups) if own == group] for group in set(self.groups)}

    def sample(self, generator: np.random.Generator, first: int | None = None) -> Morph:
        """Draw one morph.

        Args:
            generator: source of all randomness.
            first: index of the person who gives hair and background; drawn when None.
        """
        options = self.options
        lead = self._sample_lead(generator) if first is None else first
        parents = [self.people[lead], *self._sample_partners(generator, lead)]
        shape_weights = sample_weights(generator, len(parents), lead_range=(0.3, 1.0))
        texture_weights = sample_weights(generator, len(parents), lead_range=(0.45, 1.0))
        shape = np.tensordot(shape_weights, np.stack([parent.shape for parent in parents]), 1)
        expression_added = bool(self.expressions) and bool(generator.random() < options.expression_probability)
        if expression_added:
            shape = shape + generator.uniform(0.3, 1.0) * self.expressions[generator.integers(len(self.expressions))]
        landmarks, border = self._pose(shape.astype(np.float32), generator)
        image, mask = self._blend(parents, texture_weights, landmarks, border)
        if parents[0].has_clean_background and generator.random() < options.background_probability:
            background = sample_background(self.size, generator)
            image = mask[..., None] * image + (1 - mask[..., None]) * background
        is_grey = bool(generator.random() < options.grey_probability)
        image = relight(image, generator, options.light)
        return Morph(
            image=to_grey(image) if is_grey else image,
            landmarks=landmarks,
            parents=tuple(parent.key for parent in parents),
            parent_weights=tuple(float(weight) for weight in texture_weights),
            is_grey=is_grey or parents[0].is_grey,
            expression_added=expression_added,
        )

    def _sample_lead(self, generator: np.random.Generator) -> int:
        names = sorted(self.members)
        members = self.members[names[generator.integers(len(names))] if len(names) > 1 else names[0]]
        return members[generator.integers(len(members))]

    def _sample_partners(self, generator: np.random.Generator, lead: int) -> list[Person]:
        members = self.members[self.groups[lead]]
        count = int(generator.integers(self.options.max_parents)) if len(members) > 1 else 0
        others = generator.choice(members, size=min(count, len(members)), replace=False)
        return [self.people[index] for index in others if self.people[index].identity != self.people[lead].identity]

    def _pose(self, shape: FloatArray, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        options = self.options
        angle = generator.uniform(-options.max_rotation, options.max_rotation)
        scale = generator.uniform(*options.scale)
        shift = generator.uniform(-options.max_shift, options.max_shift, 2)
        rotation = scale * np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.asarray(EYES_CENTRE)

        def place(points: FloatArray) -> FloatArray:
            placed = ((points - centre) @ rotation.T + centre + shift) * self.size - 0.5
            return np.asarray(placed, np.float32)

        return place(shape), place(_BORDER)

    def _blend(
        self, parents: list[Person], weights: FloatArray, landmarks: FloatArray, border: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        warped = warp_people(parents, landmarks, border, self.size)
        lead = warped[0]
        if len(parents) == 1:
            return lead[..., :3], lead[..., 3]
        inside = _face_weight(landmarks, self.size)
        toned = [lead[..., :3]] + [_match_tone(other[..., :3], lead[..., :3], inside) for other in warped[1:]]
        face = np.tensordot(weights, np.stack(toned), 1)
        image = inside[..., None] * face + (1 - inside[..., None]) * lead[..., :3]
        return np.clip(image, 0, 1).astype(np.float32), lead[..., 3]


def sample_weights(generator: np.random.Generator, count: int, lead_range: tuple[float, float]) -> FloatArray:
    """Draw `count` weights that sum to one; the first lies in `lead_range`."""
    if count == 1:
        return np.ones(1, np.float32)
    lead = generator.uniform(*lead_range)
    rest = generator.dirichlet(np.ones(count - 1)) * (1 - lead)
    return np.concatenate([[lead], rest]).astype(np.float32)


def warp_people(people: list[Person], landmarks: FloatArray, border: FloatArray, size: int) -> list[FloatArray]:
    """Warp each person's pixels so that its landmarks fall on `landmarks` (189, 2); returns (size, size, 4) arrays."""
    targets = np.concatenate([landmarks, border])
    sources = []
    for person in people:
        rotation, centre = canonical_similarity(person.landmarks)
        own_border = (_BORDER - np.asarray(EYES_CENTRE, np.float32)) @ np.linalg.inv(rotation).T + centre
        sources.append(np.concatenate([person.landmarks, own_border]))
    ticks = np.linspace(0, size - 1, size // _GRID_STEP + 1)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
    coarse = LinearNDInterpolator(Delaunay(targets), np.concatenate(sources, axis=1))(grid)
    upsample = _linear_upsampling(len(ticks), size)
    fine = np.einsum("ia,abc,jb->ijc", upsample, coarse, upsample, optimize=True)
    return [_sample_pixels(person.image, fine[..., 2 * i : 2 * i + 2]) for i, person in enumerate(people)]


def relight(image: FloatArray, generator: np.random.Generator, amount: float) -> FloatArray:
    """Vary exposure, contrast, tint and the direction of the light; `amount` 0 returns the image."""
    if amount == 0:
        return image
    gamma = np.exp(generator.normal(0, 0.18 * amount))
    gain = np.exp(generator.normal(0, 0.10 * amount))
    tint = np.exp(generator.normal(0, 0.025 * amount, 3))
    size = image.shape[0]
    ticks = (np.arange(size) + 0.5) / size - 0.5
    direction = generator.normal(0, 0.35 * amount, 2)
    ramp = np.exp(direction[0] * ticks[None, :] + direction[1] * ticks[:, None])
    lit = np.clip(image, 0, 1) ** gamma * gain * tint * ramp[..., None]
    saturation = np.clip(generator.normal(1, 0.2 * amount), 0.3, 1.6)
    grey = to_grey(lit)
    return np.asarray(np.clip(grey + saturation * (lit - grey), 0, 1), np.float32)


def to_grey(image: FloatArray) -> FloatArray:
    """Return the luminance as three equal channels."""
    return np.repeat((image @ np.asarray(LUMA_WEIGHTS, np.float32))[..., None], 3, axis=-1).astype(np.float32)


def _linear_upsampling(coarse: int, fine: int) -> FloatArray:
    position = np.linspace(0, coarse - 1, fine)
    distance = np.abs(position[:, None] - np.arange(coarse)[None, :])
    return np.asarray(np.clip(1 - distance, 0, 1), np.float32)


def _sample_pixels(image: FloatArray, coordinates: FloatArray) -> FloatArray:
    rows_columns = [coordinates[..., 1], coordinates[..., 0]]
    channels = [ndimage.map_coordinates(image[..., c], rows_columns, order=1, mode="nearest") for c in range(4)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _face_weight(landmarks: FloatArray, size: int) -> FloatArray:
    oval = polygon2mask((size, size), landmarks[list(HEAD_OUTLINE)][:, ::-1])
    radius = size / 24
    eroded = ndimage.binary_erosion(oval, iterations=max(1, round(radius / 2)))
    return np.asarray(ndimage.gaussian_filter(eroded.astype(np.float32), radius / 2))


def _match_tone(image: FloatArray, reference: FloatArray, weight: FloatArray) -> FloatArray:
    total = weight.sum() + 1e-6
    mean = (weight[..., None] * image).sum((0, 1)) / total
    target = (weight[..., None] * reference).sum((0, 1)) / total
    return np.asarray(image + 0.7 * (target - mean), np.float32)
