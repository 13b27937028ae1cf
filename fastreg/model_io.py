"""Models on disk: one .safetensors file with weights, optimizer state and configuration.

The configuration stands as JSON in the file's metadata; reading it runs no code. Of objects of
one's own it holds names and settings; whoever loads the model hands over the classes. The format is
that of https://github.com/huggingface/safetensors: any of its readers shows the arrays.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastreg.serialization import own_by_name

Array = NDArray[Any]

FORMAT = "fastreg.Sequential"
VERSION = "1"  # of the configuration and the arrays' names
SUFFIX = ".safetensors"


def _safetensors(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            "saving and loading models needs safetensors: pip install fastreg-dense[io]"
        ) from error


def check_path(path: str | os.PathLike[str]) -> Path:
    """`path` as a Path that ends in .safetensors.

    >>> check_path("digits.safetensors").name
    'digits.safetensors'
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: got {path!r}; a path is needed")
    found = Path(path)
    if found.suffix != SUFFIX:
        raise ValueError(f"path: got {str(found)!r}; a name that ends in {SUFFIX} is needed")
    return found


def _json(config: Mapping[str, Any]) -> str:
    def refuse(thing: object) -> Any:
        raise TypeError(f"model: got {thing!r} in it, which cannot be saved: a file holds no code")

    return json.dumps(own_by_name(config), sort_keys=True, default=refuse)


def write(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    arrays: Mapping[str, Array],
    overwrite: bool = True,
) -> None:
    """Write `config` (JSON) and `arrays` to `path`, or leave what stands there as it was.

    The new file is made beside it and moved over it when it is complete and on the disk.

    Raises
    ------
    ValueError, TypeError
        For a path that does not end in .safetensors.
    FileExistsError
        If there is a file and `overwrite` is False.
    OSError
        If the file cannot be written.
    """
    save_file = _safetensors("safetensors.numpy").save_file
    # A link is followed: what it points to is replaced, not the link.
    target = Path(os.path.realpath(check_path(path)))
    if not overwrite and target.exists():
        raise FileExistsError(f"path: {str(path)!r} exists; overwrite=True replaces it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: {str(target.parent)!r} is no folder")
    metadata = {"format": FORMAT, "version": VERSION, "config": _json(config)}
    part = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb"):
            mode = (target if target.exists() else part).stat().st_mode
        save_file(dict(arrays), part, metadata)
        os.chmod(part, mode)  # safetensors' own is 0600
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        raise OSError(f"path: {str(path)!r} could not be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """The configuration and the arrays that `write` put into `path`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no file of `write`, is damaged, or is of another version.
    """
    safetensors = _safetensors("safetensors")
    target = check_path(path)
    if not target.is_file():
        raise FileNotFoundError(f"path: there is no file {str(target)!r}")
    try:
        with safetensors.safe_open(target, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"path: {str(target)!r} was not written by Sequential.save")
            if metadata.get("version") != VERSION:
                raise ValueError(
                    f"path: {str(target)!r} is of version {metadata.get('version')!r}; "
                    f"this fastreg reads version {VERSION!r}"
                )
            config = json.loads(metadata["config"])
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, json.JSONDecodeError, KeyError, RecursionError) as error:
        raise ValueError(f"path: {str(target)!r} is damaged or foreign: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"path: {str(target)!r} has no configuration")
    return config, arrays
