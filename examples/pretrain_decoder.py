"""Pretrain a small decoder (Llama or Qwen3.5 shape) and its tokenizer from text files, on a CPU or one GPU.

    python examples/pretrain_decoder.py --out my-decoder --steps 3000 articles.jsonl more.txt

This is how the bundled `pocket` decoder was shaped: byte-level BPE of 8192 pieces, 6 layers of width 256. The result
is a plain transformers folder: `unmask convert my-decoder --out my-encoder` takes it from there. With
`--family qwen3_5` three of four layers are gated delta nets (Qwen3-Next's recurrence), the fourth is attention. Needs
only what `unmask` installs.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen3_5TextConfig

from unmask.data.sources import read_texts
from unmask.training.base_settings import OptimSettings
from unmask.training.loop import adamw, learning_rate, trainable

SPECIAL = ["<pad>", "<s>", "</s>", "<mask>"]


def train_tokenizer(texts: list[str], vocab_size: int, context: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that puts `<s>` in front of every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bpe.token_to_id("<s>"))]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, model_max_length=context, **names)


def token_stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """All texts one after the other, each begun by `<s>`."""
    lists = (tokenizer(texts[i : i + 256], verbose=False)["input_ids"] for i in range(0, len(texts), 256))
    return torch.from_numpy(np.fromiter((t for part in lists for ids in part for t in ids), dtype=np.int64))


def build(arguments: argparse.Namespace) -> Any:
    """A random model of the family and shape asked for."""
    width = arguments.width
    heads = max(1, width // 64)
    shape: dict[str, Any] = {
        **{"vocab_size": arguments.vocab_size, "hidden_size": width, "num_hidden_layers": arguments.layers},
        **{"intermediate_size": 8 * math.ceil(width * 8 / 3 / 8), "num_attention_heads": heads, "head_dim": 64},
        **{"num_key_value_heads": heads, "max_position_embeddings": 512, "tie_word_embeddings": True},
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    }
    if arguments.family == "llama":
        return AutoModelForCausalLM.from_config(LlamaConfig(**shape))
    recurrence = {
        **{"linear_num_key_heads": heads, "linear_num_value_heads": heads},
        **{"linear_key_head_dim": 64, "linear_value_head_dim": 64},
    }
    return AutoModelForCausalLM.from_config(Qwen3_5TextConfig(**shape, **recurrence))


def main() -> None:
    """Parse, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="FILE", help="txt, csv, jsonl or Parquet")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--family", choices=["llama", "qwen3_5"], default="llama")
    parser.add_argument("--field", default="text")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=48, help="blocks of 256 tokens a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = read_texts(arguments.inputs, field=arguments.field)
    tokenizer = train_tokenizer(texts[:4000], arguments.vocab_size, 512)
    stream = token_stream(texts, tokenizer)
    model = build(arguments).to(device).train()
    settings = OptimSettings(
        lr=arguments.lr, warmup_steps=min(100, arguments.steps), weight_decay=0.1, final_lr_share=0.1
    )
    optimizer = adamw(trainable(model), settings)
    started, bar = time.perf_counter(), tqdm(range(arguments.steps))
    for step in bar:
        starts = torch.randint(max(1, len(stream) - 257), (arguments.batch,))
        rows = torch.stack([stream[s : s + 257] for s in starts.tolist()]).to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, settings)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    print(f"{arguments.out}: final loss {float(loss.detach()):.3f}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
