"""A gRPC client for load that costs next to nothing: unary calls on one HTTP/2 connection, frame by frame.

A client in grpc.aio takes as much of a core per call as the server that it measures, which on two cores measures the
client. This one does what HTTP/2 (RFC 9113) and gRPC's protocol ask of a client that trusts its server: it sends its
headers uncompressed, obeys flow control, answers pings and settings, and takes nothing but a message for an answer: a
call that ends without one has failed.
"""

import socket
import struct
from collections.abc import Callable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_FRAME_HEADER = 9
_MAX_FRAME = 16_384
_DEFAULT_WINDOW = 65_535
_MAX_WINDOW = 2**31 - 1


class CallFailed(RuntimeError):
    """A call ended without an answer, or the connection did."""


class Connection:
    """One connection to `host:port` that calls one method; `answered` gets the number of a call and its answer.

    An answer may begin the next call, so a closed loop of n clients is n calls at the start.
    """

    def __init__(
        self, address: str, method: str, metadata: dict[str, str], answered: Callable[[int, bytes], None]
    ) -> None:
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fields = {":method": "POST", ":scheme": "http", ":path": method, ":authority": address}
        fields |= {"te": "trailers", "content-type": "application/grpc", "grpc-timeout": "30S"} | metadata
        self._headers = b"".join(b"\x00" + _literal(name) + _literal(value) for name, value in fields.items())
        self._answered = answered
        self._calls: dict[int, int] = {}
        self._answers: dict[int, bytes] = {}
        self._next_stream = 1
        self._received = b""
        self._window = self._stream_window = _DEFAULT_WINDOW
        # What flow control holds back: whole frames of data, in order, with the streams' own windows left.
        self._waiting: list[tuple[int, bytes]] = []
        self._windows: dict[int, int] = {}
        # The server's header table is not used, and answers are never held back.
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _MAX_WINDOW)
        grow = struct.pack(">I", _MAX_WINDOW - _DEFAULT_WINDOW)
        self._out = [_PREFACE, _frame(_SETTINGS, 0, 0, settings), _frame(_WINDOW_UPDATE, 0, 0, grow)]

    def call(self, number: int, message: bytes) -> None:
        """Begin a call; it is sent when the connection is run."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._calls[stream] = number
        self._windows[stream] = self._stream_window
        self._out.append(_frame(_HEADERS, _END_HEADERS, stream, self._headers))
        body = struct.pack(">BI", 0, len(message)) + message
        self._waiting.append((stream, body))

    def run(self) -> None:
        """Send and receive until every call is answered. Raises CallFailed."""
        while self._calls:
            self._send()
            received = self._socket.recv(1 << 20)
            if not received:
                raise CallFailed("the server closed the connection")
            self._read(received)
        self._send()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _send(self) -> None:
        held = []
        for stream, body in self._waiting:
            left = self._send_data(stream, body)
            if left:
                held.append((stream, left))
        self._waiting = held
        if self._out:
            self._socket.sendall(b"".join(self._out))
            self._out.clear()

    def _send_data(self, stream: int, body: bytes) -> bytes:
        while body:
            size = min(len(body), _MAX_FRAME, self._window, self._windows[stream])
            if size <= 0:
                return body
            part, body = body[:size], body[size:]
            self._window -= size
            self._windows[stream] -= size
            self._out.append(_frame(_DATA, 0 if body else _END_STREAM, stream, part))
        return b""

    def _read(self, received: bytes) -> None:
        data = self._received + received
        at = 0
        while len(data) - at >= _FRAME_HEADER:
            size = int.from_bytes(data[at : at + 3], "big")
            end = at + _FRAME_HEADER + size
            if end > len(data):
                break
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            self._frame(data[at + 3], data[at + 4], stream, data[at + _FRAME_HEADER : end])
            at = end
        self._received = data[at:]

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 0 | 1:
                if kind == _DATA:
                    self._answers[stream] = self._answers.get(stream, b"") + payload
                if flags & _END_STREAM:
                    self._ended(stream)
            case 3 | 7:
                raise CallFailed(f"the server ended {'the call' if kind == _RST_STREAM else 'the connection'}")
            case 4 if not flags & _ACK:
                for setting, value in struct.iter_unpack(">HI", payload):
                    if setting == _INITIAL_WINDOW_SIZE:
                        more = value - self._stream_window
                        self._stream_window = value
                        self._windows = {known: left + more for known, left in self._windows.items()}
                self._out.append(_frame(_SETTINGS, _ACK, 0, b""))
            case 6 if not flags & _ACK:
                self._out.append(_frame(_PING, _ACK, 0, payload))
            case 8:
                more = int.from_bytes(payload, "big")
                if stream == 0:
                    self._window += more
                elif stream in self._windows:
                    self._windows[stream] += more

    def _ended(self, stream: int) -> None:
        number = self._calls.pop(stream)
        del self._windows[stream]
        body = self._answers.pop(stream, b"")
        if len(body) < 5 or body[0] or int.from_bytes(body[1:5], "big") != len(body) - 5:
            raise CallFailed(f"call {number} was refused or has failed")
        self._answered(number, body[5:])


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload) << 8 | kind) + struct.pack(">BI", flags, stream) + payload


def _literal(text: str) -> bytes:
    """Return a string of a header block (RFC 7541, section 5.2)."""
    data = text.encode("ascii")
    if len(data) < 127:
        return bytes([len(data)]) + data
    return b"\x7f" + bytes([len(data) - 127]) + data
