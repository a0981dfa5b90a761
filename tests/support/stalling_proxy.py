"""A proxy to a PostgreSQL server, as a program of its own, that takes every byte and at some moment passes none on.

Arguments: the socket of the server; what a client sends when the proxy stalls, as a regular expression in hex, or "" if
it accepts and never answers; after how many seconds it goes on, or 0 if it never does; "answer" if only what the server
sends is lost. It prints its port.
"""

import re
import select
import socket
import sys
import threading
import time


def forward(near: socket.socket, target: str, moment: bytes, seconds: float, *, only_answer: bool) -> None:
    """Forward what client and server send; from the moment on, only take it."""
    far = socket.socket(socket.AF_UNIX)
    far.connect(target)
    other, sent, is_stalled = {near: far, far: near}, b"", not moment
    while True:
        ready, _, _ = select.select([*other] if only_answer or not is_stalled else [near], [], [])
        for end in ready:
            data = end.recv(65536)
            if not data:
                near.close()
                far.close()
                return
            sent = (sent + data)[-100_000:] if end is near else sent
            if not is_stalled and re.search(moment, sent, re.DOTALL):
                is_stalled = not seconds
                time.sleep(seconds)
                moment = moment if is_stalled else b"(?!)"
            if not is_stalled or (only_answer and end is near):
                other[end].sendall(data)


def main() -> None:
    """Serve until this process is killed."""
    target, moment, seconds = sys.argv[1], bytes.fromhex(sys.argv[2]), float(sys.argv[3])
    only_answer = sys.argv[4:] == ["answer"]
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        near, _ = listener.accept()
        arguments = (near, target, moment, seconds)
        threading.Thread(target=forward, args=arguments, kwargs={"only_answer": only_answer}, daemon=True).start()


if __name__ == "__main__":
    main()
