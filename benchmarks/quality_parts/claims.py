"""What refining should achieve, and whether it does: met or missed, and by how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

#: scores that targets are set for; less is better
JUDGED = ("frechet", "perceptual")
#: the default chain must be this many % below these guides alone
AUTO_BEATS = {
    "patchmatch": {"frechet": 25.0, "perceptual": 15.0},
    "telea": {"frechet": 50.0, "perceptual": 25.0},
}


@dataclass(frozen=True)
class Claim:
    """One target in one row.

    Attributes:
        what: which of the targets.
        row: the guide or what it is compared with.
        holes: which holes.
        score: one of JUDGED.
        change: measured, %.
        half: half of its 95 % interval.
        wanted: how far below 0 it should lie, %; at 0, anything below will do.
    """

    what: str
    row: str
    holes: str
    score: str
    change: float
    half: float
    wanted: float

    @property
    def met(self) -> bool:
        return self.change < 0 and self.change <= -self.wanted

    @property
    def clear(self) -> bool:
        """The whole interval meets it."""
        return self.met and self.change + self.half <= -self.wanted

    @property
    def verdict(self) -> str:
        if self.met:
            return "met" if self.clear else "met, not clearly"
        if self.change == 0 and self.wanted == 0:
            return "missed: no change"
        return f"missed by {max(self.change + self.wanted, 0):.1f}"


def claims_of(rows: Sequence[Row]) -> list[Claim]:
    """Every target in every row of quality.json's "rows"."""
    return [*_refining_improves(rows), *_auto_beats(rows)]


def _refining_improves(rows: Sequence[Row]) -> Iterator[Claim]:
    for row in rows:
        for name in JUDGED if "change" in row else ():
            yield Claim("refined", row["guide"], row["holes"], name, *row["change"][name], 0.0)


def _auto_beats(rows: Sequence[Row]) -> Iterator[Claim]:
    for row in rows:
        for other, changes in row.get("against", {}).items():
            for name in JUDGED:
                wanted = AUTO_BEATS[other][name]
                yield Claim("auto", other, row["holes"], name, *changes[name], wanted)


def summary(claims: Sequence[Claim]) -> str:
    """How many are met."""
    met, clear = (sum(getattr(c, name) for c in claims) for name in ("met", "clear"))
    verdict = "**met**" if met == len(claims) else "**missed**"
    return f"{verdict}: {met} of {len(claims)} figures, {clear} of them by their whole interval"
