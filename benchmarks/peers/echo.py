# SPDX-License-Identifier: Apache-2.0
"""Servers that read a request and send a constant answer: the lower bound of the cost.

uvicorn benchmarks.peers.echo:app
python -m benchmarks.peers.echo PORT        # the same over gRPC
"""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

_Message = MutableMapping[str, Any]
# The constant answer is as long as a real one.
_ANSWER = b'{"label": "7"}'.ljust(260)


async def app(
    _: _Message,
    receive: Callable[[], Awaitable[_Message]],
    send: Callable[[_Message], Awaitable[None]],
) -> None:
    """Answer any HTTP request."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-length", b"%d" % len(_ANSWER))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


def _serve_grpc(port: int) -> None:
    def answer(body: bytes, _: object) -> bytes:
        return body[:120]

    method: Any = grpc.unary_unary_rpc_method_handler(answer)
    handler = grpc.method_handlers_generic_handler(
        "inkling.v1.Classifier", {"Classify": method}
    )
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    _serve_grpc(int(sys.argv[1]))
