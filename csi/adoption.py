"""What an earlier driver left on this root: what lives is taken over, what does not cleaned up.

Not here: how a volume is taken away (`csi.publisher`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clipfs import errors
from clipfs.image.digest import Digest
from clipfs.log import log
from csi.about import lines_about
from csi.binds import Binds, is_mounted
from csi.credentials.handing import Handing
from csi.records import VolumeRecord, subject_of_record, volume_of
from csi.status.reporter import Reporter
from csi.trees import Trees


def adopt(
    binds: Binds,
    trees: Trees,
    handing: Handing,
    reporter: Reporter,
    set_aside: Callable[[VolumeRecord], None],
) -> None:
    """set_aside  takes away a volume whose mount is gone; the kubelet may publish it again"""
    for record in binds.all():
        with lines_about(record.volume_id, pod=str(record.pod), image=record.image):
            if is_mounted(record):
                _take_over(record, handing, reporter)
                continue
            log.info("volume is gone")
            with _failure_logged("volume is left as it is"):
                set_aside(record)
    with _failure_logged("volumes of another time are left as they are"):
        binds.forget_gone()
    for digest in trees.mounted():
        with _failure_logged("image is left as it is", digest=digest):
            trees.drop_unused(digest)


def _take_over(record: VolumeRecord, handing: Handing, reporter: Reporter) -> None:
    log.info("volume adopted")
    handing.volume_here(Digest(record.digest), volume_of(record))
    if (subject := subject_of_record(record)) is not None:
        reporter.adopted(subject, record.digest)


@contextmanager
def _failure_logged(event: str, **about: str) -> Iterator[None]:
    """One broken volume must not keep the driver from starting."""
    try:
        yield
    except (errors.ClipError, OSError) as error:
        log.warning(event, error=str(error), **about)
