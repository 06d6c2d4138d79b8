"""Cubist shift: straight cuts make facets that move and turn, each in the colour of its plane."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acfun.synthetic.renderers.base import Array, Rendering
from acfun.synthetic.renderers.colours import NamedColour, as_array, choose_colours
from acfun.synthetic.renderers.features import (
    JAW_LINE,
    LOWER_LIDS,
    MOUTH_LINE,
    NOSE_LINE,
    UPPER_LIDS,
    landmark_lines,
    outlines,
)
from acfun.synthetic.renderers.shapes import to_face_frame, to_pixels
from acfun.synthetic.renderers.surfaces import colour_ramp
from acfun.synthetic.renderers.tools import (
    anisotropic_kuwahara,
    blur,
    fractal_noise,
    luminance,
    mix,
    resolution_scale,
    smoothstep,
    stretch,
)
from acfun.synthetic.renderers.warp import sample_pixels

_KEPT_WHOLE = ((-0.5, 0.0), (0.5, 0.0), (0.0, 0.6), (0.0, 1.1))
_CLEARANCE = (0.17, 0.17, 0.06, 0.1)
_NUM_CANDIDATES = 96
_PLANES = (
    NamedColour("ochre", (0.78, 0.6, 0.32)),
    NamedColour("grey", (0.6, 0.6, 0.57)),
    NamedColour("blue", (0.36, 0.47, 0.6)),
    NamedColour("brown", (0.5, 0.34, 0.2)),
    NamedColour("cream", (0.88, 0.8, 0.64)),
    NamedColour("green", (0.4, 0.47, 0.36)),
    NamedColour("rose", (0.78, 0.55, 0.47)),
)
_INK = np.asarray([0.1, 0.09, 0.09], np.float32)


@dataclass(frozen=True, kw_only=True)
class Facets:
    """The pieces into which L straight cuts divide an image, each with its own similarity; N facets.

    Attributes:
        index: (H, W) which facet a pixel belongs to.
        distances: (H, W, L) signed distance to each cut, pixels.
        centres: (N, 2) centroids (x, y) in pixels.
        shifts: (N, 2) pixels by which the content of a facet moves.
        turns: (N, 2, 2) scaled rotations of the content about the centroid.
    """

    index: NDArray[np.intp]
    distances: Array
    centres: Array
    shifts: Array
    turns: Array

    def locate(self, points: Array) -> NDArray[np.intp]:
        """Which facet holds points (..., 2); those outside the image count as on its border."""
        columns = np.round(points[..., 0]).astype(int).clip(0, self.index.shape[1] - 1)
        rows = np.round(points[..., 1]).astype(int).clip(0, self.index.shape[0] - 1)
        return np.asarray(self.index[rows, columns])

    def backward(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Which place of the photograph each pixel x, y (H, W) shows."""
        inverse = np.linalg.inv(self.turns).astype(np.float32)[self.index]
        start = (self.centres + self.shifts)[self.index]
        dx, dy = x - start[..., 0], y - start[..., 1]
        source_x = inverse[..., 0, 0] * dx + inverse[..., 0, 1] * dy + self.centres[self.index, 0]
        source_y = inverse[..., 1, 0] * dx + inverse[..., 1, 1] * dy + self.centres[self.index, 1]
        return source_x, source_y

    def move_landmarks(self, landmarks: Array) -> Array:
        """Move (189, 2) landmarks with a facet that shows them, the one that moves them least.

        What no facet shows any more goes with the facet in which it lay.
        """
        offset = landmarks[:, None, :] - self.centres[None]
        candidates = np.einsum("nij,mnj->mni", self.turns, offset) + self.centres + self.shifts
        is_shown = self.locate(candidates) == np.arange(len(self.centres))
        distance = np.square(candidates - landmarks[:, None, :]).sum(-1)
        visible = np.where(is_shown, distance, np.inf)
        chosen = np.where(is_shown.any(1), visible.argmin(1), self.locate(landmarks))
        return np.asarray(candidates[np.arange(len(landmarks)), chosen], dtype=np.float32)


def render_cubist(image: Array, landmarks: Array, generator: np.random.Generator) -> Rendering:
    """The parts of the face in displaced facets, each a plane of its own colour, with hard dark edges."""
    scale, shape = resolution_scale(image), (image.shape[0], image.shape[1])
    facets = _sample_facets(landmarks, shape, generator)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    shown = sample_pixels(_tones_and_lines(image, landmarks, scale), *facets.backward(x, y))
    colours = choose_colours(_PLANES, int(generator.integers(3, 5)), generator)
    picture = _paint_planes(shown[..., 0], facets, colours, scale, generator)
    edges = _drawn_edges(facets.distances, x - landmarks[55, 0] + y - landmarks[55, 1], scale, generator)
    picture = mix(picture, _INK, np.maximum(0.85 * edges, 0.9 * shown[..., 1]).astype(np.float32))
    names = ", ".join(colour.name for colour in colours[:-1])
    words = ("cubist painting", f"{names} and {colours[-1].name}")
    return Rendering(np.clip(picture, 0, 1), facets.move_landmarks(landmarks), words)


