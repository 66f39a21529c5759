"""What can be said of every guide without loading it: is it ready here, its limits, its licence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from d2s_cli.errors import D2SError
from d2s_cli.guides.onnx import onnxruntime_available
from d2s_cli.guides.plugins import Plugin
from d2s_cli.guides.registry import BUILT_IN, BY_PREFIX, FROM_WEIGHTS, files_here, plugins


@dataclass(frozen=True)
class Facts:
    """What a guide's makers say.

    Attributes:
        sizes: that it works at.
        random: True if its result depends on the seed; None if that is not known.
        licence: of the published code and, where nothing else is said, weights.
    """

    sizes: str
    random: bool | None
    licence: str


FACTS = {
    "patchmatch": Facts("any", True, "MIT"),
    "telea": Facts("any", False, "Apache-2.0"),
    "ns": Facts("any", False, "Apache-2.0"),
    "neural": Facts("any", True, "Apache-2.0"),
    "lama": Facts("any", False, "Apache-2.0"),
    "mat": Facts("its weights' own, 256 or 512", True, "CC BY-NC 4.0, research only"),
    "wavepaint": Facts("any", False, "MIT"),
    "edgeconnect": Facts("any", False, "CC BY-NC 4.0, not for commercial use"),
    "diffir": Facts("any", True, "Apache-2.0"),
    "m2s": Facts("256", True, "none given: ask its authors"),
    "ddnm": Facts("256", True, "MIT; nothing said about the weights"),
    "palette": Facts("any", True, "MIT"),
    "onnx": Facts("by its side file", None, "the file's own"),
    "torchscript": Facts("by its side file", None, "the file's own"),
    "cmd": Facts("any", None, "the program's own"),
}
UNKNOWN = Facts("", None, "the package's own")
#: how the kinds of BY_PREFIX are typed, and what they are
FORMS = {
    "onnx": ("onnx:FILE", "model file"),
    "torchscript": ("torchscript:FILE", "model file; runs code in it"),
    "cmd": ("cmd:COMMAND", "program"),
}


@dataclass(frozen=True)
class Listed:
    """A guide in a list.

    Attributes:
        name: as typed after --guide.
        kind: built in, weights, model file, program or plug-in.
        missing: what keeps it from being used, in a few words; empty if it is ready.
        hint: more of that, and what to do.
        sizes, random, licence: see Facts.
    """

    name: str
    kind: str
    missing: str
    hint: str
    sizes: str
    random: bool | None
    licence: str


def list_guides() -> Iterator[Listed]:
    """Every guide that can be named. Plug-ins are imported, to see whether they load."""
    for name in (*BUILT_IN, *FROM_WEIGHTS, *BY_PREFIX):
        shown, kind = FORMS.get(name, (name, "built in" if name in BUILT_IN else "weights"))
        facts = FACTS[name]
        yield Listed(shown, kind, *_missing(name), facts.sizes, facts.random, facts.licence)
    for name, plugin in plugins().items():
        facts = UNKNOWN
        shown, kind = name, f"plug-in of {plugin.origin}"
        problem = _missing_of(plugin)
        yield Listed(shown, kind, *problem, facts.sizes, facts.random, facts.licence)


def _missing(name: str) -> tuple[str, str]:
    """What keeps a guide of d2s from being used, and what to do; empty if nothing does."""
    if name == "onnx" and not onnxruntime_available():
        return "no onnxruntime", "try: pip install 'd2s[onnx]'"
    try:
        if name in BUILT_IN:
            BUILT_IN[name]()
        elif name in FROM_WEIGHTS:
            files_here(name)
    except D2SError as error:
        return "no weights" if name in FROM_WEIGHTS else "not usable", str(error)
    return "", ""


def _missing_of(plugin: Plugin) -> tuple[str, str]:
    try:
        plugin.factory()
    except D2SError as error:
        return "broken", str(error)
    return "", ""
