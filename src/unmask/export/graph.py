"""The graph of an encoder for ONNX Runtime and OpenVINO: token ids and mask in, states and vectors out.

Positions, the attention mask, the span and the pooling are inside. The mask is finite, because -inf is not a number in
eight bits; tokens are left out of a mean by their place, because a tiny weight is folded to zero by some runtimes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from unmask.backbone.families.switches import attention_mode
from unmask.backbone.fast.varlen import stop_flat_attention
from unmask.backbone.forward import token_states
from unmask.backbone.structure import MODEL_ERRORS, family, first_line, text_config
from unmask.encoder import TextEncoder
from unmask.errors import ArtifactError, MissingExtraError
from unmask.export.fitness import kept_window
from unmask.pooling import POOLINGS
from unmask.text.batching import positions_of
from unmask.text.spans import special_affixes

_UNSEEN = -3e4  # finite in every dtype
_IN_ONE_FILE = 2**30  # bytes of weights that are kept inside the file of the graph, which may have two gigabytes
INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("last_hidden_state", "sentence_embedding")


class EncoderGraph(nn.Module):
    """What is exported.

    Args:
        encoder: its model, its poolings and which special tokens its tokenizer adds.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.model = encoder.model
        settings = encoder.settings
        before, after = special_affixes(encoder.tokenizer)
        left_out = POOLINGS[settings.pooling].averages or settings.pooling == "last"
        outside = left_out and not settings.include_special_tokens
        self.before, self.after = (len(before), len(after)) if outside else (0, 0)
        self.pooling, self.normalize = settings.pooling, settings.normalize
        self.causal = attention_mode(encoder.model) == "causal"
        self.window = kept_window(encoder)
        kinds = set(getattr(text_config(encoder.model), "layer_types", None) or ())
        self.kinds = sorted(kinds) if self.window and kinds else []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """States [texts, tokens, width] and vectors [texts, width] of padded rows, int64 [texts, tokens]."""
        places = positions_of(attention_mask)
        states = token_states(self.model, input_ids, self._seen(attention_mask), places)
        weights = self._weights(attention_mask)
        vectors = (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
        return states, nn.functional.normalize(vectors, dim=1) if self.normalize else vectors

    def _seen(self, mask: torch.Tensor) -> Any:
        """What is added to the scores of attention, [texts, 1, tokens, tokens]; one for each kind of layers."""
        length = mask.shape[1]
        seen = mask[:, None, None, :].float().expand(-1, 1, length, -1)
        place = torch.arange(length, device=mask.device)
        distance = place[:, None] - place[None, :]
        if self.causal:
            seen = seen * (distance >= 0).float()
        near = seen
        if self.window:
            near = seen * ((distance < self.window) if self.causal else (distance.abs() <= self.window)).float()
        whole, part = (1 - seen) * _UNSEEN, (1 - near) * _UNSEEN
        if self.kinds:
            return {kind: part if "sliding" in kind else whole for kind in self.kinds}
        return part

    def _weights(self, mask: torch.Tensor) -> torch.Tensor:
        """How much each token counts for the vector, [texts, tokens]."""
        real = mask.float()
        count = mask.cumsum(1).float()
        total = real.sum(1, keepdim=True)
        own = real * (count > self.before).float() * (count <= total - self.after).float()
        own = torch.where(own.sum(1, keepdim=True) == 0, real, own)  # an empty text
        if self.pooling == "weighted_mean":
            return own * count
        if self.pooling == "last":
            return own * (count == (own * count).amax(1, keepdim=True)).float()
        if self.pooling == "eos":
            return real * (count == total).float()
        if self.pooling == "first":
            return real * (count == 1).float()
        return own


def require_writers(runtime: str) -> None:
    """Refuse to begin where a package is missing.

    Raises:
        MissingExtraError: and how to install it.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as missing:
        raise MissingExtraError(
            f"An export for {runtime} needs onnx, onnxruntime and onnxscript: pip install 'unmask[onnx]'"
        ) from missing
    if runtime == "openvino":
        try:
            import openvino  # noqa: F401
        except ImportError as missing:
            raise MissingExtraError("An export for openvino needs it: pip install 'unmask[openvino]'") from missing


def write_onnx(encoder: TextEncoder, path: Path) -> None:
    """Write the graph of an encoder.

    Args:
        encoder: whose weights are in float32.
        path: of the file, in a new folder; large weights lie beside it.

    Raises:
        ArtifactError: torch cannot export this model, with its reason.
    """
    encoder.runner.begin_anew()
    stop_flat_attention(encoder.model)
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    example = tuple(torch.ones(2, 7, dtype=torch.int64, device=encoder.device) for _ in INPUTS)
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                EncoderGraph(encoder).eval(),
                example,
                dynamo=True,
                dynamic_shapes=(sizes, sizes),
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                verbose=False,
            )
    except MODEL_ERRORS as error:
        raise ArtifactError(f"torch cannot export this {family(encoder.model)}: {first_line(error)}") from error
    if program is None:
        raise ArtifactError(f"torch cannot export this {family(encoder.model)}.")
    path.parent.mkdir(parents=True)
    program.save(str(path), external_data=_bytes(encoder.model) > _IN_ONE_FILE)


def write_openvino(source: Path, path: Path) -> None:
    """The same graph as OpenVINO's pair of files, in float32."""
    import openvino

    path.parent.mkdir(parents=True)
    openvino.save_model(openvino.convert_model(str(source)), str(path), compress_to_fp16=False)


def _bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
