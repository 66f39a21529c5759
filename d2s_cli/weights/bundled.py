"""Which weights a name means: those that ship with the package, a path, or the store's."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from d2s_cli.errors import WeightsError

DEFAULT_WEIGHTS = "d2s-base"
#: in the folder that data files of a wheel go to
_SHARE = Path("share", "d2s", "weights")


def weights_folders(package: Path) -> tuple[Path, ...]:
    """Where the weights may lie that came with the package in this folder.

    Beside it in a checkout. From a wheel they go below the environment, or below whatever else pip
    was told to install to: `--target` is the folder that holds the package; `--user` and `--prefix`
    are two or three above that one.
    """
    above = package.resolve().parents[:4]
    environment = Path(sysconfig.get_path("data"))
    return above[0] / "weights", *(folder / _SHARE for folder in (*above, environment))


WEIGHTS_FOLDERS = weights_folders(Path(__file__).parents[1])


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
    """A bundled name, a path to the file, or the name of an installed refiner.

    Raises:
        WeightsError: none of them; the message lists what there is.
    """
    from d2s_cli.weights.store import how_to_get, installed, installed_files

    bundled = bundled_weights()
    if str(name_or_path) in bundled:
        return bundled[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_file():
        return path
    refiners = [name for name, entry in installed().items() if entry.kind == "refiner"]
    if str(name_or_path) in refiners:
        return installed_files(str(name_or_path))[0]
    names = ", ".join([*bundled, *refiners]) or "none"
    raise WeightsError(
        f"no weights named {str(name_or_path)!r} and no file of that name",
        f"here are: {names}\ntry: --weights {DEFAULT_WEIGHTS}, or --weights FILE.safetensors\n"
        + how_to_get(str(name_or_path)),
    )
