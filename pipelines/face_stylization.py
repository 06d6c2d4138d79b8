"""`FaceStylizationPipeline`: Stable Diffusion with a fitted style in it, painting a given face."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from PIL import Image
from torch import Tensor

from acfun.base import Base, assemble_base, tokenize
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.images import pil_to_tensor, resize
from acfun.sampling import Predict, denoise, invert, select_timesteps
from acfun.style import Style
from acfun.style_model import StyleModel

DEFAULT_PROMPT = "a painting of a person"

IdentityGuide = Callable[[Tensor], Tensor]
"""Decoded images (B,3,H,W) in [-1,1] → how far each is from the person (), differentiable."""


class FaceStylizationPipeline(StableDiffusionPipeline):
    """Paint a face in a fitted style, or generate one from text.

    Everything that diffusers loads into `StableDiffusionPipeline` (LoRA, textual inversion, IP-Adapter) loads into this pipeline too.

    Example:
        >>> pipe = FaceStylizationPipeline.from_base(load_base())
        >>> pipe.load_style("vangogh.safetensors")
        >>> picture = pipe(face=portrait, strength=0.6, generator=torch.Generator().manual_seed(0)).images[0]
    """

    _style_model: StyleModel | None = None
    _base: Base | None = None
    _identity_guide_builder: Callable[[Tensor], IdentityGuide] | None = None

    @classmethod
    def from_base(cls, base: Base) -> Self:
        """Build the pipeline around an already loaded base, whose modules it shares."""
        pipe = cls(
            vae=base.vae,
            text_encoder=base.text_encoder,
            tokenizer=base.tokenizer,
            unet=base.unet,
            scheduler=DDIMScheduler.from_config(base.scheduler.config),
            safety_checker=None,
            feature_extractor=base.image_processor,
            image_encoder=base.image_encoder,
            requires_safety_checker=False,
        )
        pipe._base = base
        return pipe

    @property
    def base(self) -> Base:
        """The pipeline's modules as a base; what style files are checked against."""
        if self._base is None:
            self._base = assemble_base(
                name=str(self.config.get("_name_or_path") or "pipeline"),
                unet=self.unet,
                vae=self.vae,
                text_encoder=self.text_encoder,
                tokenizer=self.tokenizer,
                image_encoder=self.image_encoder,
                image_processor=self.feature_extractor,
                scheduler=DDIMScheduler.from_config(self.scheduler.config),
            )
        return self._base

    @property
    def style_model(self) -> StyleModel | None:
        """The style in the pipeline, or None."""
        return self._style_model

    def load_style(self, style: Style | str | Path) -> None:
        """Put a style in; one that is already there is taken out first.

        Raises:
            StyleFileError: the file cannot be used.
            BaseFamilyMismatchError: the style was made for another base; the pipeline is unchanged then.
        """
        style = style if isinstance(style, Style) else Style.load(style)
        style.check_base(self.base)
        self.unload_style()
        self._style_model = style.apply_to(self.base).eval()

    def unload_style(self) -> None:
        """Take the style out; the modules are bit-equal to what they were. Does nothing without a style."""
        if self._style_model is not None:
            self._style_model.eject()
            self._style_model = None

    def set_identity_guide(self, build: Callable[[Tensor], IdentityGuide] | None) -> None:
        """Give what `identity_scale` needs: from faces (B,3,H,W) a function that measures the distance of images to them."""
        self._identity_guide_builder = build

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the base, as diffusers does.

        Raises:
            RuntimeError: a style is loaded; a folder saved now could not be read back.
        """
        if self._style_model is not None:
            raise RuntimeError(
                "a style is loaded: call unload_style() first, and save the style itself with Style.save()"
            )
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        face: Image.Image | Tensor | None = None,
        negative_prompt: str | Sequence[str] = "",
        strength: float = 0.6,
        invert_face: bool = True,
        style_scale: float = 1.0,
        identity_scale: float = 0.0,
        structure_scale: float = 1.0,
        color_scale: float = 1.0,
        guidance_scale: float = 1.2,
        num_inference_steps: int = 30,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        ip_adapter_image: Any = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[Any, int, int, dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> StableDiffusionPipelineOutput:
        """Sample.

        Args:
            prompt: description of the result; the style's pseudo-word is added when it is missing. One per image.
            face: portrait to be painted, a picture or (B,3,H,W) in [-1,1]; None generates from pure noise.
            negative_prompt: what to keep away from, with guidance_scale > 1.
            strength: in (0, 1]; how far the face is noised before it is painted. 1 starts from (almost) pure noise.
            invert_face: noise the face by DDIM inversion under the bare base, which keeps its layout, instead of random noise.
            style_scale: 0 is the base, 1 the style as fitted; acts on all its parts.
            identity_scale: ≥ 0; pulls the result to the person by the gradient of an identity encoder (`set_identity_guide`).
            structure_scale: multiplies style_scale in the UNet's decoder, which carries shapes.
            color_scale: multiplies style_scale in the UNet's encoder, which carries texture and colour.
            guidance_scale: classifier-free guidance; 1 switches it off.
            num_inference_steps: steps of a whole schedule; `strength` shortens it.
            num_images_per_prompt: images for each prompt.
            eta: 0 is DDIM, 1 as random as DDPM.
            generator: source of noise.
            latents: (B,C,h,w) to start from instead of noise; only without `face`.
            ip_adapter_image: for a loaded IP-Adapter.
            cross_attention_kwargs: passed to the attention processors (`{"scale": …}` for LoRA).
            output_type: "pil", "pt" (B,3,H,W) in [0,1], or "latent".
            callback_on_step_end: as in diffusers; may return new `latents`.

        Returns:
            `images`, and `nsfw_content_detected` = None.

        Raises:
            ValueError: an argument out of range.
        """
        if identity_scale > 0 and (face is None or self._identity_guide_builder is None):
            raise ValueError(
                "identity_scale > 0 needs a face and an identity encoder: pass face=… and call set_identity_guide()"
            )
        faces = None if face is None else self._prepare_faces(face)
        prompts = self._prepare_prompts(prompt, faces, num_images_per_prompt)
        faces = None if faces is None else faces.repeat_interleave(len(prompts) // len(faces), 0)
        timesteps = select_timesteps(
            self.scheduler, num_inference_steps, strength if faces is not None else 1.0, self._execution_device
        )
        if faces is None:
            latents = self._draw_latents(latents, len(prompts), generator)
        else:
            latents = self._noise_faces(faces, timesteps, generator, invert_face)
        added = self._encode_ip_adapter(ip_adapter_image, len(prompts), guidance_scale > 1)
        guide = (
            self._identity_guide_builder(faces)
            if identity_scale > 0 and faces is not None and self._identity_guide_builder
            else None
        )

        def on_step(index: int, timestep: Tensor, current: Tensor) -> Tensor:
            if guide is not None:
                current = self._pull_to_identity(current, guide, identity_scale)
            if callback_on_step_end is not None:
                current = callback_on_step_end(self, index, int(timestep), {"latents": current}).get("latents", current)
            return current

        step_kwargs = self.prepare_extra_step_kwargs(generator, eta)
        with self._scaled(style_scale, structure_scale, color_scale):
            conditions = self._encode_conditions(prompts, negative_prompt, guidance_scale > 1)
            predict = self._build_predict(conditions, guidance_scale, added, cross_attention_kwargs)
            latents = denoise(predict, self.scheduler, latents, timesteps, step_kwargs=step_kwargs, on_step=on_step)
        return StableDiffusionPipelineOutput(images=self._finish(latents, output_type), nsfw_content_detected=None)

    def _prepare_faces(self, face: Image.Image | Tensor) -> Tensor:
        pixel_values = pil_to_tensor(face) if isinstance(face, Image.Image) else face
        if pixel_values.shape[-1] != self.base.resolution or pixel_values.shape[-2] != self.base.resolution:
            pixel_values = resize(pixel_values, self.base.resolution)
        return pixel_values.to(self._execution_device, torch.float32)

    def _prepare_prompts(
        self, prompt: str | Sequence[str] | None, faces: Tensor | None, images_per_prompt: int
    ) -> list[str]:
        texts = [prompt] if isinstance(prompt, str) else list(prompt or [DEFAULT_PROMPT])
        count = len(texts) if faces is None else max(len(texts), len(faces))
        if count % len(texts) or (faces is not None and count % len(faces)):
            raise ValueError(
                f"{len(texts)} prompts do not fit {0 if faces is None else len(faces)} faces: give one prompt, or one a face"
            )
        texts = [texts[index % len(texts)] for index in range(count)]
        return [self._name_style(text) for text in texts for _ in range(images_per_prompt)]

    def _name_style(self, text: str) -> str:
        model = self._style_model
        if model is None or model.token is None:
            return text
        placeholder = model.architecture.placeholder
        return model.token.expand(text if placeholder in text else f"{text} in {placeholder} style")

    @contextmanager
    def _scaled(self, style_scale: float, structure_scale: float, color_scale: float) -> Iterator[None]:
        model = self._style_model
        if model is None:
            yield
            return
        model.set_scale(
            abstract=style_scale,
            encoder=style_scale * color_scale,
            middle=style_scale,
            decoder=style_scale * structure_scale,
        )
        try:
            yield
        finally:
            model.set_scale(abstract=1.0, encoder=1.0, middle=1.0, decoder=1.0)

    def _encode_conditions(
        self, prompts: list[str], negative_prompt: str | Sequence[str], use_guidance: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Prompt embeddings (B,T,D), and negative ones where guidance needs them."""
        model, device = self._style_model, self._execution_device
        tokenizer = self.tokenizer if model is None or model.token is None else model.token.tokenizer
        input_ids = tokenize(tokenizer, prompts).to(device)
        embeds = self.text_encoder(input_ids)[0] if model is None else model.encode_prompt(input_ids)
        if not use_guidance:
            return embeds, None
        negatives = [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        if len(negatives) != len(prompts):
            raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} images: give one, or one for each")
        return embeds, self.text_encoder(tokenize(tokenizer, negatives).to(device))[0]

    def _encode_ip_adapter(self, image: Any, count: int, use_guidance: bool) -> dict[str, Any] | None:
        if image is None:
            return None
        embeds = self.prepare_ip_adapter_image_embeds(image, None, self._execution_device, count, use_guidance)
        return {"image_embeds": embeds}

    def _build_predict(
        self,
        conditions: tuple[Tensor, Tensor | None],
        guidance_scale: float,
        added: dict[str, Any] | None,
        cross_attention_kwargs: dict[str, Any] | None,
    ) -> Predict:
        embeds, negative = conditions
        hidden = (embeds if negative is None else torch.cat([negative, embeds])).to(self.unet.dtype)

        def predict(latents: Tensor, timestep: Tensor) -> Tensor:
            sample = latents if negative is None else torch.cat([latents, latents])
            output = self.unet(
                sample.to(self.unet.dtype),
                timestep,
                encoder_hidden_states=hidden,
                added_cond_kwargs=added,
                cross_attention_kwargs=cross_attention_kwargs,
                return_dict=False,
            )[0].to(latents.dtype)
            if negative is None:
                return output
            unconditional, conditional = output.chunk(2)
            return unconditional + guidance_scale * (conditional - unconditional)

        return predict

    def _draw_latents(self, latents: Tensor | None, count: int, generator: Any) -> Tensor:
        size = self.base.resolution
        channels = self.unet.config.in_channels
        drawn: Tensor = self.prepare_latents(
            count, channels, size, size, torch.float32, self._execution_device, generator, latents
        )
        return drawn

    def _noise_faces(self, faces: Tensor, timesteps: Tensor, generator: Any, invert_face: bool) -> Tensor:
        latents = encode_latents(self.vae, faces).float()
        if not invert_face:
            noise = self._draw_latents(None, len(faces), generator) / self.scheduler.init_noise_sigma
            noised: Tensor = self.scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(faces)))
            return noised
        with self._scaled(0.0, 0.0, 0.0):
            conditions = (self._encode_bare(len(faces)), None)
            return invert(self._build_predict(conditions, 1.0, None, None), self.base.scheduler, latents, timesteps)

    def _encode_bare(self, count: int) -> Tensor:
        embeds: Tensor = self.text_encoder(tokenize(self.tokenizer, ["a photo"]).to(self._execution_device))[0]
        return embeds.expand(count, -1, -1)

    def _pull_to_identity(self, latents: Tensor, guide: IdentityGuide, scale: float) -> Tensor:
        with torch.enable_grad():
            moved = latents.detach().requires_grad_()
            distance = guide(decode_latents(self.vae, moved).float())
            (grad,) = torch.autograd.grad(distance, moved)
        length = grad.flatten(1).norm(dim=1).clamp(min=1e-8).view(-1, 1, 1, 1)
        return latents - scale * grad / length

    def _finish(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        return self.image_processor.postprocess(
            decode_latents(self.vae, latents).float().detach(), output_type=output_type
        )
