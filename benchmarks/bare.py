"""The floor `bare`: the ASGI server of ebus with nothing behind it but 100 fixed bytes.

    python -m benchmarks.bare

takes any port and says which on standard error, in the words of `ebus serve`.
The settings are those of `ebus.http.server`, and change with them, here and nowhere else.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

BODY = b'{"floor":"bare"}'.ljust(100)

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"100")],
}
_END = {"type": "http.response.body", "body": BODY}


async def answer(
    _scope: object, _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    await send(_START)
    await send(_END)


def main() -> None:
    server = uvicorn.Server(
        uvicorn.Config(
            answer,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
        )
    )
    with socket.create_server(("127.0.0.1", 0), backlog=2_048) as taken:
        sys.stderr.write(f"Server listening on 127.0.0.1:{taken.getsockname()[1]}\n")
        sys.stderr.flush()
        server.run(sockets=[taken])


if __name__ == "__main__":
    main()
