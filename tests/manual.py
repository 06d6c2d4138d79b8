"""What docs/TROUBLESHOOTING.md says, held against the messages themselves."""

import re
from pathlib import Path

TROUBLESHOOTING = Path(__file__).parents[1] / "docs" / "TROUBLESHOOTING.md"


def require_documented(error: Exception, folder: Path) -> None:
    """The message, with the test's folder written as /models, stands in the manual."""
    message = re.sub(r"\s+", " ", str(error).replace(str(folder), "/models"))
    manual = re.sub(r"\s+", " ", TROUBLESHOOTING.read_text(encoding="utf-8"))
    assert message in manual, f"docs/TROUBLESHOOTING.md lacks: {message}"
