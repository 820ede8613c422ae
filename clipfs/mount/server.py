"""The process that serves one lazy image: mounts it, answers the kernel, stores, leaves.

One image a process, so that a crash touches one image. It ends when its mount is gone and
what it stores in the content cache is stored. Its record under `run/` is written before
mount(2), so that whoever comes after a crash knows what to clean up.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import trio

from clipfs.image.digest import cache_key
from clipfs.layer.layout import Layout
from clipfs.layer.use import touch
from clipfs.log import log
from clipfs.mount import counters, device, records, syscalls
from clipfs.mount.front.fuse import serve_front
from clipfs.mount.mountinfo import mounts_at
from clipfs.mount.payloads import ChainPayloads
from clipfs.mount.prepare import Prepared, share_image_index
from clipfs.system.groups import lone_error_unwrapped
from clipfs.tiers.background import FillSettings, filling
from clipfs.tiers.settings import TierHooks, TierSettings
from clipfs.tiers.stack import open_tiers
from clipfs.tiers.tier import IndexedLayer
from clipfs.tree.reader import ImageIndex

STORE_GRACE_S = 300
"""How long a server whose mount is gone goes on storing in the content cache."""


async def serve(
    prepared: Prepared,
    settings: TierSettings,
    mountpoint: Path,
    *,
    to_store: Sequence[IndexedLayer],
    on_ready: Callable[[], None],
    context: str | None = None,
    fill: FillSettings | None = None,
) -> None:
    """Mount prepared at mountpoint and serve it until it is unmounted.

    on_ready  called once, when the tree is readable
    context   SELinux's, of all files
    fill      what is brought to the disk behind the reads; None: nothing
    """
    log.info("serving", image=str(prepared.image.reference), mountpoint=str(mountpoint))
    with lone_error_unwrapped(), counters.open_own(settings.layout) as own:
        hooks = TierHooks(
            on_read=own.count_read,
            on_download=own.count_download,
            on_indexed=own.count_indexed,
            on_trouble=own.count_trouble,
        )
        async with (
            settings.open_registry() as registry,
            open_tiers(
                settings,
                registry,
                prepared.image.reference,
                hooks=hooks,
                to_store=to_store,
                mounted=True,
            ) as tiers,
        ):
            if prepared.is_merged:
                share_image_index(prepared, tiers)
            async with filling(tiers, prepared.layers, fill, own) as reader:
                payloads = ChainPayloads(
                    reader, prepared.layers, prepared.sparse, on_failed=own.count_failed
                )
                await _serve_mount(
                    prepared, settings.layout, mountpoint, payloads, on_ready, context
                )
            touch(
                settings.layout,
                layers=[one.cache_key for one in prepared.layers],
                image=cache_key(prepared.image.digest),
            )
            if tiers.storer is not None:
                with trio.move_on_after(STORE_GRACE_S):
                    await tiers.storer.drain()
    log.info("served", image=str(prepared.image.reference), mountpoint=str(mountpoint))


async def store(
    prepared: Prepared,
    settings: TierSettings,
    *,
    to_store: Sequence[IndexedLayer],
    on_ready: Callable[[], None],
) -> None:
    """Serve nothing: store what is new of a mount that the kernel serves alone, and end."""
    with lone_error_unwrapped(), counters.open_own(settings.layout) as own:
        async with (
            settings.open_registry() as registry,
            open_tiers(
                settings,
                registry,
                prepared.image.reference,
                hooks=TierHooks(on_trouble=own.count_trouble),
                to_store=to_store,
            ) as tiers,
        ):
            on_ready()
            if prepared.is_merged:
                share_image_index(prepared, tiers)
            if tiers.storer is not None:
                await tiers.storer.drain()
            if tiers.mender is not None:
                await tiers.mender.drain()


async def _serve_mount(
    prepared: Prepared,
    layout: Layout,
    mountpoint: Path,
    payloads: ChainPayloads,
    on_ready: Callable[[], None],
    context: str | None,
) -> None:
    record = records.new_mount(
        image=str(prepared.image.reference),
        digest=prepared.image.digest,
        mountpoint=mountpoint,
        layers=tuple(one.cache_key for one in prepared.layers),
        index_key=cache_key(prepared.image.digest),
    )
    store = records.mounts(layout)
    fd = device.open_fuse()
    try:
        store.write(record.id, record)
        source = str(prepared.image.reference)
        device.mount_fuse(fd, mountpoint, source=source, context=context)
        with _detached_if_it_raises(mountpoint):
            mounted = mounts_at(mountpoint)[-1].device
            device.raise_read_ahead(mounted)
            store.write(record.id, msgspec.structs.replace(record, device=mounted))
            with ImageIndex.open(prepared.index_path) as index:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_unmount_on_signal, mountpoint)
                    await nursery.start(_serve_and_end, nursery, index, payloads, fd)
                    on_ready()
    finally:
        os.close(fd)
        store.remove(record.id)


@contextmanager
def _detached_if_it_raises(mountpoint: Path) -> Iterator[None]:
    """A mount that nobody will serve is taken away; one that was never made is not ours to."""
    try:
        yield
    except BaseException:
        syscalls.detach(mountpoint)
        raise


async def _serve_and_end(
    nursery: trio.Nursery,
    index: ImageIndex,
    payloads: ChainPayloads,
    fd: int,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    await serve_front(index, payloads, fd, task_status=task_status)
    nursery.cancel_scope.cancel()


async def _unmount_on_signal(mountpoint: Path) -> None:
    """SIGTERM and SIGINT take the mount away; the server ends once nobody uses it."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("unmounting", signal=signal.Signals(number).name)
            syscalls.detach(mountpoint)
