"""Classes of packages that are not installed, for writing files as these packages write them."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator


@contextlib.contextmanager
def foreign_classes(*origins: str, bases: tuple[type, ...] = (object,)) -> Iterator[list[type]]:
    """Classes that a pickle will name as `origins` ("package.module.Name"), importable inside only.

    So a file can be written with them, and read where nobody has them.
    """
    before = set(sys.modules)
    made = []
    try:
        for origin in origins:
            module, _, name = origin.rpartition(".")
            parts = module.split(".")
            for end in range(1, len(parts) + 1):
                path = ".".join(parts[:end])
                sys.modules.setdefault(path, types.ModuleType(path))
            made.append(type(name, bases, {"__module__": module}))
            setattr(sys.modules[module], name, made[-1])
        yield made
    finally:
        for path in set(sys.modules) - before:
            del sys.modules[path]
