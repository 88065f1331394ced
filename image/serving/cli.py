"""The `pantry-serve` command."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from loader.bundle.errors import ModelsInvalid
from loader.bundle.models import load_models
from serving.access.modes import access_from
from serving.errors import SettingsInvalid
from serving.settings import settings_from
from serving.sight import logs
from serving.supervise.admin import AdminServer
from serving.supervise.cpus import set_library_threads
from serving.supervise.supervisor import Supervisor

BACKLOG = 2048  # connections that may wait while a generation is replaced


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; return the exit status: 0 done, 1 failed with a sentence, 2 wrong use."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["hash-password"]:
        from serving.access import hash as hash_password

        return hash_password.main(words[1:])
    parser = _parser()
    options = parser.parse_args(words)
    if options.volume is None and not options.reload:
        parser.error("--volume DIR is required, unless --reload serves directories")
    try:
        settings = settings_from(os.environ)
        access = access_from(settings)  # a wrong file of secrets ends the start, not a generation
        load_models(options.models)
    except (SettingsInvalid, ModelsInvalid) as error:
        print(f"pantry-serve: {error}", file=sys.stderr)
        return 2
    try:
        listener = socket.create_server(options.bind, backlog=BACKLOG)
        admin = AdminServer(options.admin)
    except OSError as error:
        print(f"pantry-serve: cannot listen: {error}. Choose other addresses with --bind and --admin", file=sys.stderr)
        return 1
    logs.configure()
    set_library_threads(os.environ, settings.workers)  # generations inherit it, before they import what computes
    Supervisor(options.models, options.volume or Path(), listener, admin, settings, access, options.reload).run()
    admin.shutdown()
    admin.server_close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pantry-serve",
        epilog="`pantry-serve hash-password NAME` makes a line for the file of users.",
        description="Serve the models that models.yaml lists from a volume, and follow both as they change.",
    )
    parser.add_argument("--models", type=Path, required=True, metavar="FILE", help="models.yaml")
    parser.add_argument("--volume", type=Path, metavar="DIR", help="where `pantry sync` puts bundles")
    parser.add_argument("--bind", type=_address, default="127.0.0.1:8080", metavar="HOST:PORT", help="serving port")
    parser.add_argument("--admin", type=_address, default="127.0.0.1:8081", metavar="HOST:PORT", help="admin port")
    parser.add_argument(
        "--reload",
        action="store_true",
        help="for development: serve directories that file:// addresses name, as they are, and follow their changes",
    )
    return parser


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return host, int(port)


if __name__ == "__main__":
    sys.exit(main())
