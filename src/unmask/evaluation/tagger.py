"""A trained probe as a tagger: saved beside the name of its encoder, applied to new sentences."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unmask.backbone.structure import LIFTED_KEY, RECURRENT_KEY, text_config
from unmask.encoder import TextEncoder, WordPosition, word_states
from unmask.errors import ArtifactError
from unmask.evaluation.probe import LinearProbe
from unmask.evaluation.words import WordsResult
from unmask.files import new_folder, read_json, refuse_pointers, write_json
from unmask.text.chunks import chunks

_SENTENCES_AT_ONCE = 1024
_TENSORS = ("weight", "bias", "mean", "scale")


@dataclass(frozen=True, slots=True)
class Tagger:
    """A linear probe, its labels, and which states of which encoder it reads.

    Attributes:
        probe: weights.
        labels: by number.
        position: of a word's states.
        layer: of the states.
        encoder: name or folder, as it was given.
        fingerprint: of the encoder's weights; see `weights_fingerprint`.
        figures: what it scored.
        opening: how the encoder was opened: attention, adapters and whatever else was asked for.
    """

    probe: LinearProbe
    labels: list[str]
    position: WordPosition
    layer: int
    encoder: str
    fingerprint: str
    figures: dict[str, Any]
    opening: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_result(
        cls,
        name: str,
        encoder: TextEncoder,
        result: WordsResult,
        labels: Sequence[str],
        opening: dict[str, Any] | None = None,
    ) -> "Tagger":
        """The tagger that an evaluation trained."""
        assert result.trained is not None
        place = str(Path(name).resolve()) if Path(name).is_dir() else name
        figures = result.to_dict()
        fingerprint = weights_fingerprint(encoder)
        own = (list(labels), result.position, result.layer, place, fingerprint, figures, opening or {})
        return cls(result.trained, *own)

    def save(self, folder: str | Path) -> None:
        """Write `tagger.json` and `tagger.safetensors` into a new folder.

        Raises:
            ArtifactError: the folder exists already and is not empty.
        """
        from safetensors.numpy import save_file

        with new_folder(Path(folder)) as partial:
            save_file({name: getattr(self.probe, name) for name in _TENSORS}, partial / "tagger.safetensors")
            own = ("labels", "position", "layer", "encoder", "fingerprint", "figures", "opening")
            write_json(partial / "tagger.json", {name: getattr(self, name) for name in own})

    @classmethod
    def load(cls, folder: str | Path) -> "Tagger":
        """Read a saved tagger.

        Raises:
            ArtifactError: not a tagger's folder, or one of Git LFS pointers.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        refuse_pointers(Path(folder).glob("*"))
        try:
            tensors = load_file(Path(folder) / "tagger.safetensors")
            probe = LinearProbe(**{name: tensors[name] for name in _TENSORS})
            return cls(probe, **read_json(Path(folder) / "tagger.json"))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{folder} is no tagger ({error}); `unmask eval words --save-tagger` writes one."
            ) from error

    def check(self, encoder: TextEncoder) -> None:
        """Refuse an encoder whose states the tagger was not trained on.

        Raises:
            ArtifactError: other weights, or another way to read texts.
        """
        if weights_fingerprint(encoder) != self.fingerprint:
            raise ArtifactError(
                f"This tagger was trained on another encoder ({self.encoder}, opened with "
                f"{self.opening or 'no options'}); its labels would mean nothing here."
            )

    def tag(
        self, encoder: TextEncoder, sentences: Iterator[Sequence[str]]
    ) -> Iterator[tuple[Sequence[str], list[str]]]:
        """Words and their labels, sentence by sentence, in order.

        Raises:
            DataError: a sentence that is longer than the encoder's `max_length`.
        """
        done = 0
        for window in chunks(sentences, _SENTENCES_AT_ONCE):
            found: list[list[str]] = [[] for _ in window]
            options: dict[str, Any] = {"positions": (self.position,), "layers": (self.layer,), "first": done}
            for row, vectors in word_states(encoder, window, **options):
                found[row] = [self.labels[i] for i in self.probe.predict(vectors[0, 0]).tolist()]
            yield from zip(window, found, strict=True)
            done += len(window)


def weights_fingerprint(encoder: TextEncoder) -> str:
    """SHA-256 over a sample of every weight, and how the encoder reads texts; equal for equal encoders."""
    digest = hashlib.sha256(f"{encoder.settings.chat_template} {encoder.settings.max_length}".encode())
    for name, weight in sorted(encoder.model.state_dict().items()):
        if name.startswith("pooler."):
            continue  # nothing here runs it, and where the checkpoint has none it is new at every load
        sample = weight.flatten()[:: max(1, weight.numel() // 256)].to(torch.float32).cpu().numpy()
        digest.update(name.encode() + sample.tobytes())
    config = text_config(encoder.model)
    for key in ("is_causal", RECURRENT_KEY, LIFTED_KEY):
        digest.update(f"{key}={getattr(config, key, None)}".encode())
    return digest.hexdigest()
