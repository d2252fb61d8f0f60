"""Finding one's way in a transformers model: its text config, its body, its layers, its attention implementation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from unmask.errors import ConversionError

# What this package adds to a text config, so that it is saved with the model.
RECURRENT_KEY = "unmask_recurrent"
LIFTED_KEY = "unmask_lifted"
FLAT_ATTENTION = "unmask_flat"  # sdpa that also reads texts without padding; see fast/varlen.py
# What a model class raises that does not support what it is asked for; anything else is a fault of ours.
MODEL_ERRORS = (
    *(RuntimeError, ValueError, TypeError, AttributeError, LookupError, ImportError, AssertionError, OSError),
    *(NotImplementedError, UnboundLocalError, ZeroDivisionError, StrictDataclassError),
)


def text_config(model: nn.Module) -> Any:
    """The config that the text layers read (nested in multimodal models)."""
    config: Any = model.config
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


def num_layers(model: nn.Module) -> int:
    """Layers of the stack; the number of the last entry that `layer_states` knows."""
    return int(text_config(model).num_hidden_layers)


def position_offset(model: nn.Module) -> int:
    """The number of a text's first position: 0, but in RoBERTa and its kin one behind that of padding."""
    padding = getattr(getattr(body(model), "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def backend_in_use(model: nn.Module) -> str:
    """The attention implementation a model runs with now, by its standard name."""
    name = str(getattr(text_config(model), "_attn_implementation", None) or "eager")
    return "sdpa" if name == FLAT_ATTENTION else name


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and the mode of before at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def first_tensor(output: Any) -> torch.Tensor:
    """The hidden states in what a layer returned (some return a tuple)."""
    return output if isinstance(output, torch.Tensor) else output[0]
