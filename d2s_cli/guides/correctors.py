"""Which of the bundled networks corrects a guide's first result."""

from __future__ import annotations

from pathlib import Path

from d2s_cli.guides.contract import Guide
from d2s_cli.guides.registry import files_here, load_guide

#: whose file holds both: the network for copied texture, and its smoother for smooth fills
CORRECTOR = "neural"
#: guides that copy texture from elsewhere in the picture
COPYING = ("patchmatch", "neural")


def corrector_files() -> list[Path]:
    """The weights that correct first results.

    Raises:
        WeightsError: they are not here.
    """
    return files_here(CORRECTOR)


def load_corrector(guide_name: str, device: str = "cpu", precision: str = "auto") -> Guide:
    """The network that corrects results of a guide; a guide that takes a candidate.

    Copied texture is trusted, and structure mended; smooth fills are given what they lack.

    Args:
        guide_name: "*" for results of an unknown tool, which count as smooth.
        device, precision: of the network, see runtime.pick.

    Raises:
        WeightsError: it is not here, or damaged.
    """
    return load_guide(
        CORRECTOR,
        corrector_files(),
        device,
        first="given",
        smoother_alone=guide_name not in COPYING,
        precision=precision,
    )
