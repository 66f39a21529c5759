"""Weights that the user installed: where they lie."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from d2s_cli.errors import WeightsError


def store_folder() -> Path:
    """The platform's data folder, or what D2S_WEIGHTS_DIR names."""
    if given := os.environ.get("D2S_WEIGHTS_DIR"):
        return Path(given)
    return Path(platformdirs.user_data_dir("d2s", appauthor=False)) / "weights"


def installed_files(name: str) -> list[Path]:
    """The files of an installed entry.

    Raises:
        WeightsError: it is not installed.
    """
    found = sorted((store_folder() / name).glob("*"))
    if not found:
        raise WeightsError(
            f"the weights of {name} are not installed",
            f"give the file: --guide-weights FILE ({name})",
        )
    return found
