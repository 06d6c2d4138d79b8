"""How the embedded networks of faces are kept: `config.json` and `model.safetensors` in a folder."""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from acfun.errors import BaseNotFoundError
from acfun.paths import atomic_write

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class StoredModule(nn.Module):
    """A module that is built from its `config` and saved with it.

    Attributes:
        kind: what it is, in words.
        script: that trains one.
        config: keyword arguments of its constructor.
    """

    kind: ClassVar[str]
    script: ClassVar[str]
    config: dict[str, Any]

    def save_pretrained(self, directory: str | Path, *, safe_serialization: bool = True) -> None:
        """Write the configuration and the weights, in the dtype they have, into a folder.

        Args:
            directory: created.
            safe_serialization: there is no other format; the argument keeps the call that all models share.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        content = {"_class_name": type(self).__name__, **self.config}
        with atomic_write(folder / CONFIG_FILE) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with atomic_write(folder / WEIGHTS_FILE) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Read one in float32, in evaluation mode.

        Raises:
            BaseNotFoundError: the folder does not hold one.
        """
        try:
            return cls.read(Path(directory))
        except ValueError as error:
            raise BaseNotFoundError(
                f"{error}: it holds no {cls.kind}; train one with {cls.script} or reinstall acfun with its embedded "
                "base"
            ) from error

    @classmethod
    def read(cls, folder: Path) -> Self:
        """As `from_pretrained`, for folders of the user's own.

        Raises:
            ValueError: what is wrong with the folder; it lacks a file, is of another kind, or damaged.
        """
        missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{folder} has no {' and no '.join(missing)}")
        try:
            content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            tensors = load_file(folder / WEIGHTS_FILE)
        except (ValueError, SafetensorError) as error:
            raise ValueError(f"{folder} has files that are damaged ({error})") from error
        found = content.get("_class_name") if isinstance(content, dict) else content
        if found != cls.__name__:
            raise ValueError(f"{folder} has a {CONFIG_FILE} of class {found!r}, not {cls.__name__!r}")
        try:
            with torch.random.fork_rng(devices=[]):  # the initial weights, soon replaced, are not of a seeded fit
                module = cls(**{name: value for name, value in content.items() if not name.startswith("_")})
            module.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()})
        except (TypeError, RuntimeError) as error:
            reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # of torch's, the first mismatch
            raise ValueError(f"{folder} has a {CONFIG_FILE} and weights that do not fit ({reason})") from error
        return module.eval()
