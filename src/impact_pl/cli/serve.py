"""`impact serve`: a page in the browser that makes and edits sounds."""

import argparse
import importlib.util
import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

from impact_pl.cli import options
from impact_pl.errors import UserError, user_errors
from impact_pl.models.spec import BUILTIN, find_model

DESCRIPTION = """Serve a page that makes sounds from captions, and edits them: replace, extend, vary, loop.

It answers to this machine only, unless --host says otherwise. Calls wait in a queue, and one runs at a time. Sounds of
a session are deleted an hour after its last one, and when the server stops (Ctrl-C). Nothing is sent elsewhere."""
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def build_parser() -> argparse.ArgumentParser:
    parser = options.parser_of("impact serve", DESCRIPTION)
    parser.epilog = (
        "examples:\n  impact serve\n  impact serve --model runs/mine/model --port 8000\n"
        "  impact serve --host 0.0.0.0   # for everyone who can reach this machine"
    )
    add = parser.add_argument
    add("--model", default=BUILTIN, help="model folder, or builtin (the default): the model in the package")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=options.port, default=7860, help="default: %(default)s")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps, or auto (the default)")
    return parser


@user_errors
def main(argv: list[str] | None = None) -> None:
    """Run ``impact serve``."""
    args = build_parser().parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        raise UserError('impact serve needs Gradio: pip install "impact_pl[serve]"')
    find_model(args.model)
    check_address(args.host, args.port)
    with tempfile.TemporaryDirectory(prefix="impact-serve-") as folder:
        serve(args, Path(folder))


def serve(args: argparse.Namespace, folder: Path) -> None:
    """Serve until Ctrl-C or SIGTERM. Everything that sessions store lies in ``folder``."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    # Read when Gradio is imported, here and not where libraries import it.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(folder / "gradio")}
    from impact_pl.inference.pipeline import ImpactPipeline
    from impact_pl.serving.app import build_app, launch
    from impact_pl.serving.studio import Studio

    pipeline = ImpactPipeline.from_pretrained(args.model, args.device)
    studio = Studio(pipeline, folder, args.model)
    app = build_app(studio)
    url = launch(app, studio, args.host, args.port)
    print(f"{url}  model {args.model}, on {pipeline.device}; Ctrl-C stops it", flush=True)
    if args.host not in LOOPBACK:
        print(
            f"warning: --host {args.host}: everyone who can reach this machine on port {args.port} can make sounds on "
            "it, without a password or encryption. Use 127.0.0.1 for yourself only.",
            flush=True,
        )
    stopped.wait()
    app.close()


def check_address(host: str, port: int) -> None:
    """Check that a server can listen there.

    Raises:
        UserError: The address is taken, or not one of this machine.
    """
    try:
        found: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0], found[1]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except (OSError, UnicodeError) as error:  # UnicodeError: no possible host name
        why = error.strerror if isinstance(error, OSError) else "not the name of a host"
        raise UserError(f"cannot listen on {host}, port {port} ({why}): try another --port or --host") from error
