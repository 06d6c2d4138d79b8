"""What a worker does: it holds a pipeline, and paints one photograph after the other."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from acfun.batch.ledger import Entry, Status, name_part, read_part, write_part
from acfun.batch.photos import MAX_BYTES, Photo
from acfun.batch.places import Folder
from acfun.commands.recording import MODEL_OPTIONS, RESULT_OPTIONS, record, save_results
from acfun.commands.session import Session, number_paths
from acfun.errors import ConfigError, ImageError, NoFaceFoundError
from acfun.face.detection import load_finder
from acfun.images import load_image
from acfun.manifest import Input
from acfun.photo import choose_faces, stylize
from acfun.style import Style

DEADLY = "the worker died while painting it: out of memory, or a crash; make it smaller, or save it in another format"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker on another machine has to know.

    Attributes:
        session: seed and device.
        options: of `acfun apply`.
        style_name: last part of the style file's path.
        style: the file's content.
        output: path or URL of the folder for the pictures and the manifest.
    """

    session: Session
    options: Mapping[str, Any]
    style_name: str
    style: bytes
    output: str

    @cached_property
    def made_by(self) -> dict[str, str]:
        """The columns of `Entry` that are the same for pictures that come out the same."""
        names = sorted({*RESULT_OPTIONS, *MODEL_OPTIONS, "no_manifest"})
        settings = {name: self.options.get(name) for name in names} | {"seed": self.session.seed}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        return {"style_sha256": hashlib.sha256(self.style).hexdigest(), "settings_sha256": digest.hexdigest()}


class Painter:
    """A pipeline with the style in it.

    Args:
        job: what to paint, and where to.

    Raises:
        AcfunError: of many kinds: style, base or face models cannot be used on this machine.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.folder = job, Folder.open(job.output)
        options, session = job.options, job.session
        with TemporaryDirectory() as directory:
            path = Path(directory) / job.style_name
            path.write_bytes(job.style)
            style = Style.load(path)
            base = session.load_style_base(style, options["base"], options["base_config"])
            self.manifest = record("apply", session, base, options, {"style": path})
        self.pipe = session.build_pipeline(base, style, options["identity_encoder"])
        detector = options["face_detector"]
        self.finder = None if detector is None else load_finder(detector, session.device)

    def paint_batch(self, photos: Sequence[Photo]) -> list[dict[str, Any]]:
        """Paint photographs and add them to the manifest; returns their rows.

        A batch that is in the manifest is not painted again. One that was begun before, by a worker that died of it,
        is painted one by one, and the photograph that a worker died of is given up.

        Raises:
            ConfigError: the output folder cannot be written to.
        """
        part = name_part(photos, self.job.made_by)
        try:
            done = read_part(self.folder, part)
            if done is not None:
                rows: list[dict[str, Any]] = done.to_pylist()
                return rows
            if not self.folder.begin(part):
                entries = [self.paint(photo) for photo in photos]
            elif len(photos) == 1:
                entries = [self._describe(photos[0], "failed", reason=DEADLY)]
            else:
                return [row for photo in photos for row in self.paint_batch([photo])]
            write_part(self.folder, part, entries)
        except OSError as error:
            raise ConfigError(f"{self.job.output} cannot be written to ({error}): make room, or check it") from error
        return [asdict(entry) for entry in entries]

    def paint(self, photo: Photo) -> Entry:
        """Paint a photograph, write its pictures, and say what became of it; nothing in it ends the run."""
        start = time.monotonic()
        digest: str | None = None
        outputs: list[str] = []
        status: Status = "painted"
        reason: str | None = None
        try:
            content = self._read(photo)
            digest = hashlib.sha256(content).hexdigest()
            outputs = self._write(photo, digest, self._stylize(photo, content))
        except (ImageError, NoFaceFoundError) as error:
            status, reason = "set_aside", str(error).removeprefix(f"{photo.name}: ")
        # A file of a million that a library stumbles over must not keep the others from being painted.
        except Exception as error:
            status, reason = "failed", f"{type(error).__name__}: {error}"
        return self._describe(
            photo, status, outputs=outputs, reason=reason, seconds=time.monotonic() - start, content_sha256=digest
        )

    def _describe(self, photo: Photo, status: Status, **found: Any) -> Entry:
        found |= {**self.job.made_by, "finished": datetime.now(UTC)}
        return Entry(path=photo.url, size=photo.size, modified=photo.modified, status=status, **found)

    def _read(self, photo: Photo) -> bytes:
        if photo.size > MAX_BYTES:
            raise ImageError(f"{photo.name}: {photo.size} bytes are more than {MAX_BYTES}; give a photograph")
        return photo.read()

    def _stylize(self, photo: Photo, content: bytes) -> list[Image.Image]:
        options = self.job.options
        image = load_image(photo.name, content)
        faces = choose_faces(image, options["faces"], self.finder)
        return stylize(self.pipe, image, faces, options["paint"], **self.job.session.build_sampling(options))

    def _write(self, photo: Photo, digest: str, pictures: Sequence[Image.Image]) -> list[str]:
        """Write pictures, each with its manifest, and return their paths in the output folder."""
        manifest, own = self.manifest, Input(Path(photo.name).name, digest)
        if manifest is not None:
            manifest = replace(manifest, inputs={"photo": own, **manifest.inputs})
        names = [str(path) for path in number_paths(Path(photo.output), len(pictures))]
        with TemporaryDirectory() as directory:
            path = Path(directory) / Path(photo.output).name
            files = save_results(self.job.session, pictures, path, manifest)
            for name, file in zip(names, files, strict=True):
                self.folder.write(name, Path(file).read_bytes())
        return names
