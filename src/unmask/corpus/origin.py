"""Whose vectors a file holds, and whether two files, or a file and an encoder, belong together."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.corpus.manifest import KEY
from unmask.encoder import TextEncoder
from unmask.encoder.fingerprint import is_fingerprint, same
from unmask.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a file says of where its vectors are from; None: it does not say.

    Attributes:
        encoder: how it was named when it wrote them.
        fingerprint: of that encoder, which stays when it is renamed or saved again.
        dimension: numbers of a vector, of which the last may share a byte with bits that mean nothing.
    """

    encoder: str | None = None
    fingerprint: str | None = None
    dimension: int | None = None

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes]) -> "Origin":
        """What the metadata of a Parquet file says."""
        try:
            said = json.loads(metadata.get(KEY, b"{}"))
            known = said.get("fingerprint")
            fingerprint = known if is_fingerprint(known) else None
            return cls(said.get("encoder") or None, fingerprint, said.get("dimension"))
        except (ValueError, AttributeError):  # somebody else's key of that name
            return cls()

    def __str__(self) -> str:
        return f"{self.encoder or 'an encoder without a name'} ({self.fingerprint or 'no fingerprint'})"


def common_origin(origins: Sequence[tuple[Path, Origin]]) -> Origin:
    """What several files say.

    Raises:
        DataError: two of them are of two encoders.
    """
    known = [(path, origin) for path, origin in origins if origin.fingerprint is not None]
    for path, origin in known[1:]:
        first_path, first = known[0]
        if not same(str(first.fingerprint), str(origin.fingerprint)):
            raise DataError(
                f"{first_path} holds vectors of {first} and {path} of {origin}; vectors of two encoders cannot be "
                "compared, so search them one at a time."
            )
    if not known:
        return origins[0][1]
    silent = next((path for path, origin in origins if origin.fingerprint is None), None)
    if silent is not None:
        logger.warning(
            f"{silent} does not say which encoder its vectors are from; it is taken to be that of {known[0][0]}."
        )
    return known[0][1]


def check_encoder(encoder: TextEncoder, name: str, path: Path, origin: Origin, dimension: int) -> None:
    """Refuse to compare queries of one encoder with vectors of another.

    Args:
        encoder: of the queries.
        name: as it was asked for.
        path: of the vectors.
        origin: what they say of their encoder; where that is nothing, only their width is looked at.
        dimension: their width, that of the encoder or, where it is known to be the same, less (Matryoshka).

    Raises:
        DataError: another encoder or another width.
    """
    if origin.fingerprint is not None and not same(origin.fingerprint, encoder.fingerprint()):
        raise DataError(
            f"{path} holds vectors of {origin}, and queries would be of {name} ({encoder.fingerprint()}), another "
            "encoder; name the same with --encoder, or encode the texts again."
        )
    if origin.fingerprint is None:
        logger.warning(f"{path} does not say which encoder its vectors are from, so {name} is not compared with it.")
    if dimension > encoder.dimension or (origin.fingerprint is None and dimension != encoder.dimension):
        raise DataError(f"{path} holds vectors of {dimension} numbers; those of {name} have {encoder.dimension}.")
