"""A hub of folders, served on this machine: what huggingface_hub asks for, and no more."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0" * 40


@contextmanager
def served(root):
    """Serve `root/owner/name` folders as repositories; yields the endpoint."""

    class Hub(SimpleHTTPRequestHandler):
        def respond(self, content, **headers):
            self.send_response(404 if content is None else 200)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if content and self.command == "GET":
                self.wfile.write(content)

        def do_GET(self):
            parts = self.path.partition("?")[0].strip("/").split("/")
            folder = root / "/".join(parts[2:4])
            if parts[:2] == ["api", "models"] and folder.is_dir() and len(parts) <= 6:  # no folders within
                files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
                names = [path.relative_to(folder).as_posix() for path in files]
                info = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                sizes = [path.stat().st_size for path in files]
                tree = [
                    {"type": "file", "path": name, "size": size, "oid": COMMIT}
                    for name, size in zip(names, sizes, strict=True)
                ]
                answer = tree if parts[4:5] == ["tree"] else info
                return self.respond(json.dumps(answer).encode(), Content_Type="application/json")
            file = root / "/".join([*parts[:2], *parts[4:]])
            if parts[2:3] != ["resolve"] or not file.is_file():
                return self.respond(None, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            content = file.read_bytes()
            return self.respond(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=COMMIT)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def run_with_hub(root, cache, script, *arguments):
    """Run a script in a process that knows no other hub, with a cache of its own."""
    with served(root) as endpoint:
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(cache)}
        environment |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(cache)}
        command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)
