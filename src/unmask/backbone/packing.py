"""Running packed blocks: attention that keeps to the pieces of a row, and the proof that it does."""

import torch
from torch import nn

from unmask.backbone.structure import text_config, token_states
from unmask.backbone.varlen import flat_states, layout_of, reads_flat
from unmask.backbone.verify import backend_in_use


def piece_mask(pieces: torch.Tensor, model: nn.Module) -> torch.Tensor | None:
    """The attention mask of packed rows: nothing where rows are full single pieces, else who sees whom.

    Args:
        pieces: number of the piece of each token, 0 on padding, [rows, tokens].
        model: decides the form (the sdpa kernel takes booleans, eager adds a float mask to the scores).
    """
    if bool((pieces == 1).all()):
        return torch.ones_like(pieces)
    if int(pieces.max()) <= 1:
        return (pieces > 0).long()
    same = pieces[:, None, :, None] == pieces[:, None, None, :]  # padding sees padding, so that no row is empty
    if backend_in_use(model) == "sdpa":
        return same
    dtype = next(model.parameters()).dtype
    return torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill(~same, torch.finfo(dtype).min)


class PackedStates(nn.Module):
    """A backbone over packed rows: token states, no pooling. Without padding and masks where the family can."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.padding_free = reads_flat(model)

    def forward(self, input_ids: torch.Tensor, pieces: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """States [rows, tokens, width] of ids, piece numbers and positions, each [rows, tokens]."""
        if not self.padding_free:
            return token_states(self.model, input_ids, piece_mask(pieces, self.model), position_ids)
        inside = pieces > 0
        row = torch.arange(len(pieces), device=pieces.device)[:, None]
        _, counts = torch.unique_consecutive((pieces + row * (pieces.max() + 1))[inside], return_counts=True)
        states = flat_states(self.model, input_ids[inside][None], layout_of(counts.tolist(), self.model))
        everywhere = states.new_zeros(*inside.shape, states.shape[-1])
        everywhere[inside] = states
        return everywhere


@torch.no_grad()
def keeps_pieces_apart(model: nn.Module) -> bool:
    """True if two texts in one row get the states they would get alone."""
    device = next(model.parameters()).device
    vocabulary = text_config(model).vocab_size
    ids = torch.arange(vocabulary // 2, vocabulary // 2 + 8, device=device)
    pieces = torch.tensor([[1, 1, 1, 2, 2, 2, 2, 2]], device=device)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]], device=device)
    was_training = model.training
    model.eval()
    try:
        together = PackedStates(model)(ids[None], pieces, positions)[0].float()
        apart = torch.cat([token_states(model, part[None])[0] for part in (ids[:3], ids[3:])]).float()
    except (ValueError, RuntimeError, TypeError):  # a family that takes no prepared mask
        return False
    finally:
        model.train(was_training)
    return bool((together - apart).abs().max() <= 2e-2 * apart.abs().max())
