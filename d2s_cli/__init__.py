"""d2s: fill holes in photographs with a guide model, then refine the result by diffusion.

The public names load torch when first used, so that `import d2s_cli` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2s_cli.diffusion.loading import load_refiner
    from d2s_cli.diffusion.loss import training_loss
    from d2s_cli.diffusion.refiner import Refiner
    from d2s_cli.diffusion.schedule import NoiseTable
    from d2s_cli.engine import inpaint, refine
    from d2s_cli.evaluation import evaluate
    from d2s_cli.guides.registry import load_guide

__version__ = "0.1.0"
_HOMES = {
    "Refiner": "d2s_cli.diffusion.refiner",
    "load_refiner": "d2s_cli.diffusion.loading",
    "training_loss": "d2s_cli.diffusion.loss",
    "NoiseTable": "d2s_cli.diffusion.schedule",
    "load_guide": "d2s_cli.guides.registry",
    "evaluate": "d2s_cli.evaluation",
    "inpaint": "d2s_cli.engine",
    "refine": "d2s_cli.engine",
}
__all__ = [
    "NoiseTable",
    "Refiner",
    "__version__",
    "evaluate",
    "inpaint",
    "load_guide",
    "load_refiner",
    "refine",
    "training_loss",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
