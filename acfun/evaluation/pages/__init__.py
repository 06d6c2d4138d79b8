"""Pages of a report: templates, and filling them; a filled page needs no other file and no network."""

import base64
import re
from io import BytesIO
from pathlib import Path

from PIL import Image

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
JPEG_QUALITY = 88


def fill_page(name: str, **parts: str) -> str:
    """A template with its placeholders `{{part}}` replaced by HTML; `style` is the common style sheet.

    Raises:
        KeyError: a part is missing.
    """
    parts["style"] = read_page("page.css")
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], read_page(name))


def read_page(name: str) -> str:
    """Text of a file in this folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8").rstrip()


def embed_image(image: Image.Image) -> str:
    """A picture as a data URI, JPEG."""
    buffer = BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
