"""`unmask analyze TARGET --out DIR`: the paper's analyses of a run, a decoder or an encoder; a map of vectors."""

import argparse
import sys
from pathlib import Path
from typing import Any

from unmask.cli import analyze_map
from unmask.cli.console import add_encoder_options, open_encoder, opening, progress_wanted, show, table
from unmask.errors import ArtifactError, ConversionError, DataError, RecipeError

HELP = "look inside: layers, information on future tokens, shape of the vectors (report.html); a map of vectors"
EXAMPLE = "analyze runs/pocket-wiki --out runs/pocket-wiki/analysis --checkpoints 'STS-B dev'"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="a run folder (all its rungs), a decoder (as it is, and bidirectional), or an encoder; with --map vectors",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="for report.html and analysis.json, or map.html")
    analyze_map.add_options(parser)
    parser.add_argument("--text", metavar="FILE", help="compare states on this text (default: a paragraph of our own)")
    parser.add_argument(
        "--triples", metavar="FILE", help="jsonl with prefix, query, positive, negative (default: 35 of our own)"
    )
    parser.add_argument(
        "--pairs", metavar="FILE", help="texts that mean the same: csv or jsonl with scores, whose top fifth counts"
    )
    parser.add_argument(
        "--context",
        metavar="FILE",
        help="some hundred paragraphs: what states know of the tokens left and right of them",
    )
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="TASK",
        help="of a run: score every kept checkpoint on these tasks of its recipe",
    )
    add_encoder_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Read the texts, then open model after model; or draw vectors."""
    if Path(arguments.out).exists() and not Path(arguments.out).is_dir():
        raise ArtifactError(f"{arguments.out} is a file; --out takes a folder.")
    if arguments.map:
        return analyze_map.run(arguments)
    if arguments.method or arguments.rows:
        raise RecipeError("--method and --rows say how a map of vectors is drawn; they need --map.")
    return _analyse_models(arguments)


def _analyse_models(arguments: argparse.Namespace) -> None:
    from unmask.analysis.future_tokens import read_triples
    from unmask.analysis.report import TEXT, analyse, write_report
    from unmask.cli.console import quiet_transformers
    from unmask.data.sources import read_paragraphs

    out = Path(arguments.out)
    triples = read_triples(Path(arguments.triples) if arguments.triples else None)
    text = _text(Path(arguments.text)) if arguments.text else TEXT
    pairs = _pairs(arguments.pairs) or [(triple.query, triple.positive) for triple in triples]
    running = read_paragraphs(Path(arguments.context)) if arguments.context else []
    if arguments.context and not running:
        raise DataError(f"{arguments.context} has no line of more than 200 characters; --context needs paragraphs.")
    quiet_transformers()
    target = Path(arguments.target)
    of_a_run = (target / "recipe.yaml").is_file()
    if arguments.checkpoints and not of_a_run:
        raise RecipeError(f"--checkpoints needs a run folder; {target} holds no recipe.yaml.")
    if of_a_run and (given := opening(arguments)):
        raise RecipeError(f"A run's rungs are opened as its recipe says; leave out {', '.join(sorted(given))}.")
    subjects, extra = _run_subjects(arguments, target) if of_a_run else (_model_subjects(arguments), {})
    if arguments.text and not any(subject.compare_with for subject in subjects):
        print(
            f"{arguments.target} has no causal counterpart here, so no layers are compared and --text is not used.",
            file=sys.stderr,
        )
    found = analyse(subjects, text=text, triples=triples, pairs=pairs, running=running, progress=progress_wanted())
    page = write_report(
        out,
        found,
        title=f"Inside {target.name or arguments.target}",
        lead=f"{len(subjects)} models, from the same texts; every figure is of this one run of the analysis.",
        **extra,
    )
    columns, rows = found.summary()
    text = table(columns, [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows])
    show(arguments, {"target": arguments.target, "report": str(page), **found.to_dict()}, text, f"report: {page}")


def _text(path: Path) -> str:
    from unmask.data.formats import read_head, read_lines

    read_head(path)
    text = "\n".join(line for _, line in read_lines(path)).strip()
    if not text:
        raise DataError(f"{path} holds no text.")
    return text


def _run_subjects(arguments: argparse.Namespace, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """Every rung of a run, and what its report says besides."""
    from unmask.analysis.page import rungs_table
    from unmask.analysis.report import Subject, training_sections
    from unmask.files import read_json
    from unmask.runs.rungs import open_run, open_rung, read_losses

    recipe, places = open_run(folder)
    subjects = [
        Subject(place.name, lambda place=place: open_rung(recipe, place), None if place.name == "Uni" else "Uni")  # type: ignore[misc]
        for place in places
    ]
    extra: dict[str, Any] = {"before": training_sections(read_losses(folder))}
    if (folder / "results.json").is_file():
        rungs = read_json(folder / "results.json")["rungs"]
        names = dict.fromkeys(key for rung in rungs for key in rung if key != "name")
        extra["rungs"] = rungs_table({name: name for name in names}, rungs)
    if arguments.checkpoints:
        from unmask.runs.evaluate import score_checkpoints

        extra["curves"] = score_checkpoints(recipe, folder, arguments.checkpoints, progress=progress_wanted())
    return subjects, extra


def _model_subjects(arguments: argparse.Namespace) -> list[Any]:
    """A causal decoder twice, as it is and bidirectional; an encoder as it is."""
    from unmask.analysis.report import Subject
    from unmask.backbone.families.switches import attention_mode
    from unmask.backbone.truth.convert import require_decoder

    arguments.encoder = arguments.target
    first = open_encoder(arguments)
    name = Path(arguments.target).name or arguments.target
    if arguments.attention or attention_mode(first.model) == "bidirectional":
        return [Subject(name, lambda: first)]
    try:
        require_decoder(first.model)
    except ConversionError:  # BERT and its like, whose config does not say that they were never causal
        return [Subject(name, lambda: first)]
    second = open_encoder(argparse.Namespace(**{**vars(arguments), "attention": "bidirectional"}))
    return [Subject("Uni", lambda: first), Subject("Bi", lambda: second, "Uni")]


def _pairs(path: str | None) -> list[tuple[str, str]]:
    """The pairs of a file whose score is in the top fifth of its range."""
    if path is None:
        return []
    from unmask.evaluation.tasks.similarity import read_pairs

    pairs = read_pairs(path)
    low, high = min(pairs.scores), max(pairs.scores)
    least = high - (high - low) / 5
    chosen = [
        (first, second)
        for first, second, score in zip(pairs.first, pairs.second, pairs.scores, strict=True)
        if score >= least
    ]
    if len(chosen) < 2:
        raise DataError(f"{path}: {len(chosen)} pairs in the top fifth of scores are too few.")
    return chosen[:2000]
