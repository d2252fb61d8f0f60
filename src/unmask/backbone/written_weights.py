"""Weights of an encoder as they lie in a folder: what does not read `is_causal: false` must not open them."""

from pathlib import Path

from unmask.errors import ArtifactError

_FORMAT = b'"format":"%s"'
_EVERYONE, _NEWER = b"pt", b"v5"  # of one length, so that nothing behind it moves


def refuse_to_transformers_4(folder: Path) -> None:
    """Mark saved weights so that transformers 4 does not open them: it would read them as a causal decoder's, silently.

    It opens weights only whose header names one of the formats it knows, and shows the name in its error. Version 5
    does not look at it, nor do vLLM, text-embeddings-inference and the converter of llama.cpp.

    Args:
        folder: with weights that transformers wrote.

    Raises:
        ArtifactError: a file's header is not as transformers writes it.
    """
    for path in folder.glob("*.safetensors"):
        with path.open("r+b") as file:
            header = file.read(8)
            header += file.read(int.from_bytes(header, "little"))
            place = header.find(_FORMAT % _EVERYONE)
            if place < 0:
                raise ArtifactError(
                    f"{path.name} does not say that its weights are in torch's format; it was not saved."
                )
            file.seek(place)
            file.write(_FORMAT % _NEWER)
