"""What a renderer is: a named pure function from a photograph to a picture, and the words for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Rendering(NamedTuple):
    """A picture made from a photograph.

    image: (H,W,3) float32 in [0,1].
    landmarks: (189,2) float32, (x, y) in pixels of `image`, moved along where the renderer deforms the face.
    words: caption words, the family first, then the parameters that were drawn.
    """

    image: Array
    landmarks: Array
    words: tuple[str, ...]


RenderFunction = Callable[[Array, Array, np.random.Generator], Rendering]


@dataclass(frozen=True)
class Renderer:
    """One family of styles.

    `render(image, landmarks, generator)` takes a (H,W,3) float32 photograph in [0,1] and its (189,2)
    landmarks, changes neither, and draws every free parameter from `generator`. `words` are the caption words
    common to the family. A deforming renderer moves the landmarks; a held-out one is never trained on.
    """

    name: str
    render: RenderFunction
    words: tuple[str, ...]
    is_deforming: bool = False
    is_held_out: bool = False
