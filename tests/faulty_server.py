"""An embeddings server on this machine, and a runtime of a few lines on bare transformers, wrong in many ways."""

import base64
import json
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

import numpy as np
import torch


class Runtime:
    """Texts to vectors as the usual twenty lines on transformers do it; each keyword is a fault or its absence.

    Args:
        encoder: whose model and tokenizer are used, and nothing else of it.
        model: another one instead.
        bos: tokens in front; None for what the tokenizer does.
        eos: EOS tokens added behind.
        pooled: which tokens count: `text` for all but BOS in front, `all`.
        pooling: mean, weighted_mean, last, first.
        length: most tokens.
        cut: the side that loses them.
        parse: spellings of special tokens become tokens.
        strip: texts.
        masked: padding is masked; if not, a request is one padded batch without a mask.
        normalize: scale to length 1.
        dtype: of the model.
    """

    def __init__(self, encoder, *, model=None, bos=None, eos=0, pooled="text", pooling="mean", length=None, **more):
        self.model = model or encoder.model
        self.tokenizer = encoder.tokenizer
        self.bos, self.eos, self.pooled, self.pooling = bos, eos, pooled, pooling
        self.length = length or encoder.settings.max_length
        self.cut, self.parse, self.strip = more.get("cut", "end"), more.get("parse", False), more.get("strip", False)
        self.masked, self.normalize = more.get("masked", True), more.get("normalize", False)
        self.lock = Lock()

    def ids(self, text):
        text = text.strip() if self.strip else text
        own = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not self.parse)["input_ids"]
        front = [self.tokenizer.bos_token_id] * (1 if self.bos is None else self.bos)
        back = [self.tokenizer.eos_token_id] * self.eos
        room = self.length - len(front) - len(back)
        own = own[:room] if self.cut == "end" else own[-room:]
        return front + own + back or [self.tokenizer.unk_token_id or 0], len(front)  # a model must read something

    def pool(self, states, front):
        start = front if self.pooled == "text" and len(states) > front else 0
        if self.pooling == "mean":
            return states[start:].mean(0)
        if self.pooling == "weighted_mean":
            weights = torch.arange(1, len(states) + 1, dtype=torch.float32)[start:, None]
            return (states[start:] * weights).sum(0) / weights.sum()
        return states[-1 if self.pooling == "last" else 0]

    def __call__(self, texts):
        with self.lock, torch.inference_mode():
            read = [self.ids(text) for text in texts]
            width = max(len(ids) for ids, _ in read)
            if self.masked:
                states = [self.model(input_ids=torch.tensor([ids])).last_hidden_state[0].float() for ids, _ in read]
            else:
                padded = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in read])
                states = self.model(input_ids=padded).last_hidden_state.float()
                states = [row[: len(ids)] for row, (ids, _) in zip(states, read, strict=True)]
            vectors = np.stack([self.pool(own, front).numpy() for own, (_, front) in zip(states, read, strict=True)])
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if self.normalize else vectors


def listed(vectors):
    """The items of an answer."""
    return [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]


@contextmanager
def served(encode, *, key=None, seconds=0.0, answer=None):
    """Serve `encode` (texts -> vectors) as OpenAI does; yields the URL.

    Args:
        encode: texts to vectors.
        key: bearer key.
        seconds: before each answer.
        answer: called with the handler instead of answering.
    """

    class Handler(BaseHTTPRequestHandler):
        def reply(self, value, status=200, length=None):
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(length or len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            known = self.path == "/v1/models"
            self.reply({"data": [{"id": "pocket-bi"}]} if known else {"error": "no such page"}, 200 if known else 404)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/embeddings":
                return self.reply({"error": "no such page"}, 404)
            if key and self.headers.get("Authorization") != f"Bearer {key}":
                return self.reply({"error": "no key"}, 401)
            time.sleep(seconds)
            if answer:
                return answer(self, body)
            vectors = encode(body["input"])
            if body.get("encoding_format") == "base64":
                texts = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
                return self.reply({"data": listed(texts)})
            return self.reply({"data": listed([vector.tolist() for vector in vectors])})

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.handle_error = True, lambda *_: None  # a client that left is no news
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
