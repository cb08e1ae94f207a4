"""HTTP as bytes on a socket: what a library would not send, and what it would not show."""
import json
import socket


class RawHttp:
    def __init__(self, host, timeout=60, receive_buffer=None):
        address, port = host.split(":")
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((address, int(port)))
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def request(self, method, path, body=None, headers=()):
        """Sends a request; `body` may be bytes or what JSON can say."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
        if body is not None:
            lines.append(f"Content-Length: {len(data)}")
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    def _more(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"closed after {self.buffer[:200]!r}")
        self.buffer += data

    def _until(self, mark):
        while mark not in self.buffer:
            self._more()
        part, self.buffer = self.buffer.split(mark, 1)
        return part

    def _exactly(self, size):
        while len(self.buffer) < size:
            self._more()
        part, self.buffer = self.buffer[:size], self.buffer[size:]
        return part

    def header(self):
        """(status, {lower-case name: value}) of the next reply."""
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        return int(first.split(" ")[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}

    def chunk(self):
        """The next chunk of a chunked body; b"" is the last."""
        size = int(self._until(b"\r\n"), 16)
        return self._exactly(size + 2)[:-2]

    def reply(self, head=False):
        """(status, headers, body) of the next reply."""
        status, headers = self.header()
        if head or status == 204:
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            return status, headers, b"".join(iter(self.chunk, b""))
        return status, headers, self._exactly(int(headers["content-length"]))

    def at_end(self):
        """Whether the server closes without another byte."""
        try:
            return self.buffer == b"" and self.socket.recv(1) == b""
        except ConnectionError:
            return True
