"""`unmask eval words ENCODER ...`: linear probes on word vectors."""

import argparse
import re
from pathlib import Path
from typing import Any

from unmask.cli.console import (
    MODEL_HELP,
    add_encoder_options,
    check_new,
    open_encoder,
    opening,
    positive,
    progress_wanted,
    show,
    table,
)
from unmask.errors import RecipeError
from unmask.evaluation.tasks.words import WORDS

HELP = WORDS.help
EXAMPLE = (
    "eval words pocket-bi --train train.txt --test test.txt --label-column pos=1 --label-column chunk=2 --layers all"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("encoder", metavar="ENCODER", help=MODEL_HELP)
    parser.add_argument(
        "--data", metavar="NAME", help="a hub data set with splits train and test, or `conll2003`: all its tasks"
    )
    parser.add_argument(
        "--train", metavar="FILE", help="CoNLL columns, CoNLL-U, BIO, or a data set name[:config]@split"
    )
    parser.add_argument("--test", metavar="FILE")
    parser.add_argument("--word-column", metavar="N", help="from 0 (default: 0; CoNLL-U: 1; data sets: tokens)")
    parser.add_argument(
        "--label-column",
        action="append",
        default=[],
        metavar="[TASK=]N",
        help="from 0, negative from the end (default: the last; CoNLL-U: 3), or a name in a data set; repeat for "
        "several tasks on the same words",
    )
    parser.add_argument(
        "--position",
        choices=("auto", "same", "previous"),
        default="auto",
        help="a word's own states, or those one token before, as the paper has it after MNTP; auto (default): after "
        "MNTP whichever a fifth of the training sentences is read better from, else `same`",
    )
    parser.add_argument("--layers", default="last", metavar="LIST", help="last (default), all, or numbers: 0,6,12")
    parser.add_argument(
        "--probe",
        choices=("converged", "paper"),
        default="converged",
        help="logistic regression, or the paper's: dropout 0.1, learning rate 5e-4, 8 sentences a step",
    )
    parser.add_argument(
        "--steps", type=positive, default=1500, metavar="N", help="of the paper's probe (default: 1500)"
    )
    parser.add_argument("--seeds", type=positive, default=1, metavar="N", help="of the paper's probe (default: 1)")
    parser.add_argument("--scheme", choices=("auto", "none"), default="auto", help="none: no F1 of spans")
    parser.add_argument("--limit", type=positive, metavar="N", help="train on the first N sentences")
    parser.add_argument(
        "--save-tagger", metavar="DIR", help="save the trained probe (of several layers the best on the test words)"
    )
    parser.add_argument("--plot", metavar="FILE.svg", help="accuracy over layers")
    add_encoder_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Look the labelled sentences over, then load the encoder."""
    from unmask.backbone.structure import num_layers
    from unmask.data.words import open_corpus
    from unmask.evaluation.words import ProbeSettings, WordsData, evaluate_words

    check_new(arguments.save_tagger, folder=True)
    check_new(arguments.plot, folder=False)
    train, test = _sources(arguments)
    columns = _columns(arguments.label_column)
    word_column = _number(arguments.word_column)
    data = WordsData(
        open_corpus(train, columns=columns, word_column=word_column, limit=arguments.limit),
        open_corpus(test, columns=columns, word_column=word_column),
        arguments.scheme,
    )
    if arguments.save_tagger and len(data.schemes) > 1:
        raise RecipeError("--save-tagger saves one task; choose one with --label-column.")
    if arguments.save_tagger and arguments.probe == "paper" and arguments.seeds > 1:
        raise RecipeError("--save-tagger saves one probe; leave out --seeds.")
    settings = ProbeSettings(arguments.probe, arguments.steps, range(arguments.seeds))
    wanted = _layers(arguments.layers)
    encoder = open_encoder(arguments)
    layers = range(num_layers(encoder.model) + 1) if arguments.layers == "all" else wanted
    results = evaluate_words(
        encoder, data, positions=(arguments.position,), layers=layers, probe=settings, progress=progress_wanted()
    )
    found = {"encoder": arguments.encoder, "task": "words", "data": arguments.data or arguments.test}
    text = table(["task", "layer", "position", "accuracy", "F1", "words"], [_row(result) for result in results])
    show(arguments, {**found, "results": [result.to_dict() for result in results]}, text)
    _save(arguments, encoder, data, results)  # last: a disk that is full costs no figure


def _save(arguments: argparse.Namespace, encoder: Any, data: Any, results: Any) -> None:
    from unmask.analysis.plots import lines_figure
    from unmask.evaluation.tagger import Tagger
    from unmask.files import write_text

    if arguments.save_tagger:
        best = max(results, key=lambda result: result.accuracy)
        names = list(data.names[best.task])
        tagger = Tagger.from_result(arguments.encoder, encoder, best, names, opening(arguments))
        tagger.save(arguments.save_tagger)
    if arguments.plot:
        in_order = sorted(results, key=lambda result: result.layer)  # `auto` may take either position of each
        rows = [{"layer": result.layer, f"of {result.task}": result.accuracy} for result in in_order]
        series = {f"of {task}": task for task in data.schemes}
        figure = lines_figure(rows, series, "accuracy of words, %", across="layer", from_zero=False)
        write_text(Path(arguments.plot), figure)


def _sources(arguments: argparse.Namespace) -> tuple[str, str]:
    if arguments.data and not (arguments.train or arguments.test):
        return f"{arguments.data}@train", f"{arguments.data}@test"
    if arguments.data or not (arguments.train and arguments.test):
        raise RecipeError("Give either --data NAME, or --train FILE and --test FILE.")
    return arguments.train, arguments.test


def _columns(given: list[str]) -> dict[str, int | str] | None:
    """`pos=1` or `1` to task and column."""
    found: dict[str, int | str] = {}
    for entry in given:
        task, equals, column = entry.rpartition("=")
        column_at = _number(column)
        assert column_at is not None
        found[task if equals else str(column) if isinstance(column_at, str) else "label"] = column_at
    if len(found) < len(given):
        raise RecipeError("Several tasks need names of their own: --label-column pos=1 --label-column chunk=2.")
    return found or None


def _number(text: str | None) -> int | str | None:
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]+", text) else text


def _layers(text: str) -> list[int] | None:
    """Layer numbers; None for the last (and for all, which the model must tell)."""
    if text in ("last", "all"):
        return None
    numbers = text.split(",")
    if not all(re.fullmatch(r"\s*[0-9]+\s*", number) for number in numbers):
        raise RecipeError(f"--layers {text!r}: expected last, all, or numbers such as 0,6,12.")
    return [int(number) for number in numbers]


def _row(result: Any) -> list[str]:
    f1 = "-" if result.f1 is None else _spread(result.f1, result.f1_spread, result.seeds)
    accuracy = _spread(result.accuracy, result.accuracy_spread, result.seeds)
    return [result.task, str(result.layer), result.position, accuracy, f1, f"{result.words:,}"]


def _spread(value: float, spread: float, seeds: int) -> str:
    return f"{value:.2f} ± {spread:.2f}" if seeds > 1 else f"{value:.2f}"
