"""Many clients of one server of vectors, each with a connection of its own."""

import base64
import http.client
import json
import subprocess
import threading
import time
from urllib.parse import urlsplit

from .timing import kept


def timed_serving(job, command, **extra):
    """Seconds until all texts of a job have their vectors, and what quantiles of its clients wait for an answer.

    The command starts the server, which says its address in a line of JSON; `extra` is what requests say besides.
    """
    import numpy as np

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = urlsplit(json.loads(process.stdout.readline())["url"]).netloc
            texts, size = job["texts"], job["per_request"]
            requests = [texts[start : start + size] for start in range(0, len(texts), size)]
            ask(address, requests[:4], iter(range(4)), {}, [], extra)
            numbers, found, seconds = iter(range(len(requests))), {}, []
            clients = [
                threading.Thread(target=ask, args=(address, requests, numbers, found, seconds, extra))
                for _ in range(job["clients"])
            ]
            started = time.perf_counter()
            for client in clients:
                client.start()
            for client in clients:
                client.join()
            total = time.perf_counter() - started
        finally:
            process.terminate()
    vectors = np.concatenate([found[number] for number in range(len(requests))])
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return {"seconds": total, "p50": p50, "p99": p99, **kept(job, vectors)}


def ask(address, requests, numbers, found, seconds, extra):
    """One client: it takes the next request that nobody has taken, until there is none."""
    import numpy as np

    connection = http.client.HTTPConnection(address)
    for number in numbers:
        if number >= len(requests):
            break
        body = json.dumps({"input": requests[number], **extra})
        started = time.perf_counter()
        connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        seconds.append(time.perf_counter() - started)
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {text[:200]}")
        rows = [item["embedding"] for item in json.loads(text)["data"]]
        found[number] = np.array(
            [np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row for row in rows]
        )
    connection.close()
