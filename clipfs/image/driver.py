"""Other credentials from the driver, by its socket: for a mount that outlives those it began with.

    -> {"image": "sha256:...", "volume": "csi-...", "wanted": false}   who is here, once
    -> {"image": "sha256:...", "volume": "csi-...", "wanted": true}    these are refused
    <- {"volume": "csi-...", "config": {"auths": ...}}                 use these, of that volume
    <- {"volume": "", "config": null}                                  there are none

A line that nobody asked for counts as well: the volume whose credentials were held is gone. A
driver that is away is looked for again and again; what is held stays until it is back.

Not here: when it is asked (`clipfs.image.held`); its other end (`csi.credentials.handing`).
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from clipfs import errors
from clipfs.image.credentials import MAX_CONFIG_BYTES, RegistryConfig
from clipfs.image.held import HeldCredentials
from clipfs.log import log
from clipfs.system.groups import lone_error_unwrapped
from clipfs.system.socket_names import short_name

RECONNECT_S = 1.0
AWAY_S = 10.0
"""How long a refused read waits for a driver that restarts."""

ANSWER_S = 75.0
"""For an answer: the driver may wait a minute for a credential provider's plugin."""

MAX_LINE_BYTES = 2 * MAX_CONFIG_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialsSocket:
    """Where the driver is asked.

    image   digest of the manifest
    volume  whose credentials the mount begins with
    """

    path: Path
    image: str
    volume: str


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """What a mount says to the driver."""

    image: str
    volume: str
    wanted: bool = True


_NULL = msgspec.Raw(b"null")


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver says; `config` is a docker config, null: there are no others."""

    volume: str = ""
    config: msgspec.Raw = _NULL

    def __repr__(self) -> str:
        return f"Given({self.volume!r})"


@asynccontextmanager
async def held_credentials(
    config: RegistryConfig, driver: CredentialsSocket | None
) -> AsyncIterator[HeldCredentials]:
    """config, until the driver has others; without a driver for good."""
    if driver is None:
        yield HeldCredentials(config)
        return
    line = _DriversLine(driver)
    held = HeldCredentials(config, line)
    with lone_error_unwrapped():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.keep_up, held.replace)
            yield held
            nursery.cancel_scope.cancel()


class _DriversLine:
    """The connection to the driver, for as long as each of the two lives."""

    def __init__(self, driver: CredentialsSocket) -> None:
        self._path = driver.path
        self._image = driver.image
        self._volume = driver.volume  # whose credentials are held
        self._stream: trio.SocketStream | None = None
        self._connected = trio.Event()
        self._answered: trio.Event | None = None
        self._answer: RegistryConfig | None = None

    async def others(self) -> RegistryConfig | None:
        with trio.move_on_after(AWAY_S):
            await self._connected.wait()
        if self._stream is None:
            log.warning("the driver is away, credentials stay as they are", digest=self._image)
            return None
        self._answered, self._answer = trio.Event(), None
        try:
            with trio.move_on_after(ANSWER_S):
                await self._say(self._stream, wanted=True)
                await self._answered.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None
        finally:
            self._answered = None
        return self._answer

    async def keep_up(self, on_given: Callable[[RegistryConfig], None]) -> None:
        """Be connected; hand on what comes and was not asked for. Never returns."""
        while True:
            try:
                with short_name(self._path) as name:
                    stream = await trio.open_unix_socket(name)
            except OSError:
                await trio.sleep(RECONNECT_S)
                continue
            async with stream:
                try:
                    await self._listen(stream, on_given)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                except errors.InvalidInput as error:
                    log.warning("the driver's word is not understood", error=str(error))
                finally:
                    self._hang_up()
            await trio.sleep(RECONNECT_S)

    async def _listen(
        self, stream: trio.SocketStream, on_given: Callable[[RegistryConfig], None]
    ) -> None:
        await self._say(stream, wanted=False)
        self._stream = stream
        self._connected.set()
        lines = Lines(stream)
        while (line := await lines.next()) is not None:
            config = self._read(line)
            if self._answered is not None:
                self._answer = config
                self._answered.set()
            elif config is not None:
                log.info("credentials are replaced by the driver", digest=self._image)
                on_given(config)

    def _read(self, line: bytes) -> RegistryConfig | None:
        try:
            given = msgspec.json.decode(line, type=Given)
        except (ValueError, RecursionError):
            raise errors.InvalidInput("it is no line of credentials") from None
        if given.config == _NULL:
            return None
        config = RegistryConfig.from_json(bytes(given.config), source="from the driver")
        self._volume = given.volume
        return config

    def _hang_up(self) -> None:
        self._stream, self._connected = None, trio.Event()
        if self._answered is not None:
            self._answered.set()

    async def _say(self, stream: trio.SocketStream, *, wanted: bool) -> None:
        said = Hello(image=self._image, volume=self._volume, wanted=wanted)
        await stream.send_all(msgspec.json.encode(said) + b"\n")


class Lines:
    """What comes on a stream, line by line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> bytes | None:
        """None at the stream's end; InvalidInput for a line over MAX_LINE_BYTES."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise errors.InvalidInput(f"a line is over {MAX_LINE_BYTES} bytes")
            data = await self._stream.receive_some()
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line
