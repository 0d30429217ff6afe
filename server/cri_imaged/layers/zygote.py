"""The zygote: a fresh, warm, single-threaded interpreter that forks one worker for each layer.

Run as `python -I -m cri_imaged.layers.zygote FD`, where FD is its end of the control socket. It
ends, and all its workers with it, when the other end is closed.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys

from cri_imaged.layers import protocol, worker


def serve(control: socket.socket) -> None:
    """Fork, kill and wait for workers as the daemon asks, until it hangs up."""
    wake_in, wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_out, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    workers: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(wake_in, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if wake_in in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake_in, 4096)
                _reap(control, workers)
            if control in ready and not _obey(control, workers):
                break
    for pid in workers.values():
        os.kill(pid, signal.SIGKILL)
    for pid in workers.values():
        os.waitpid(pid, 0)


def _obey(control: socket.socket, workers: dict[int, int]) -> bool:
    try:
        packet, descriptors, _, _ = socket.recv_fds(
            control, protocol.PACKET_BYTES, protocol.DESCRIPTORS
        )
    except ConnectionResetError:  # closed while a message of ours was unread
        return False
    if not packet:
        return False
    try:
        request = protocol.decode_request(packet)
        if isinstance(request, protocol.Kill):
            if request.worker in workers:
                os.kill(workers[request.worker], signal.SIGKILL)
        else:
            try:
                workers[request.worker] = _fork(request, descriptors)
            except OSError as error:  # too many processes, too little memory
                _tell_end(control, request.worker, error.errno or 1)
    finally:
        for fd in descriptors:
            os.close(fd)
    return True


def _fork(start: protocol.Start, descriptors: list[int]) -> int:
    zygote = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        worker.run(start, descriptors, zygote)
        status = 0
    finally:
        os._exit(status)


def _reap(control: socket.socket, workers: dict[int, int]) -> None:
    for number, pid in list(workers.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del workers[number]
            _tell_end(control, number, os.waitstatus_to_exitcode(status))


def _tell_end(control: socket.socket, number: int, status: int) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        control.send(protocol.encode(protocol.Ended(number, status)))


def main() -> None:
    """Serve the control socket whose descriptor is the one argument."""
    # A terminal's or service manager's signal is for the daemon, which ends its work in order.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        serve(control)


if __name__ == "__main__":
    main()
