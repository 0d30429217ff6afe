"""The daemon's end of the zygote: starting it, and the workers in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from cri_imaged.errors import WorkerDiedError
from cri_imaged.layers.decode.decoder import Encoded
from cri_imaged.layers.worker import protocol
from cri_imaged.layers.worker.given import Given
from cri_imaged.layers.worker.heart import STOPPED_SECONDS, STUCK_SECONDS
from cri_imaged.layers.worker.namespaces import children_apart
from cri_imaged.limits import Limits
from cri_imaged.ports import Target

_ZYGOTE = "cri_imaged.layers.worker.zygote"
_OBEY_SECONDS = 5.0
"""In which a zygote that runs answers."""
_BREATH_SECONDS = 0.01
"""After signs of life."""


Confinement: TypeAlias = tuple[Sequence[str], Sequence[str]]
"""What confines workers here, and what would, but cannot."""


class Work(NamedTuple):
    """What a worker is to do."""

    encoded: Encoded
    algorithm: str
    into: Target
    reserve: int
    """Bytes of the disk that stay free."""
    origin: str
    """See `Start`."""


class Worker:
    """One worker, from its start to its end."""

    def __init__(self, zygote: Zygote, number: int, result_fd: int, watermarks_fd: int) -> None:
        self._zygote = zygote
        self._number = number
        self.result_fd = result_fd
        self.watermarks_fd = watermarks_fd
        self.status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """How it ended, once it did (None: with its zygote)."""
        self.decoder_was_used = False
        """Whether its decoder had decoded other layers before; known when it has ended."""
        self._closed = False
        """Whether its result pipe was closed by its end."""

    async def answer(self, fed: Callable[[], bool]) -> bytes:
        """All it writes until it ends but its signs of life; or as much of it as shows that it is
        no honest answer. `fed` tells whether it was told of all bytes.

        Raises:
            TimeoutError: it showed no sign for `STOPPED_SECONDS`, or waited in vain for its decoder
                for `STUCK_SECONDS`, with all bytes there.
        """
        out = bytearray()
        stuck: float | None = None
        while True:
            async with asyncio.timeout(STOPPED_SECONDS):
                await _ready(self.result_fd, write=False)
            try:
                part = os.read(self.result_fd, 1 << 16)
            except BlockingIOError:
                continue
            if not part:
                self._closed = True
                return bytes(out)
            out += part
            if len(out) > protocol.ANSWER_BYTES:
                return bytes(out)
            out = out.lstrip(protocol.BEAT + protocol.IDLE_BEAT)
            if not out:
                now = time.monotonic()
                stuck = (stuck or now) if fed() and protocol.BEAT not in part else None
                if stuck is not None and now - stuck > STUCK_SECONDS:
                    raise TimeoutError
                # However often it beats, the loop has others to serve.
                await asyncio.sleep(_BREATH_SECONDS)

    async def tell(self, message: bytes) -> bool:
        """Send a watermark. False where it no longer reads."""
        while True:
            try:
                os.write(self.watermarks_fd, message)
            except BlockingIOError:
                await _ready(self.watermarks_fd, write=True)
            except BrokenPipeError:
                return False
            else:
                return True

    async def kill(self) -> None:
        """Wait until nothing of it runs, and kill it where it does not end by itself; not to be
        cancelled. A disk may hold it for long; a zygote that does not obey is killed itself, with
        all its workers."""
        if self._closed and await self._ends_by_itself():
            return
        self._zygote.request(protocol.Kill(self._number))
        await self._zygote.heard()
        while True:
            await _ready(self.result_fd, write=False)
            try:
                if not os.read(self.result_fd, 1 << 16):  # closed by its end alone
                    break
            except BlockingIOError:
                continue
        await self.status

    async def _ends_by_itself(self) -> bool:
        try:
            async with asyncio.timeout(_OBEY_SECONDS):
                await asyncio.shield(self.status)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.result_fd)
        os.close(self.watermarks_fd)


class Zygote:
    """A running zygote process. Made by `start`."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._workers: dict[int, Worker] = {}
        self._count = 0
        self._unheard: deque[asyncio.Event] = deque()
        self.alive = True
        self.confined: asyncio.Future[Confinement] = asyncio.get_running_loop().create_future()
        """What confines its workers, once it has started. Raises `WorkerDiedError` where it does
        not."""
        asyncio.get_running_loop().add_reader(control.fileno(), self._receive)

    @property
    def process(self) -> int:
        """Its process ID."""
        return self._process.pid

    @classmethod
    async def start(cls) -> Zygote:
        """Start a fresh interpreter, with nothing of the daemon's environment, in a PID namespace
        of its own where that is permitted."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            # Not in another thread: only this one's children may be in the namespace.
            with children_apart():
                process = subprocess.Popen(  # noqa: ASYNC220  # a fork is all it waits for
                    [sys.executable, "-I", "-m", _ZYGOTE, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env={},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                    cwd="/",
                )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    def fork(self, work: Work, given: Given, limits: Limits, *, clear: bool) -> Worker:
        """Start a worker. The descriptors stay the caller's; `clear`: see `Start`."""
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as undo:
            watermarks_in, watermarks_out = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, watermarks_in)
            undo.callback(os.close, watermarks_out)
            result_in, result_out = os.pipe2(os.O_CLOEXEC)
            theirs.callback(os.close, result_out)
            undo.callback(os.close, result_in)
            os.set_blocking(watermarks_out, False)
            os.set_blocking(result_in, False)
            self._count += 1
            worker = Worker(self, self._count, result_in, watermarks_out)
            self._workers[self._count] = worker
            undo.callback(self._workers.pop, self._count, None)
            start = protocol.Start(self._count, *work, clear, limits)
            self.request(
                start,
                [
                    given.source,
                    watermarks_in,
                    given.target,
                    result_out,
                    given.report,
                    given.secret,
                ],
            )
            undo.pop_all()
        return worker

    def request(
        self, request: protocol.Start | protocol.Kill, descriptors: Sequence[int] = ()
    ) -> None:
        """Send a request. Where the zygote is gone, its workers' ends say so."""
        if self.alive:
            try:
                socket.send_fds(self._control, [protocol.encode(request)], list(descriptors))
            except (BrokenPipeError, ConnectionResetError):
                self._hang_up()
            except BlockingIOError:  # it reads nothing any more: `heard` finds out
                if isinstance(request, protocol.Start):
                    self._ended(request.worker, None)
        if not self.alive and isinstance(request, protocol.Start):
            self._ended(request.worker, None)

    async def heard(self) -> None:
        """Wait until the last request was obeyed. A zygote that does not even hear of it does not
        run: it is killed."""
        if self.alive:
            obeyed = asyncio.Event()
            self._unheard.append(obeyed)
            try:
                async with asyncio.timeout(_OBEY_SECONDS):
                    await obeyed.wait()
            except TimeoutError:
                await self.stop(seconds=0)

    async def stop(self, seconds: float = _OBEY_SECONDS) -> None:
        """Hang up, and wait until it and all its workers have ended; it is killed after so long."""
        self._hang_up()
        if self._process.returncode is not None:
            return
        ended = os.pidfd_open(self._process.pid)
        try:
            try:
                async with asyncio.timeout(seconds):
                    await _ready(ended, write=False)
            except TimeoutError:
                self._process.kill()
                await _ready(ended, write=False)
        finally:
            os.close(ended)
        self._process.wait()

    def _receive(self) -> None:
        try:
            packet = self._control.recv(protocol.PACKET_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            packet = b""
        if not packet:
            self._hang_up()
            return
        match protocol.decode_report(packet):
            case protocol.Ended(worker, status, decoder_was_used):
                self._ended(worker, status, decoder_was_used=decoder_was_used)
            case protocol.Heard():
                self._unheard.popleft().set()
            case protocol.Confined(means, lacking):
                self.confined.set_result((means, lacking))

    def _ended(self, number: int, status: int | None, *, decoder_was_used: bool = False) -> None:
        worker = self._workers.pop(number, None)
        if worker is not None and not worker.status.done():
            worker.decoder_was_used = decoder_was_used
            worker.status.set_result(status)

    def _hang_up(self) -> None:
        if self.alive:
            self.alive = False
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            for number in list(self._workers):
                self._ended(number, None)
            if not self.confined.done():
                self.confined.set_exception(
                    WorkerDiedError("the process that starts layer workers ended before it was up")
                )
                self.confined.exception()  # nobody may ask
            while self._unheard:
                self._unheard.popleft().set()


async def _ready(fd: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    add, remove = (
        (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    )
    add(fd, set_ready)
    try:
        await ready
    finally:
        remove(fd)
