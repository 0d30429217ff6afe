"""A caller that asks the same over and over, one call after the other.

    python -m asking.caller SOCKET METHOD SECONDS

Reads the request from standard input, in hexadecimal on a line, and says `ready` once it is
connected and warm. At the next line it begins, and then prints the seconds of each call as JSON.
Answers are not parsed: what that costs says nothing of who answered.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from asking import SERVICE

_WARMING_CALLS = 50


@dataclass(frozen=True)
class Asked:
    """What callers saw."""

    seconds: Sequence[float]
    """Of each call."""
    per_second: float


def ask(socket: Path, method: str, request: bytes, *, callers: int, window: float) -> Asked:
    """Have so many processes ask at once, for a `window` of seconds."""
    command = [sys.executable, "-m", "asking.caller", str(socket), method, str(window)]
    folder = Path(__file__).resolve().parent.parent
    processes = [
        subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(callers)
    ]
    _tell(processes, request.hex())
    for process in processes:
        _line(process)
    _tell(processes, "")
    seconds = [each for process in processes for each in json.loads(_line(process))]
    for process in processes:
        process.communicate()
    return Asked(seconds, len(seconds) / window)


def _tell(processes: Sequence[subprocess.Popen[str]], line: str) -> None:
    for process in processes:
        assert process.stdin
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline()
    assert line, "a caller has failed"
    return line


def main() -> None:
    socket, method, window = sys.argv[1], sys.argv[2], float(sys.argv[3])
    request = bytes.fromhex(sys.stdin.readline())
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        for _ in range(_WARMING_CALLS):
            call(request)
        print("ready", flush=True)
        sys.stdin.readline()
        seconds = []
        now = time.perf_counter()
        end = now + window
        while now < end:
            began = now
            call(request)
            now = time.perf_counter()
            seconds.append(now - began)
    print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
