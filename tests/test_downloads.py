"""Downloads against a real server that drops, stalls and lies."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from unkind_server import Unkind, serving

from d2s_cli.errors import WeightsError
from d2s_cli.weights import download
from d2s_cli.weights.download import PIECE, Fetched, Progress, Settings, fetch
from d2s_cli.weights.manifest import PublishedFile
from d2s_cli.weights.store import partial_folder

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = bytes(range(256)) * 12_000
BEGUN = 64 * PIECE
RIGHT = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D2S_WEIGHTS_DIR", str(tmp_path / "store"))
    monkeypatch.setattr(download, "FIRST_WAIT", 0.01)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "store"


@pytest.fixture
def server() -> Iterator[Unkind]:
    with serving(Unkind(DATA)) as made:
        yield made


def get(
    *urls: str, sha256: str = RIGHT, size: int | None = len(DATA), retries: int = 3, **more: object
) -> Fetched:
    """Fetch a file that is published at these addresses."""
    file = PublishedFile("net.pth", "x", sources=urls, sha256=sha256, size=size)
    settings = Settings(retries=retries, **{"timeout": 5.0, **more})  # type: ignore[arg-type]
    return fetch("entry", file, settings, lambda progress: None)


def assert_nothing_left() -> None:
    assert [path for path in partial_folder().rglob("*") if path.is_file()] == []


def test_a_file_comes_whole_and_its_progress_is_told(server: Unkind) -> None:
    seen: list[Progress] = []
    file = PublishedFile("net.pth", "x", (server.url(),), sha256=RIGHT)
    fetched = fetch("entry", file, Settings(), seen.append)
    assert fetched.path.read_bytes() == DATA
    assert fetched.published
    assert seen[-1] == Progress("net.pth", len(DATA), len(DATA))


def test_dropped_connections_go_on_where_they_stopped(server: Unkind) -> None:
    server.cuts = [BEGUN, PIECE]
    assert get(server.url()).path.read_bytes() == DATA
    assert [wanted for _, wanted, _ in server.asked] == [
        None,
        f"bytes={BEGUN}-",
        f"bytes={BEGUN + PIECE}-",
    ]
    assert server.asked[1][2] == server.etag


def test_a_server_that_ignores_ranges(server: Unkind) -> None:
    server.cuts, server.ranges = [BEGUN], False
    assert get(server.url()).path.read_bytes() == DATA


def test_a_file_that_changes_between_tries_is_begun_anew(
    server: Unkind, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data, server.etag, server.cuts = b"x" * len(DATA), '"old"', [BEGUN]

    def change(seconds: float) -> None:
        server.data, server.etag = DATA, '"new"'

    monkeypatch.setattr(download.time, "sleep", change)
    assert get(server.url()).path.read_bytes() == DATA
    assert server.asked[1] == ("/file", f"bytes={BEGUN}-", '"old"')


def test_without_a_name_of_its_version_a_file_is_begun_anew(server: Unkind) -> None:
    server.cuts, server.etag = [BEGUN], ""
    assert get(server.url()).path.read_bytes() == DATA
    assert [wanted for _, wanted, _ in server.asked] == [None, None]


def test_a_part_that_was_not_asked_for_is_not_taken(server: Unkind) -> None:
    server.cuts, server.wrong_part = [BEGUN], True
    assert get(server.url()).path.read_bytes() == DATA
    assert [wanted for _, wanted, _ in server.asked] == [None, f"bytes={BEGUN}-", None]


def test_all_was_there_already(server: Unkind) -> None:
    """The program was killed between the last byte and the end."""
    kept = get(server.url()).path
    note = kept.with_name(kept.name + ".json")
    note.write_text(f'{{"url": "{server.url()}", "validator": "\\"one\\""}}')
    server.asked.clear()
    assert get(server.url()).path.read_bytes() == DATA
    assert [wanted for _, wanted, _ in server.asked] == [f"bytes={len(DATA)}-"]


def test_more_is_there_than_the_file_has(server: Unkind) -> None:
    kept = get(server.url()).path
    kept.write_bytes(DATA + b"more")
    note = kept.with_name(kept.name + ".json")
    note.write_text(f'{{"url": "{server.url()}", "validator": "\\"one\\""}}')
    assert get(server.url()).path.read_bytes() == DATA


def test_a_note_that_makes_no_sense(server: Unkind) -> None:
    kept = get(server.url()).path
    for text in ("[]", "{", '{"url": 3}', ""):
        kept.with_name(kept.name + ".json").write_text(text)
        assert get(server.url()).path.read_bytes() == DATA


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_trouble_is_tried_again(server: Unkind, status: int) -> None:
    server.statuses = [status, status]
    assert get(server.url()).path.read_bytes() == DATA


def test_trouble_that_does_not_pass(server: Unkind) -> None:
    server.statuses = [500] * 3
    with pytest.raises(WeightsError, match=r"answered 500 .*\(tried 3 times\)"):
        get(server.url(), retries=2)
    assert len(server.asked) == 3
    assert_nothing_left()


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_server_that_does_not_have_it_is_asked_once(server: Unkind, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(WeightsError, match=f"answered {status}"):
        get(server.url())
    assert len(server.asked) == 1


def test_the_next_source_is_tried(server: Unkind) -> None:
    server.statuses = [404]
    fetched = get(server.url("one"), server.url("two"))
    assert fetched.source == server.url("two")


def test_a_range_that_cannot_be_given(server: Unkind) -> None:
    server.cuts = [BEGUN]
    server.statuses = []
    kept = partial_folder() / "entry" / "file"
    with pytest.raises(WeightsError):
        get(server.url(), retries=0)
    assert kept.stat().st_size == BEGUN
    server.statuses = [416]
    assert get(server.url()).path.read_bytes() == DATA


def test_other_bytes_of_the_right_length_are_not_kept(server: Unkind) -> None:
    server.data = DATA[:-1] + b"x"
    with pytest.raises(WeightsError, match="sent another file: SHA-256"):
        get(server.url())
    assert_nothing_left()


def test_another_length_is_seen_before_it_is_fetched(server: Unkind) -> None:
    server.data = DATA + DATA
    with pytest.raises(WeightsError, match="the right one has 3072000"):
        get(server.url())
    assert_nothing_left()


def test_a_length_that_is_not_true(server: Unkind) -> None:
    server.says, server.etag = len(DATA) + 9, ""
    with pytest.raises(WeightsError, match=r"the connection broke|ended after"):
        get(server.url(), size=None, retries=1)
    server.says = len(DATA) - 9
    with pytest.raises(WeightsError, match="sent another file"):
        get(server.url(), size=None)
    assert_nothing_left()


def test_a_web_page_is_no_file(server: Unkind) -> None:
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="a web page instead of a file"):
        get(server.url(), sha256="", size=None)


def test_packed_though_not_asked_for(server: Unkind) -> None:
    server.packed = "gzip"
    with pytest.raises(WeightsError, match="packed"):
        get(server.url())


def test_a_server_that_goes_silent(server: Unkind) -> None:
    server.stall = 3.0
    began = time.monotonic()
    assert get(server.url(), timeout=0.3).path.read_bytes() == DATA
    assert time.monotonic() - began < 2.5
    server.stall = 3.0
    with pytest.raises(WeightsError, match="went silent"):
        get(server.url("other"), timeout=0.3, retries=0)


def test_nobody_listens() -> None:
    with pytest.raises(WeightsError, match=r"no connection \(tried 2 times\)"):
        get("http://127.0.0.1:9/file", retries=1)


def test_redirects_are_followed(server: Unkind) -> None:
    server.redirect = server.url("elsewhere")
    assert get(server.url("redirect")).path.read_bytes() == DATA
    server.redirect = "/again"
    assert get(server.url("redirect")).path.read_bytes() == DATA


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_another_scheme_are_not(server: Unkind, target: str) -> None:
    server.redirect = target
    with pytest.raises(WeightsError, match="not safe"):
        get(server.url("redirect"))
    assert len(server.asked) == 1


def test_redirects_from_https_to_http_are_not(server: Unkind) -> None:
    import requests

    class Answer:
        """Of a safe server, without the certificate that a real one needs."""

        is_redirect, headers = True, {"location": server.url()}

        def close(self) -> None:
            pass

    class Session(requests.Session):
        def get(self, url: str, **_: object) -> Answer:  # type: ignore[override]
            assert url == "https://example.org/file"
            return Answer()

    with pytest.raises(download._HopelessError, match="from https to http"):
        download._open(Session(), "https://example.org/file", {}, 1)
    assert server.asked == []


def test_redirects_without_end(server: Unkind) -> None:
    server.redirect = server.url("redirect")
    with pytest.raises(WeightsError, match="more than 10 times"):
        get(server.url("redirect"))


def test_a_folder_on_a_disk_is_a_mirror(tmp_path: Path, server: Unkind) -> None:
    (tmp_path / "usb stick").mkdir()
    (tmp_path / "usb stick" / "file").write_bytes(DATA)
    mirror = (tmp_path / "usb stick").as_uri()
    assert get(server.url(), mirror=mirror, offline=True).path.read_bytes() == DATA
    assert server.asked == []
    (tmp_path / "usb stick" / "file").write_bytes(DATA[:-1])
    assert get(server.url(), mirror=mirror).source == server.url()


def test_a_mirror_is_asked_first(server: Unkind) -> None:
    fetched = get("http://127.0.0.1:9/a/file", mirror=server.url("mirror/"))
    assert fetched.source == server.url("mirror/file")


def test_offline_uses_no_network(server: Unkind) -> None:
    with pytest.raises(WeightsError, match="no network may be used"):
        get(server.url(), offline=True)
    assert server.asked == []


def test_proxies_of_the_environment_are_used(
    server: Unkind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert get("http://weights.invalid/file").path.read_bytes() == DATA
    assert server.asked[0][0] == "http://weights.invalid/file"


def test_an_unknown_hash_is_told_as_such(server: Unkind) -> None:
    fetched = get(server.url(), sha256="", size=None)
    assert not fetched.published
    assert fetched.sha256 == RIGHT


def test_the_digits_in_a_published_name_are_checked(server: Unkind) -> None:
    def named(digits: str) -> PublishedFile:
        return PublishedFile("net.pth", "x", (server.url(),), sha256_starts=digits)

    fetch("entry", named(RIGHT[:8]), Settings(), lambda progress: None)
    with pytest.raises(WeightsError, match="sent another file"):
        fetch("entry", named("00000000"), Settings(), lambda progress: None)


def test_a_link_in_the_way_is_not_followed(tmp_path: Path, server: Unkind) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (partial_folder() / "entry").mkdir(parents=True)
    (partial_folder() / "entry" / "file").symlink_to(precious)
    with pytest.raises(WeightsError, match="cannot write"):
        get(server.url())
    assert precious.read_text() == "mine"


def test_a_disk_without_room_is_seen_before(
    server: Unkind, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil._ntuple_diskusage(10**9, 10**9, 10**6)  # type: ignore[attr-defined]
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(WeightsError, match="has no room for"):
        get(server.url())
    assert_nothing_left()


FETCH = f"""
import sys
from d2s_cli.errors import WeightsError
from d2s_cli.weights.download import Settings, fetch
from d2s_cli.weights.manifest import PublishedFile
file = PublishedFile("net.pth", "x", (sys.argv[1],), sha256="{RIGHT}")
try:
    print(fetch("entry", file, Settings(retries=0), lambda progress: None).path)
except WeightsError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def in_a_process(url: str, before: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", before + FETCH, url],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_disk_that_fills_up(server: Unkind) -> None:
    """Files may have one megabyte; the system says so in the midst of writing."""
    pytest.importorskip("resource")
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
    full = in_a_process(server.url(), limit)
    assert "cannot write" in full.communicate()[0]
    assert full.returncode == 5
    assert get(server.url()).path.read_bytes() == DATA
    assert server.asked[1][1] == "bytes=1000000-"


def test_a_download_that_is_killed_goes_on(server: Unkind) -> None:
    server.stall = 60.0
    killed = in_a_process(server.url())
    kept = partial_folder() / "entry" / "file"
    deadline = time.monotonic() + 30
    while not (kept.is_file() and kept.stat().st_size > BEGUN):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # meanwhile a second one does not write to the same file
    with pytest.raises(WeightsError, match="another d2s is fetching"):
        get(server.url())
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    there = kept.stat().st_size
    assert there < len(DATA)
    assert get(server.url()).path.read_bytes() == DATA
    assert server.asked[-1][1] == f"bytes={there}-"
