"""The model card of a style: what it is, what it was fitted with, and how to use it, as the hub reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import ModelCardData

from acfun.base.families import FAMILIES
from acfun.base.sources import MINI, is_repo_id
from acfun.config_fields import select_fields
from acfun.paths import atomic_write

CARD_NAME, SAMPLE_NAME = "README.md", "samples.png"
UNSPECIFIED = "unspecified"
# A card with this line is written anew; without it, it is the user's own.
MARK = "<!-- Written by acfun, and written anew with the next export; take this line out to keep your changes. -->"
# The hub's names of the usual licences; others are "other", with a name.
LICENCES = (
    "apache-2.0",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "creativeml-openrail-m",
    "mit",
    "openrail",
    "openrail++",
)
# Fields of a fit's config that name files, or that say where it was computed.
_HIDDEN = select_fields("base", "image_encoder", "face_model", "painting", "device")
_MODEL_KEYS = select_fields("base", "image_encoder")


@dataclass(frozen=True, kw_only=True)
class CardFiles:
    """What lies beside a card.

    Attributes:
        style: name of the style file; None where there is none.
        lora: name of the exported LoRA, likewise.
        embedding: name of the exported textual inversion, likewise.
        layout: of the exports.
        kept: share of the style that they keep, at most 1; None without them.
        sample: name of the sample sheet, likewise.
    """

    style: str | None = None
    lora: str | None = None
    embedding: str | None = None
    layout: Literal["diffusers", "kohya"] = "diffusers"
    kept: float | None = None
    sample: str | None = None


def build_model_card(
    described: Mapping[str, Any],
    files: CardFiles,
    *,
    title: str,
    licence: str | None = None,
    repo_id: str | None = None,
) -> str:
    """Front matter and text of a style's card.

    Args:
        described: `Style.describe()`.
        files: what lies beside the card.
        title: of the card.
        licence: terms of the style, best as one of `LICENCES`; None takes what the style file says.
        repo_id: where on the hub the files will be; None: in a folder.
    """
    terms = licence or described["licence"]
    sections = [
        f"---\n{_build_front_matter(described, files, terms)}\n---",
        MARK,
        f"# {title}",
        _introduce(described),
        "## Samples\n\n" + _show_sample(files),
        *([_explain_acfun(described, files.style, repo_id)] if files.style else []),
        *([_explain_exports(described, files, repo_id)] if files.lora or files.embedding else []),
        "## How it was made\n\n" + _list_settings(described),
        f"## Consent and terms\n\n{_state_terms(terms)}",
    ]
    return "\n\n".join(sections) + "\n"


def write_model_card(directory: Path, text: str) -> Path | None:
    """Write a card into a folder; a README.md there that acfun did not write, or that a user took over, stays: None."""
    path = directory / CARD_NAME
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return None
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def find_base_model(base_name: str) -> str | None:
    """The hub id of a base; None for the embedded one, and for folders and files."""
    family = FAMILIES.get(base_name)
    if family is not None:
        return family.repo_id
    return base_name if is_repo_id(base_name) and not Path(base_name).exists() else None


def hide_paths(values: Any) -> Any:
    """A config, or one of a blend, with the paths of models cut down to their last names."""
    if isinstance(values, list):
        return [hide_paths(value) for value in values]
    if not isinstance(values, dict):
        return values
    return {
        name: hide_path(value) if name in _MODEL_KEYS and isinstance(value, str) else hide_paths(value)
        for name, value in values.items()
    }


def hide_path(name: str) -> str:
    """A model's name as it may be published: a hub id or a word stays, of a path the last part."""
    return name if name in FAMILIES or find_base_model(name) else Path(name).name


def name_prompt(described: Mapping[str, Any], word: str | None = None) -> str:
    """A prompt that asks for the style, with another word than its own where one is given."""
    subject = described["config"].get("face_description") or "a person"
    placeholder = described["placeholder"] and (word or described["placeholder"])
    return f"a painting of {subject}" + (f" in {placeholder} style" if placeholder else "")


def _build_front_matter(described: Mapping[str, Any], files: CardFiles, terms: str) -> str:
    exports = {"lora": files.lora, "textual-inversion": files.embedding}
    known: dict[str, Any] = {"license": terms.lower()} if terms.lower() in LICENCES else {}
    if not known and terms != UNSPECIFIED:
        known = {"license": "other", "license_name": terms}
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag="image-to-image" if files.style else "text-to-image",
        tags=["acfun", "face-stylization", "style", *(tag for tag, name in exports.items() if name)],
        base_model=find_base_model(described["base_name"]),
        instance_prompt=name_prompt(described),
        **known,
    )
    return str(data.to_yaml()).strip()


def _introduce(described: Mapping[str, Any]) -> str:
    name, fingerprint = hide_path(described["base_name"]), described["base_fingerprint"]
    embedded = ", which comes with acfun" if name == MINI else ""
    config = described["config"]
    origin = "fitted to one picture with acfun"
    if "blended_from" in config:
        origin = f"blended from {len(config['blended_from'])} others with acfun"
    elif "imported_from" in config:
        origin = "made of a LoRA with acfun"
    return (
        f"A style for portraits, {origin}, which does one-shot face stylization.\n\n"
        f"It belongs to the base `{name}`{embedded} (family `{described['family']}`), fingerprint\n`{fingerprint}`.\n"
        "acfun refuses another base; other programs do not, and give something else there."
    )


