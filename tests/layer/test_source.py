"""A blob in ranges, read in the test's own process: what stalls, drips, and is given up."""

import contextlib
import itertools
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from clipfs import errors
from clipfs.image.model import BlobSource
from clipfs.layer.blob import download as download_module
from clipfs.layer.blob.broken_off import BrokenOff
from clipfs.layer.blob.download import Download
from clipfs.layer.blob.source import Source
from clipfs.layer.blob.window import AHEAD
from clipfs.layer.job import Job, Ranges, SourceWanted
from tests.layer.passes import sha256
from tests.support.wait import wait_for
from tests.support.web import PACED_BYTES, Asked, Reply, WebServer, part_of, run_web

BLOB = random.Random(7).randbytes((2 << 20) + 77)
SEGMENT = 1 << 17
SOME = Ranges(connections=4, segment_bytes=SEGMENT, from_bytes=1 << 20)
MIDDLE = f"bytes={6 * SEGMENT}-{7 * SEGMENT - 1}"
SLOW = 4e6


def source_of(
    web: WebServer,
    *,
    wanted: Callable[[SourceWanted], None] = lambda _: None,
    stall_s: float = 30,
    clock: Callable[[], float] = time.monotonic,
) -> Source:
    """BLOB from web; wanted gets the questions for new sources, and may raise."""
    place = BlobSource(url=f"http://{web.address}/blob", headers={})
    job = Job(digest=sha256(BLOB), size=len(BLOB), diff_id=None, source=place, stall_s=stall_s,
              payload_fd=0, ranges=SOME)  # fmt: skip  # a job on a line

    def new_source(question: SourceWanted) -> BlobSource:
        wanted(question)
        return place

    return Source(job, new_source=new_source, clock=clock)


def download_of(web: WebServer, *, stall_s: float = 30) -> Download:
    place = BlobSource(url=f"http://{web.address}/blob", headers={})
    return Download(place, digest=sha256(BLOB), size=len(BLOB), stall_s=stall_s)


def read_to_its_end(download: Download) -> None:
    download.ask(0, in_ranges=True)
    while download.read():
        pass


def whole(source: Source) -> bytes:
    found = b"".join(iter(source.read, b""))
    source.check()
    return found


def lanes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lane"]


def is_middle(asked: Asked) -> bool:
    return asked.headers.get("range") == MIDDLE


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda reply: replace(reply, stops_at=0), id="stalls-at-once"),
        pytest.param(lambda reply: replace(reply, stops_at=70_000), id="stalls"),
        pytest.param(lambda reply: replace(reply, stops_at=0, drip_s=0.05), id="drips-at-once"),
        pytest.param(lambda reply: replace(reply, stops_at=70_000, drip_s=0.05), id="drips"),
    ],
)
def test_a_segment_that_stalls_or_drips_goes_on_at_another_source(
    spoil: Callable[[Reply], Reply],
) -> None:
    ended = threading.Event()
    met: list[str] = []
    questions: list[SourceWanted] = []

    def respond(asked: Asked) -> Reply:
        reply = part_of(BLOB, asked, SLOW)
        if not is_middle(asked) or met:
            return reply
        met.append(asked.headers["range"])
        return replace(spoil(reply), until=ended)

    with (
        run_web(respond) as web,
        closing(source_of(web, wanted=questions.append, stall_s=0.5)) as source,
    ):
        try:
            assert whole(source) == BLOB
        finally:
            ended.set()
    assert met == [MIDDLE]
    assert source.downloaded == len(BLOB)
    assert [one.code for one in questions] == [errors.RegistryUnavailable.code]
    assert re.search("timed out|slower than", questions[0].message)
    ends = Counter(one.headers["range"].partition("-")[2] for one in web.asked)
    middle = MIDDLE.partition("-")[2]
    assert ends.pop(middle) >= 2
    assert set(ends.values()) == {1}
    assert web.at_once["/blob"] >= 2


def raw_of(reply: Reply, *, chunked: bool) -> bytes:
    stated = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    form = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(reply.body)}"
    return f"HTTP/1.1 206 Partial Content\r\n{stated}{form}\r\n".encode()


def in_its_head(reply: Reply) -> Reply:
    head = raw_of(reply, chunked=False)
    return Reply(raw=head + b"Slow: " + b"a" * 60, stops_at=len(head), drip_s=0.1)


def in_a_chunks_size(reply: Reply) -> Reply:
    head = raw_of(reply, chunked=True) + b"\r\n4\r\n" + reply.body[:4] + b"\r\n"
    return Reply(raw=head + b"4;" + b"a" * 60, stops_at=len(head), drip_s=0.1)


