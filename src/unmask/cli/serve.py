"""`unmask serve ENCODER`: vectors over HTTP, as OpenAI's clients ask for them."""

import argparse
import os
import sys
from pathlib import Path

from unmask.cli.console import MODEL_HELP, add_encoder_options, open_encoder, positive, put_in_int8, show

HELP = "serve an encoder over HTTP: OpenAI's /v1/embeddings, batches that clients share, metrics"
EXAMPLE = "serve pocket-bi --port 8000 --name my-encoder"
_LOCAL = ("127.0.0.1", "localhost", "::1")
_KEY = "UNMASK_API_KEY"
_CHARACTERS = 500  # of each text that eight bits are fitted to


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("encoder", metavar="ENCODER", help=MODEL_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="0 for a free one (default: 8000)")
    parser.add_argument("--name", help="what clients call the encoder (default: the folder's name)")
    parser.add_argument(
        "--max-batch-tokens", type=positive, metavar="N", help="most tokens in a batch (default: what suits the device)"
    )
    parser.add_argument(
        "--max-queue",
        type=positive,
        default=512,
        metavar="N",
        help="most requests waiting; more are told to try again (default: 512)",
    )
    parser.add_argument(
        "--int8", action="store_true", help="linear layers in eight bits; prints what that costs on texts of our own"
    )
    parser.add_argument("--normalize", action="store_true", help="scale vectors to length 1, as OpenAI's are")
    add_encoder_options(parser, json_help="print one JSON object on stdout when the server is ready")


def run(arguments: argparse.Namespace) -> None:
    """Take the address before the model is loaded."""
    from unmask.serving import ServerSettings, bind, serve

    bound = bind(arguments.host, arguments.port)
    encoder = open_encoder(arguments)
    loss = {}
    if arguments.int8:
        from unmask.demo.texts import reference_texts

        loss = put_in_int8(encoder, (text[:_CHARACTERS] for text in reference_texts()))
    name = arguments.name or Path(arguments.encoder).resolve().name
    key = os.environ.get(_KEY) or None
    if arguments.host not in _LOCAL and key is None:
        note = f"Whoever reaches {arguments.host} may use this server; {_KEY} in the environment sets a key."
        print(note, file=sys.stderr)
    settings = ServerSettings(
        name=name,
        key=key,
        batch_tokens=arguments.max_batch_tokens,
        max_queue=arguments.max_queue,
        normalize=arguments.normalize,
    )

    def ready(url: str, fingerprint: str) -> None:
        facts = {"url": url, "model": name, "dimension": encoder.dimension, "fingerprint": fingerprint}
        line = f"serving {name} at {url}: {encoder.dimension} dimensions, fingerprint {fingerprint}"
        show(arguments, facts | loss, note=line)
        sys.stdout.flush()

    serve(encoder, bound, settings, ready=ready)


def _port(text: str) -> int:
    """An argparse type: the number of a port, or 0."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of a port")
    return int(text)
