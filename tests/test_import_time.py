"""`import acfun` costs next to nothing; everything heavy is loaded when it is used."""

import subprocess
import sys

import pytest

import acfun

MAX_SECONDS = 0.3
SCRIPT = """
import sys, time
start = time.perf_counter()
import acfun
print(time.perf_counter() - start)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def run_import() -> tuple[float, set[str]]:
    """Seconds and loaded top packages of `import acfun` in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    seconds, modules = result.stdout.splitlines()
    return float(seconds), set(modules.split())


def test_import_is_fast_and_light() -> None:
    runs = [run_import() for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < MAX_SECONDS
    heavy = {"torch", "diffusers", "transformers", "numpy", "PIL", "scipy", "skimage", "typer"}
    assert not heavy & runs[0][1]


def test_light_names_load_no_torch() -> None:
    script = "import sys, acfun; acfun.FitConfig; acfun.__version__; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_names_are_those_of_their_modules() -> None:
    from acfun.config import FitConfig
    from acfun.images import load_image

    assert acfun.FitConfig is FitConfig
    assert acfun.load_image is load_image
    assert isinstance(acfun.__version__, str)
    assert set(acfun.__all__) <= set(dir(acfun))


def test_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'fitstyle'.*fit_style"):
        acfun.fitstyle  # noqa: B018
