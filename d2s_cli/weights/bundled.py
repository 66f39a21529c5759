"""Where weights lie: the files that ship with the package, and paths that the user gives."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from d2s_cli.errors import WeightsError

DEFAULT_WEIGHTS = "d2s-base"
#: beside the package in a checkout; under the environment's share/ when installed from a wheel
WEIGHTS_FOLDERS = (
    Path(__file__).resolve().parents[2] / "weights",
    Path(sysconfig.get_path("data")) / "share" / "d2s" / "weights",
)


def bundled_weights() -> dict[str, Path]:
    """Names and files of the weights that came with d2s."""
    found: dict[str, Path] = {}
    for folder in WEIGHTS_FOLDERS:
        for path in sorted(folder.glob("*.safetensors")):
            found.setdefault(path.stem, path)
    return found


def bundled_guide(name: str) -> list[Path]:
    """The file of a guide that came with d2s; empty if it has none."""
    paths = (folder / "guides" / f"{name}.safetensors" for folder in WEIGHTS_FOLDERS)
    return [path for path in paths if path.is_file()][:1]


def find_weights(name_or_path: str | Path) -> Path:
    """A bundled name or a path to the file.

    Raises:
        WeightsError: neither; the message lists what there is.
    """
    bundled = bundled_weights()
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = ", ".join(bundled) or "none"
    raise WeightsError(
        f"no weights named {str(name_or_path)!r} and no file of that name",
        f"bundled here: {names}\ntry: --weights {DEFAULT_WEIGHTS}, or --weights FILE.safetensors",
    )
