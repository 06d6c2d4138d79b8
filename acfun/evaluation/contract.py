"""What a method of a benchmark is: prepared for a scene once, it paints its faces at each setting of its dial."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from acfun.base import Base
from acfun.evaluation.suites import Scene

Painter = Callable[[float], Tensor]
"""Setting of the dial → the scene's faces, painted: (B,3,S,S) in [-1,1]."""


@dataclass(frozen=True)
class Method:
    """One way to paint.

    Attributes:
        prepare: (base, scene, seed) → painter; the base is bit-equal afterwards, and after each painting.
        dial: what its settings are, in words.
        settings: of the dial, towards the style; the method's own default is `default`.
        default: one of them.
        is_seeded: whether other seeds give other pictures.
    """

    prepare: Callable[[Base, Scene, int], Painter]
    dial: str
    settings: tuple[float, ...]
    default: float
    is_seeded: bool = False
