"""A llama2.c checkpoint (its first format) and its tokenizer as a transformers folder.

python examples/convert_llama2c.py --checkpoint stories260K.bin --tokenizer tok512.bin --out stories260K

The format: seven int32 (width, feed-forward width, layers, heads, key-value heads, vocabulary, positions; a negative
vocabulary means that the head has weights of its own), then float32 matrices, layer by layer within each kind. Rotary
pairs lie next to each other there; transformers has them half a head apart.
"""

import argparse
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Floats = NDArray[np.float32]


def read_checkpoint(path: Path) -> LlamaForCausalLM:
    """The model with its weights.

    Raises:
        ValueError: the file's size does not fit its header.
    """
    raw = path.read_bytes()
    width, hidden, layers, heads, kv_heads, vocabulary, positions = struct.unpack("7i", raw[:28])
    values: Floats = np.frombuffer(raw[28:], dtype=np.float32)
    head_width, at = width // heads, 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        size = int(np.prod(shape))
        if at + size > len(values):
            raise ValueError(f"{path} ends in the middle of a matrix; is it a llama2.c checkpoint?")
        at += size
        return torch.from_numpy(values[at - size : at].reshape(shape).copy())

    weights = {"model.embed_tokens.weight": take(abs(vocabulary), width)}
    kinds = [
        ("input_layernorm", (width,)),
        ("self_attn.q_proj", (width, width)),
        ("self_attn.k_proj", (kv_heads * head_width, width)),
        ("self_attn.v_proj", (kv_heads * head_width, width)),
        ("self_attn.o_proj", (width, width)),
        ("post_attention_layernorm", (width,)),
        ("mlp.gate_proj", (hidden, width)),
        ("mlp.down_proj", (width, hidden)),
        ("mlp.up_proj", (hidden, width)),
    ]
    for name, shape in kinds:
        for layer, matrix in enumerate(take(layers, *shape)):
            turned = halves(matrix, head_width) if name.endswith(("q_proj", "k_proj")) else matrix
            weights[f"model.layers.{layer}.{name}.weight"] = turned
    weights["model.norm.weight"] = take(width)
    take(2, positions, head_width // 2)  # cosines and sines, which transformers computes
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] if vocabulary > 0 else take(-vocabulary, width)
    if at != len(values):
        raise ValueError(f"{path} has {len(values) - at} numbers more than its header tells.")
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=abs(vocabulary),
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=vocabulary > 0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    return model.eval()


def halves(matrix: torch.Tensor, head_width: int) -> torch.Tensor:
    """Rows of each head from neighbouring rotary pairs to first halves and second halves."""
    rows, width = matrix.shape
    return matrix.view(rows // head_width, head_width // 2, 2, width).transpose(1, 2).reshape(rows, width)


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The sentencepiece BPE: pieces with scores; merges follow from them."""
    raw, at = path.read_bytes(), 4  # the first number is the length of the longest piece
    pieces: list[str] = []
    scores: list[float] = []
    while at < len(raw):
        score, length = struct.unpack_from("fi", raw, at)
        text = raw[at + 8 : at + 8 + length].decode("utf-8")
        pieces.append(text.strip("\n") if text in ("\n<s>\n", "\n</s>\n") else text.replace(" ", "▁"))
        scores.append(score)
        at += 8 + length
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [
        (scores[vocabulary[piece]], piece[:cut], piece[cut:])
        for piece in pieces[259:]
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    merges.sort(key=lambda merge: -merge[0])
    model = models.BPE(vocabulary, [(a, b) for _, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def main() -> None:
    """Convert, and print how the model goes on from nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=60, help="print so many tokens of its own text")
    arguments = parser.parse_args()
    model, tokenizer = read_checkpoint(arguments.checkpoint), read_tokenizer(arguments.tokenizer)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    start = torch.tensor([[tokenizer.bos_token_id]])
    told = model.generate(start, max_new_tokens=arguments.tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
    print(tokenizer.decode(told[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
