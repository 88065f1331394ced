"""The `pantry` command. Exit 0 done, 1 failed with a sentence, 2 wrong use."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from loader.bundle.errors import ModelsInvalid, PantryError
from loader.bundle.models import load_models
from loader.errors import UsageError
from loader.report import Report

_STOPPED = "stopped; what has arrived is kept, and the next run continues from it"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    report = Report()
    signal.signal(signal.SIGTERM, _stop_with(report))  # as PID 1 of a container, the default would be to ignore it
    try:
        return 0 if options.run(options, report) else 1
    except (UsageError, ModelsInvalid) as error:
        report.event("failed", str(error))
        return 2
    except PantryError as error:
        report.event("failed", str(error))
        return 1
    except KeyboardInterrupt:
        report.event("stopped", _STOPPED)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pantry", description="Move bundles between a bucket and a volume.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("publish", help="upload a directory as a bundle, manifest last")
    command.add_argument("directory", type=Path, metavar="DIR", help="holds model.pkl, model.yaml …")
    command.add_argument("uri", metavar="URI", help="gs://bucket/models/NAME/VERSION or file:///directory")
    command.set_defaults(run=_publish)

    command = commands.add_parser("sync", help="make a volume hold what models.yaml lists")
    command.add_argument("--models", type=Path, required=True, metavar="FILE", help="models.yaml")
    command.add_argument("--volume", type=Path, required=True, metavar="DIR", help="where bundles go")
    command.add_argument("--retain", type=_positive, default=2, metavar="N", help="bundles kept of a model (default 2)")
    command.set_defaults(run=_sync)

    command = commands.add_parser("verify", help="read every byte of a bundle again and compare")
    command.add_argument("directory", type=Path, metavar="DIR", help="a bundle on a volume: DIR/manifest.json")
    command.set_defaults(run=_verify)

    command = commands.add_parser("status", help="ask a running server for the phase of every model")
    command.add_argument("url", metavar="URL", help="its admin port, such as http://127.0.0.1:8081")
    command.set_defaults(run=_status)
    return parser


def _publish(options: argparse.Namespace, report: Report) -> bool:
    from loader.publish import publish

    publish(options.directory, options.uri, report)
    return True


def _sync(options: argparse.Namespace, report: Report) -> bool:
    from loader.sync import sync_all

    return sync_all(load_models(options.models), options.volume, options.retain, report)


def _verify(options: argparse.Namespace, report: Report) -> bool:
    from loader.verify import verify

    return verify(options.directory, report)


def _status(options: argparse.Namespace, _report: Report) -> bool:
    from loader.status import status

    table, ready = status(options.url)
    print(table)
    return ready


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _stop_with(report: Report) -> Callable[[int, FrameType | None], None]:
    """End at once: readers may be in the middle of a request, and a staged file can be continued at any moment."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        try:
            report.event("stopped", _STOPPED)
        finally:
            os._exit(1)

    return stop


if __name__ == "__main__":
    sys.exit(main())
