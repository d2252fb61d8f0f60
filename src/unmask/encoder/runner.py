"""Model, pooling, proofs and fast paths: from batches to vectors or states. Knows no tokenizer and no text."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from unmask.backbone.families.switches import attention_mode
from unmask.backbone.fast.compiling import CompiledLayers
from unmask.backbone.fast.contract import Availability, wanted
from unmask.backbone.fast.prepack import PrepackedLayers
from unmask.backbone.fast.varlen import stop_flat_attention
from unmask.backbone.forward import flat_states, text_states, token_states
from unmask.backbone.structure import family, first_line, text_config
from unmask.backbone.truth.flat import reads_flat
from unmask.errors import ArtifactError
from unmask.heap import keep_freed_memory
from unmask.pooling import POOLINGS
from unmask.text.batching import Batch, FlatBatch, positions_of, send

# Small on a CPU, whose caches then hold what one layer hands to the next.
_BATCH_TOKENS = {"cpu": 2048, "gpu": 16384}


class EncoderModule(nn.Module):
    """Backbone and pooling: tensors in, vectors [texts, width] float32 out. What `encode` runs, and what is exported.

    Args:
        model: the backbone.
        pooling: a module of the table of poolings.
    """

    def __init__(self, model: nn.Module, pooling: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pooled: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Vectors of texts in padded rows, or one after the other in a single row.

        Args:
            input_ids: [rows, tokens], or [1, tokens] with `lengths`.
            attention_mask: 1 on a text's own tokens and 0 on padding, [rows, tokens]; positions follow from it.
            pooled: True where a token counts for the vector, [rows, tokens] or [tokens]; by default all real ones.
            lengths: of texts that lie one after the other, on the CPU, int64 [texts]; behind the last is filler.
        """
        if lengths is not None:
            (states,) = flat_states(self.model, input_ids, lengths.tolist())
            own = torch.ones(len(states), dtype=torch.bool, device=states.device) if pooled is None else pooled
            vectors: torch.Tensor = self.pooling(states, send(lengths, states.device), own)
            return vectors
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = token_states(self.model, input_ids, mask, positions_of(mask)).flatten(0, 1)
        real = mask.bool().flatten()
        rows = torch.ones_like(mask, dtype=torch.int64).sum(dim=1)
        own = real if pooled is None else pooled.flatten()
        vectors = self.pooling(states.masked_fill(~real[:, None], 0), rows, own, real)
        return vectors


class BatchEncoder(EncoderModule):
    """The same, called with a batch."""

    def forward(self, batch: Batch) -> torch.Tensor:  # type: ignore[override]
        """Vectors of a batch, with gradients if the context asks for them."""
        if isinstance(batch, FlatBatch):
            return super().forward(batch.input_ids, None, batch.pooled, torch.tensor(batch.lengths))
        return super().forward(batch.input_ids, batch.attention_mask, batch.pooled)


class Runner:
    """One model as an encoder runs it; safe to share between threads once it is made.

    Args:
        model: the backbone.
        pooling: name in the table of poolings.
        fast: the fast paths that may be taken; see `unmask.backbone.fast.contract.chosen`.

    Attributes:
        module: what training and encoding call with batches.
        prepacked: the model's weights as the CPU's kernels read them.
        compiled: its layers, compiled when that pays.
    """

    def __init__(self, model: Any, pooling: str, fast: bool | Collection[str] | None = None) -> None:
        self.model = model
        with torch.random.fork_rng(devices=[]):  # a learned pooling begins alike wherever it is first needed
            torch.manual_seed(0)
            self.module = BatchEncoder(model, POOLINGS[pooling].build(int(text_config(model).hidden_size)))
        self.module.pooling.to(next(model.parameters()).device)
        self.prepacked, self.compiled = PrepackedLayers(model), CompiledLayers(model)
        self._asked = fast
        self._padded = False

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(text_config(self.model).hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.model.parameters())).device

    @property
    def padding_free(self) -> Availability:
        """Whether texts lie one after the other in a batch, as the model is now; if not, why."""
        if self._padded:
            return Availability(False, "it was turned off")
        return self.wants("flat") and reads_flat(self.model)

    @padding_free.setter
    def padding_free(self, wanted: bool) -> None:
        possible = self.wants("flat") and reads_flat(self.model)
        if wanted and not possible:
            raise ArtifactError(
                f"{family(self.model)} cannot read texts one after the other here, so its batches are padded: "
                f"{possible.reason}."
            )
        self._padded = not wanted
        if not wanted:
            stop_flat_attention(self.model)

    def load_pooling(self, path: Path) -> None:
        """The saved weights of a pooling that has any.

        Raises:
            ArtifactError: they are missing or of another pooling.
        """
        if not self.module.pooling.state_dict():
            return
        try:
            self.module.pooling.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{path} does not hold the weights of this pooling ({first_line(error)}).") from error

    def wants(self, name: str) -> Availability:
        """Whether a fast path may be taken at all."""
        return wanted(name, self._asked)

    def paths(self) -> dict[str, Availability]:
        """Each fast path of encoding: whether it is taken, and if not why."""
        own = (self.prepacked, self.compiled)
        return {
            "flat": self.padding_free,
            **{path.name: self.wants(path.name) and path.available(self.model) for path in own},
        }

    def budget(self, batch_tokens: int | None) -> int:
        """Most tokens of a batch: as asked for, or what suits the device."""
        return batch_tokens or _BATCH_TOKENS["cpu" if self.device.type == "cpu" else "gpu"]

    def prepare(self) -> None:
        """Called before every use: evaluation mode, and fast paths that follow weights which have changed."""
        if self.model.training or self.module.training:
            self.module.eval()
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.wants("prepack") and self.prepacked.available(self.model):
            self.prepacked.attach(self.model)

    def begin_anew(self) -> None:
        """Called when layers were replaced: copies of their weights go, and what is known of compiling them."""
        self.prepacked.detach(self.model)
        self.compiled.detach(self.model)
        self.compiled = CompiledLayers(self.model)

    def state(self) -> tuple[Any, ...]:
        """Another value once weights, their precision, pooling or attention have changed."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        versions = [(x.data_ptr(), x.dtype, 0 if x.is_inference() else x._version) for x in tensors]
        return (attention_mode(self.model), *versions)

    def vectors(self, batch: Batch) -> torch.Tensor:
        """Vectors [texts, width] in float32, without gradients."""
        with torch.inference_mode():
            found: torch.Tensor = self.compiled.run(self.module, batch)
            return found

    def states(self, batch: Batch, layers: Sequence[int] | None = None) -> list[torch.Tensor]:
        """States [tokens, width] of all texts one after the other, for each layer (the last), without gradients."""
        with torch.inference_mode():
            found: list[torch.Tensor] = self.compiled.run(text_states, self.model, batch, layers)
            return found
