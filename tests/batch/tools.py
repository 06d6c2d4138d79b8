"""Rows of a manifest, made up."""

from datetime import UTC, datetime
from typing import Any

from acfun.batch.ledger import Entry
from acfun.batch.photos import Photo

MADE_BY = {"style_sha256": "1" * 64, "settings_sha256": "2" * 64}


def describe(photo: Photo, **fields: Any) -> Entry:
    """The entry of a painted photograph, or of what the fields say."""
    known = {"path": photo.url, "size": photo.size, "modified": photo.modified, "finished": datetime.now(UTC)}
    return Entry(**{**known, **MADE_BY, "status": "painted", "outputs": [photo.output], **fields})
