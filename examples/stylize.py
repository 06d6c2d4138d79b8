"""Paint the astronaut that scikit-image ships in a sample style: fit on one picture, then sample."""

from pathlib import Path

import torch
from PIL import Image
from skimage.data import astronaut

from acfun import FaceStylizationPipeline, FitConfig, fit_style, load_base
from acfun.photo import choose_faces, stylize_portraits

STYLE = Path(__file__).with_name("style_swirl.png")
photo = Image.fromarray(astronaut())
photo.save("astronaut.png")
base = load_base("mini")
style = fit_style(FitConfig(style_path=str(STYLE), face_paths=("astronaut.png",)), base=base)
style.save("swirl.safetensors")
pipe = FaceStylizationPipeline.from_base(base)
pipe.load_style(style)
(portrait,) = stylize_portraits(pipe, photo, choose_faces(photo, "largest"), generator=torch.Generator().manual_seed(0))
portrait.save("stylized.png")
