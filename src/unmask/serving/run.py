"""The socket, the server's loop, and its end: what was accepted is answered before the process goes."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from unmask.encoder import TextEncoder
from unmask.errors import RecipeError
from unmask.serving.app import Api
from unmask.serving.service import Service

FINGERPRINT_HEADER = "X-Unmask-Fingerprint"
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How an encoder is served.

    Attributes:
        name: what clients call the encoder.
        key: a bearer key that clients must have; None lets everybody in.
        batch_tokens: most tokens in a batch; None for what suits the device.
        max_queue: most requests that are accepted and not answered.
        normalize: scale vectors to length 1, also where the encoder does not.
    """

    name: str
    key: str | None = None
    batch_tokens: int | None = None
    max_queue: int = 512
    normalize: bool = False


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address, on which nobody listens yet; port 0 is a free one.

    Raises:
        RecipeError: the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise RecipeError(f"{host}:{port} cannot be served ({why}); choose another --host or --port.") from error
    return bound


def address(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    encoder: TextEncoder, bound: socket.socket, settings: ServerSettings, *, ready: Callable[[str, str], object]
) -> None:
    """Serve until SIGINT or SIGTERM, then answer what was accepted; a second SIGINT ends at once.

    Args:
        encoder: nothing else may use or change it meanwhile.
        bound: see `bind`.
        settings: see there.
        ready: called with the URL and the encoder's fingerprint as soon as clients can connect.
    """
    normalize = settings.normalize or encoder.settings.normalize
    service = Service(encoder, name=settings.name, batch_tokens=settings.batch_tokens, normalize=normalize)
    app = Api(service, key=settings.key, max_queue=settings.max_queue).app()
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=[(FINGERPRINT_HEADER, service.fingerprint)],
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    bound.listen(_BACKLOG)
    ready(address(bound), service.fingerprint)
    try:
        with _signals_are_an_end():
            uvicorn.Server(config).run(sockets=[bound])
    finally:
        service.stop()


@contextmanager
def _signals_are_an_end() -> Iterator[None]:
    """Once it has stopped, uvicorn raises the signal anew; that a server was told to stop is no failure."""
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
