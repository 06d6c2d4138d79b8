"""`FaceStylizationXLPipeline`: SDXL with a fitted style in it, painting a given face."""

from diffusers import StableDiffusionXLPipeline

from acfun.pipelines.face_stylization import FaceStylization


class FaceStylizationXLPipeline(FaceStylization, StableDiffusionXLPipeline):
    """Paint a face in a fitted style, or generate one from text, with SDXL.

    What diffusers loads into `StableDiffusionXLPipeline` (LoRA, textual inversion, IP-Adapter) loads into this pipeline
    too; LoRA and textual inversion before the style. Arguments and dials are those of `FaceStylizationPipeline`.

    Example:
        >>> pipe = FaceStylizationXLPipeline.from_base(load_base("sdxl"))
        >>> pipe.load_style("vangogh.safetensors")
        >>> picture = pipe(face=portrait, generator=torch.Generator().manual_seed(0)).images[0]
    """
