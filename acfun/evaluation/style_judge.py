"""A judge of style by path: an image encoder of the CLIP kind, whose embeddings of two pictures are compared.

With CLIP's own weights its cosine is CLIP-I (Ruiz et al. 2023, https://arxiv.org/abs/2208.12242, section 4.1). With
those of CSD (Somepalli et al. 2024, https://arxiv.org/abs/2404.01292), saved as `CLIPVisionModelWithProjection` of
transformers with the style head as `visual_projection`, it is CSD's score.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from acfun.base.image_embeds import fit_pixel_values
from acfun.base.sources import find_image_encoder, read_part
from acfun.errors import BaseNotFoundError


class StyleJudge(nn.Module):
    """Embeds whole pictures as unit vectors.

    Args:
        encoder: with a projection, frozen.
        processor: its mean and deviation of pixels.
    """

    def __init__(self, encoder: CLIPVisionModelWithProjection, processor: CLIPImageProcessorPil) -> None:
        super().__init__()
        self.encoder, self.processor = encoder, processor

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Embeddings (B,P) of images (B,3,H,W) in [-1,1], of any size; the middle square is seen."""
        config: Any = self.encoder.config
        pixel_values = fit_pixel_values(images, config.image_size, self.processor)
        weight = self.encoder.visual_projection.weight
        return F.normalize(self.encoder(pixel_values=pixel_values.to(weight)).image_embeds.float(), dim=1)


def load_style_judge(source: str | Path) -> StyleJudge:
    """Read a judge from a folder with `config.json`, `model.safetensors` and `preprocessor_config.json`, or a hub id.

    Raises:
        BaseNotFoundError: there is none, or weights are missing in it.
    """
    folder = find_image_encoder(source)
    options = {"dtype": torch.float32, "output_loading_info": True}
    encoder, found = read_part(CLIPVisionModelWithProjection.from_pretrained, folder, **options)
    if missing := sorted(found["missing_keys"]):
        raise BaseNotFoundError(
            f"{folder} has no {missing[0]}: save it as CLIPVisionModelWithProjection of transformers, CSD with its "
            "style head as visual_projection"
        )
    judge = StyleJudge(encoder, read_part(CLIPImageProcessorPil.from_pretrained, folder))
    return judge.eval().requires_grad_(False)
