"""The daemon's end of the zygote: starting it, and the workers in it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Sequence

from cri_imaged.layers import protocol
from cri_imaged.limits import Limits


class Worker:
    """One worker, from its start to its end."""

    def __init__(self, zygote: Zygote, number: int, result_fd: int, watermarks_fd: int) -> None:
        self._zygote = zygote
        self._number = number
        self.result_fd = result_fd
        self.watermarks_fd = watermarks_fd
        self.status: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        """How it ended, once it did (None: with its zygote)."""

    async def answer(self, limit: int) -> bytes:
        """All it writes until it ends, cut at `limit` bytes."""
        out = bytearray()
        while True:
            await _ready(self.result_fd, write=False)
            try:
                part = os.read(self.result_fd, 1 << 16)
            except BlockingIOError:
                continue
            if not part:
                return bytes(out)
            if len(out) <= limit:
                out += part

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
        """Kill it and wait until nothing of it runs; not to be cancelled."""
        self._zygote.request(protocol.Kill(self._number))
        while True:
            await _ready(self.result_fd, write=False)
            try:
                if not os.read(self.result_fd, 1 << 16):  # closed by its end alone
                    break
            except BlockingIOError:
                continue
        await self.status

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.result_fd)
        os.close(self.watermarks_fd)


class Zygote:
    """A running zygote process. Made by `start`."""

    def __init__(self, process: Process, control: socket.socket) -> None:
        self._process = process
        self._control = control
        self._workers: dict[int, Worker] = {}
        self._count = 0
        self.alive = True
        asyncio.get_running_loop().add_reader(control.fileno(), self._receive)

    @classmethod
    async def start(cls) -> Zygote:
        """Start a fresh interpreter, with nothing of the daemon's environment."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "cri_imaged.layers.zygote", str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                env={},
                stdin=DEVNULL,
                stdout=DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    def fork(
        self,
        source: int,
        root: int,
        media_type: str,
        algorithm: str,
        limits: Limits,
        *,
        clear: bool,
    ) -> Worker:
        """Start a worker. `source` and `root` stay the caller's."""
        watermarks_in, watermarks_out = os.pipe2(os.O_CLOEXEC)
        result_in, result_out = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(watermarks_out, False)
        os.set_blocking(result_in, False)
        self._count += 1
        worker = Worker(self, self._count, result_in, watermarks_out)
        self._workers[self._count] = worker
        start = protocol.Start(self._count, media_type, algorithm, limits, clear)
        try:
            self.request(start, [source, watermarks_in, root, result_out])
        except BaseException:
            del self._workers[self._count]
            worker.close()
            raise
        finally:
            os.close(watermarks_in)
            os.close(result_out)
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
        if not self.alive and isinstance(request, protocol.Start):
            self._ended(request.worker, None)

    async def stop(self) -> None:
        """Hang up, and wait until it and all its workers have ended."""
        self._hang_up()
        await self._process.wait()

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
        ended = protocol.decode_ended(packet)
        self._ended(ended.worker, ended.status)

    def _ended(self, number: int, status: int | None) -> None:
        worker = self._workers.pop(number, None)
        if worker is not None and not worker.status.done():
            worker.status.set_result(status)

    def _hang_up(self) -> None:
        if self.alive:
            self.alive = False
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            for number in list(self._workers):
                self._ended(number, None)


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
