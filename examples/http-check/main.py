"""http-check: asks a web server for its status with requests. pagurus invoke http-check '{"path": "/missing"}'

A sandbox has only a loopback interface, so the server is one that the function starts itself.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import requests


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"all is well\n"
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        print(f"served {self.path}")


def main(param):
    path = (param or {}).get("path", "/")
    with HTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            started = time.perf_counter()
            answer = requests.get(f"http://127.0.0.1:{server.server_port}{path}", timeout=5)
            elapsed_ms = (time.perf_counter() - started) * 1000
        finally:
            server.shutdown()
            thread.join()
    return {
        "status": answer.status_code,
        "content_type": answer.headers["Content-Type"],
        "sent_headers": dict(answer.request.headers),
        "text": answer.text.strip(),
        "elapsed_ms": round(elapsed_ms, 2),
    }
