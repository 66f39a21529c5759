"""Which of the bundled networks corrects a guide's first result."""

from __future__ import annotations

from pathlib import Path

from d2s_cli.guides.contract import Guide
from d2s_cli.guides.registry import files_here, load_guide

#: copied texture is trusted, and structure mended; smooth fills are given what they lack
COPIES, SMOOTH = "neural", "neural-smooth"
#: guides that copy texture from elsewhere in the picture
COPYING = ("patchmatch", "neural")


def corrector_files(guide_name: str) -> list[Path]:
    """The weights that correct results of a guide ("*" for those of an unknown tool).

    Raises:
        WeightsError: they are not here.
    """
    return files_here(COPIES if guide_name in COPYING else SMOOTH)


def load_corrector(guide_name: str, device: str = "cpu") -> Guide:
    """The network that corrects results of a guide; a guide that takes a candidate.

    Raises:
        WeightsError: it is not here, or damaged.
    """
    return load_guide("neural", corrector_files(guide_name), device, first="given")
