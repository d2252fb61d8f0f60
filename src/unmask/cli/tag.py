"""`unmask tag TAGGER FILE...`: label the words of new sentences by a trained probe."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from unmask.cli.console import add_encoder_options, add_quoting, open_encoder
from unmask.errors import ArtifactError

HELP = "label words by a tagger from `unmask eval words --save-tagger`"
EXAMPLE = "tag ner-tagger news.txt --out news.conll"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("tagger", metavar="TAGGER")
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".txt, .csv, .tsv, JSON, Parquet: a text a row, split into words and punctuation; CoNLL-U and any other "
        "file, such as .conll: one word a line in the first column, blank lines between sentences",
    )
    add_quoting(parser)
    parser.add_argument("--field", default="text", metavar="NAME", help="column or key that holds the text")
    parser.add_argument("--encoder", metavar="ENCODER", help="default: where it was when the tagger was trained")
    parser.add_argument("--out", metavar="FILE", help="default: stdout")
    add_encoder_options(parser, json_help="a JSON object a sentence: words, labels, spans")


def run(arguments: argparse.Namespace) -> None:
    """Read the tagger, then open its encoder, then tag."""
    from unmask.evaluation.spans import marks_spans
    from unmask.evaluation.tagger import Tagger

    tagger = Tagger.load(arguments.tagger)
    if arguments.encoder is None:
        vars(arguments).update({key: value for key, value in tagger.opening.items() if not getattr(arguments, key)})
        arguments.encoder = tagger.encoder
    for _ in _all_sentences(arguments):
        pass  # what is wrong with a file is said before the encoder is loaded
    encoder = open_encoder(arguments)
    tagger.check(encoder)
    known = tagger.labels if marks_spans(tagger.labels) else []
    with _output(arguments.out) as out:
        for words, labels in tagger.tag(encoder, _all_sentences(arguments)):
            _write(out, words, labels, as_json=arguments.json, known=known)


@contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    """Stdout, or a file that appears when it is whole."""
    if path is None:
        yield sys.stdout
        return
    from unmask.files import write_whole

    try:
        with write_whole(Path(path)) as file:
            yield file
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written ({error.strerror}).") from error


def _all_sentences(arguments: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    return (sentence for file in arguments.files for sentence in _sentences(Path(file), arguments))


def _sentences(path: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    from unmask.data.formats import find_format, plain_suffix
    from unmask.data.records import read_records
    from unmask.data.words import ColumnFile, split_words

    kind = find_format(path)
    if kind != "words" and (kind != "text" or plain_suffix(path) == ".txt"):
        for record in read_records(path, field=arguments.field, quoting=arguments.quoting):
            words = split_words(record.text)
            if words:
                yield words
        return
    for sentence in ColumnFile(path, {}):
        yield sentence.words


def _write(out: TextIO, words: Sequence[str], labels: Sequence[str], *, as_json: bool, known: Sequence[str]) -> None:
    from unmask.evaluation.spans import spans

    if not as_json:
        out.writelines(f"{word}\t{label}\n" for word, label in zip(words, labels, strict=True))
        out.write("\n")
        return
    found = spans(labels, known) if known else []
    pieces = [{"label": kind, "start": a, "end": b + 1, "text": " ".join(words[a : b + 1])} for kind, a, b in found]
    out.write(json.dumps({"words": words, "labels": labels, "spans": pieces}, ensure_ascii=False) + "\n")
