"""The fit under accelerate: one and two processes, equal replicas, and kill -9 with resume to the same bytes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from acfun.style import Style
from tests.tiny import save_tiny_checkpoint

ROOT = Path(__file__).parents[2]
MAX_STEPS, LONG_STEPS = 5, 40
CONFIG = f"""
framing = "whole"
identity_weight = 0
checkpoint_every = 2
max_steps = {MAX_STEPS}
"""
# Every rank saves what it has fitted.
SAVE_EACH_RANK = """
import sys
from pathlib import Path
from accelerate import PartialState
from acfun.config import FitConfig, load_config
from acfun.fit import fit_style
state = PartialState(cpu=True)
style = fit_style(load_config(FitConfig, Path(sys.argv[1]), {"device": "cpu"}))
style.save(Path(sys.argv[2]) / f"rank{state.process_index}.safetensors")
"""
# AFun has dropout, which each process draws for itself.
WRITE_LOSSES = """
import json, sys
from pathlib import Path
from accelerate import PartialState
from acfun.config import FitConfig, load_config
from acfun.fit import fit_style
state = PartialState(cpu=True)
batch_size = 4 // state.num_processes
options = {"device": "cpu", "batch_size": batch_size, "use_afun": False, "objective": "two_target"}
losses = []
style = fit_style(load_config(FitConfig, Path(sys.argv[1]), options), report=lambda part: losses.append(part.losses))
if state.is_main_process:
    (Path(sys.argv[2]) / f"losses{state.num_processes}.json").write_text(json.dumps(losses))
    style.save(Path(sys.argv[2]) / f"style{state.num_processes}.safetensors")
"""
KILL_AT_STEP = """
import os, sys
from pathlib import Path
from acfun.config import FitConfig, load_config
from acfun.fit import fit_style
def report(progress):
    if progress.step == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
fit_style(load_config(FitConfig, Path(sys.argv[1]), {"device": "cpu"}), report=report)
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file whose base and pictures lie beside it; the run folder is given by each test."""
    directory = tmp_path_factory.mktemp("fit")
    save_tiny_checkpoint(directory / "base")
    for seed, name in enumerate(("style", "photo", "other")):
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(directory / f"{name}.png")
    paths = f'base = "{directory}/base"\nstyle_path = "{directory}/style.png"\n'
    faces = f'face_paths = ["{directory}/photo.png", "{directory}/other.png"]\n'
    path = directory / "fit.toml"
    path.write_text(paths + faces + CONFIG, encoding="utf-8")
    return path


def add_run_dir(config: Path, directory: Path, max_steps: int = MAX_STEPS) -> Path:
    directory.mkdir(exist_ok=True)
    text = config.read_text(encoding="utf-8").replace(f"max_steps = {MAX_STEPS}", f"max_steps = {max_steps}")
    path = directory / "fit.toml"
    path.write_text(f'{text}output_dir = "{directory}/run"\n', encoding="utf-8")
    return path


def run(*arguments: object, expected: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == expected, done.stderr
    return done


def launch(num_processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kind = "--multi_gpu" if num_processes > 1 else "--cpu"  # the launcher of several processes, on the CPU too
    options = (kind, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no")
    processes = ("--num_processes", num_processes, "--main_process_port", port, "--num_cpu_threads_per_process", 1)
    return run("-m", "accelerate.commands.launch", *options, *processes, *arguments)


def test_two_processes_give_equal_replicas(config: Path, tmp_path: Path) -> None:
    script = tmp_path / "save_each_rank.py"
    script.write_text(SAVE_EACH_RANK, encoding="utf-8")
    launch(2, script, add_run_dir(config, tmp_path), tmp_path)
    first, second = ((tmp_path / f"rank{rank}.safetensors").read_bytes() for rank in (0, 1))
    assert first == second


def test_one_and_two_processes_fit_alike_with_the_same_batch(config: Path, tmp_path: Path) -> None:
    script = tmp_path / "write_losses.py"
    script.write_text(WRITE_LOSSES, encoding="utf-8")
    for num_processes in (1, 2):
        launch(num_processes, script, add_run_dir(config, tmp_path / str(num_processes)), tmp_path)
    one, two = (json.loads((tmp_path / f"losses{count}.json").read_text(encoding="utf-8")) for count in (1, 2))
    assert len(one) == len(two) == MAX_STEPS
    for first, second in zip(one, two, strict=True):
        assert first == pytest.approx(second, rel=1e-5)
    styles = [Style.load(tmp_path / f"style{count}.safetensors").tensors for count in (1, 2)]
    for name, tensor in styles[0].items():
        torch.testing.assert_close(tensor, styles[1][name], rtol=1e-3, atol=1e-5)


def test_the_script_on_two_processes_saves_once(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "style.safetensors"
    done = launch(2, "train/fit_style.py", "--config", add_run_dir(config, tmp_path), "--output", output)
    assert done.stdout.count(str(output)) == 1
    assert "2 process(es) on cpu" in done.stderr
    assert Style.load(output).tensors


def test_killed_and_resumed_gives_the_undisturbed_bytes(config: Path, tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    whole, cut = undisturbed / "style.safetensors", killed / "style.safetensors"
    own = add_run_dir(config, undisturbed)
    done = launch(1, "train/fit_style.py", "--config", own, "--output", whole)
    assert str(whole) in done.stdout
    assert {"config.toml", "fit.safetensors"} <= {path.name for path in (undisturbed / "run").iterdir()}
    own = add_run_dir(config, killed)
    run("-c", KILL_AT_STEP, own, 3, expected=-signal.SIGKILL)
    assert not cut.exists()
    run("train/fit_style.py", "--config", own, "--output", cut, "--resume")
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_killed_at_ten_random_steps(config: Path, tmp_path: Path) -> None:
    steps = random.Random(0).sample(range(1, LONG_STEPS), 10)
    whole = tmp_path / "whole.safetensors"
    run("train/fit_style.py", "--config", add_run_dir(config, tmp_path / "whole", LONG_STEPS), "--output", whole)
    for step in steps:
        own, cut = add_run_dir(config, tmp_path / f"killed_{step}", LONG_STEPS), tmp_path / f"{step}.safetensors"
        run("-c", KILL_AT_STEP, own, step, expected=-signal.SIGKILL)
        run("train/fit_style.py", "--config", own, "--output", cut, "--resume")
        assert cut.read_bytes() == whole.read_bytes(), f"killed at step {step}"


def test_errors_are_messages(tmp_path: Path) -> None:
    done = run("train/fit_style.py", "--style", tmp_path / "none.png", "--output", tmp_path / "style.png", expected=1)
    assert "style.png" in done.stderr
    assert "Traceback" not in done.stderr
    options = ("--output", tmp_path / "style.safetensors", "--base", "no/such/base", "--run-dir", tmp_path / "run")
    done = run("train/fit_style.py", "--style", tmp_path / "none.png", *options, expected=1)
    assert "none.png: there is no such file" in done.stderr
    assert not (tmp_path / "run").exists()
