"""`acfun show`: what a style file says about itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from acfun.commands import options
from acfun.commands.session import Session


def show(
    style: Annotated[Path, typer.Argument(help="Style file.")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Print a style file's metadata and sizes."""
    from acfun.style import Style

    loaded = Style.load(style)
    described = loaded.describe() | {"file": str(style), "bytes": style.stat().st_size}
    if "steps_done" in loaded.config:
        described["partial"] = f"{loaded.config['steps_done']} of {loaded.config['max_steps']} steps were done"
    Session(as_json=as_json).finish(described, "\n".join(_list_values(described)))


def _list_values(values: dict[str, Any], indent: str = "") -> list[str]:
    """One "name: value" line each; tables are indented below their name."""
    lines = []
    for name, value in sorted(values.items()):
        if isinstance(value, dict) and value:
            lines += [f"{indent}{name}:", *_list_values(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
