"""A receiver of webhooks in a process of its own: `python -m tests.receiver PORT FILE ANSWERS`.

Every request that is taken is a line of FILE. ANSWERS, separated by commas, are what the first requests get: a status,
`hang` (no answer until the peer leaves), `close` (in the middle of the body's reading); all later ones get 204.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


def serve(port: int, path: str, answers: list[str]) -> None:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer = answers.pop(0) if answers else "204"
            if answer == "close":
                self.rfile.read(5)
                self.connection.close()
                return
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with open(path, "a", encoding="utf-8") as file:
                told = {
                    "answer": answer,
                    "headers": dict(self.headers),
                    "body": json.loads(body),
                    "text": body.decode(),
                }
                file.write(json.dumps(told) + "\n")
            if answer == "hang":
                self.rfile.read(1)
                return
            self.send_response(int(answer))
            self.send_header("Content-Length", "0")
            if answer == "302":
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):  # of a connection that was closed
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):
                self.close_connection = True

    HTTPServer(("127.0.0.1", port), Receiver).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], [answer for answer in sys.argv[3].split(",") if answer])