def _sample_facets(landmarks: Array, shape: tuple[int, int], generator: np.random.Generator) -> Facets:
    """Cut the picture by seven to ten lines that spare pupils and mouth, and move every piece a little."""
    unit = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    normals, offsets = _sample_cuts(landmarks, unit, generator)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    distances = np.stack([x * n[0] + y * n[1] - c for n, c in zip(normals, offsets, strict=True)], axis=-1)
    codes = ((distances > 0) @ (1 << np.arange(len(offsets)))).ravel()
    _, index = np.unique(codes, return_inverse=True)
    count = int(index.max()) + 1
    area = np.bincount(index)
    centres = np.stack([np.bincount(index, axis.ravel()) / area for axis in (x, y)], axis=-1)
    directions = generator.uniform(0, 2 * np.pi, count)
    reach = generator.uniform(0.08, 0.26, count) * unit
    angles, zoom = generator.normal(0, 0.13, count), np.exp(generator.normal(0.06, 0.1, count))
    cosine, sine = zoom * np.cos(angles), zoom * np.sin(angles)
    return Facets(
        index=index.reshape(shape),
        distances=distances.astype(np.float32),
        centres=centres.astype(np.float32),
        shifts=(np.stack([np.cos(directions), np.sin(directions)], -1) * reach[:, None]).astype(np.float32),
        turns=np.stack([np.stack([cosine, -sine], -1), np.stack([sine, cosine], -1)], axis=1).astype(np.float32),
    )


def _sample_cuts(landmarks: Array, unit: float, generator: np.random.Generator) -> tuple[Array, Array]:
    """Unit normals (L, 2) and offsets (L,) of lines n·p = c in pixels that cross no pupil and no mouth."""
    _, matrix = to_face_frame(landmarks)
    number = int(generator.integers(7, 11))
    angles = (np.arange(_NUM_CANDIDATES) % number + generator.uniform(0, 1, _NUM_CANDIDATES)) * np.pi / number
    through = generator.normal((0, 0.5), (0.85, 1.05), (_NUM_CANDIDATES, 2))
    normals = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    kept = to_pixels(np.asarray(_KEPT_WHOLE, np.float32), matrix)
    offsets = (normals * to_pixels(through.astype(np.float32), matrix)).sum(-1)
    margin = np.abs(normals @ kept.T - offsets[:, None]) / unit - np.asarray(_CLEARANCE)
    allowed = np.flatnonzero((margin > 0).all(1))
    # One cut per direction where there is one, so that the pieces are not slivers between parallels.
    _, first = np.unique(allowed % number, return_index=True)
    chosen = allowed[first]
    return normals[chosen].astype(np.float32), offsets[chosen].astype(np.float32)


def _tones_and_lines(image: Array, landmarks: Array, scale: float) -> Array:
    """(H,W,2): the simplified light and shade, and the lines of the face, both in [0,1]."""
    shape = (image.shape[0], image.shape[1])
    gray = luminance(anisotropic_kuwahara(image, 2.2 * scale))
    level = stretch(gray + 0.6 * (gray - blur(gray, 8 * scale)), 0.02, 0.98)
    steps = 5 * level
    posterised = (np.floor(steps) + smoothstep((steps % 1).astype(np.float32), 0.25, 0.75)) / 5
    parts = (*UPPER_LIDS, *LOWER_LIDS, *NOSE_LINE, *MOUTH_LINE, *JAW_LINE)
    lines = np.maximum(0.8 * (1 - outlines(image, scale, 12)), landmark_lines(landmarks, parts, shape, 1.1 * scale))
    return np.stack([posterised, lines], axis=-1).astype(np.float32)


def _paint_planes(
    tone: Array,
    facets: Facets,
    colours: list[NamedColour],
    scale: float,
    generator: np.random.Generator,
) -> Array:
    """Give each facet its colour; along each cut one side is darkened and the other lit (H,W,3)."""
    shape = tone.shape
    chosen = generator.integers(0, len(colours), len(facets.centres))[facets.index]
    num_cuts = facets.distances.shape[-1]
    strength = generator.choice([-1.0, 1.0], num_cuts) * generator.uniform(0.1, 0.3, num_cuts)
    fade = np.exp(-np.abs(facets.distances) / (generator.uniform(7, 16, num_cuts) * scale))
    passage = (np.sign(facets.distances) * fade) @ strength
    level = np.clip(0.1 + 0.85 * tone + passage, 0, 1)
    picture = np.zeros((*shape, 3), np.float32)
    for i, colour in enumerate(colours):
        plane = as_array(colour)
        ramp = colour_ramp(level, [0.16 * plane, 0.6 * plane, plane, 0.4 * plane + 0.58])
        picture = np.where((chosen == i)[..., None], ramp, picture)
    dabs = fractal_noise((shape[0], shape[1]), generator, 4 * scale, 2, aspect=2.5) - 0.5
    return np.asarray(picture * (1 + 0.25 * dabs[..., None]), dtype=np.float32)


def _drawn_edges(distances: Array, along: Array, scale: float, generator: np.random.Generator) -> Array:
    """(H,W) in [0,1]: a dark line on part of each cut; the rest is left to the colours of the planes."""
    lines = smoothstep(np.abs(distances), 1.0 * scale, 0.35 * scale)
    reach = generator.uniform(15, 70, distances.shape[-1]) * scale * generator.choice([-1, 1], distances.shape[-1])
    shown = smoothstep(along[..., None] * np.sign(reach) + np.abs(reach), -6 * scale, 6 * scale)
    return np.asarray((lines * shown).max(-1), dtype=np.float32)
