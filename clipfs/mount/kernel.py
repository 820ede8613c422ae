"""Which front shows an image, and the mount that the kernel then serves alone.

    with chosen_tree("auto", image, layout) as tree:  # None: `clipfs.mount.server` is to serve
        mount_tree(tree, image, layout, mountpoint)

`auto` is `erofs` where every layer is complete on this disk and the kernel can, else `fuse`;
why is logged. Nothing stays behind but the mount and its record under `run/`.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from clipfs import errors
from clipfs.image.digest import cache_key
from clipfs.layer.layout import Layout
from clipfs.log import log
from clipfs.mount import records, syscalls
from clipfs.mount.front import Wanted, erofs
from clipfs.mount.prepare import Prepared
from clipfs.mount.rebuilt import is_rebuilt, rebuilt
from clipfs.system.cached import open_cached
from clipfs.tree.reader import ImageIndex

MAX_AUTO_COPY_BYTES = 64 << 20
"""What `auto` copies of layers whose length the kernel cannot take, and of sparse files that it
cannot read where they lie: a second or so of writing."""


def check_kernel(layout: Layout) -> None:
    """NodeFault, for `--front erofs`, if the kernel cannot show images that lie in this root."""
    try:
        erofs.probe(layout.run)
    except errors.NodeFault as fault:
        raise _refused(layout, fault) from fault


@contextmanager
def chosen_tree(
    wanted: Wanted, image: Prepared, layout: Layout, *, context: str | None = None
) -> Iterator[int | None]:
    """The image as a kernel mount that is nowhere yet; None if fuse is to show it.

    context  SELinux's, of all files
    Raises  NodeFault if erofs is wanted and cannot be
    """
    with ExitStack() as stack:
        tree: int | None = None
        reason = _reason_for_fuse(wanted, image, layout)
        if reason is None:
            try:
                if wanted == "auto":
                    erofs.probe(layout.run)
                tree = stack.enter_context(_tree(image, layout, context))
                reason = "asked for" if wanted == "erofs" else "all layers are on this disk"
            except errors.NodeFault as fault:
                if wanted == "erofs":
                    raise _refused(layout, fault) from fault
                reason = str(fault)
            except errors.DiskFull as full:
                if wanted == "erofs":
                    raise
                reason = str(full)
        log.info("front chosen", front="fuse" if tree is None else "erofs", reason=reason)
        yield tree


def mount_tree(tree: int, image: Prepared, layout: Layout, mountpoint: Path) -> None:
    """Show the tree at mountpoint, its record written before."""
    device = erofs.device_of(tree)
    record = records.new_mount(
        image=str(image.image.reference),
        digest=image.image.digest,
        mountpoint=mountpoint,
        layers=tuple(one.cache_key for one in image.layers),
        index_key=cache_key(image.image.digest),
        front="erofs",
        device=device,
    )
    records.forget_dead(layout, device)
    store = records.mounts(layout)
    store.write(record.id, record)
    try:
        syscalls.attach(tree, mountpoint)
    except BaseException:
        store.remove(record.id)
        raise


def _tree(image: Prepared, layout: Layout, context: str | None) -> AbstractContextManager[int]:
    with ImageIndex.open(image.index_path) as index:
        if not index.is_own:
            raise errors.NodeFault("its image index was merged by another node")
    devices = [*_payloads(image, layout), *_sparse_files(image, layout)]
    return erofs.image_tree(image.index_path, devices, scratch=layout.run, context=context)


def _payloads(image: Prepared, layout: Layout) -> list[erofs.PayloadFile]:
    return [
        erofs.PayloadFile(path=layout.payload(one.cache_key), payload_bytes=one.index.payload_bytes)
        for one in image.layers
    ]


def _sparse_files(image: Prepared, layout: Layout) -> list[erofs.PayloadFile]:
    return [
        erofs.PayloadFile(path=rebuilt(layout, layer, sparse), payload_bytes=sparse.size_bytes)
        for layer, sparse in image.sparse
    ]


def _copied_bytes(image: Prepared, layout: Layout) -> int:
    """What the kernel's mount has to write first."""
    padded = sum(one.payload_bytes for one in _payloads(image, layout) if one.needs_copy)
    missing = {
        layer.cache_key: sparse.data_bytes
        for layer, sparse in image.sparse
        if not is_rebuilt(layout.sparse_file(layer.cache_key), sparse)
    }
    return padded + sum(missing.values())


def _reason_for_fuse(wanted: Wanted, image: Prepared, layout: Layout) -> str | None:
    if wanted != "auto":
        return "asked for" if wanted == "fuse" else None
    payloads = _payloads(image, layout)
    absent = sum(not _is_readable(one.path) for one in payloads)
    if absent:
        return f"{absent} of {len(payloads)} layers are not whole on this disk"
    if _copied_bytes(image, layout) > MAX_AUTO_COPY_BYTES:
        return (
            "layers of no multiple of 512 bytes, or sparse files, are too long to be copied; "
            "--front erofs does it"
        )
    return None


def _is_readable(path: Path) -> bool:
    fd = open_cached(path)
    if fd is None:
        return False
    os.close(fd)
    return True


def _refused(layout: Layout, fault: errors.NodeFault) -> errors.NodeFault:
    return errors.NodeFault(
        f"--front erofs: not with this kernel and the disk of --root {layout.root} ({fault}); "
        "say --front fuse or auto"
    )
