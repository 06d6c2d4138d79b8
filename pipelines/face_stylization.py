"""`FaceStylizationPipeline`: Stable Diffusion with a fitted style in it, painting a given face.

`FaceStylization` holds all that the pipelines of the families share.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from torch import Tensor, nn

from acfun.base import FAMILIES, Base, assemble_base
from acfun.base.vae_features import decode_latents, encode_latents
from acfun.conditioning import Faces, build_callback, encode_prompts, pair, predict_guided, prepare_faces, scaled
from acfun.devices import place
from acfun.errors import BaseFamilyMismatchError
from acfun.face.finder import load_face_finder
from acfun.face.identity import load_identity_encoder
from acfun.face.networks import NUM_LANDMARKS
from acfun.face.recognition import load_recognition
from acfun.guidance import BARE_PROMPT, NUM_STEPS, STRENGTH, Sitting
from acfun.imagery import Imagery
from acfun.images import resize
from acfun.portrait import Portrait, find_landmarks
from acfun.sampling import OnStep, denoise, find_noise, select_timesteps
from acfun.style import Style
from acfun.style_model import StyleModel

DEFAULT_PROMPT = "a painting of a person"
TEXT_PARTS = max((family.text_parts for family in FAMILIES.values()), key=len)


# Whatever a pipeline of diffusers has; the class that is mixed into one stands before it in its bases.
_Pipeline: Any = object


class FaceStylization(_Pipeline):
    """Paint a face in a fitted style, or generate one from text: to be mixed into a pipeline of diffusers.

    What diffusers loads into that pipeline (LoRA, textual inversion, IP-Adapter) loads into the mixture too; LoRA and
    textual inversion before the style.
    """

    _style: Style | None = None
    _style_model: StyleModel | None = None
    _base: Base | None = None
    _imagery: Imagery | None = None
    _identity_encoder: nn.Module | None = None

    @classmethod
    def from_base(cls, base: Base) -> Self:
        """Build the pipeline around an already loaded base, whose modules it shares.

        Raises:
            BaseFamilyMismatchError: the base needs the pipeline of another family.
        """
        modules, _ = cls._get_signature_keys(cls)
        if {name for pair in TEXT_PARTS for name in pair}.intersection(modules) != base.text_parts.keys():
            name = FAMILIES[base.family].stylization_pipeline[1]
            raise BaseFamilyMismatchError(
                f"{cls.__name__} cannot run base {base.name!r} ({base.family}): use {name} or acfun.build_pipeline"
            )
        pipe = cls(
            vae=base.vae,
            unet=base.unet,
            scheduler=DDIMScheduler.from_config(base.scheduler.config),
            feature_extractor=base.image_processor,
            image_encoder=base.image_encoder,
            **base.text_parts,
            **FAMILIES[base.family].pipeline_options,
        )
        pipe._base = base
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any) -> Self:
        """Build the pipeline around another one's modules, as diffusers does; RuntimeError while a style is in them."""
        if isinstance(pipeline, FaceStylization):
            pipeline._require_no_style("from_pipe")
        pipe: Self = super().from_pipe(pipeline, **kwargs)
        pipe._base = getattr(pipeline, "_base", None)
        pipe._identity_encoder = getattr(pipeline, "_identity_encoder", None)
        return pipe

    @property
    def base(self) -> Base:
        """The pipeline's modules as a base; what style files are checked against."""
        texts = {name: self.components[name] for pair in TEXT_PARTS for name in pair if name in self.components}
        is_other = self._base is None or (self._base.unet, self._base.text_parts) != (self.unet, texts)
        if self._base is None or (is_other and self._style_model is None):
            self._base = assemble_base(
                name=str(self.config.get("_name_or_path") or "pipeline"),
                unet=self.unet,
                vae=self.vae,
                image_encoder=self.image_encoder,
                image_processor=self.feature_extractor,
                scheduler=DDIMScheduler.from_config(self.scheduler.config),
                **texts,
            )
        return replace(self._base, unet=self.unet, vae=self.vae, **texts)

    @property
    def style(self) -> Style | None:
        """The loaded style."""
        return self._style

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
        self._style = style

    def unload_style(self) -> None:
        """Take the style out; the modules are bit-equal to what they were. Does nothing without a style."""
        if self._style_model is not None:
            self._style_model.eject()
        self._style = self._style_model = self._imagery = None

    def use_identity_encoder(self, source: str | Path) -> None:
        """Let another encoder say who a face is when sampling is guided to the person.

        Args:
            source: "mini" for the embedded one, the folder of an insightface pack, an ArcFace-type ONNX file, or the
                folder of an encoder; see `acfun.face.recognition.load_recognition`.

        Raises:
            FaceModelError: there is no such model, or it cannot be run; the pipeline is unchanged then.
            MissingExtraError: it is an ONNX file, and the package onnx is not installed.
        """
        self._identity_encoder, self._imagery = load_recognition(source), None

    @torch.no_grad()
    def embed_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        *,
        height: int | None = None,
        width: int | None = None,
    ) -> dict[str, Tensor]:
        """Embed prompts with the loaded style, for another pipeline of diffusers around the same modules.

        A style acts in any pipeline that shares this one's UNet (`StableDiffusionControlNetPipeline.from_pipe(pipe,
        controlnet=…)`), but its pseudo-word and its attention over the style image are known here alone.

        Args:
            prompt: one or more; the style's pseudo-word is added when it is missing.
            negative_prompt: one for all, or one each.
            height: of the pictures, pixels; the base's resolution when None.
            width: likewise.

        Returns:
            Arguments of such a pipeline: `prompt_embeds` and `negative_prompt_embeds` (B,T,D), and in families that
            have them `pooled_prompt_embeds` and `negative_pooled_prompt_embeds` (B,P).
        """
        size = (height or self.base.resolution, width or self.base.resolution)
        texts, negatives, _ = pair(prompt, negative_prompt, None, 1)
        both = encode_prompts(self, self._style_model, texts, negatives, size)
        embeds = {"prompt_embeds": both.prompt_embeds, "pooled_prompt_embeds": both.add_text_embeds}
        halves = {name: part.chunk(2) for name, part in embeds.items() if part is not None}
        positive = {name: parts[1] for name, parts in halves.items()}
        return positive | {f"negative_{name}": parts[0] for name, parts in halves.items()}

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the pipeline, as diffusers does; a style in it moves along and stays float32."""
        style = self._style
        self.unload_style()
        super().to(*args, **kwargs)
        if style is not None:
            self.load_style(style)
        return self

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save the base, as diffusers does; RuntimeError while a style is in it."""
        self._require_no_style("save_pretrained")
        super().save_pretrained(save_directory, *args, **kwargs)

    def load_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Load a LoRA, as diffusers does; RuntimeError while a style stands where it belongs."""
        self._require_no_style("load_lora_weights")
        super().load_lora_weights(*args, **kwargs)

    def unload_lora_weights(self, *args: Any, **kwargs: Any) -> None:
        """Take all LoRAs out, as diffusers does; RuntimeError while a style is loaded, which would go with them."""
        self._require_no_style("unload_lora_weights")
        super().unload_lora_weights(*args, **kwargs)

    def load_textual_inversion(self, *args: Any, **kwargs: Any) -> None:
        """Load new words, as diffusers does; RuntimeError while a style's pseudo-word stands where they belong."""
        self._require_no_style("load_textual_inversion")
        super().load_textual_inversion(*args, **kwargs)

    def load_ip_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Load an IP-Adapter, as diffusers does."""
        _ = self.base  # its fingerprint is that of the weights before anything is added to them
        super().load_ip_adapter(*args, **kwargs)

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """Compute attention with xformers; where it cannot run, warn with the reason and go on with torch's own."""
        try:
            super().enable_xformers_memory_efficient_attention(attention_op)
        except (ImportError, ValueError, RuntimeError) as error:
            warnings.warn(f"attention stays with torch's own; xformers cannot be used: {error}", stacklevel=2)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        face: Faces | None = None,
        face_landmarks: Tensor | None = None,
        negative_prompt: str | Sequence[str] = "",
        strength: float = STRENGTH,
        invert_face: bool = True,
        style_scale: float = 1.0,
        imagery_scale: float = 1.0,
        identity_scale: float = 1.0,
        num_guide_steps: int = NUM_STEPS,
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
        ip_adapter_image: Any = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> StableDiffusionPipelineOutput:
        """Sample.

        Args:
            prompt: description of the result; the style's pseudo-word is added when it is missing. One, or one a face.
            face: portraits to be painted, (B,3,H,W) in [-1,1] or pictures; None generates from pure noise.
            face_landmarks: (B,189,2), or (1,189,2) for all, pixels of the faces once they are stretched to height and
                width; when None they are looked for, and a face that is not found is taken to be framed as usual.
            negative_prompt: what to keep away from, with guidance_scale > 1. One, or one a prompt.
            strength: in (0, 1]; how far the face is noised before it is painted. 1 starts from (almost) pure noise.
            invert_face: noise the face by DDIM inversion under the bare base, which keeps its layout, not at random.
            style_scale: 0 is the base, 1 the style as fitted; acts on all its parts.
            imagery_scale: ≥ 0; how far the style image's own strokes go against the face's light and shade: the face is
                laid out in them before it is painted and gone over with them afterwards. 0 paints without them, and
                without the guide. Only with a face, and a style that keeps its style image.
            identity_scale: ≥ 0; how strongly it is guided to the person.
            num_guide_steps: moves of the guide after each sampling step, which holds it to the person; 0 leaves it out.
            structure_scale: multiplies style_scale in the UNet's decoder, which carries shapes.
            color_scale: multiplies style_scale in the UNet's encoder, which carries texture and colour.
            guidance_scale: classifier-free guidance; 1 switches it off.
            num_inference_steps: steps of a whole schedule; `strength` shortens it.
            height: of the result, pixels; the base's resolution when None. Faces are stretched to height and width.
            width: likewise. Both are multiples of the VAE's factor times the UNet's.
            enlargement: ≥ 1; the result is this many times as high and wide. The strokes that go over a painted face
                are cut that much larger from the style image, which has such detail up to `STYLE_SIDE` pixels.
            num_images_per_prompt: images for each prompt.
            eta: 0 is DDIM, 1 as random as DDPM.
            generator: source of noise.
            latents: (B,C,h,w) to start from instead of noise; only without `face`.
            ip_adapter_image: for a loaded IP-Adapter.
            cross_attention_kwargs: passed to the attention processors (`{"scale": …}` for LoRA).
            output_type: "pil", "np", "pt" (B,3,H,W) in [0,1], or "latent", which are not gone over with strokes.
            callback_on_step_end: as in diffusers: (pipe, index, timestep, tensors) → tensors to go on with.
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` it is given.

        Returns:
            `images`, and `nsfw_content_detected` = None.

        Raises:
            ValueError: an argument out of range, or arguments that exclude each other.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self._check_arguments(face, face_landmarks, latents, enlargement, callback_on_step_end_tensor_inputs)
        _check_dials(imagery_scale=imagery_scale, identity_scale=identity_scale, num_guide_steps=num_guide_steps)
        size = (height or self.base.resolution, width or self.base.resolution)
        faces = None if face is None else prepare_faces(face, size).to(self._execution_device)
        texts, negatives, faces = pair(prompt or DEFAULT_PROMPT, negative_prompt, faces, num_images_per_prompt)
        image_embeds = self._encode_images(ip_adapter_image, len(texts), guidance_scale > 1)
        start = 1.0 if faces is None else strength
        timesteps = select_timesteps(self.scheduler, num_inference_steps, start, self._execution_device)
        on_steps: list[OnStep] = []
        sitting = None if faces is None else self._sit(faces, face_landmarks, imagery_scale, num_images_per_prompt)
        if sitting is not None and num_guide_steps > 0:
            on_steps.append(sitting.build_guidance(self.scheduler, timesteps, identity_scale, num_guide_steps))
        if faces is None:
            latents = self._draw_latents(latents, len(texts), size, generator)
        else:
            faces = faces if sitting is None else sitting.sketch()
            latents = self._noise_faces(faces, timesteps, generator, invert_face=invert_face, image_embeds=image_embeds)
        # Callbacks of diffusers read and set these.
        self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, len(timesteps), False
        scales = {"style_scale": style_scale, "structure_scale": structure_scale, "color_scale": color_scale}
        with scaled(self._style_model, **scales):
            used = negatives if guidance_scale > 1 else None
            conditions = encode_prompts(self, self._style_model, texts, used, size)
            conditions.image_embeds = image_embeds
            if callback_on_step_end is not None:
                names = callback_on_step_end_tensor_inputs
                on_steps.append(build_callback(callback_on_step_end, self, conditions, names))

            def predict(current: Tensor, timestep: Tensor) -> Tensor:
                scale = self._guidance_scale
                return predict_guided(self.unet, current, timestep, conditions, scale, cross_attention_kwargs)

            steps = takewhile(lambda _: not self._interrupt, timesteps)
            step_kwargs = self.prepare_extra_step_kwargs(generator, eta)
            latents = denoise(predict, self.scheduler, latents, steps, step_kwargs=step_kwargs, on_steps=on_steps)
        images = latents if output_type == "latent" else self._finish(latents, sitting, enlargement, output_type)
        self.maybe_free_model_hooks()
        return StableDiffusionPipelineOutput(images=images, nsfw_content_detected=None)

    def _check_arguments(
        self,
        face: Faces | None,
        landmarks: Tensor | None,
        latents: Tensor | None,
        enlargement: int,
        tensor_inputs: Sequence[str],
    ) -> None:
        if enlargement < 1:
            raise ValueError(f"enlargement is {enlargement}: 1 gives the size that is sampled, 2 twice that")
        if face is not None and latents is not None:
            raise ValueError("latents and face exclude each other: the face decides where the painting starts")
        if landmarks is not None and (landmarks.ndim, *landmarks.shape[1:]) != (3, NUM_LANDMARKS, 2):
            raise ValueError(f"face_landmarks has shape {tuple(landmarks.shape)}: (B,{NUM_LANDMARKS},2) is needed")
        if unknown := set(tensor_inputs) - set(self._callback_tensor_inputs):
            known = ", ".join(self._callback_tensor_inputs)
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {', '.join(sorted(unknown))}; choose from {known}"
            )

    def _require_no_style(self, action: str) -> None:
        """Refuse what a style in the modules would spoil; and note the base's fingerprint while it can be taken."""
        if self._style_model is not None:
            raise RuntimeError(f"{action}: a style is loaded; call unload_style() first, and load_style() afterwards")
        _ = self.base

    def _load_imagery(self) -> Imagery | None:
        """What the loaded style asks of pictures; None where it does not keep its style image."""
        image = None if self._style is None else self._style.image
        if self._imagery is None and image is not None:
            device = self._execution_device
            encoder = place(load_identity_encoder(), device)
            chosen = None if self._identity_encoder is None else place(self._identity_encoder, device)
            self._imagery = Imagery(image.to(device), self.base.resolution, self.vae, encoder, chosen)
        return self._imagery

    def _sit(self, faces: Tensor, landmarks: Tensor | None, imagery_scale: float, times: int) -> Sitting | None:
        """The faces (B,3,H,W), each `times` times in a row, before the loaded style's imagery.

        None where there is none, or none is wanted.
        """
        imagery = self._load_imagery() if imagery_scale > 0 else None
        if imagery is None:
            return None
        faces = faces[::times]
        if landmarks is None:
            finder = place(load_face_finder(), faces.device)
            landmarks = torch.cat([find_landmarks(face, finder) for face in faces.split(1)])
        if len(landmarks) == times * len(faces):
            landmarks = landmarks[::times]
        if len(landmarks) not in {1, len(faces)}:
            raise ValueError(f"face_landmarks has {len(landmarks)} rows for {len(faces)} faces: give one, or one each")
        landmarks = landmarks.to(faces).expand(len(faces), -1, -1)
        portraits = list(map(Portrait, faces.split(1), landmarks.split(1)))
        return Sitting(imagery, portraits, [imagery.describe(portrait) for portrait in portraits], times, imagery_scale)

    def _finish(self, latents: Tensor, sitting: Sitting | None, enlargement: int, output_type: str) -> Any:
        """Pictures of latents, enlarged, and gone over with strokes where faces have sat."""
        images = decode_latents(self.vae, latents)
        larger = (enlargement * images.shape[-2], enlargement * images.shape[-1])
        images = resize(images, larger) if sitting is None else sitting.finish(images, enlargement)
        return self.image_processor.postprocess(images, output_type=output_type)

    def _encode_images(self, image: Any, count: int, use_guidance: bool) -> list[Tensor] | None:
        """For loaded IP-Adapters, one tensor each."""
        if image is None:
            return None
        embeds: list[Tensor] = self.prepare_ip_adapter_image_embeds(
            image, None, self._execution_device, count, use_guidance
        )
        return embeds

    def _draw_latents(self, latents: Tensor | None, count: int, size: tuple[int, int], generator: Any) -> Tensor:
        channels = self.unet.config.in_channels
        drawn: Tensor = self.prepare_latents(
            count, channels, *size, torch.float32, self._execution_device, generator, latents
        )
        return drawn

    def _noise_faces(
        self, faces: Tensor, timesteps: Tensor, generator: Any, *, invert_face: bool, image_embeds: list[Tensor] | None
    ) -> Tensor:
        """Latents (B,C,h,w) of the faces at the first timestep; inverted ones lead the bare base back to the faces."""
        latents, size = encode_latents(self.vae, faces), (faces.shape[-2], faces.shape[-1])
        if invert_face:
            no_image = (
                None if image_embeds is None else [torch.zeros_like(part[-len(faces) :]) for part in image_embeds]
            )
            conditions = encode_prompts(self, None, [BARE_PROMPT] * len(faces), None, size)
            conditions.image_embeds = no_image

            def predict(current: Tensor, timestep: Tensor) -> Tensor:
                return predict_guided(self.unet, current, timestep, conditions, 1.0)

            with scaled(self._style_model, style_scale=0.0):
                noise = find_noise(predict, self.base.scheduler, latents, timesteps)
        else:
            noise = self._draw_latents(None, len(faces), size, generator) / self.scheduler.init_noise_sigma
        # Schedulers differ in how they scale noisy latents.
        noised: Tensor = self.scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(faces)))
        return noised


class FaceStylizationPipeline(FaceStylization, StableDiffusionPipeline):
    """Paint a face in a fitted style, or generate one from text, with Stable Diffusion 1.x, 2.x or the embedded base.

    What diffusers loads into `StableDiffusionPipeline` (LoRA, textual inversion, IP-Adapter) loads into this pipeline
    too; LoRA and textual inversion before the style.

    Example:
        >>> pipe = FaceStylizationPipeline.from_base(load_base())
        >>> pipe.load_style("vangogh.safetensors")
        >>> picture = pipe(face=portrait, strength=0.6, generator=torch.Generator().manual_seed(0)).images[0]
    """


def _check_dials(**dials: float) -> None:
    for name, value in dials.items():
        if value < 0:
            raise ValueError(f"{name} is {value}: 0 does without, larger values do more")
