"""An OpenAI-compatible embeddings server as its clients see it; the standard library alone."""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np

from unmask.backbone.structure import first_line
from unmask.certificate.cases import Case
from unmask.certificate.targets import Refused
from unmask.encoder import Floats
from unmask.encoder.fingerprint import is_fingerprint
from unmask.errors import ServerError

_OURS = "X-Unmask-Fingerprint"  # a header of `unmask serve`, which puts saved prompts in front itself
_INPUT_TYPES = {"query": "query", "document": "document", "passage": "document", "corpus": "document"}
_CHUNK = 1 << 16
_SHOWN = 200  # characters of what a server says


class Server:
    """A server with POST /v1/embeddings.

    Args:
        url: of the server, with or without /v1 or /v1/embeddings.
        key: bearer key, if it wants one.
        model: as the server calls it; by default the first that it lists.
        seconds: in which an answer must be there, whole.

    Raises:
        ServerError: nothing answers there in time.

    Attributes:
        name: for people.
        fingerprint: as the server says, if it does.
    """

    def __init__(self, url: str, *, key: str | None = None, model: str | None = None, seconds: float = 60.0) -> None:
        base = url.rstrip("/").removesuffix("/embeddings")
        self._base = base if base.endswith("/v1") else f"{base}/v1"
        self._key, self._seconds = key, seconds
        self.fingerprint: str | None = None
        self._model = model or self._first_model()
        self.name = f"{url} (model {self._model})"

    def embed(self, cases: Sequence[Case], *, encoding: str = "float") -> Floats:
        """See `Target`; prompts go in front of texts, but to servers that have them."""
        body: dict[str, Any] = {"model": self._model, "encoding_format": encoding}
        name = cases[0].prompt_name
        if self.fingerprint is None:
            body["input"] = [case.prompt + case.text for case in cases]
        elif name is None or name in _INPUT_TYPES:
            body["input"] = [case.text for case in cases]
            body |= {} if name is None else {"input_type": _INPUT_TYPES[name]}
        else:
            raise Refused(f"a server knows the prompts of queries and documents, none called {name!r}")
        answer = self._ask("/embeddings", body)
        try:
            found = [_vector(item["embedding"]) for item in answer["data"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(
                f"{self._base}/embeddings answers with something else than embeddings ({_shown(answer)})."
            ) from error
        if len(found) != len(cases) or len({len(vector) for vector in found}) != 1:
            raise ServerError(
                f"{self._base}/embeddings answers half: {len(cases)} texts were sent, and {len(found)} vectors of "
                f"{' and '.join(map(str, sorted({len(vector) for vector in found}))) or 'no'} numbers came back."
            )
        return np.stack(found)

    def _first_model(self) -> str:
        try:
            listed = self._ask("/models", None)
            return str(listed["data"][0]["id"])
        except (Refused, KeyError, IndexError, TypeError):  # a server without a list takes any name
            return "default"

    def _ask(self, path: str, body: Mapping[str, Any] | None) -> Any:
        """JSON that a request is answered with.

        Raises:
            Refused: the server says that it does not take this request.
            ServerError: no such server, no answer in time, or half of one.
        """
        address = self._base + path
        request = Request(address, None if body is None else json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")  # to this server and no other
        try:
            with urlopen(request, timeout=self._seconds) as response:
                said = response.headers.get(_OURS)
                self.fingerprint = said if is_fingerprint(said) else self.fingerprint
                return json.loads(_read(response, self._seconds))
        except HTTPError as error:
            raise self._refusal(address, error, body is None) from error
        except TimeoutError as error:
            raise self._late(address) from error
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._late(address) from error
            raise ServerError(f"{address} does not answer ({error.reason}); is the server running there?") from error
        except (HTTPException, OSError) as error:
            raise ServerError(f"{address} broke off in the middle of an answer ({first_line(error)}).") from error
        except ValueError as error:
            raise ServerError(
                f"{address} answers half, or with no JSON ({first_line(error)}); is it an embeddings server?"
            ) from error

    def _late(self, address: str) -> ServerError:
        return ServerError(
            f"{address} has not answered within {self._seconds:g} seconds; raise --timeout, or look at its load."
        )

    def _refusal(self, address: str, error: HTTPError, looking: bool) -> Exception:
        """What an HTTP status means."""
        said = error.read(_CHUNK).decode("utf-8", "replace")
        if error.code in (401, 403):
            return ServerError(f"{address} wants a key ({error.code}); --key-env names the variable that holds it.")
        if error.code == 404 and not looking and "model" not in said:
            return ServerError(f"{address} is not there (404); give the URL of a server with POST /v1/embeddings.")
        if error.code in (408, 429, 502, 503, 504) and not looking:
            return ServerError(f"{address} is too busy or not ready ({error.code}: {_shown(said)}); try again later.")
        return Refused(f"{error.code}: {_shown(said)}")


def _read(response: HTTPResponse, seconds: float) -> bytes:
    """The whole body, if it is there in time, however slowly it drips."""
    end = time.monotonic() + seconds
    parts = []
    while part := response.read1(_CHUNK):
        parts.append(part)
        if time.monotonic() > end:
            raise TimeoutError
    return b"".join(parts)


def _vector(said: Any) -> Floats:
    """Numbers, or base64 of them; null, as JSON has no other word for what is not finite, stays so."""
    if isinstance(said, str):
        decoded: Floats = np.frombuffer(base64.b64decode(said, validate=True), dtype="<f4").astype(np.float32)
        return decoded
    if not isinstance(said, list) or not said:
        raise ValueError("no list of numbers")
    found: Floats = np.asarray([np.nan if number is None else number for number in said], dtype=np.float32)
    if found.ndim != 1:
        raise ValueError("no list of numbers")
    return found


def _shown(said: Any) -> str:
    """What a server says, in one short line."""
    text = said if isinstance(said, str) else json.dumps(said)
    return " ".join(text.split())[:_SHOWN]
