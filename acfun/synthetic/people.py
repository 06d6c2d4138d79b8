"""Photographs of licensed people brought to one frame: pixels, landmarks, and a mask of the person."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.draw import polygon2mask

from acfun.synthetic.data import PUPILS, FloatArray, Photo

INTER_PUPIL_FRACTION = 0.23
EYES_CENTRE = (0.5, 0.47)
OVERSAMPLING = 1.25
HEAD_OUTLINE = tuple(range(125, 134)) + tuple(range(144, 133, -1))
_MAX_BACKGROUND_SPREAD = 14.0
_BACKGROUND_TOLERANCE = 13.0
_FAINT_CHROMA = 0.04


@dataclass(frozen=True, kw_only=True)
class Person:
    """One photograph of one person, ready to be morphed.

    Attributes:
        identity: who it is.
        key: which photograph, the key of attribute tables.
        image: (H, W, 4) float32 in [0, 1]: colours and the mask of the person.
        landmarks: (189, 2) pixels of `image`.
        shape: (189, 2) the landmarks in the canonical portrait frame, unit width.
        has_clean_background: whether the mask can be trusted for replacing the background.
        is_grey: whether the photograph is black and white, however toned its paper.
    """

    identity: str
    key: str
    image: FloatArray
    landmarks: FloatArray
    shape: FloatArray
    has_clean_background: bool
    is_grey: bool = False


def load_person(photo: Photo, landmarks: FloatArray, size: int) -> Person:
    """Read a photograph at the resolution that portraits of `size` pixels need.

    Args:
        photo: which file.
        landmarks: (189, 2) pixels of the file.
        size: width of the portraits to be made, pixels.
    """
    with Image.open(photo.path) as file:
        picture = file.convert("RGB")
    inter_pupil = float(np.linalg.norm(landmarks[PUPILS[1]] - landmarks[PUPILS[0]]))
    factor = min(1.0, size * INTER_PUPIL_FRACTION * OVERSAMPLING / inter_pupil)
    width, height = (max(1, round(length * factor)) for length in picture.size)
    factors = np.asarray([width / picture.width, height / picture.height], np.float32)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), np.float32) / np.float32(255)
    points: FloatArray = ((landmarks + 0.5) * factors - 0.5).astype(np.float32)
    mask, is_clean = segment_person(pixels, points)
    return Person(
        identity=photo.identity,
        key=photo.key,
        image=np.dstack([pixels, mask]).astype(np.float32),
        landmarks=points,
        shape=to_canonical(points),
        has_clean_background=is_clean,
        is_grey=bool(np.ptp(pixels, axis=2).mean() < _FAINT_CHROMA),
    )


def load_people(photos: Iterable[Photo], landmarks: dict[str, FloatArray], size: int) -> list[Person]:
    """Read every photograph that has landmarks, in the order given."""
    return [load_person(photo, landmarks[photo.key], size) for photo in photos if photo.key in landmarks]


def to_canonical(landmarks: FloatArray) -> FloatArray:
    """Map (189, 2) landmarks by a similarity so that the pupils sit at their canonical place in a frame of width 1."""
    rotation, centre = canonical_similarity(landmarks)
    return ((landmarks - centre) @ rotation.T + np.asarray(EYES_CENTRE, np.float32)).astype(np.float32)


def canonical_similarity(landmarks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return (scaled rotation (2, 2), centre (2,)) with canonical = rotation @ (point − centre) + EYES_CENTRE."""
    left, right = landmarks[PUPILS[0]], landmarks[PUPILS[1]]
    across = (right - left) / INTER_PUPIL_FRACTION
    cosine, sine = across / float(across @ across)
    return np.asarray([[cosine, sine], [-sine, cosine]], np.float32), ((left + right) / 2).astype(np.float32)


def segment_person(image: FloatArray, landmarks: FloatArray) -> tuple[FloatArray, bool]:
    """Separate the person from a plain background.

    The background is what resembles the upper border in Lab and is connected to it.

    Args:
        image: (H, W, 3) in [0, 1].
        landmarks: (189, 2) pixels.

    Returns:
        (mask (H, W) in [0, 1] with 1 on the person, whether the background was plain enough to trust it).
    """
    height, width = image.shape[:2]
    lab = ndimage.gaussian_filter(rgb2lab(image), (0.8, 0.8, 0))
    strip = max(2, width // 24)
    border = np.zeros((height, width), bool)
    border[:strip] = True
    border[: height // 2, :strip] = border[: height // 2, -strip:] = True
    head = polygon2mask((height, width), landmarks[list(HEAD_OUTLINE)][:, ::-1])
    border &= ~ndimage.binary_dilation(head, iterations=strip)
    if not border.any():
        return np.ones((height, width), np.float32), False
    reference = np.median(lab[border], axis=0)
    distance = np.linalg.norm((lab - reference) * (0.6, 1, 1), axis=-1)
    spread = float(np.percentile(distance[border], 75))
    labels, _ = ndimage.label((distance < _BACKGROUND_TOLERANCE + spread) & ~head)
    touching = np.unique(labels[border])
    background = np.isin(labels, touching[touching > 0])
    background = ndimage.binary_opening(background, iterations=1)
    person = ndimage.binary_fill_holes(~background) & _connected_to(~background, head)
    coverage = float(person.mean())
    is_clean = spread < _MAX_BACKGROUND_SPREAD and 0.25 < coverage < 0.9
    return ndimage.gaussian_filter(person.astype(np.float32), 0.8), is_clean


def _connected_to(mask: NDArray[np.bool_], seed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(mask | seed)
    found = np.unique(labels[seed])
    return np.isin(labels, found[found > 0])
