"""What bidirectional attention and training change inside a real decoder and a small one: two plots and a table.

python examples/inside.py --context $UNMASK_DATA/wiki/valid.jsonl --out docs

layers: cosine of each layer's states to those of the causal decoder (section 4.2 of the paper, its Figure 5).
context: what a state knows of the tokens left and right of it, by linear probes (arXiv 2510.01652 asks what happens
to the left ones). The table has the information on future tokens besides (section 4.1).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unmask import TextEncoder
from unmask.analysis.future_tokens import read_triples
from unmask.analysis.plots import lines_figure
from unmask.analysis.report import Findings, Subject, analyse, context_figure
from unmask.data.sources import read_paragraphs

NEAR = range(1, 5)  # tokens away, of which the table has the mean


def subjects(decoder: str, trained: Mapping[str, str]) -> list[Subject]:
    """A decoder as it is, bidirectional, and encoders made of it; states of all are compared with the first."""

    def opener(name: str, attention: str | None) -> Subject:
        label = {"causal": "Uni", "bidirectional": "Bi"}.get(attention or "", name)
        folder = trained.get(name, name)
        against = None if attention == "causal" else "Uni"
        return Subject(label, lambda: TextEncoder.load(folder, attention=attention, dtype="float32"), against)

    return [opener(decoder, "causal"), opener(decoder, "bidirectional"), *(opener(name, None) for name in trained)]


def layers_plot(found: Mapping[str, Findings]) -> str:
    """A line a model over its layers."""
    means = {
        f"{decoder}, {name}": one.means() for decoder, own in found.items() for name, one in own.similarities.items()
    }
    rows = [
        {"layer": layer, **{name: values[layer] for name, values in means.items() if layer < len(values)}}
        for layer in range(max(map(len, means.values())))
    ]
    return lines_figure(rows, {name: name for name in means}, "cosine to the causal states", across="layer")


def table(found: Mapping[str, Findings]) -> str:
    """A row a model, Markdown."""
    head = ["", "", "cosine to causal states, lowest layer", "known of 1 to 4 tokens left, %", "right, %", "prefix AUC"]
    rows: list[Sequence[str]] = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    for decoder, own in found.items():
        for name, separation in own.separations.items():
            means = own.similarities[name].means() if name in own.similarities else []
            known = dict(zip(own.contexts[name].offsets, own.contexts[name].known, strict=True))
            sides = [np.mean([known[side * far] for far in NEAR]) for side in (-1, 1)]
            near = f"{min(means[:-1]):.2f}" if means else ""  # the last comes after the final norm
            rows.append([decoder, name, near, *(f"{side:.1f}" for side in sides), f"{separation.auc:.2f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Analyse both decoders; write the plots and the figures, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=Path, required=True, help="running text")
    parser.add_argument("--paragraphs", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True, help="folder of the plots")
    parser.add_argument("--json", type=Path, help="file for every figure")
    parser.add_argument("--decoder", default="smollm2")
    parser.add_argument("--small", default="pocket", help="a decoder beside it, as it is and bidirectional")
    parser.add_argument(
        "--encoder",
        action="append",
        metavar="NAME=FOLDER",
        help="made of the decoder (default: those that come along)",
    )
    arguments = parser.parse_args()
    known = ["Bi+MNTP=smollm2-mntp", "+SimCSE=smollm2-unsupervised", "+supervised=smollm2-supervised"]
    if Path(arguments.decoder).name == Path(arguments.small).name:
        parser.error("--decoder and --small need different names")
    if wrong := [entry for entry in arguments.encoder or () if "=" not in entry]:
        parser.error(f"--encoder {wrong[0]}: give NAME=FOLDER")
    trained = dict(entry.split("=", 1) for entry in arguments.encoder or known)
    triples = read_triples(None)
    pairs = [(triple.query, triple.positive) for triple in triples]
    running = read_paragraphs(arguments.context, arguments.paragraphs)
    found = {
        Path(decoder).name: analyse(
            subjects(decoder, made), triples=triples, pairs=pairs, running=running, progress=True
        )
        for decoder, made in ((arguments.decoder, trained), (arguments.small, {}))
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "inside_layers.svg").write_text(layers_plot(found), encoding="utf-8")
    (arguments.out / "inside_context.svg").write_text(
        context_figure(found[Path(arguments.decoder).name].contexts), encoding="utf-8"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps({name: own.to_dict() for name, own in found.items()}), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
