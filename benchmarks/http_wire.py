"""An HTTP client for load that costs next to nothing: POST requests on connections that stay open."""

import selectors
import socket
from collections.abc import Callable


class RequestFailed(RuntimeError):
    """A request was not answered with 200, or a connection ended."""


class Connections:
    """As many connections to `host:port` as clients; `answered` gets the number of a client and the answer's body.

    An answer may begin the client's next request, so a closed loop of n clients is n requests at the start.
    """

    def __init__(self, address: str, path: str, clients: int, answered: Callable[[int, bytes], None]) -> None:
        host, port = address.rsplit(":", 1)
        fields = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: "
        self._head = fields.encode("ascii")
        self._answered = answered
        self._sockets = [socket.create_connection((host, int(port))) for _ in range(clients)]
        self._received = [b""] * clients
        self._selector = selectors.DefaultSelector()
        for number, opened in enumerate(self._sockets):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(opened, selectors.EVENT_READ, number)
        self._open = 0

    def call(self, number: int, body: bytes) -> None:
        """Send a client's request."""
        self._sockets[number].sendall(self._head + b"%d\r\n\r\n" % len(body) + body)
        self._open += 1

    def run(self) -> None:
        """Receive until every request is answered. Raises RequestFailed."""
        while self._open:
            for key, _ in self._selector.select():
                self._read(key.data)

    def close(self) -> None:
        """Close the connections."""
        self._selector.close()
        for opened in self._sockets:
            opened.close()

    def _read(self, number: int) -> None:
        part = self._sockets[number].recv(1 << 20)
        if not part:
            raise RequestFailed("the server closed a connection")
        received = self._received[number] = self._received[number] + part
        head, found, body = received.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RequestFailed(received.decode("utf-8", "replace"))
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._received[number] = b""
            self._open -= 1
            self._answered(number, body)
