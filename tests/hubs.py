"""A hub on the loopback: the few addresses that fetching asks for. It can cut off, lie, and go away."""

import hashlib
import json
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

SHA = "a" * 40


class Hub(BaseHTTPRequestHandler):
    def __init__(self, files, faults, asked, *words):
        self.files, self.faults, self.asked = files, faults, asked
        super().__init__(*words)

    def log_message(self, *words):
        pass

    def answer(self, value, status=200):
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def send(self, body, status=200, headers=()):
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        wanted = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["paths"]
        rows = []
        for path in (path for path in wanted if path in self.files):
            data = self.files[path]
            row = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
            if path.endswith((".bin", ".model", ".parquet")):
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            rows.append(row)
        self.answer(rows)

    def do_GET(self):
        if "/tree/" in self.path:
            rows = [{"type": "file", "path": p, "size": len(d), "oid": git_hash(d)} for p, d in self.files.items()]
            return self.answer(rows)
        if self.path.startswith("/api/datasets/"):
            return self.answer({"id": "some/where", "sha": SHA, "siblings": [], "tags": []})
        path = self.path.partition(f"/resolve/{SHA}/")[2]
        data = self.files.get(path)
        if data is None:
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            return self.send(data, 200, headers)
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.asked.append((path, start))
        fault = self.faults.get(path)
        if fault == "other bytes":
            data = data[:-1] + bytes([data[-1] ^ 1])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if fault == "cut off":
            self.send_response(206 if start else 200)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(b"" if start else data[:1000])
            self.wfile.flush()
            self.close_connection = True
            return None
        return self.send(data[start:], 206 if start else 200, headers)

    do_HEAD = do_GET


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def serving(files, faults, asked):
    """The address of a hub that holds `files`, while the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, files, faults, asked))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()
