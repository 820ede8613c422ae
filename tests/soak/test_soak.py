"""What `python -m tests.soak` runs for minutes, with seconds for minutes: all but its times."""

from pathlib import Path

from tests.soak import slow_publish
from tests.support.machine import needs_fuse


@needs_fuse
def test_a_publish_that_needs_many_calls(tmp_path: Path) -> None:
    size = slow_publish.Size(layers=(1_500_000, 900_000), lasts_s=12, call_s=6)
    report = slow_publish.run(tmp_path, size)
    assert report.wrong() == []
    codes = [answer.code for answer in report.answers]
    assert codes == ["ABORTED"] * (len(codes) - 1) + ["OK"]
    assert len(codes) > 1, "it needs more than one call"
