"""A chat endpoint on this machine that answers what a test tells it to."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub:
    """Answers each question by a function of (body of the request, how many came before), and keeps what it was asked.

    The function returns a text, or (status, text, headers), or a number of seconds to sleep before it says "1".
    """

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.headers = []
        self.paths = []
        self.lock = threading.Lock()

    @property
    def messages(self):
        return [body["messages"][1]["content"] for body in self.asked]


def completion(text):
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@contextlib.contextmanager
def serving(answer):
    """Give the address of a running endpoint and what it saw."""
    stub = Stub(answer if callable(answer) else lambda body, number: answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with stub.lock:
                number = len(stub.asked)
                stub.asked.append(body)
                stub.headers.append(dict(self.headers))
                stub.paths.append(self.path)
            given = stub.answer(body, number)
            status, text, headers = 200, given, {}
            if isinstance(given, float):
                time.sleep(given)
                text = "1"
            elif isinstance(given, tuple):
                status, text, headers = given
            sent = (completion(text) if status == 200 and not text.startswith("{") else text).encode()
            with contextlib.suppress(ConnectionError):  # the judge may have stopped waiting
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
