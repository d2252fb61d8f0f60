"""Whether a model reads texts one after the other as it reads them alone: measured, on a tiny twin of it."""

import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from unmask.backbone.families.switches import attention_mode, set_attention_mode, window_mode
from unmask.backbone.fast.contract import Availability
from unmask.backbone.fast.varlen import FlatAttention, use_flat_attention
from unmask.backbone.forward import flat_states, token_states
from unmask.backbone.structure import MODEL_ERRORS, RECURRENT_KEY, backend_in_use, family, first_line, text_config
from unmask.backbone.truth.twins import tiny_config, tiny_model

_TWIN_LENGTHS = (40, 21, 9, 9, 3)  # beyond a twin's windows, within them, two alike
_EXACT = 1e-4  # relative to the size of the states, in float32
_NEAR = 5e-2  # in the model's own dtype, by other kernels
# What was found of a model in each state that it was asked in; writing out a whole config takes longer than asking.
_ANSWERS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], Availability]] = WeakKeyDictionary()
_PROOFS: dict[tuple[Any, ...], Availability] = {}  # by what a config says, so that equal ones share a proof
_LOCK = threading.Lock()


def reads_flat(model: nn.Module) -> Availability:
    """Whether a model's texts get the same states one after the other in a row as alone, and if not why.

    Asked for at every use: the answer belongs to the attention implementation, mode, windows, device and dtype that the
    model has now; models of equal config share a proof.
    """
    config, place = text_config(model), next(model.parameters())
    possible = FlatAttention().available(model)
    if not possible:
        return possible
    if getattr(config, RECURRENT_KEY, None):
        return Availability(False, f"{family(model)} has layers other than attention that mix tokens")
    state = (attention_mode(model), place.device, place.dtype)
    now = (id(config), window_mode(model), *state)
    known = _ANSWERS.setdefault(model, {})
    if now not in known:
        with _LOCK:  # a twin is drawn with a seed of its own, which two threads would mix up
            key = (repr(sorted(config.to_dict().items(), key=str)), *state)
            if key not in _PROOFS:
                _PROOFS[key] = _proof(config, *state)
            known[now] = _PROOFS[key]
    return known[now]


@torch.no_grad()
def _proof(config: Any, mode: str, device: torch.device, dtype: torch.dtype) -> Availability:
    name = str(config.model_type)
    try:
        twin = tiny_model(tiny_config(config))
        if backend_in_use(twin) != "sdpa":
            return Availability(False, f"{name} does not attend by sdpa")
        if mode == "bidirectional":
            set_attention_mode(twin, "bidirectional")
        off = _flat_against_alone(twin)
        if off > _EXACT:
            return Availability(False, f"a tiny {name} reads a row of texts otherwise than alone (by {off:.2g})")
        if device.type != "cpu":
            # Another kernel does it there, in another dtype: that it runs, and is not far off, is all this can say.
            off = _flat_against_alone(twin.to(device, dtype))
        return Availability(off <= _NEAR, "" if off <= _NEAR else f"a tiny {name} is off by {off:.2g} on {device}")
    except MODEL_ERRORS as error:
        return Availability(False, f"a tiny {name} cannot read a row of texts ({first_line(error)})")


def _flat_against_alone(model: nn.Module) -> float:
    """How far states in a row, and in a padded batch by the same attention, are from those of texts alone by sdpa."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    vocabulary = text_config(model).vocab_size
    texts = [torch.randint(vocabulary // 4, vocabulary, (1, n), generator=generator).to(device) for n in _TWIN_LENGTHS]

    def alone() -> torch.Tensor:
        masks = [torch.ones_like(ids) for ids in texts]
        rows = zip(texts, masks, strict=True)
        return torch.cat([token_states(model, ids, mask, mask.cumsum(1) - 1)[0] for ids, mask in rows]).float()

    expected = alone()
    use_flat_attention(model)
    (together,) = flat_states(model, torch.cat(texts, dim=1), _TWIN_LENGTHS)
    return max(float((found - expected).norm() / expected.norm()) for found in (together.float(), alone()))