def _show_sample(files: CardFiles) -> str:
    if files.sample:
        return f"Before, the style's picture, after:\n\n![Before, style and after]({files.sample})"
    return "None yet. `acfun stylize … --sheet sheet.png` makes a sheet, `--sample sheet.png` puts it here."


def _explain_acfun(described: Mapping[str, Any], style: str, repo_id: str | None) -> str:
    fetched = f"    hf download {repo_id} {style} --local-dir .\n" if repo_id else ""
    base = "" if described["base_name"] == MINI or find_base_model(described["base_name"]) else " --base PATH"
    prompt = described["config"].get("face_description") or "a person"
    return (
        "## With acfun\n\n"
        f"{fetched}    acfun apply {style} photo.jpg --output painted/{base}\n"
        f'    acfun generate "a painting of {prompt}" --style {style} --output picture.png{base}\n\n'
        "Or from Python:\n\n```python\nimport acfun\n\n"
        f"style = acfun.Style.load({style!r})\n"
        f"pipe = acfun.build_pipeline(acfun.load_base({_locate_base(described)!r}, image_encoder=None))\n"
        "pipe.load_style(style)\n```"
    )


def _explain_exports(described: Mapping[str, Any], files: CardFiles, repo_id: str | None) -> str:
    kept = "" if files.kept is None else f"\n\nOf what the style changes, these files keep {files.kept:.0%}."
    if files.layout == "kohya":
        word = Path(files.embedding).stem if files.embedding else None
        lora = f" <lora:{Path(files.lora).stem}:1>" if files.lora else ""
        places = {"folder of LoRAs": files.lora, "folder of embeddings": files.embedding}
        listed = "\n".join(f"- `{name}` into the {place};" for place, name in places.items() if name)
        text = (
            f"## With A1111, ComfyUI and kohya's scripts\n\n{listed}\n- prompt: `{name_prompt(described, word)}{lora}`."
        )
    else:
        text = f"## With diffusers alone\n\n```python\n{_write_code(described, files, repo_id)}\n```"
    return text + kept


def _write_code(described: Mapping[str, Any], files: CardFiles, repo_id: str | None) -> str:
    """Python that loads the exports into the family's own pipeline; run by the tests."""
    family, word = FAMILIES[described["family"]], described["placeholder"]
    base = _locate_base(described)
    lines = [f"from diffusers import {family.diffusers_pipeline}", ""]
    lines += [f"files = {repo_id or '.'!r}", f"pipe = {family.diffusers_pipeline}.from_pretrained({base!r})"]
    if described["base_name"] == MINI:
        lines[0] = f"from acfun.paths import mini_dir\n{lines[0]}"
        lines[-1] = f"pipe = {family.diffusers_pipeline}.from_pretrained(mini_dir())"
    if files.lora:
        lines.append(f"pipe.load_lora_weights(files, weight_name={files.lora!r})")
    if files.embedding and family.word_names:
        path = f"hf_hub_download(files, {files.embedding!r})" if repo_id else f"f'{{files}}/{files.embedding}'"
        lines[0] += "\nfrom safetensors.torch import load_file"
        lines[0] += "\nfrom huggingface_hub import hf_hub_download" if repo_id else ""
        lines.append(f"words = load_file({path})")
        for name, (encoder, tokenizer) in zip(family.word_names, family.text_parts, strict=True):
            parts = f"text_encoder=pipe.{encoder}, tokenizer=pipe.{tokenizer}"
            lines.append(f"pipe.load_textual_inversion(words[{name!r}], token={word!r}, {parts})")
    elif files.embedding:
        lines.append(f"pipe.load_textual_inversion(files, weight_name={files.embedding!r}, token={word!r})")
    return "\n".join([*lines, f"picture = pipe({name_prompt(described)!r}).images[0]"])


def _locate_base(described: Mapping[str, Any]) -> str:
    """The base as code names it: the hub's id, the word of the embedded one, else a path that the reader fills in."""
    name = described["base_name"]
    return name if name == MINI else find_base_model(name) or f"path/to/{Path(name).name}"


def _list_settings(described: Mapping[str, Any]) -> str:
    config = described["config"]
    rows = {name: value for name, value in config.items() if name not in _HIDDEN and not _is_nested(value)}
    if "blended_from" in config:
        rows["blended_from"] = ", ".join(f"{part['weight']:g}" for part in config["blended_from"])
    rows |= {"acfun": described["acfun_version"], "values": described["total_values"]}
    lines = [f"| {name} | {_escape(value)} |" for name, value in sorted(rows.items())]
    return "\n".join(["| setting | value |", "|---|---|", *lines])


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, dict) for part in value))


def _escape(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"`{text}`".replace("|", "\\|").replace("\n", " ")


def _state_terms(terms: str) -> str:
    known = "No terms are stated: ask whoever made the style." if terms == UNSPECIFIED else f"Terms: {terms}."
    return (
        f"{known} The terms of the base hold besides.\n\n"
        "Paint people who agree to it. Do not pass results off as the work of the artist whose picture the style was\n"
        "fitted to, and say that they were made by a machine where that is not plain."
    )
