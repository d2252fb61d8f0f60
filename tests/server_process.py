"""A real `unmask serve` process on a free port, and the clients that ask it."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from openai import OpenAI

KEY = "a key"


class Server:
    """One process; `facts` is what it said when it was ready."""

    def __init__(self, process, facts):
        self.process, self.facts = process, facts
        self.url = facts["url"]

    def client(self, **options):
        return OpenAI(base_url=f"{self.url}/v1", **({"api_key": KEY, "max_retries": 0} | options))

    def get(self, path):
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            return answer.read().decode()

    def metric(self, name):
        """One figure of /metrics; 0 as long as nothing was counted."""
        lines = [line.split(" ") for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        return sum(float(value) for key, value in lines if key == name)

    def post(self, body, headers=None):
        """(status, headers, JSON) of a body that need not be right."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1/embeddings", data)
        for name, value in ({"Authorization": f"Bearer {KEY}"} | (headers or {})).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.headers, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, error.headers, json.load(error)

    def stop(self, how=signal.SIGINT):
        """The exit code after a signal."""
        self.process.send_signal(how)
        return self.process.wait(120)


@contextmanager
def served(folder, *options, **environment):
    """A server of an encoder folder; must end well when it is told to."""
    command = [sys.executable, "-m", "unmask", "serve", str(folder), "--dtype", "float32", "--port", "0", "--json"]
    with subprocess.Popen(
        [*command, *map(str, options)], stdout=subprocess.PIPE, text=True, env=os.environ | environment
    ) as process:
        try:
            line = process.stdout.readline()
            assert line, f"the server ended with {process.wait(10)}"
            server = Server(process, json.loads(line))
            yield server
            if process.poll() is None:
                assert server.stop() == 0
        finally:
            process.kill()


def together(number, work):
    """What `work(0)` to `work(number - 1)` give, each in a thread of its own, all begun together."""
    with ThreadPoolExecutor(number) as pool:
        return [future.result() for future in [pool.submit(work, index) for index in range(number)]]
