"""Finding one's way in a transformers decoder: its text config, its body, its layers, its head."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from unmask.errors import ConversionError

# What this package adds to a text config, so that it is saved with the model.
RECURRENT_KEY = "unmask_recurrent"
LIFTED_KEY = "unmask_lifted"


def text_config(model: nn.Module) -> Any:
    """The config that the text layers read (nested in multimodal models)."""
    return text_part(model.config)


def text_part(config: Any) -> Any:
    """The config of the text layers within a model's config."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def family(model: nn.Module) -> str:
    """The model type that transformers knows the architecture by, for example `llama`."""
    return str(getattr(text_config(model), "model_type", type(model).__name__))


def body(model: nn.Module) -> nn.Module:
    """The model without its language-model head."""
    inner = getattr(model, "base_model", model)
    if inner is model and getattr(model, "get_output_embeddings", lambda: None)() is not None:
        inner = getattr(model, "model", model)  # the prefix of some classes names something else (Llama 4)
    return inner


def replace_body(causal_lm: nn.Module, new: nn.Module) -> None:
    """Put another body under the head of a causal language model."""
    old = body(causal_lm)
    name = next(name for name, child in causal_lm.named_children() if child is old)
    setattr(causal_lm, name, new)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The stack of layers, first to last; of a model with several stacks (HRM), one after the other.

    Raises:
        ConversionError: there is no list of layers.
    """
    count = getattr(text_config(model), "num_hidden_layers", None)
    stacks = [m for m in body(model).modules() if isinstance(m, nn.ModuleList) and len(m)]
    counted = [stack for stack in stacks if len(stack) == count]
    if counted:
        largest: nn.ModuleList = max(counted, key=_size)
        return list(largest)
    # A config that counts otherwise: the largest lists that lie in no other list.
    inner = {child for stack in stacks for child in stack.modules() if child is not stack}
    outer = [stack for stack in stacks if stack not in inner]
    if not outer or count is None:
        raise ConversionError(
            f"{family(model)}: found no stack of {count} layers in {type(model).__name__}; "
            "is this a decoder-only language model?"
        )
    most = max(_size(stack) for stack in outer)
    return [layer for stack in outer if _size(stack) == most for layer in stack]


def decoder_modules(model: nn.Module) -> list[nn.Module]:
    """Every module of every layer, the layers included."""
    return [module for layer in decoder_layers(model) for module in layer.modules()]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def token_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Last hidden states after the final norm, [rows, tokens, width]. The one forward path of the package.

    Args:
        model: with or without a language-model head; the head is not run.
        input_ids: [rows, tokens].
        attention_mask: [rows, tokens], or a prepared [rows, 1, tokens, tokens] mask.
        position_ids: [rows, tokens]; left out for the families that take none (ALiBi).
    """
    states: torch.Tensor = _forward(model, input_ids, attention_mask, position_ids)[0]
    return states


def layer_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    layers: Sequence[int],
) -> list[torch.Tensor]:
    """Hidden states [rows, tokens, width] of chosen layers: 0 is the embedding output, the last comes after the norm.

    Raises:
        ConversionError: the family does not give out the states of its layers.
    """
    last = num_layers(model)
    if all(layer == last for layer in layers):
        return [token_states(model, input_ids, attention_mask, position_ids)] * len(layers)
    output = _forward(model, input_ids, attention_mask, position_ids, output_hidden_states=True)
    states = getattr(output, "hidden_states", None)
    if states is None or len(states) <= last:
        raise ConversionError(f"{family(model)} gives out {len(states or ())} layer states, expected {last + 1}.")
    return [output[0] if layer == last else states[layer] for layer in layers]


def num_layers(model: nn.Module) -> int:
    """Layers of the stack; the number of the last entry that `layer_states` knows."""
    return int(text_config(model).num_hidden_layers)


def position_offset(model: nn.Module) -> int:
    """The number of a text's first position: 0, but in RoBERTa and its kin one behind that of padding."""
    padding = getattr(getattr(body(model), "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def _forward(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    **extra: Any,
) -> Any:
    decoder = body(model)
    accepted = inspect.signature(decoder.forward).parameters
    if position_ids is not None and "position_ids" in accepted:
        extra["position_ids"] = position_ids + position_offset(model)
    if "use_cache" in accepted:
        extra["use_cache"] = False
    return decoder(input_ids=input_ids, attention_mask=attention_mask, **extra)


def first_tensor(output: Any) -> torch.Tensor:
    """The hidden states in what a layer returned (some return a tuple)."""
    return output if isinstance(output, torch.Tensor) else output[0]
