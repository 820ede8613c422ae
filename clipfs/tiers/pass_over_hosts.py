"""A layer's pass, run again at the next host as long as a wrong blob comes.

Mirrors are the administrator's choice: one that is wrong costs a download, not the image.

Not here: which hosts there are (`clipfs.image.blob`); the pass (`clipfs.layer.passes`).
"""

from collections.abc import Callable
from dataclasses import replace

from clipfs.image.blob import BlobSources
from clipfs.layer.job import ONE_STREAM, PassProgress
from clipfs.layer.passes import PassRequest, PassResult, WrongBlob, run_pass

_NOTHING = PassProgress(downloaded_bytes=0, payload_bytes=0)


async def pass_over_hosts(
    sources: BlobSources,
    request: PassRequest,
    *,
    on_progress: Callable[[PassProgress], None],
    on_download: Callable[[int], None],
) -> PassResult:
    """The pass that request begins, with the source that sources has just given it.

    on_progress  told of each progress, but not of what is read again
    on_download  told at each progress of the bytes that have come, those of a wrong blob too
    Raises       as run_pass, but CorruptImage for a blob that no host has right
    """
    seen = furthest = _NOTHING

    def on_either(progress: PassProgress) -> None:
        nonlocal seen, furthest
        on_download(progress.downloaded_bytes - seen.downloaded_bytes)
        seen = progress
        if seen.downloaded_bytes >= furthest.downloaded_bytes:
            furthest = seen
            on_progress(seen)

    while True:
        request = replace(request, tells_wrong=sources.has_others())
        try:
            result = await run_pass(request, on_progress=on_either, on_break=sources.after)
        except WrongBlob as wrong:
            in_ranges = request.ranges.apply_to(request.layer.size)
            sources.leave_wrong(wrong.error, or_again=in_ranges)
        else:
            on_download(request.layer.size - seen.downloaded_bytes)
            return result
        seen = _NOTHING
        request = replace(request, source=await sources.first(), ranges=ONE_STREAM)
