"""sentence-transformers behind FastAPI, as many write it: FOLDER DTYPE; says its address in a line of JSON."""

import json
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], model_kwargs={"dtype": sys.argv[2]})
app = FastAPI()


class Request(BaseModel):
    """What a client sends."""

    input: list[str]


@app.post("/v1/embeddings")
def embeddings(request: Request) -> dict[str, Any]:
    """Vectors of texts."""
    vectors = model.encode(request.input, show_progress_bar=False)
    return {"data": [{"index": i, "embedding": vector.tolist()} for i, vector in enumerate(vectors)]}


listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
print(json.dumps({"url": f"http://127.0.0.1:{listening.getsockname()[1]}"}), flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])
