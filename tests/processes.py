"""Training in two processes: this one is the first, and the other runs a script."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from d2s_cli.ranks import Ranks

REPOSITORY = Path(__file__).resolve().parents[1]


def start(script: str, words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *words],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def pickled(path: Path, *values: object) -> str:
    path.write_bytes(pickle.dumps(values))
    return str(path)


@contextlib.contextmanager
def first_of_two(script: str, words: list[str]) -> Iterator[None]:
    """In here, this process is the first of two; the other runs the script and must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    other = start(script, words, RANK="1", **shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2s_cli.ranks.PATIENCE", timedelta(minutes=3))
        for name, value in {"RANK": "0", **shared}.items():
            patch.setenv(name, value)
        try:
            yield
        finally:
            Ranks.leave()
            errors = other.communicate(timeout=100)[1]
    assert other.returncode == 0, errors
