"""One lane of a blob's download, while another one changes how all of them ask."""

from clipfs.image.digest import Digest
from clipfs.image.model import BlobSource
from clipfs.layer.blob.lane import Lane, Mode, Sources
from clipfs.layer.blob.window import Window
from clipfs.layer.job import Job
from tests.support.web import part_of, run_web

BLOB = bytes(range(40))
SEGMENT = 10


class Interrupted(Sources):
    """Before a lane gets the source, another one finds that ranges are of no use."""

    def __init__(self, source: BlobSource, window: Window, mode: Mode) -> None:
        super().__init__(source, lambda _: source, window)
        self._all, self._mode = window, mode

    def take(self) -> tuple[BlobSource, int]:
        self._mode.in_ranges = False
        self._all.narrow()
        return super().take()


def test_a_lane_that_is_about_to_ask_for_a_range_begins_no_second_stream() -> None:
    window = Window(len(BLOB), segment_bytes=SEGMENT)
    assert window.claim() is not None  # the other lane's
    assert window.widen(2) == 1
    mode = Mode(in_ranges=True, is_wide=True)
    with run_web(lambda asked: part_of(BLOB, asked)) as web:
        source = BlobSource(url=f"http://{web.address}/blob", headers={})
        job = Job(digest=Digest("sha256:" + "0" * 64), size=len(BLOB), diff_id=None, source=source,
                  stall_s=5, payload_fd=-1)  # fmt: skip # one thought
        Lane(job, window, Interrupted(source, window, mode), mode).run()
    assert [one.headers["range"] for one in web.asked] == ["bytes=10-19"]
    assert window.received == SEGMENT
