"""Limits on what a layer may be: outside input is bounded before it is believed.

Each has a name and a reason; a layer beyond one is refused as CorruptImage, with the figure.
"""

MAX_PAYLOAD_BYTES = 1 << 40
"""One layer's decompressed bytes: ten times the largest model weights seen in one layer."""

MAX_RATIO = 2000
"""Payload over blob. gzip ends near 1,030; zstd goes further only on bombs."""

RATIO_FREE_BYTES = 64 << 20
"""Payload below this is never judged by its ratio: an empty tar compresses very well."""

MAX_ENTRIES = 4_000_000
"""Tar members of one layer; a million-file layer is large already."""

MAX_ENTRY_BYTES = 160 << 20
"""Entries of one layer as its index holds them, and as a pass has them in memory: 40 bytes for
each of `MAX_ENTRIES`, or a million with paths of 120."""

MAX_SHARED_INDEX_BYTES = 64 << 20
"""A layer index, packed and sealed, as the content cache has it. 32 bytes each chunk of 128 KiB:
25 MiB for 100 GiB of payload, the largest weights seen in one layer; entries at `MAX_ENTRY_BYTES`
pack to a fifth, 32 MiB. That is 57 MiB; a usual one has 0.1 to a few. A layer beyond is not shared.
"""

MAX_SHARED_IMAGE_INDEX_BYTES = MAX_SHARED_INDEX_BYTES - 64
"""The same of an image index, packed, without its seal; two million files pack to 64 MiB."""

MAX_IMAGE_ENTRIES = 4_000_000
"""Entries of an image's layers together: merged they take 3 of the 4 GiB that a merge has."""

MAX_IMAGE_ENTRY_BYTES = 384 << 20
"""The same, as their indexes hold them: long names come on top of the 3 GiB."""

MAX_DEPTH = 1024
"""Components of one path: PATH_MAX is 4,096 bytes, so at most 2,048 of one letter."""

MAX_PATH_BYTES = 4095
"""PATH_MAX without its NUL: what can be opened, or stand as a symlink's target."""

MAX_COMPONENT_BYTES = 255
"""NAME_MAX of Linux."""

MAX_HEADER_BYTES = 1 << 20
"""PAX and GNU long-name records of one member together, since the kernel allows 64 KiB an xattr;
the header of one gzip member."""

MAX_GLOBAL_HEADER_BYTES = 1 << 16
"""Global PAX records of one layer together: each of them costs time at every member."""

MAX_XATTR_BYTES = 65536
"""All xattrs of one member together, names included; the kernel's own limit for a list."""

MAX_ZSTD_WINDOW_BYTES = 128 << 20
"""What `zstd --ultra --long=27` makes; a larger window wants more memory than a pass has."""

MIN_ZSTD_BLOCK_BYTES = 64
"""Of a zstd blob's blocks on average: shorter ones take their time and bring nothing."""

ZSTD_FREE_BLOCKS = 100_000
"""So many blocks of a blob may be of any length: who streams by small writes makes short ones."""

MAX_SPARSE_BYTES = 1 << 44
"""One sparse file with its holes: what ext4 can hold. Only its bytes cost a node anything."""

MAX_EXTENTS = 1 << 19
"""Runs of data of one sparse member: 2 GiB in single blocks of 4 KiB, 16 bytes of index each."""

MAX_LAYER_EXTENTS = 1 << 20
"""Those of all sparse members of a layer together: 60 MiB in a process that serves the layer, at
`MAX_SPARSE_MEMBERS`, for their maps and their layout."""

MAX_SPARSE_MEMBERS = 1 << 17
"""Of one layer, with data."""

MAX_LAYER_CHUNKS = 1 << 24
"""Chunks, holes included, that a layer's sparse members are cut into: 128 MiB of image index, which
the merge has to build. A file is cut into some 256, and four for each of its runs."""
