"""`acfun apply` on a folder or URL: on several workers, with a manifest that a second run goes on from."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import Progress

from acfun.commands.recording import MODEL_OPTIONS, is_local
from acfun.commands.session import Session
from acfun.paths import is_url

if TYPE_CHECKING:
    from acfun.batch.cluster import Answer

BATCH_SIZE = 16


def apply_batch(
    session: Session,
    style: Path,
    sources: Sequence[str],
    output: str,
    options: Mapping[str, Any],
    *,
    workers: int | None,
    cluster: str | None,
    batch_size: int,
) -> None:
    """Paint what is not there yet; arguments are those of `apply`.

    Raises:
        MissingExtraError: Ray Data is not installed.
        ConfigError: the sources or the output folder cannot be used, or there is no cluster.
        StyleFileError: the style cannot be read.
    """
    from acfun.batch.cluster import paint_photos, require_ray

    require_ray()
    from acfun.batch.ledger import MANIFEST_NAME, iterate_rows, merge_parts
    from acfun.batch.painter import Job
    from acfun.batch.photos import find_current, list_photos, select_remaining
    from acfun.batch.places import Folder
    from acfun.style import Style

    Style.load(style)
    session.build_sampling(options)
    # Workers may stand in another folder.
    place = output if is_url(output) else str(Path(output).absolute())
    models = {role: str(Path(options[role]).absolute()) for role in MODEL_OPTIONS if is_local(options.get(role))}
    given = {**options, **models}
    job = Job(session=session, options=given, style_name=style.name, style=style.read_bytes(), output=place)
    photos = list_photos([source if is_url(source) else str(Path(source).absolute()) for source in sources], place)
    folder = Folder.open(place)
    rows = iterate_rows(merge_parts(folder))
    folder.delete_partial()
    remaining = select_remaining(photos, rows, job.made_by, set(folder.list_names()))
    session.say(f"{len(photos)} files, {len(photos) - len(remaining)} of them done before")
    if remaining:
        answers = paint_photos(job, remaining, batch_size=batch_size, workers=workers, cluster=cluster)
        report(session, answers, len(remaining))
        folder.delete_partial()
    rows = iterate_rows(merge_parts(folder))
    found = Counter(row["status"] for _, row in find_current(photos, rows, job.made_by))
    counts = {status: found[status] for status in ("painted", "set_aside", "failed")}
    manifest = f"{output.partition('?')[0] if is_url(output) else output}/{MANIFEST_NAME}"
    text = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)
    session.finish({"manifest": manifest, **counts}, f"{manifest}\n{text}")
    if counts["painted"] < len(photos):
        raise typer.Exit(1)


def report(session: Session, answers: "Iterable[Answer]", total: int) -> None:
    """Show how far a run is, and what cannot be painted."""
    with Progress(console=session.console, disable=session.quiet) as bar:
        task = bar.add_task("painting", total=total)
        for answer in answers:
            bar.advance(task)
            if answer.reason is not None:
                text = f"{answer.path}: {answer.reason}"
                bar.console.print(text, style="red", soft_wrap=True, markup=False, highlight=False)
