"""How well decoders predict a text: bits a byte, which models with different tokenizers have in common.

python examples/bits_per_byte.py pocket smollm2 --texts $UNMASK_DATA/wiki/valid.jsonl --count 60
"""

import argparse
import math
from itertools import islice
from pathlib import Path

import torch

from unmask.backbone.loading import load_model
from unmask.backbone.locate import load_tokenizer
from unmask.data.records import read_records


@torch.inference_mode()
def bits_per_byte(name: str, texts: list[str], length: int) -> float:
    """Of the first `length` tokens of each text; its first is given, after BOS where the tokenizer puts one."""
    model, tokenizer = load_model(name, head=True, dtype="float32"), load_tokenizer(name)
    bits, size = 0.0, 0
    for text in texts:
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, ends = found["input_ids"][:length], [end for _, end in found["offset_mapping"][:length]]
        if len(ids) < 2:
            continue
        bos = [tokenizer.bos_token_id] if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id else []
        logits = model(input_ids=torch.tensor([[*bos, *ids]])).logits[0, len(bos) : -1]
        bits += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum")) / math.log(2)
        size += len(text[ends[0] : ends[-1]].encode())
    return bits / size


def main() -> None:
    """One line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60, help="texts (default: 60)")
    parser.add_argument("--length", type=int, default=512, help="tokens of each (default: 512)")
    arguments = parser.parse_args()
    texts = [record.text for record in islice(read_records(arguments.texts), arguments.count)]
    for name in arguments.models:
        print(f"{name}: {bits_per_byte(name, texts, arguments.length):.4f} bits a byte")


if __name__ == "__main__":
    main()
