"""Which of the pictures found are wanted: by patterns for names, and the first so many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from d2s_cli.errors import InputError, UsageError

#: a picture, and the folder that it was found in (None if it was named)
Found = tuple[Path, Path | None]


@dataclass(frozen=True)
class Selection:
    """What `--include`, `--exclude` and `--limit` ask for; nothing given leaves nothing out.

    Patterns are those of shells, and take no notice of upper and lower case. One with a slash
    stands for the path below the folder, another one for the name alone.

    Attributes:
        include: patterns of which a picture has to fit one.
        exclude: patterns of which it may fit none.
        limit: the first so many of what is left.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit} leaves nothing to do", "try: --limit 1")

    def of(self, found: Sequence[Found]) -> list[Found]:
        """Those that are wanted, in their order.

        Raises:
            InputError: none is.
        """
        wanted = [one for one in found if self._wants(*one)]
        if found and not wanted:
            raise InputError(
                f"--include and --exclude leave none of {len(found)} pictures, of which the first"
                f" is {found[0][0]}",
                "a pattern stands for the whole name: try '*part*'",
            )
        return wanted[: self.limit]

    def _wants(self, path: Path, below: Path | None) -> bool:
        included = not self.include or any(_fits(path, below, p) for p in self.include)
        return included and not any(_fits(path, below, p) for p in self.exclude)


def _fits(path: Path, below: Path | None, pattern: str) -> bool:
    name = path.name
    if "/" in pattern:
        name = (path if below is None else path.relative_to(below)).as_posix()
    if pattern.endswith("/"):
        pattern += "*"
    return fnmatchcase(name.casefold(), pattern.removeprefix("./").casefold())
