"""The floor under an answer in Python: a grpcio server that answers what it was given as bytes.

    python -m asking.ready SOCKET LIST STATUS

`LIST` and `STATUS` are files with the answers of ListImages and ImageStatus.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
import uvloop

from asking import SERVICE


async def serve(socket: str, answers: dict[str, bytes]) -> None:
    handlers = {method: answering(answer) for method, answer in answers.items()}
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await server.wait_for_termination()


def answering(answer: bytes) -> grpc.RpcMethodHandler[Any, Any]:
    async def answered(request: bytes, context: Any) -> bytes:
        return answer

    return grpc.unary_unary_rpc_method_handler(answered)


if __name__ == "__main__":
    address, listed, status = sys.argv[1:]
    answers = {"ListImages": Path(listed).read_bytes(), "ImageStatus": Path(status).read_bytes()}
    uvloop.run(serve(address, answers))
