"""`FaceStylizationPipeline`: Stable Diffusion with a fitted style in it, painting a given face.

`FaceStylization` holds what the pipelines of all families share when they paint.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from torch import Tensor

from acfun.base import Conditions
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.conditioning import (
    Faces,
    build_callback,
    choose_size,
    encode_prompts,
    pair,
    predict_guided,
    prepare_faces,
    scaled,
)
from acfun.devices import place
from acfun.face.finder import load_face_finder
from acfun.face.identity import load_identity_encoder
from acfun.guidance import BARE_PROMPT, NUM_GUIDE_STEPS, STRENGTH, Sitting, build_portraits, check_known
from acfun.identity_adapter import embed_people, get_embed_size
from acfun.images import resize
from acfun.pipelines.styled import StyledPipeline
from acfun.portrait import find_landmarks
from acfun.sampling import OnStep, Predict, allow_late_start, denoise, find_noise, select_timesteps

DEFAULT_PROMPT = "a painting of a person"


class FaceStylization(StyledPipeline):
    """Paint a face in a fitted style, or generate one from text: to be mixed into a pipeline of diffusers."""

    scheduler: Any

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        face: Faces | None = None,
        face_landmarks: Tensor | None = None,
        face_regions: Tensor | None = None,
        negative_prompt: str | Sequence[str] = "",
        strength: float = STRENGTH,
        invert_face: bool = True,
        style_scale: float = 1.0,
        imagery_scale: float = 1.0,
        identity_scale: float = 1.0,
        backdrop_scale: float = 1.0,
        num_guide_steps: int = NUM_GUIDE_STEPS,
        structure_scale: float = 1.0,
        color_scale: float = 1.0,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        height: int | None = None,
        width: int | None = None,
        enlargement: int = 1,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        person: Faces | None = None,
        ip_adapter_image: Any = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> StableDiffusionPipelineOutput:
        """Sample.

        Args:
            prompt: description of the result; the style's pseudo-word is added when it is missing. One, or one a face;
                `DEFAULT_PROMPT` when None.
            face: portraits to be painted, (B,3,H,W) in [-1,1] or pictures; None generates from pure noise.
            face_landmarks: (B,189,2), or (1,189,2) for all, pixels of the faces once they are stretched to height and
                width; when None they are looked for, and a face that is not found is taken to be framed as usual.
            face_regions: (B,6,height,width), or one for all, masks of their `REGIONS`; when None they are found.
            negative_prompt: what to keep away from, with guidance_scale > 1. One, or one a prompt.
            strength: in (0, 1]; how far the face is noised before it is painted. 1 starts from (almost) pure noise.
            invert_face: noise the face by DDIM inversion under the bare base, which keeps its layout, not at random.
            style_scale: ≥ 0; 0 is the base, 1 the style as fitted; acts on all its parts.
            imagery_scale: ≥ 0; how far the style image's own strokes go against the face's light and shade: the face is
                laid out in them before it is painted and gone over with them afterwards. 0 paints without them, guide
                and backdrop. Only with a face, and a style that keeps its style image.
            identity_scale: ≥ 0; how far features, folds and things are drawn as they are, how strongly the guide moves.
            backdrop_scale: ≥ 0; how much there may be to see in a ground that the style image's own takes the place of.
            num_guide_steps: moves of the guide after sampling, which brings the person back; 0 leaves it out.
            structure_scale: ≥ 0; multiplies style_scale in the UNet's decoder, which carries shapes.
            color_scale: ≥ 0; multiplies style_scale in the UNet's encoder, which carries texture and colour.
            guidance_scale: ≥ 1; classifier-free guidance; 1 switches it off.
            num_inference_steps: steps of a whole schedule; `strength` shortens it. With a face and `PNDMScheduler`,
                which cannot start late, these are of DDIM with the same noise schedule.
            height: of the result, pixels, a multiple of `vae_scale_factor`; faces are stretched to height and width.
            width: likewise. When both are None the shorter side is the base's resolution, the shape the first face's.
            enlargement: ≥ 1; the result is this many times as high and wide. The strokes that go over a painted face
                are cut that much larger from the style image, whose shorter side has up to `MAX_STYLE_SIDE` pixels, its
                features are drawn as finely as the face shows them, which may be larger than height and width.
            num_images_per_prompt: images for each prompt.
            eta: 0 is DDIM, 1 as random as DDPM.
            generator: source of noise.
            latents: (B,C,h,w) to start from instead of noise; only without `face`.
            person: photographs, one or one a prompt, of who is to be seen: for an adapter of `load_identity_adapter`.
            ip_adapter_image: for another loaded IP-Adapter.
            cross_attention_kwargs: passed to the attention processors (`{"scale": …}` for LoRA).
            output_type: "pil", "np", "pt" (B,3,H,W) in [0,1], or "latent", which are not gone over with strokes.
            callback_on_step_end: as in diffusers: (pipe, index, timestep, tensors) → tensors to go on with.
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` it is given.

        Returns:
            `images`, and `nsfw_content_detected` = None.

        Raises:
            ValueError: an argument out of range, or arguments that exclude each other.
            NoFaceFoundError: a photograph of `person` shows no face.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self._check_arguments(face, latents, callback_on_step_end_tensor_inputs)
        scales = {"style_scale": style_scale, "structure_scale": structure_scale, "color_scale": color_scale}
        ways = {"identity_scale": identity_scale, "backdrop_scale": backdrop_scale}
        dials = {"imagery_scale": imagery_scale, "num_guide_steps": num_guide_steps}
        _check_dials(0, "0 does without", **scales, **ways, **dials)
        _check_dials(1, "1 paints each once", num_images_per_prompt=num_images_per_prompt)
        _check_dials(1, "1 gives the size that is sampled", enlargement=enlargement)
        _check_dials(1, "1 switches it off", guidance_scale=guidance_scale)
        size = choose_size(face, height, width, self.base.resolution, self.vae_scale_factor)
        check_known(face_landmarks, face_regions, size)
        faces = None if face is None else prepare_faces(face, size).to(self._execution_device)
        prompt = DEFAULT_PROMPT if prompt is None else prompt
        texts, negatives, faces = pair(prompt, negative_prompt, faces, num_images_per_prompt)
        image_embeds = self._encode_images(
            person, ip_adapter_image, len(texts), num_images_per_prompt, use_guidance=guidance_scale > 1
        )
        sitting, start = None, 1.0 if faces is None else strength
        with self._starting_late(is_late=faces is not None):
            timesteps = select_timesteps(self.scheduler, num_inference_steps, start, self._execution_device)
            self._keep_vae_precise()
            if face is None or faces is None:
                latents = self._draw_latents(latents, len(texts), size, generator)
            else:
                if imagery_scale > 0:
                    photos = prepare_faces(face, (enlargement * size[0], enlargement * size[1])).to(faces)
                    known = (face_landmarks, face_regions)
                    sitting = self._sit(faces, photos, known, num_images_per_prompt, freedom=imagery_scale, **ways)
                faces = faces if sitting is None else sitting.sketch()
                bare = self._build_bare(faces, image_embeds, cross_attention_kwargs) if invert_face else None
                latents = self._noise_faces(faces, timesteps, generator, bare)
            # Callbacks of diffusers read and set these.
            self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, len(timesteps), False
            with scaled(self._style_model, **scales):
                used = negatives if guidance_scale > 1 else None
                conditions = encode_prompts(self, self._style_model, texts, used, size)
                conditions.image_embeds = image_embeds
                on_step: OnStep | None = None
                if callback_on_step_end is not None:
                    names = callback_on_step_end_tensor_inputs
                    on_step = build_callback(callback_on_step_end, self, conditions, names)
                step_kwargs = self.prepare_extra_step_kwargs(generator, eta)
                latents = self._sample(latents, timesteps, conditions, cross_attention_kwargs, step_kwargs, on_step)
        if sitting is not None and not self._interrupt:
            latents = sitting.guide(latents, num_guide_steps)
        images = latents if output_type == "latent" else self._finish(latents, sitting, enlargement, output_type)
        self.maybe_free_model_hooks()
        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)

    def _check_arguments(
        self,
        face: Faces | None,
        latents: Tensor | None,
        tensor_inputs: Sequence[str],
    ) -> None:
        if face is not None and latents is not None:
            raise ValueError("latents and face exclude each other: the face decides where the painting starts")
        if unknown := set(tensor_inputs) - set(self._callback_tensor_inputs):
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {', '.join(sorted(unknown))}; choose from {known}"
            )

    def _sit(
        self,
        faces: Tensor,
        photos: Tensor,
        known: tuple[Tensor | None, Tensor | None],
        times: int,
        **ways: float,
    ) -> Sitting | None:
        """Faces (B,3,H,W), each `times` times in a row, before the loaded style's imagery; None without one.

        Args:
            faces: the portraits.
            photos: (1,3,kH,kW) or one a portrait, the same in more detail.
            known: their landmarks and regions, one for all or one each; None are looked for.
            times: how often each is painted.
            ways: of the `Sitting`, by name.
        """
        imagery = self._load_imagery()
        if imagery is None:
            return None
        each = faces[::times]
        landmarks, regions = known
        if landmarks is None:
            finder = place(load_face_finder(), faces.device)
            landmarks = torch.cat([find_landmarks(face, finder) for face in each.split(1)])
        portraits = build_portraits(each, landmarks, regions, times)
        targets = [imagery.describe(portrait) for portrait in portraits]
        details = photos.expand(len(each), -1, -1, -1)
        return Sitting(imagery, portraits, targets, details, times, **ways)

    def _finish(self, latents: Tensor, sitting: Sitting | None, enlargement: int, output_type: str) -> Any:
        """Pictures of latents, enlarged, and gone over with strokes where faces have sat."""
        images = decode_latents(self.vae, latents)
        larger = (enlargement * images.shape[-2], enlargement * images.shape[-1])
        images = resize(images, larger) if sitting is None else sitting.finish(images, enlargement)
        return self.image_processor.postprocess(images, output_type=output_type)

    def _encode_images(
        self, person: Faces | None, image: Any, count: int, times: int, *, use_guidance: bool
    ) -> list[Tensor] | None:
        """For loaded IP-Adapters, one tensor each, of `count` pictures, `times` in a row for each prompt."""
        if person is not None and image is not None:
            raise ValueError("person and ip_adapter_image exclude each other: there is one kind of adapter at a time")
        if image is not None:
            embeds: list[Tensor] = self.prepare_ip_adapter_image_embeds(
                image, None, self._execution_device, count, use_guidance
            )
            return embeds
        size = get_embed_size(self.unet)
        if size is None:
            if person is not None:
                raise ValueError("person needs an identity adapter: call load_identity_adapter() first")
            return None
        rows = torch.zeros(count, 1, size, device=self._execution_device)
        if person is not None:
            rows = self._embed_person(person, size, count // times).repeat_interleave(times, 0)[:, None].to(rows)
        return [torch.cat([torch.zeros_like(rows), rows]) if use_guidance else rows]

    def _embed_person(self, person: Faces, size: int, count: int) -> Tensor:
        """Identity embeddings (count,size) of one photograph, or of one a prompt."""
        encoder = load_identity_encoder() if self._identity_encoder is None else self._identity_encoder
        embeds = embed_people(person, place(encoder, self._execution_device))
        if embeds.shape[1] != size:
            raise ValueError(
                f"the identity adapter takes embeddings of {size} numbers, and the identity encoder gives "
                f"{embeds.shape[1]}: call use_identity_encoder with the one that the adapter was trained with"
            )
        if len(embeds) not in {1, count}:
            raise ValueError(f"person has {len(embeds)} photographs for {count} prompts: give one, or one a prompt")
        return embeds.expand(count, -1)

    def _draw_latents(self, latents: Tensor | None, count: int, size: tuple[int, int], generator: Any) -> Tensor:
        channels = self.unet.config.in_channels
        drawn: Tensor = self.prepare_latents(
            count, channels, *size, torch.float32, self._execution_device, generator, latents
        )
        return drawn

    @contextmanager
    def _starting_late(self, *, is_late: bool) -> Iterator[None]:
        """Inside the block the scheduler is one that can start in the middle of its schedule, where it has to."""
        former = self.scheduler
        self.scheduler = allow_late_start(former) if is_late else former
        try:
            yield
        finally:
            self.scheduler = former

    def _noise_faces(self, faces: Tensor, timesteps: Tensor, generator: Any, bare: Predict | None) -> Tensor:
        """Latents (B,C,h,w) of the faces at the first timestep.

        Args:
            faces: (B,3,H,W) in [-1,1].
            timesteps: (S,) that follow.
            generator: source of noise, where it is drawn.
            bare: of `_build_bare`, by which they are inverted, so that it leads back to the faces; None draws noise.
        """
        latents, size = encode_latents(self.vae, faces), (faces.shape[-2], faces.shape[-1])
        if bare is None:
            noise = self._draw_latents(None, len(faces), size, generator) / self.scheduler.init_noise_sigma
        else:
            with scaled(self._style_model, style_scale=0.0):
                noise = find_noise(bare, self.base.scheduler, latents, timesteps)
        # Schedulers differ in how they scale noisy latents.
        noised: Tensor = self.scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(faces)))
        return noised

    def _build_bare(
        self, faces: Tensor, image_embeds: list[Tensor] | None, cross_attention_kwargs: dict[str, Any] | None
    ) -> Predict:
        """The base without style and without picture prompts, told that it sees portraits (B,3,H,W)."""
        size = (faces.shape[-2], faces.shape[-1])
        conditions = encode_prompts(self, None, [BARE_PROMPT] * len(faces), None, size)
        if image_embeds is not None:
            conditions.image_embeds = [torch.zeros_like(part[-len(faces) :]) for part in image_embeds]

        def predict(current: Tensor, timestep: Tensor) -> Tensor:
            return predict_guided(self.unet, current, timestep, conditions, 1.0, cross_attention_kwargs)

        return predict

    def _sample(
        self,
        latents: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        cross_attention_kwargs: dict[str, Any] | None,
        step_kwargs: dict[str, Any],
        on_step: OnStep | None,
    ) -> Tensor:
        """Latents (B,C,h,w) denoised over timesteps (S,), until a callback interrupts."""

        def predict(current: Tensor, timestep: Tensor) -> Tensor:
            scale = self._guidance_scale  # a callback may change it
            return predict_guided(self.unet, current, timestep, conditions, scale, cross_attention_kwargs)

        steps = takewhile(lambda _: not self._interrupt, timesteps)
        return denoise(predict, self.scheduler, latents, steps, step_kwargs=step_kwargs, on_step=on_step)


class FaceStylizationPipeline(FaceStylization, StableDiffusionPipeline):
    """Paint a face in a fitted style, or generate one from text, with Stable Diffusion 1.x, 2.x or the embedded base.

    What diffusers loads into `StableDiffusionPipeline` (LoRA, textual inversion, IP-Adapter) loads into this pipeline
    too; LoRA and textual inversion before the style.

    Example:
        >>> pipe = FaceStylizationPipeline.from_base(load_base())
        >>> pipe.load_style("vangogh.safetensors")
        >>> picture = pipe(face=portrait, strength=0.6, generator=torch.Generator().manual_seed(0)).images[0]
    """


def _check_dials(least: int, meaning: str, **dials: float) -> None:
    """Refuse dials below the least one, which means what is said, and those that are no numbers."""
    for name, value in dials.items():
        if not least <= value < math.inf:
            raise ValueError(f"{name} is {value}: {meaning}, larger values do more")
