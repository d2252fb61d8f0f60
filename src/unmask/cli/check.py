"""`unmask check TARGET`: is what is served right, and if not what went wrong; exit code 1 where there is a fault."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.console import add_json, positive, progress_wanted, quiet_transformers, show
from unmask.errors import DataError

if TYPE_CHECKING:
    from unmask.certificate.check import Report

HELP = "is what a folder, server or file of vectors computes right? names the fault (exit code 1 if there is one)"
EXAMPLE = "check http://127.0.0.1:8000 --encoder pocket-bi"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="encoder folder, export, hub id, URL of an OpenAI-compatible server, Parquet file with texts and vectors",
    )
    right = parser.add_mutually_exclusive_group()
    right.add_argument("--encoder", metavar="ENCODER", help="the encoder that it should be, opened here in float32")
    right.add_argument("--golden", metavar="FILE", help="golden.json of that encoder (default: the one in TARGET)")
    parser.add_argument(
        "--runtime",
        choices=("unmask", "sentence-transformers"),
        default="unmask",
        help="what opens a folder or hub id (default: unmask; a graph is opened by its own runtime)",
    )
    parser.add_argument("--model", metavar="NAME", help="as a server calls it (default: the first that it lists)")
    parser.add_argument(
        "--key-env",
        default="UNMASK_API_KEY",
        metavar="VARIABLE",
        help="environment variable that holds a server's bearer key (default: UNMASK_API_KEY)",
    )
    parser.add_argument(
        "--timeout", type=positive, default=60, metavar="SECONDS", help="for each answer of a server (default: 60)"
    )
    parser.add_argument("--field", default="text", help="column of a file's texts (default: text)")
    parser.add_argument(
        "--vector-field", metavar="NAME", help="column of a file's vectors (default: vector, embedding or embeddings)"
    )
    parser.add_argument("--prompt-name", metavar="NAME", help="saved prompt that a file's texts were encoded with")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find what is right, ask the target, print."""
    quiet_transformers()
    name = arguments.target
    if name.startswith(("http://", "https://")):
        report = _check_server(arguments)
    elif name.endswith(".parquet") or (Path(name).is_file() and not name.endswith(".gguf")):
        report = _check_file(arguments)
    else:
        report = _check_folder(arguments)
    show(arguments, _as_json(report), _in_words(report))
    return 0 if report.right else 1


def _check_server(arguments: argparse.Namespace) -> "Report":
    from unmask.certificate.check import check
    from unmask.certificate.server import Server

    if not (arguments.encoder or arguments.golden):
        raise DataError("A server is compared with an encoder (--encoder) or its certificate (--golden); give one.")
    key = os.environ.get(arguments.key_env)
    server = Server(arguments.target, key=key, model=arguments.model, seconds=arguments.timeout)
    return check(server, _certificate(arguments), progress=progress_wanted())


def _check_file(arguments: argparse.Namespace) -> "Report":
    from unmask.certificate.check import check_file

    golden = _certificate(arguments) if arguments.golden else None
    encoder = _exact(arguments.encoder) if arguments.encoder else None
    return check_file(
        Path(arguments.target),
        certificate=golden,
        encoder=encoder,
        prompt_name=arguments.prompt_name,
        field=arguments.field,
        vector_field=arguments.vector_field,
    )


def _check_folder(arguments: argparse.Namespace) -> "Report":
    from unmask import TextEncoder
    from unmask.backbone.locate import layout_folder
    from unmask.certificate.check import check
    from unmask.certificate.graphs import graph_file
    from unmask.certificate.targets import OpenedBySentenceTransformers, OpenedHere

    name = arguments.target
    if graph := graph_file(Path(name)):
        return _check_graph(arguments, graph)
    folder = layout_folder(name)
    certificate = _certificate(arguments, folder)
    if arguments.runtime == "unmask":
        return check(OpenedHere(TextEncoder.load(name), name), certificate, folder=folder, progress=progress_wanted())
    return check(OpenedBySentenceTransformers(name), certificate, progress=progress_wanted())


def _check_graph(arguments: argparse.Namespace, graph: Path) -> "Report":
    from unmask.certificate.check import check
    from unmask.certificate.graphs import OpenedGraph

    if arguments.runtime != "unmask":
        raise DataError(f"{graph} is a graph, which its own runtime opens here; leave --runtime out.")
    folder = Path(arguments.target)
    certificate = _certificate(arguments, folder)
    return check(OpenedGraph(folder, graph), certificate, folder=folder, progress=progress_wanted())


def _certificate(arguments: argparse.Namespace, folder: str | Path = "") -> Any:
    """What is right, as the options say, or else the target's own folder."""
    from unmask.certificate.golden import certify, read_certificate

    if arguments.encoder:
        return certify(_exact(arguments.encoder))
    return read_certificate(arguments.golden or folder)


def _exact(name: str) -> Any:
    from unmask import TextEncoder

    return TextEncoder.load(name, dtype="float32")


def _as_json(report: "Report") -> dict[str, Any]:
    from dataclasses import asdict

    return {"right": report.right, **asdict(report)}


def _in_words(report: "Report") -> str:
    """A line for each thing that was found."""
    lines = [f"target       {report.target}"]
    if report.smallest is not None:
        lines.append(f"cosine       smallest {report.smallest:.6f} ({report.worst!r}), mean {report.mean:.6f}")
        lines[-1] += f", of {report.texts} texts"
    if report.fingerprint:
        is_same = "as it should be" if report.fingerprint["same"] else f"should be {report.fingerprint['right']}"
        lines.append(f"fingerprint  {report.fingerprint['found']}, {is_same}")
    for test in report.requests:
        lines.append(f"requests     {test.name}: {test.result}{f' ({test.says})' if test.says else ''}")
    lines += [f"refused      {text!r}: {says}" for text, says in report.refused.items()]
    lines += [f"note         {note}" for note in report.notes]
    for fault in report.faults:
        lines += [f"FAULT        {fault.fault}: {fault.says}", f"  what to do: {fault.remedy}"]
    return "\n".join([*lines, "right" if report.right else "not right"])
