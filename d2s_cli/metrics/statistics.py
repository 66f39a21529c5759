"""Statistics of a set of pictures: in memory, as files, and kept between runs.

The files are pytorch-fid's (`mu`, `sigma`, divided by N - 1) and more: the number of pictures, the
features if a metric needed them, and which network and recipe they came from, so that a combination
that means nothing is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2s_cli.errors import InputError
from d2s_cli.metrics.distances import (
    Features,
    Moments,
    frechet_distance,
    frechet_of_features,
    frechet_to_moments,
)
from d2s_cli.metrics.features import Extractor, file_hash

#: changes when features of the same pictures would come out differently
VERSION = 1


@dataclass
class Statistics:
    """Of one set.

    Attributes:
        mean: D, float64; None if only `features` are there.
        covariance: D x D, divided by N - 1; None likewise.
        count: number of pictures; None in files of other tools.
        features: N x D in the order of the pictures, or None.
        names: of the pictures, if known.
        source: where they came from, for messages.
    """

    source: str
    mean: Tensor | None = None
    covariance: Tensor | None = None
    count: int | None = None
    features: Features | None = None
    names: tuple[str, ...] | None = None

    @classmethod
    def of_features(
        cls, features: Features, source: str, names: Sequence[str] | None = None
    ) -> Statistics:
        return cls(
            source, count=len(features), features=features, names=tuple(names) if names else None
        )

    @classmethod
    def of_moments(cls, moments: Moments, source: str) -> Statistics:
        covariance = moments.covariance(1)
        return cls(source, moments.mean, covariance, moments.count)

    @property
    def dimensions(self) -> int:
        if self.features is not None:
            return int(self.features.shape[1])
        assert self.mean is not None
        return len(self.mean)

    def moments(self, ddof: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance divided by N - ddof (N - 1 where N is not known)."""
        if self.covariance is None or self.mean is None:
            assert self.features is not None
            moments = Moments.of(self.features)
            self.mean, self.covariance = moments.mean, moments.covariance(1)
        if self.count is None or ddof == 1:
            return self.mean, self.covariance
        return self.mean, self.covariance * ((self.count - 1) / (self.count - ddof))


def frechet(results: Statistics, reference: Statistics, ddof: int) -> float:
    """Squared Frechet distance of two sets.

    Raises:
        InputError: features of different lengths.
    """
    if results.dimensions != reference.dimensions:
        raise InputError(
            f"{results.source} has {results.dimensions} features, {reference.source} has"
            f" {reference.dimensions}",
            "both must come from one network",
        )
    if results.features is not None and reference.features is not None:
        return frechet_of_features(results.features, reference.features, ddof)
    for few, other in ((results, reference), (reference, results)):
        if few.features is not None and len(few.features) <= few.dimensions:
            return frechet_to_moments(few.features, *other.moments(ddof), ddof)
    return frechet_distance(*results.moments(ddof), *reference.moments(ddof))


def write_statistics(
    path: Path, statistics: Statistics, extractor: Extractor, files: str = ""
) -> None:
    """Write an .npz that pytorch-fid reads too; the name appears when the file is whole.

    Args:
        path: where to.
        statistics: what.
        extractor: the network that they came from.
        files: hash of the list of pictures, or nothing.

    Raises:
        InputError: it cannot be written.
    """
    mean, covariance = statistics.moments(1)
    arrays: dict[str, Any] = {
        "mu": mean.numpy(),
        "sigma": covariance.numpy(),
        "d2s": json.dumps({**identity(extractor), "files": files, "count": statistics.count}),
    }
    if statistics.features is not None:
        arrays["features"] = statistics.features
    if statistics.names is not None:
        arrays["names"] = np.array(statistics.names)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def identity(extractor: Extractor) -> dict[str, Any]:
    """What must agree for features to be comparable."""
    return {
        "version": VERSION,
        "weights": extractor.sha256,
        "transform": extractor.transform,
    }


def read_statistics(path: Path, extractor: Extractor | None = None) -> tuple[Statistics, list[str]]:
    """Statistics of a file, and what is to be said about them.

    Args:
        path: .npz of d2s or of pytorch-fid.
        extractor: the network that the other set goes through.

    Raises:
        InputError: unreadable, of another network or preset, or with NaN.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise InputError(f"cannot read statistics from {path}: {error}") from error
    if not {"mu", "sigma"} <= arrays.keys():
        raise InputError(
            f"{path} holds no statistics: no mu and sigma", f"it holds: {', '.join(arrays)}"
        )
    mean, sigma = (np.asarray(arrays[key], np.float64) for key in ("mu", "sigma"))
    if mean.ndim != 1 or sigma.shape != (len(mean), len(mean)):
        raise InputError(f"{path}: mu is {mean.shape}, sigma is {sigma.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(sigma).all()):
        raise InputError(f"{path} holds NaN or infinite numbers", "make the statistics again")
    known = json.loads(str(arrays["d2s"])) if "d2s" in arrays else {}
    notes = _check_origin(path, known, extractor)
    found = Statistics(str(path), torch.from_numpy(mean), torch.from_numpy(sigma))
    found.count = known.get("count")
    found.features = arrays.get("features")
    found.names = tuple(map(str, arrays["names"])) if "names" in arrays else None
    return found, notes


def _check_origin(path: Path, known: dict[str, Any], extractor: Extractor | None) -> list[str]:
    if not known:
        return [
            f"{path} does not say which network, preset and number of pictures it is of; it is"
            " taken to be of this preset's network, with covariances divided by N - 1"
        ]
    if extractor is None:
        return []
    for key, value in identity(extractor).items():
        if known.get(key) != value:
            raise InputError(
                f"{path} is of other features: {key} {known.get(key)!r}, here {value!r}",
                "use the preset and weights that it was made with, or make it again: --save-stats",
            )
    return []


def files_hash(paths: Sequence[Path], names: Sequence[str]) -> str:
    """One hash of the names and contents of pictures, in their order."""
    digest = hashlib.sha256()
    for path, name in zip(paths, names, strict=True):
        try:
            digest.update(f"{file_hash(path)} {name}\n".encode())
        except OSError as error:
            raise InputError(f"cannot read {path}: {error}") from error
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where statistics are kept between runs."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("d2s", appauthor=False)) / "features"


def cache_path(folder: Path, files: str, extractor: Extractor) -> Path:
    """The file for exactly these pictures, network and preparation."""
    key = json.dumps({**identity(extractor), "files": files}, sort_keys=True)
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.npz"
