"""The style file: one safetensors with a style's tensors and, as plain strings, what is needed to use it."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from acfun import __version__
from acfun.base import Base
from acfun.errors import BaseFamilyMismatchError, ConfigError, ImageError, StyleFileError, StyleWriteError
from acfun.hub import STYLE_NAME, add_card, push_folder
from acfun.model_card import CardFiles, hide_path, hide_paths
from acfun.paths import atomic_write
from acfun.portrait import StyleImage
from acfun.style_architecture import StyleArchitecture
from acfun.style_blend import Part, blend_parts
from acfun.style_file import FORMAT, FORMAT_VERSION, read_metadata, sort_header, to_json
from acfun.style_model import StyleModel, build_style_model

_IMAGE = "image."
# Of a config, what `repr` has room for.
SHOWN_OPTIONS = ("style_path", "imported_from", "objective", "steps_done", "max_steps")


@dataclass(frozen=True, repr=False)
class Style:
    """A fitted style, detached from any base.

    Attributes:
        tensors: named by part and module path ("token.offset", "afun.…", "style_embeds", "image.…"), on the CPU.
        metadata: strings under `acfun.style_file.REQUIRED_KEYS`; "architecture" and "config" are JSON.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @classmethod
    def from_model(
        cls,
        model: StyleModel,
        base: Base,
        *,
        image: StyleImage | None = None,
        config: Mapping[str, Any] | None = None,
        licence: str = "unspecified",
    ) -> Self:
        """Copies the style out of `model`, which stands in `base` and stays as it is.

        Args:
            model: a fitted style model.
            base: what the model was built on; its family, name and fingerprint are noted.
            image: the style image, small, for the guidance of sampling; without it there is none.
            config: options of the fit, for the record; anything that JSON can hold.
            licence: under which terms the style may be used, for instance those of the style image.
        """
        parts = {} if image is None else image.to_tensors()
        return cls(
            tensors=model.style_tensors() | {f"{_IMAGE}{name}": tensor for name, tensor in parts.items()},
            metadata={
                "format": FORMAT,
                "format_version": str(FORMAT_VERSION),
                "acfun_version": __version__,
                "family": base.family,
                "base_name": base.name,
                "base_fingerprint": base.fingerprint,
                "placeholder": model.architecture.placeholder or "",
                "architecture": to_json(model.architecture.to_dict()),
                "config": to_json(dict(config or {})),
                "licence": licence,
            },
        )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads a style file; the header is checked before any tensor is read.

        Raises:
            StyleFileError: the file is missing, empty, damaged, no style, or of a newer format.
        """
        path = Path(path)
        metadata = read_metadata(path)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise StyleFileError(f"{path} is damaged or cut off ({error}): copy or fit it again") from error
        return cls(tensors=tensors, metadata=metadata)

    @classmethod
    def blend(cls, parts: Sequence[tuple["Style", float]]) -> Self:
        """The weighted mean of styles of one base; the weights sum to 1.

        Styles of one architecture should have been fitted from the same initial weights (the same seed). LoRAs that
        have nothing in common, imported ones too, are kept side by side (`acfun.style_blend`). The style image, which
        guides sampling, is that of the heaviest part that has one.

        Raises:
            ValueError: no part, or weights that do not sum to 1.
            StyleFileError: the architectures have nothing in common.
            BaseFamilyMismatchError: the bases differ.
        """
        weights = [weight for _, weight in parts]
        if not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
            raise ValueError(f"blend weights {weights} sum to {sum(weights):g}: divide each by their sum")
        first = parts[0][0]
        for other, _ in parts[1:]:
            _check_bases(first, other)
        architecture, tensors = blend_parts(
            [Part(style.architecture, style.fitted_tensors, weight) for style, weight in parts]
        )
        heaviest = max(parts, key=lambda part: (part[0].image is not None, part[1]))[0]
        tensors |= {name: tensor for name, tensor in heaviest.tensors.items() if name.startswith(_IMAGE)}
        blended_from = [{"config": style.config, "weight": weight} for style, weight in parts]
        licences = sorted({style.metadata["licence"] for style, _ in parts})
        own = {
            "architecture": to_json(architecture.to_dict()),
            "placeholder": architecture.placeholder or "",
            "config": to_json({"blended_from": blended_from, "base_config": first.config.get("base_config")}),
            "licence": " AND ".join(licences),
        }
        return cls(tensors=tensors, metadata=first.metadata | own)

    def __repr__(self) -> str:
        """Base, sizes and how it came about, without the values."""
        try:
            config = self.config
        except StyleFileError:
            config = {}
        shown = {name: config[name] for name in SHOWN_OPTIONS if name in config}
        options = "".join(f", {name}={value!r}" for name, value in shown.items())
        count = sum(tensor.numel() for tensor in self.tensors.values())
        return f"{type(self).__name__}(base={self.metadata['base_name']!r}{options}, {count} values)"

    @property
    def architecture(self) -> StyleArchitecture:
        """How to build the model that the tensors belong to.

        Raises:
            StyleFileError: this version of acfun cannot build it.
        """
        values = self._parse("architecture")
        try:
            return StyleArchitecture.from_dict(values)
        except (TypeError, KeyError, ConfigError) as error:
            raise StyleFileError(f"unknown architecture {values} ({error}): update acfun, or fit again") from error

    @property
    def config(self) -> dict[str, Any]:
        """Options of the fit, as they were noted."""
        return self._parse("config")

    @property
    def fitted_tensors(self) -> dict[str, Tensor]:
        """The tensors without the style image."""
        return {name: tensor for name, tensor in self.tensors.items() if not name.startswith(_IMAGE)}

    @cached_property
    def image(self) -> StyleImage | None:
        """The style image as the fit saw it, small; None where the style has none.

        Raises:
            StyleFileError: it is damaged.
        """
        parts = {name[len(_IMAGE) :]: tensor for name, tensor in self.tensors.items() if name.startswith(_IMAGE)}
        try:
            return StyleImage.from_tensors(parts)
        except ImageError as error:
            raise StyleFileError(f"the style's picture is damaged ({error}): copy or fit the style again") from error

    def round_to_half(self) -> Self:
        """The style with values that float16 holds, so that its file is half as large and still exact."""
        rounded = {
            n: tensor.half().float() if tensor.is_floating_point() else tensor for n, tensor in self.tensors.items()
        }
        return replace(self, tensors=rounded)

    def save(self, path: Path | str, *, dtype: torch.dtype | None = None) -> None:
        """Writes the style file atomically; equal styles give byte-identical files.

        Args:
            path: where to; its folder exists.
            dtype: of the tensors in the file, except packed pictures: float32, or float16 for half the size;
                None: float16 where it is exact.

        Raises:
            StyleFileError: a tensor is not finite in that dtype; nothing is written then.
            StyleWriteError: the folder is missing, full, or not to be written to.
        """
        if dtype is None:
            is_exact = all(torch.equal(t, t.half().to(t.dtype)) for t in self.tensors.values() if t.is_floating_point())
            dtype = torch.float16 if is_exact else torch.float32
        tensors = {}
        for name in sorted(self.tensors):
            tensor = self.tensors[name].contiguous()
            tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
            if not tensors[name].isfinite().all():
                raise StyleFileError(f"{name} has values that are not finite in {dtype}: fit the style again")
        content = sort_header(to_safetensors(tensors, self.metadata))
        try:
            with atomic_write(Path(path)) as temporary_path:
                Path(temporary_path).write_bytes(content)
        except OSError as error:
            raise StyleWriteError(
                f"{path}: the style cannot be written ({error.strerror}); make room there, or give another place"
            ) from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        licence: str | None = None,
        exports: Path | None = None,
        files: CardFiles | None = None,
    ) -> str:
        """Upload the style, as style.safetensors, and its model card; the token is the one huggingface_hub finds.

        Of models that lie on this machine the uploaded file names the last part of the path only.

        Args:
            repo_id: "user/name"; made if need be.
            private: whether a new repository is private; None: as the account has it by default.
            licence: terms, noted in file and card; None keeps those of the style.
            exports: folder whose files are uploaded too, such as exports and the card's sample.
            files: what of them the card explains.

        Returns:
            The address of the repository.

        Raises:
            HubError: no token, no rights, no such place, or no network.
        """
        published = self._hide_paths(licence)
        with TemporaryDirectory() as directory:
            folder = Path(directory)
            published.save(folder / STYLE_NAME)
            add_card(folder, published.describe(), repo_id, exports, files or CardFiles())
            return push_folder(folder, repo_id, private=private)

    def check_base(self, base: Base) -> None:
        """Refuses a base that the style was not made for.

        Raises:
            BaseFamilyMismatchError: another family, or another checkpoint of the same family.
        """
        name, family, fingerprint = (self.metadata[key] for key in ("base_name", "family", "base_fingerprint"))
        if (family, fingerprint) != (base.family, base.fingerprint):
            is_rounded = family == base.family and base.dtype is torch.bfloat16
            hint = (
                "; weights loaded in bfloat16 cannot be told: load them in float32, then move them"
                if is_rounded
                else ""
            )
            raise BaseFamilyMismatchError(
                f"the style was made for base {name!r} ({family}, {fingerprint[:12]}), not for {base.name!r} "
                f"({base.family}, {base.fingerprint[:12]}): load that base, or fit the style on this one{hint}",
            )

    def apply_to(self, base: Base) -> StyleModel:
        """Puts the style into `base`; `eject()` of the result takes it out again.

        Raises:
            BaseFamilyMismatchError: the style was made for another base.
            StyleFileError: the tensors are not those of the architecture; `base` is unchanged then.
        """
        self.check_base(base)
        architecture = self.architecture
        if "style_embeds" not in self.tensors:
            raise StyleFileError("the style has no style_embeds: it is damaged, fit it again")
        model = build_style_model(
            base,
            self.tensors["style_embeds"],
            afun=architecture.afun,
            cfun=architecture.cfun,
            placeholder=architecture.placeholder,
            initializer_word=architecture.initializer_word,
            num_vectors=architecture.num_vectors,
            generator=torch.Generator(),  # overwritten below, so the global generator need not move
        )
        try:
            model.load_style_tensors(self.fitted_tensors)
        except StyleFileError:
            model.eject()
            raise
        return model

    def describe(self) -> dict[str, Any]:
        """The metadata and the numbers of values by part, as plain values."""
        described = self.metadata | {"architecture": self.architecture.to_dict(), "config": self.config}
        num_values: dict[str, int] = {}
        for name, tensor in self.tensors.items():
            part = name.split(".")[0]
            num_values[part] = num_values.get(part, 0) + tensor.numel()
        return described | {"num_values": num_values, "total_values": sum(num_values.values())}

    def _hide_paths(self, licence: str | None) -> Self:
        """The style as it may be published."""
        own = {"base_name": hide_path(self.metadata["base_name"]), "config": to_json(hide_paths(self.config))}
        return replace(self, metadata=self.metadata | own | ({} if licence is None else {"licence": licence}))

    def _parse(self, key: str) -> dict[str, Any]:
        try:
            values = json.loads(self.metadata[key])
        except json.JSONDecodeError as error:
            raise StyleFileError(f"the style's {key} is damaged ({error}): copy or fit it again") from error
        if not isinstance(values, dict):
            raise StyleFileError(f"the style's {key} is {values!r}, not a table: copy or fit it again")
        return values


def _check_bases(first: Style, other: Style) -> None:
    for key in ("family", "base_fingerprint"):
        if first.metadata[key] != other.metadata[key]:
            raise BaseFamilyMismatchError(
                f"cannot blend styles whose {key} is {first.metadata[key]!r} and {other.metadata[key]!r}: "
                "fit both on one base",
            )