@pytest.mark.parametrize("spoil", [in_its_head, in_a_chunks_size])
def test_an_answer_that_drips_before_its_bytes_breaks_off(
    spoil: Callable[[Reply], Reply],
) -> None:
    """There http.client waits for a whole line, however often a byte of it comes."""
    ended = threading.Event()
    with run_web(lambda asked: replace(spoil(part_of(BLOB, asked, SLOW)), until=ended)) as web:
        download = download_of(web, stall_s=0.5)
        try:
            with pytest.raises(BrokenOff, match="timed out after"):
                read_to_its_end(download)
        finally:
            ended.set()
            download.close()
    assert len(web.asked) == 1


def test_a_source_whose_every_answer_is_late_and_of_one_byte_is_too_slow() -> None:
    """None of them is slow by itself, and each is what was asked for."""
    questions: list[SourceWanted] = []

    def respond(asked: Asked) -> Reply:
        first = int(asked.headers["range"].removeprefix("bytes=").partition("-")[0])
        if questions or first > 40:
            return part_of(BLOB, asked)
        stated = f"bytes {first}-{first}/{len(BLOB)}"
        one = raw_of(Reply(206, {"Content-Range": stated}, BLOB[:1]), chunked=False)
        return Reply(raw=one + b"\r\n" + BLOB[first : first + 1], bytes_per_s=PACED_BYTES / 0.2)

    with (
        run_web(respond) as web,
        closing(source_of(web, wanted=questions.append, stall_s=0.5)) as source,
    ):
        assert whole(source) == BLOB
    assert [one.code for one in questions] == [errors.RegistryUnavailable.code]
    assert "slower than" in questions[0].message


@pytest.mark.parametrize("end", ["given-up", "corrupt", "refused"])
def test_all_lanes_end_with_the_reader_or_the_first_error(end: str) -> None:
    """The others wait for bytes that never come."""
    ended = threading.Event()
    late = itertools.count()

    def respond(asked: Asked) -> Reply:
        first = int(asked.headers["range"].removeprefix("bytes=").partition("-")[0])
        reply = part_of(BLOB, asked, SLOW)
        if first < 8 * SEGMENT:
            return reply
        if next(late) < 2 or end == "given-up":
            return replace(reply, stops_at=0, until=ended)
        longer = f"bytes {first}-{first}/{2 * len(BLOB)}"
        return Reply(500) if end == "refused" else replace(reply, headers={"Content-Range": longer})

    def no_other(question: SourceWanted) -> None:
        raise errors.error_of_code(question.code, question.message)

    assert lanes() == []
    with run_web(respond) as web:
        source = source_of(web, wanted=no_other)
        try:
            if end == "given-up":
                while len(lanes()) < SOME.connections:
                    assert source.read()
                source.close()
            else:
                with pytest.raises(errors.ClipError):
                    whole(source)
                assert next(late) > 2
            wait_for(lambda: lanes() == [])
        finally:
            ended.set()
            source.close()


def test_lanes_are_only_so_far_ahead_of_a_reader_that_pauses() -> None:
    with (
        run_web(lambda asked: part_of(BLOB, asked, SLOW)) as web,
        closing(source_of(web)) as source,
    ):
        read = 0
        while len(lanes()) < SOME.connections:
            read += len(source.read())
        most = read + AHEAD * SOME.connections * SEGMENT
        wait_for(lambda: source.downloaded > min(most, len(BLOB)) - 2 * SEGMENT)
        assert source.downloaded <= most
        assert read + len(whole(source)) == len(BLOB)
    assert source.downloaded == len(BLOB)


def test_a_reader_that_never_waits_has_one_connection_only() -> None:
    """More of them would cost, and bring nothing. On its clock no time goes by."""
    with (
        run_web(lambda asked: part_of(BLOB, asked, SLOW)) as web,
        closing(source_of(web, clock=lambda: 0.0)) as source,
    ):
        assert whole(source) == BLOB
    assert [one.headers["range"] for one in web.asked] == ["bytes=0-"]


def test_a_download_that_its_own_thread_closes_just_then_can_be_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After abort has looked for its connection."""
    closed: list[Download] = []

    class ClosedMeanwhile(contextlib.suppress):
        def __enter__(self) -> None:
            download.close()
            closed.append(download)

    with run_web(lambda _: Reply(body=BLOB)) as web:
        download = download_of(web)
        download.ask(0, in_ranges=False)
        with monkeypatch.context() as patch:
            patch.setattr(download_module, "suppress", ClosedMeanwhile)
            download.abort()
    assert closed == [download]
