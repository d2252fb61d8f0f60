"""An encoder behind an HTTP address, as OpenAI's embeddings are: requests of many clients fill common batches."""

from unmask.errors import MissingExtraError

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as missing:
    raise MissingExtraError(
        "The server needs fastapi, uvicorn and prometheus-client: pip install 'unmask[serve]'"
    ) from missing

from unmask.serving.run import ServerSettings, bind, serve

__all__ = ["ServerSettings", "bind", "serve"]
