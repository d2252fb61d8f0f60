"""The language-model head: from states to logits, only at the positions asked for."""

import torch
from torch import nn

from unmask.backbone.families import LOGIT_CAP, LOGIT_COUNT, LOGIT_DIVISORS, LOGIT_FACTORS
from unmask.backbone.forward import token_states
from unmask.backbone.structure import evaluation_mode, family, text_config
from unmask.errors import ConversionError


class LanguageModelHead(nn.Module):
    """The frozen output projection of a causal language model, with the scaling its family applies.

    Attributes:
        projection: the output embedding, shared with the model it was taken from.
        transform: what the family applies to the states before it (ModernBERT's decoder), or None.
        scale: factor on the logits (Cohere multiplies, Granite and Inkling divide).
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2), or None.
    """

    def __init__(self, causal_lm: nn.Module) -> None:
        super().__init__()
        projection = causal_lm.get_output_embeddings()  # type: ignore[operator]
        if not isinstance(projection, nn.Module):
            raise ConversionError(f"{family(causal_lm)} has no language-model head; MNTP needs one.")
        config = text_config(causal_lm)
        last = getattr(causal_lm, "lm_head", None)
        self.projection = projection
        self.transform = last if isinstance(last, nn.Module) and projection not in last.modules() else None
        self.weight = next(projection.parameters())
        self.scale = 1.0
        for key in LOGIT_FACTORS:
            self.scale *= float(getattr(config, key, None) or 1.0)
        for key in LOGIT_DIVISORS:
            self.scale /= float(getattr(config, key, None) or 1.0)
        self.vocabulary = getattr(config, LOGIT_COUNT, None)
        self.softcap = getattr(config, LOGIT_CAP, None)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits in float32, [positions, vocabulary], of states [positions, width]."""
        states = states.to(self.weight.dtype)
        if self.transform is not None:
            states = self.transform(states)
        logits = self.projection(states)[..., : self.vocabulary].float()
        logits = logits if self.scale == 1.0 else logits * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    @torch.no_grad()
    def check(self, causal_lm: nn.Module) -> None:
        """Compare with the model's own logits on a few tokens, so that an unknown scaling cannot pass unseen.

        Raises:
            ConversionError: the logits differ.
        """
        device = next(causal_lm.parameters()).device
        vocabulary = text_config(causal_lm).vocab_size
        ids = torch.arange(vocabulary // 2, vocabulary // 2 + 4, device=device)[None]
        with evaluation_mode(causal_lm):
            expected = causal_lm(input_ids=ids, use_cache=False).logits[0].float()
            found = self(token_states(causal_lm, ids)[0])
        off = float((found - expected).norm() / expected.norm())
        if not off <= 1e-2:
            raise ConversionError(
                f"{family(causal_lm)} computes its logits in a way this package does not know "
                f"(ours differ by {off:.2g} of their size), so MNTP would train on wrong ones."
            )
