"""A trained encoder as a small LoRA folder over its base model: what is shared is what training changed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from unmask.backbone.devices import saved_dtype
from unmask.backbone.loading import load_model
from unmask.backbone.locate import ADAPTER_WEIGHTS
from unmask.backbone.low_rank import as_low_rank, in_dtype, input_moments
from unmask.backbone.truth.opening import attention_of
from unmask.encoder.card import adapter_card
from unmask.encoder.folder import POOLING_WEIGHTS
from unmask.encoder.saved import as_saved
from unmask.encoder.text_encoder import TextEncoder
from unmask.errors import ArtifactError
from unmask.files import new_folder, write_json, write_text

# Of a weight's norm: by so much saving alone changes it, in sixteen bits and in float32.
_ROUNDING, _ROUNDING_FLOAT32 = 2e-3, 1e-6


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a low-rank folder holds.

    Attributes:
        kept: share of the squared norm of what training changed in the outputs of layers, 0 to 1.
        matrices: how many weights it changes.
        megabytes: of its weights.
        cosines: between vectors of the encoder and of the folder, one a sample text.
    """

    kept: float
    matrices: int
    megabytes: float
    cosines: list[float]


def compress(
    name: str | Path,
    folder: str | Path,
    sample: Sequence[str],
    *,
    rank: int = 16,
    base: str | None = None,
    weigh: Sequence[str] = (),
) -> Compressed:
    """Write the difference of an encoder to its base model as a LoRA folder, which `TextEncoder.load` opens.

    The folder is opened again, its vectors of some texts are compared with the encoder's.

    Args:
        name: encoder folder; its training may have been full, LoRA, or both.
        folder: new.
        sample: texts to compare vectors on, some dozens.
        rank: of each weight's difference; what lies beyond is lost.
        base: the model that training began with; by default the one that the folder names.
        weigh: texts like those to come, some hundreds: what layers are given on them says what of a change counts. By
            default those of the sample.

    Raises:
        ArtifactError: no base is known, or another one; a rank that no weight has.
    """
    if rank < 1:
        raise ArtifactError(f"--rank must be 1 or more, not {rank}.")
    encoder = TextEncoder.load(name, dtype="float32", device="cpu")
    source = base or encoder.lineage.get("base")
    if not source:
        raise ArtifactError(f"{name} names no base model; say which it is with --base.")
    body = load_model(str(source), head=False, dtype="float32")
    before = encoder.encode(sample, normalize=True)
    with input_moments(encoder.model) as moments:
        encoder.encode(weigh or sample, compile=False)
    exact = saved_dtype(str(name), "auto") == torch.float32
    made = as_low_rank(body, encoder.model, rank, _ROUNDING_FLOAT32 if exact else _ROUNDING, moments)
    made.wrapper.peft_config["default"].base_model_name_or_path = str(source)
    said = f"Made by `unmask compress --rank {rank}`: it holds {made.kept:.1%} of the change in what layers put out."
    with new_folder(Path(folder)) as partial:
        made.wrapper.peft_config["default"].save_pretrained(str(partial))
        save_file(dict(in_dtype(made.wrapper, torch.bfloat16)), partial / ADAPTER_WEIGHTS)
        seen = {key: value for key, value in asdict(attention_of(encoder.model)).items() if value}
        own = seen | as_saved(encoder.settings, encoder.lineage, encoder.reader.chat)
        write_json(partial / "unmask.json", own)
        told = adapter_card(encoder.settings, encoder.lineage, width=encoder.dimension, made=said)
        write_text(partial / "README.md", told)
        if weights := encoder.module.pooling.state_dict():
            save_file({key: value.contiguous() for key, value in weights.items()}, partial / POOLING_WEIGHTS)
    after = TextEncoder.load(folder, dtype="float32", device="cpu").encode(sample, normalize=True)
    size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors")) / 1e6
    return Compressed(made.kept, made.matrices, size, np.einsum("nd,nd->n", before, after).tolist())
