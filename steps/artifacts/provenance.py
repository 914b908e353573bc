"""What made an artifact: code, libraries, device, memory."""

from __future__ import annotations

import functools
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from steps.artifacts.digest import digest_file, digest_files

ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("torch", "torchvision", "timm", "lightning", "numpy", "pyarrow", "pillow")
_DETECTION_LIBRARIES = ("onedl-mmcv", "onedl-mmengine", "onedl-mmdetection")


class CodeVersion(BaseModel):
    """The commit, whether ``steps/`` differs from it, and the digest of the sources themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit: str
    dirty: bool
    digest: str


@functools.cache
def code_version() -> CodeVersion:
    """The version of the code that is running; ``commit`` is "unknown" outside a git checkout."""
    sources = {
        str(path.relative_to(ROOT)): digest_file(path)
        for path in sorted((ROOT / "steps").rglob("*.py"))
    }
    commit = _git("rev-parse", "HEAD") or "unknown"
    dirty = bool(_git("status", "--porcelain", "--", "steps"))
    return CodeVersion(commit=commit, dirty=dirty, digest=digest_files(sources))


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide numbers, those of them in use."""
    names = _LIBRARIES + (_DETECTION_LIBRARIES if "mmdet" in sys.modules else ())
    names += ("tokenizers",) if "tokenizers" in sys.modules else ()
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def device_name() -> str:
    """The device the step ran on: the GPU's name where torch used one, else the machine type."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return f"cpu ({platform.machine()})"


def peak_memory_mib() -> float:
    """Peak memory of this process in MiB: on the GPU where one was used, else resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(round(torch.cuda.max_memory_allocated() / 2**20, 1))
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
