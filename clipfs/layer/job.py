"""What the parent and the worker of a full pass say to each other, as lines of JSON."""

import msgspec

from clipfs.image.model import BlobSource

WORKER = "clipfs.layer.worker"


class Ranges(msgspec.Struct, frozen=True, kw_only=True):
    """How a blob is asked for.

    connections    at most so many ranges are read at once; 1: one stream
    segment_bytes  asked for at a time
    from_bytes     a blob that is smaller is one stream
    """

    connections: int = 4
    segment_bytes: int = 8 << 20
    from_bytes: int = 32 << 20

    def apply_to(self, size: int) -> bool:
        """Whether a blob of size is asked for in ranges."""
        return self.connections > 1 and size >= self.from_bytes


RANGES = Ranges()
ONE_STREAM = Ranges(connections=1)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One pass. `chunk_digests` and `map_fd` make it a fill; without `payload_fd` it is a proof:
    the blob is received and checked, and nothing of it is kept or looked at.

    size           bytes of the blob
    diff_id        what the payload must be; None where nobody tells
    is_raw         the payload is the blob as it is, and no tar
    source         may hold a credential: the job goes through a pipe, never an argument
    stall_s        without a byte for so long, or too slow over so long, a source counts as gone
    ranges         by how many requests the blob is read
    tells_wrong    of a blob that is of no use it is told whether it is a wrong one; of one that
                   came in several ranges, any of which may be at fault, it always is
    payload_fd     where the payload is written, from byte 0; None: nowhere
    map_fd         the chunk map of a fill
    chunk_digests  what each chunk of a fill must be, as in the layer's index
    """

    digest: str
    size: int
    diff_id: str | None
    source: BlobSource
    stall_s: float
    ranges: Ranges = RANGES
    payload_fd: int | None
    is_raw: bool = False
    tells_wrong: bool = False
    map_fd: int | None = None
    chunk_digests: bytes | None = None


class PassProgress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A report line: blob bytes downloaded, payload bytes written (in a fill: verified; in a
    proof none).

    is_anothers  it is of another node's pass, which this one waits for
    is_proof     the layer is cached, and downloaded as proof that its registry has it
    """

    downloaded_bytes: int
    payload_bytes: int
    is_anothers: bool = False
    is_proof: bool = False


class PassWarning(msgspec.Struct, frozen=True, tag=True):
    """A report line: what is odd about the blob, though the pass goes on."""

    text: str


class BlobIsWrong(msgspec.Struct, frozen=True, tag=True):
    """A report line before an error: what came is not the blob that the manifest names."""


Report = PassProgress | PassWarning | BlobIsWrong


class SourceWanted(msgspec.Struct, frozen=True, kw_only=True):
    """A question, answered by a BlobSource: the download broke off after at_bytes.

    code, message  the error that this is if there is no other source
    retry_after_s  what the peer asked for, if anything
    """

    code: str
    message: str
    at_bytes: int
    retry_after_s: float | None = None
