"""The register of the graphic families: styles of flat colours, dots and pieces."""

from acfun.synthetic.renderers.base import Renderer
from acfun.synthetic.renderers.flat import render_cartoon, render_duotone, render_pixel_art
from acfun.synthetic.renderers.prints import render_halftone
from acfun.synthetic.renderers.tessellated import (
    render_low_poly,
    render_mosaic,
    render_pointillism,
    render_stained_glass,
)

RENDERERS = (
    Renderer("pointillism", render_pointillism, ("pointillism painting",)),
    Renderer("mosaic", render_mosaic, ("mosaic",)),
    Renderer("halftone", render_halftone, ("halftone pop-art",)),
    Renderer("cartoon", render_cartoon, ("flat cartoon",)),
    Renderer("duotone", render_duotone, ("duotone poster",)),
    Renderer("low_poly", render_low_poly, ("low-poly",)),
    Renderer("pixel_art", render_pixel_art, ("pixel art",)),
    Renderer("stained_glass", render_stained_glass, ("stained glass window",), is_held_out=True),
)
