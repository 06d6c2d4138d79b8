"""`acfun doctor`: whether this machine and this installation can do the work."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from acfun.commands import options
from acfun.commands.session import Session

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


Faces = Annotated[
    str | None, typer.Option(help="Also check a pack of face models, a folder, or an ArcFace-type *.onnx.")
]


def doctor(*, faces: Faces = None, as_json: options.AsJson = False) -> None:
    """Check versions, devices, optional libraries, the embedded base and the cache; exit code 1 on real problems."""
    from acfun.doctor import examine

    checks = examine(faces)
    has_problem = any(check.status == "problem" for check in checks)
    if as_json:
        Session(as_json=True).finish({"is_healthy": not has_problem, "checks": [asdict(check) for check in checks]}, "")
    else:
        console = Console()
        for check in checks:
            console.print(
                Text(f"{check.status:8}", COLOURS[check.status]), f"{check.name}: {check.detail}", soft_wrap=True
            )
            if check.remedy:
                console.print(f"         → {check.remedy}", soft_wrap=True, markup=False)
    if has_problem:
        raise typer.Exit(1)
