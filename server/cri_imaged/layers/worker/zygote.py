"""The zygote: a fresh, warm, single-threaded interpreter that forks the processes of each layer.

Run as `python -I -m cri_imaged.layers.worker.zygote FD`, where FD is its end of the control socket.
It ends, and all its workers with it, when the other end is closed.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cri_imaged import libc
from cri_imaged.layers.decode.table import decoder_of
from cri_imaged.layers.worker import confine, decoding, program, protocol
from cri_imaged.layers.worker.decoders import Decoder, IdleDecoders
from cri_imaged.layers.worker.program import Descriptors
from cri_imaged.layers.worker.rehearsal import rehearse
from cri_imaged.layers.worker.ring import Ring

_OOM_SCORE = 500
_FREED_BYTES = 8 << 20
"""A few chunks of a layer's stream."""


class _Worker:
    """The processes of one layer."""

    def __init__(self) -> None:
        self.running: list[int] = []
        """The writer first."""
        self.decoder: Decoder | None = None
        """One that may be given other layers when it is done with this one."""
        self.decoder_was_used = False
        """Whether it had been given others before."""
        self._statuses: list[int] = []
        self._writes = True

    def kill(self) -> None:
        """Kill what runs of them."""
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        """Wait for all of them."""
        for pid in self.running:
            os.waitpid(pid, 0)

    def free_decoder(self) -> Decoder | None:
        """Its decoder, once, where that has done its part of the layer."""
        decoder = self.decoder
        if decoder is None or decoder.pid not in self.running or not decoder.is_done():
            return None
        self.running.remove(decoder.pid)
        return decoder

    def ended(self, pid: int, status: int) -> bool:
        """One of them has. Whether that was the writer."""
        is_writer = self._writes and pid == self.running[0]
        self.running.remove(pid)
        if self._writes or status != -signal.SIGKILL:  # not by `kill`, as it was of no more use
            self._statuses.append(status)
        if is_writer:
            self._writes = False
        elif self.decoder is not None:
            self.decoder.close()
        return is_writer

    @property
    def status(self) -> int:
        """Of all: a signal, where there was one, else an error."""
        return min(self._statuses, key=lambda status: (status >= 0, status == 0))


class _Zygote:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._privileged = confine.privileged()
        self._workers: dict[int, _Worker] = {}
        self._decoders = IdleDecoders()

    def serve(self) -> None:
        """Fork, kill and wait for workers as the daemon asks, until it hangs up."""
        self._tell(protocol.Confined(*confine.isolate(privileged=self._privileged)))
        rehearse(privileged=self._privileged)
        # Nothing here is garbage, and what children look at for that they would have to copy.
        gc.collect()
        gc.freeze()
        wake_in, wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(wake_in, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(self._decoders.expire())}
                if wake_in in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_in, 4096)
                    self._reap()
                if self._control in ready and not self._obey():
                    break
        for worker in self._workers.values():
            worker.kill()
        self._decoders.end_all()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()

    def _obey(self) -> bool:
        try:
            packet, descriptors, _, _ = socket.recv_fds(
                self._control, protocol.PACKET_BYTES, protocol.DESCRIPTORS
            )
        except ConnectionResetError:  # closed while a message of ours was unread
            return False
        if not packet:
            return False
        try:
            request = protocol.decode_request(packet)
            if isinstance(request, protocol.Kill):
                if request.worker in self._workers:
                    self._stop(self._workers[request.worker])
                self._tell(protocol.Heard())
            else:
                try:
                    self._workers[request.worker] = self._start(request, descriptors)
                except OSError as error:  # too many processes or open files, too little memory
                    self._tell(protocol.Ended(request.worker, error.errno or 1))
        finally:
            for fd in descriptors:
                os.close(fd)
        return True

    def _stop(self, worker: _Worker) -> None:
        """End what runs of a worker; its decoder only where that is at work."""
        if (decoder := worker.free_decoder()) is not None:
            self._decoders.keep(decoder)
        worker.kill()

    def _start(self, start: protocol.Start, descriptors: Sequence[int]) -> _Worker:
        if len(descriptors) != protocol.DESCRIPTORS:  # dropped where this process has too many
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        given = Descriptors(*descriptors)
        worker = _Worker()
        if not decoder_of(start.encoded.media_type).is_native:
            worker.running.append(self._fork(descriptors, lambda: self._write(start, given, None)))
            return worker
        ring = Ring.make()
        try:
            kept = [given.target, given.result, given.report, *ring.writers()]
            worker.running.append(self._fork(kept, lambda: self._write(start, given, ring)))
            self._decode(worker, start, given, ring)
        except OSError:
            worker.kill()
            worker.reap()
            if worker.decoder is not None:
                worker.decoder.close()
            raise
        finally:
            ring.close()
        return worker

    def _decode(
        self, worker: _Worker, start: protocol.Start, given: Descriptors, ring: Ring
    ) -> None:
        kept = [given.source, given.watermarks, *ring.decoders()]
        if start.clear:
            self._decoders.end(start.origin)  # one of them may be why there is another attempt
        if start.clear or not start.origin:
            alone = [given.secret, *kept]
            worker.running.append(self._fork(alone, lambda: decoding.run(start, given, ring)))
            return
        decoder = self._decoders.take(start.origin)
        worker.decoder_was_used = decoder is not None
        worker.decoder = decoder or self._new_decoder(start)
        worker.running.append(worker.decoder.pid)
        worker.decoder.begin(start, kept)

    def _new_decoder(self, start: protocol.Start) -> Decoder:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = self._fork([theirs.fileno()], lambda: decoding.serve(theirs, start.limits))
            except OSError:
                ours.close()
                raise
        return Decoder(start.origin, pid, ours)

    def _write(self, start: protocol.Start, given: Descriptors, ring: Ring | None) -> None:
        program.run(start, given, ring, privileged=self._privileged)

    def _fork(self, kept: Sequence[int], work: Callable[[], None]) -> int:
        zygote = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            confine.die_with_parent(zygote)
            confine.keep_descriptors(kept)
            work()
            status = 0
        finally:
            os._exit(status)

    def _reap(self) -> None:
        """Wait for those that ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._ended(ended[0], os.waitstatus_to_exitcode(ended[1]))

    def _ended(self, pid: int, status: int) -> None:
        self._decoders.forget(pid)
        for number, worker in self._workers.items():
            if pid in worker.running:
                if worker.ended(pid, status):
                    self._stop(worker)
                if not worker.running:
                    del self._workers[number]
                    self._tell(protocol.Ended(number, worker.status, worker.decoder_was_used))
                return

    def _tell(self, report: protocol.Report) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(protocol.encode(report))


def main() -> None:
    """Serve the control socket whose descriptor is the one argument."""
    # A terminal's or service manager's signal is for the daemon, which ends its work in order.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        # The daemon's own score is for the daemon: what parses a stranger's layer goes first.
        Path("/proc/self/oom_score_adj").write_text(f"{_OOM_SCORE}\n")
    libc.share_heaps(1)
    libc.keep_freed(_FREED_BYTES)
    confine.end_imports()
    with socket.socket(fileno=int(sys.argv[1])) as control:
        _Zygote(control).serve()


if __name__ == "__main__":
    main()
