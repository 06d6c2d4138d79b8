"""What benchmarks paint: styles and people, with the truth where it is known."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from acfun.errors import ConfigError, naming_photo
from acfun.face.finder import FaceFinder
from acfun.images import array_to_tensor, load_image, pil_to_tensor
from acfun.paths import compute_digest
from acfun.portrait import Portrait, StyleImage, find_head
from acfun.synthetic.data import require_data_dir
from acfun.synthetic.renderers import HELD_OUT_RENDERERS, TRAINING_RENDERERS
from acfun.synthetic.samples import build_sampler

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
RENDERERS = TRAINING_RENDERERS | HELD_OUT_RENDERERS
DIGEST_LENGTH = 12


@dataclass(frozen=True)
class Scene:
    """One style and the people who are painted in it.

    Attributes:
        name: of the style.
        people: their names.
        picture: the style image as it was given, (1,3,h,w) in [-1,1].
        style: its head and, at the resolution of the faces, the whole of it.
        faces: (B,3,S,S) in [-1,1], in canonical framing.
        landmarks: (B,189,2) pixels.
        truths: what the painter of the style makes of the faces, and the landmarks there; None where nobody knows.
    """

    name: str
    people: tuple[str, ...]
    picture: Tensor
    style: StyleImage
    faces: Tensor
    landmarks: Tensor
    truths: tuple[Tensor, Tensor] | None = None

    def select(self, index: int) -> Self:
        """The same with one of the people alone."""
        one = slice(index, index + 1)
        return replace(
            self,
            people=self.people[one],
            faces=self.faces[one],
            landmarks=self.landmarks[one],
            truths=None if self.truths is None else (self.truths[0][one], self.truths[1][one]),
        )

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        truths = None if self.truths is None else (self.truths[0].to(device), self.truths[1].to(device))
        return replace(
            self,
            picture=self.picture.to(device),
            style=self.style.to(device),
            faces=self.faces.to(device),
            landmarks=self.landmarks.to(device),
            truths=truths,
        )


def build_paired(name: str, index: int, size: int, num_people: int, *, is_held_out: bool = True) -> Scene:
    """A style that is a procedural rendering of one person, and the same rendering of others as the truth.

    Args:
        name: of the renderer.
        index: of the style in its suite: seeds the renderer, and chooses the person of the style image among those who
            are not painted.
        size: of the portraits, pixels.
        num_people: to be painted.
        is_held_out: people whom no model was trained on; otherwise people it was trained on, to choose settings with.

    Raises:
        ConfigError: there is no such renderer, or nobody is left for the style image.
        DataError: the photographs are not there.
    """
    if name not in RENDERERS:
        raise ConfigError(f"there is no renderer {name!r}; choose from {', '.join(sorted(RENDERERS))}")
    sampler = build_sampler(
        require_data_dir(), size, is_held_out=is_held_out, is_plain=True, rendering_probability=0, seed=0
    )
    total = len(sampler.morphs.people)
    if num_people >= total:
        raise ConfigError(f"{num_people} of {total} people leave none for the style image; ask for fewer")
    people = [sampler(i) for i in (*range(num_people), num_people + index % (total - num_people))]
    renderings = [
        RENDERERS[name].render(person.image, person.landmarks, np.random.default_rng(index)) for person in people
    ]
    photos = torch.cat([array_to_tensor(person.image) for person in people])
    pictures = torch.cat([array_to_tensor(rendering.image) for rendering in renderings])
    points = torch.stack([torch.from_numpy(person.landmarks) for person in people])
    moved = torch.stack([torch.from_numpy(rendering.landmarks) for rendering in renderings])
    sitter = Portrait(pictures[-1:], moved[-1:])
    return Scene(
        name=name,
        people=tuple(f"person {i}" for i in range(num_people)),
        picture=pictures[-1:],
        style=StyleImage(sitter, sitter, 1.0),
        faces=photos[:-1],
        landmarks=points[:-1],
        truths=(pictures[:-1], moved[:-1]),
    )


def build_renderings(names: Sequence[str], size: int, num_people: int, *, is_held_out: bool) -> Iterator[Scene]:
    """Scenes of these renderers, each with its own place among all of them; arguments and errors of `build_paired`."""
    order = sorted(RENDERERS)
    for name in names:
        yield build_paired(name, order.index(name), size, num_people, is_held_out=is_held_out)


def choose_renderers(names: Sequence[str] | None, *, is_held_out: bool) -> list[str]:
    """Styles of a suite of renderings, sorted: those asked for, or all that were held out, or all that were not.

    Args:
        names: of renderers; None or none at all for all of the split.
        is_held_out: the suite may then have any renderer; otherwise only those of the training data.

    Raises:
        ConfigError: a renderer that there is not, or that settings must not be chosen with.
    """
    known = RENDERERS if is_held_out else TRAINING_RENDERERS
    if unknown := set(names or ()) - known.keys():
        where = "is" if is_held_out else "is, among those the base was trained on,"
        raise ConfigError(
            f"there {where} no renderer {', '.join(sorted(unknown))}; choose from {', '.join(sorted(known))}"
        )
    return sorted(names or (HELD_OUT_RENDERERS if is_held_out else TRAINING_RENDERERS))


def build_paintings(
    paintings: Sequence[Path], photos: Sequence[Path], size: int, finder: FaceFinder
) -> Iterator[Scene]:
    """Pictures as styles, and the largest face of each photograph.

    Raises:
        ImageError: a file cannot be read.
        NoFaceFoundError: a photograph without a face.
    """
    portraits = [_cut_portrait(path, size, finder) for path in photos]
    for path in paintings:
        picture = pil_to_tensor(load_image(path))
        yield Scene(
            name=path.stem,
            people=tuple(photo.stem for photo in photos),
            picture=picture,
            style=StyleImage.from_picture(picture, size, finder),
            faces=torch.cat([portrait.image for portrait in portraits]),
            landmarks=torch.cat([portrait.landmarks for portrait in portraits if portrait.landmarks is not None]),
        )


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name.

    Raises:
        ConfigError: there is none, or two have the same name.
    """
    found = (
        sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES) if folder.is_dir() else []
    )
    if not found:
        raise ConfigError(f"{folder} is no folder with pictures ({', '.join(sorted(PICTURE_SUFFIXES))}); give another")
    if len({path.stem for path in found}) < len(found):
        raise ConfigError(f"{folder} has pictures of the same name with different endings; rename one of them")
    return found


def digest_pictures(paths: Sequence[Path]) -> dict[str, str]:
    """Short digests of pictures by name, which tell them from others of that name.

    Raises:
        ManifestError: a file cannot be read.
    """
    return {path.stem: compute_digest(path)[:DIGEST_LENGTH] for path in paths}


def _cut_portrait(path: Path, size: int, finder: FaceFinder) -> Portrait:
    photo = pil_to_tensor(load_image(path))
    with naming_photo(path):
        return find_head(photo, size, finder)
