"""`StyledPipeline`: a pipeline of diffusers that takes fitted styles in and gives them out again."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from acfun.base import FAMILIES, Base, assemble_base
from acfun.conditioning import encode_prompts, pair
from acfun.devices import place
from acfun.errors import AcfunError, BaseFamilyMismatchError
from acfun.face.identity import load_identity_encoder
from acfun.face.recognition import load_recognition
from acfun.identity_adapter import check_adapter, find_adapter, has_lora, load_adapter
from acfun.imagery import Imagery
from acfun.style import Style
from acfun.style_model import StyleModel

TEXT_PARTS = max((family.text_parts for family in FAMILIES.values()), key=len)

FACEID_LORA = "faceid_0"  # name that diffusers gives the LoRA of an IP-Adapter FaceID

# Whatever a pipeline of diffusers has; the class that is mixed into one stands before it in its bases.
_Pipeline: Any = object


class StyledPipeline(_Pipeline):
    """A pipeline of diffusers, into which this class is mixed, with at most one style in its modules.

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
        if isinstance(pipeline, StyledPipeline):
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
            StyleFileError: the file cannot be used; the pipeline is unchanged then, as it is below.
            BaseFamilyMismatchError: the style was made for another base.
            ConfigError: its pseudo-word is a word already.
        """
        style = style if isinstance(style, Style) else Style.load(style)
        style.check_base(self.base)
        former = self._style
        self.unload_style()
        try:
            self._style_model, self._style = style.apply_to(self.base).eval(), style
        except AcfunError:
            if former is not None:
                self._style_model, self._style = former.apply_to(self.base).eval(), former
            raise

    def unload_style(self) -> None:
        """Take the style out; the modules are bit-equal to what they were. Does nothing without a style."""
        if self._style_model is not None:
            self._style_model.eject()
        self._style = self._style_model = self._imagery = None

    def use_identity_encoder(self, source: str | Path) -> None:
        """Let another encoder say who a face is when sampling is guided to the person, and who is to be seen.

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
        _ = self.base  # its fingerprint is that of the weights before they are rounded
        style = self._style
        self.unload_style()
        try:
            super().to(*args, **kwargs)
            self._keep_vae_precise()
        finally:
            if style is not None:
                self.load_style(style)
        return self

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refused: what a style adds to the text encoders would stay behind on another device.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a style's pipeline cannot be offloaded: move it by pipe.to(device), in float16 if need be")

    enable_sequential_cpu_offload = enable_model_cpu_offload
    enable_group_offload = enable_model_cpu_offload

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

    def unload_ip_adapter(self) -> None:
        """Take IP-Adapters out, as diffusers does, and the LoRA of an identity adapter; image encoders stay.

        Raises:
            RuntimeError: there is such a LoRA, and a style is loaded.
        """
        if self._has_faceid_lora():
            self._require_no_style("unload_ip_adapter")
            self.unet.delete_adapters(FACEID_LORA)
        kept = {name: getattr(self, name, None) for name in ("image_encoder", "feature_extractor")}
        super().unload_ip_adapter()
        self.register_modules(**kept)

    def _has_faceid_lora(self) -> bool:
        return FACEID_LORA in getattr(self.unet, "peft_config", {})

    def load_identity_adapter(self, source: str | Path = "mini", weight_name: str | None = None) -> None:
        """Load an IP-Adapter of the kind FaceID, which tells the UNet who is to be seen: `person` of a call.

        It takes the place of other IP-Adapters. How strongly it acts is said by `set_ip_adapter_scale`. Its embeddings
        are those of `use_identity_encoder`, the embedded encoder's by default; adapters of others want the encoder that
        they were trained with.

        Args:
            source: "mini" for the embedded base's own, a file, a folder, or a hub id.
            weight_name: of the file in the folder or on the hub.

        Raises:
            ConfigError: there is no such file, or it is no adapter of this kind for this base; the pipeline is
                unchanged then, as it is below.
            BaseNotFoundError: it cannot be downloaded.
            RuntimeError: a LoRA comes with it, or goes with the one before, and a style is loaded.
        """
        path = find_adapter(source, weight_name)
        adapter = load_adapter(path)
        check_adapter(adapter, self.unet, str(path))
        if has_lora(adapter) or self._has_faceid_lora():
            self._require_no_style("load_identity_adapter")
        if self.unet.encoder_hid_proj is not None:
            self.unload_ip_adapter()
        self.load_ip_adapter(adapter, subfolder="", weight_name="", image_encoder_folder=None)

    def enable_xformers_memory_efficient_attention(self, attention_op: Any = None) -> None:
        """Compute attention with xformers; where it cannot run, warn with the reason and go on with torch's own."""
        try:
            super().enable_xformers_memory_efficient_attention(attention_op)
        except (ImportError, ValueError, RuntimeError) as error:
            warnings.warn(f"attention stays with torch's own; xformers cannot be used: {error}", stacklevel=2)

    def _load_imagery(self) -> Imagery | None:
        """What the loaded style asks of pictures; None where it does not keep its style image."""
        image = None if self._style is None else self._style.image
        if self._imagery is None and image is not None:
            device = self._execution_device
            encoder = place(load_identity_encoder(), device)
            chosen = None if self._identity_encoder is None else place(self._identity_encoder, device)
            self._imagery = Imagery(image.to(device), self.base.resolution, self.vae, encoder, chosen)
        return self._imagery

    def _keep_vae_precise(self) -> None:
        """Where the family's VAE overflows in float16, it computes in float32."""
        if self.vae.dtype is torch.float16 and not FAMILIES[self.base.family].has_half_vae:
            self.vae.to(torch.float32)

    def _require_no_style(self, action: str) -> None:
        """Refuse what a style in the modules would spoil; and note the base's fingerprint while it can be taken."""
        if self._style_model is not None:
            raise RuntimeError(f"{action}: a style is loaded; call unload_style() first, and load_style() afterwards")
        _ = self.base
