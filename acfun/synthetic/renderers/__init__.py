"""Procedural renderers: photographs of faces turned into pictures in a known style."""

from acfun.synthetic.renderers import brushwork, deform, drawing, engraving, graphic, painting
from acfun.synthetic.renderers.base import Renderer, Rendering

__all__ = [
    "HELD_OUT_RENDERERS",
    "MEDIA_RENDERERS",
    "RENDERERS",
    "TRAINING_RENDERERS",
    "Renderer",
    "Rendering",
]

MEDIA_RENDERERS = (*drawing.RENDERERS, *engraving.RENDERERS, *painting.RENDERERS, *brushwork.RENDERERS)
"""The traditional media: drawing, print and paint."""

RENDERERS: dict[str, Renderer] = {
    renderer.name: renderer for renderer in (*MEDIA_RENDERERS, *graphic.RENDERERS, *deform.RENDERERS)
}
"""Every renderer by its name."""

TRAINING_RENDERERS = {name: renderer for name, renderer in RENDERERS.items() if not renderer.is_held_out}
"""Those that a base may be trained on."""

HELD_OUT_RENDERERS = {name: renderer for name, renderer in RENDERERS.items() if renderer.is_held_out}
"""Those kept out of all training, for the benchmark."""
