"""The `pantry` command. Exit 0 done, 1 failed with a sentence, 2 wrong use."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from loader.bundle.errors import ModelsInvalid, PantryError
from loader.bundle.models import load_models
from loader.errors import UsageError
from loader.report import Report

if TYPE_CHECKING:
    from loader.signatures import PublicKeys

_STOPPED = "stopped; what has arrived is kept, and the next run continues from it"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    report = Report(json_lines=options.json)
    for number in (signal.SIGTERM, signal.SIGINT):  # as PID 1 of a container, the default would be to ignore them
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop_with(report))
    try:
        return 0 if options.run(options, report) else 1
    except (UsageError, ModelsInvalid) as error:
        report.event("failed", str(error))
        return 2
    except PantryError as error:
        report.event("failed", str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pantry", description="Move bundles between a bucket and a volume.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace, Report], bool], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument("--json", action="store_true", help="report as JSON lines")
        command.set_defaults(run=run)
        return command

    command = add("publish", _publish, "pack, sign and upload a directory, manifest last")
    command.add_argument("directory", type=Path, metavar="DIR", help="holds model.pkl, model.yaml …")
    command.add_argument("uri", metavar="URI", help="gs://bucket/models/NAME/VERSION, s3://… or file:///directory")
    command.add_argument("--key", type=Path, metavar="FILE", help="sign with this private key (PEM, elliptic curve)")
    command.add_argument("--no-pack", dest="pack", action="store_false", help="leave the pickles as they are")

    for name, run, text in (
        ("sync", _sync, "make a volume hold what models.yaml lists"),
        ("plan", _plan, "tell what sync would move, reuse and prune"),
    ):
        command = add(name, run, text)
        command.add_argument("--models", type=Path, required=True, metavar="FILE", help="models.yaml")
        command.add_argument("--volume", type=Path, required=True, metavar="DIR", help="where bundles go")
        command.add_argument("--retain", type=_positive, default=2, metavar="N", help="bundles kept of a model (2)")
        command.add_argument(
            "--access",
            action="append",
            default=[],
            metavar="NAME=URI",
            help="bring the object URI to DIR/.access/NAME, for a server that may read no bucket; repeatable",
        )
        _add_keys(command)
        if name == "sync":
            command.add_argument("--pack", action="store_true", help="pack pickles that came unpacked")

    command = add("pack", _pack, "derive the form of a model's pickles that loads fast")
    command.add_argument("directory", type=Path, metavar="DIR", help="holds model.pkl …; the result goes to DIR/.pack")

    command = add("verify", _verify, "read every byte of a bundle again and compare")
    command.add_argument("directory", type=Path, metavar="DIR", help="a bundle on a volume: DIR/manifest.json")
    _add_keys(command)

    command = add("inspect", _inspect, "list what a pickle would import, running nothing")
    command.add_argument("file", type=Path, metavar="FILE", help="a pickle, compressed or not")

    command = add("status", _status, "ask a running server for the phase of every model")
    command.add_argument("url", metavar="URL", help="its admin port, such as http://127.0.0.1:8081")

    command = add("doctor", _doctor, "say what is wrong with a Helm release, and what to do about it")
    command.add_argument("release", metavar="RELEASE", help="as helm calls it; kubectl reads its objects")
    command.add_argument("--namespace", "-n", metavar="NS", help="the context's own by default")
    command.add_argument("--context", metavar="NAME", help="of the kubeconfig; the current one by default")
    command.add_argument(
        "--no-probe", dest="probe", action="store_false", help="do not ask the Ingress's address from this machine"
    )
    return parser


def _add_keys(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--public-key", type=Path, action="append", default=[], metavar="FILE", help="who may have signed; repeatable"
    )


def _keys(options: argparse.Namespace) -> PublicKeys | None:
    from loader.signatures import load_public_keys

    return load_public_keys(options.public_key) if options.public_key else None


def _bring_access(options: argparse.Namespace, report: Report, *, only_plan: bool = False) -> bool:
    from loader.access import AccessFile, bring_all

    files = [AccessFile.parse(text) for text in options.access]
    return bring_all(files, options.volume, report, only_plan=only_plan)


def _publish(options: argparse.Namespace, report: Report) -> bool:
    from loader.publish import publish
    from loader.signatures import load_private_key

    key = load_private_key(options.key) if options.key else None
    publish(options.directory, options.uri, report, key=key, pack=options.pack)
    return True


def _sync(options: argparse.Namespace, report: Report) -> bool:
    from loader.sync import sync_all

    specs, keys = load_models(options.models), _keys(options)
    admitted = _bring_access(options, report)  # first: no model should be there before those who may ask it
    return sync_all(specs, options.volume, options.retain, report, keys, pack=options.pack) and admitted


def _plan(options: argparse.Namespace, report: Report) -> bool:
    from loader.plan import plan_all

    specs, keys = load_models(options.models), _keys(options)
    admitted = _bring_access(options, report, only_plan=True)
    return plan_all(specs, options.volume, options.retain, report, keys) and admitted


def _pack(options: argparse.Namespace, report: Report) -> bool:
    from loader.packing import pack_directory

    pack_directory(options.directory, report)
    return True


def _verify(options: argparse.Namespace, report: Report) -> bool:
    from loader.verify import verify

    return verify(options.directory, report, _keys(options))


def _inspect(options: argparse.Namespace, _report: Report) -> bool:
    from loader.inspection import inspect

    text, fields, understood = inspect(options.file)
    print(json.dumps(fields) if options.json else text)
    return understood


def _status(options: argparse.Namespace, _report: Report) -> bool:
    from loader.status import ask, table

    server = ask(options.url)
    print(msgspec.json.encode(server).decode() if options.json else table(server))
    return server.ready


def _doctor(options: argparse.Namespace, _report: Report) -> bool:
    from loader.doctor import examine

    findings = examine(options.release, options.namespace, options.context, probe=options.probe)
    for finding in findings:
        print(msgspec.json.encode(finding).decode() if options.json else finding)
    if not findings and not options.json:
        print(f"{options.release}: nothing is wrong")
    return not any(finding.severity == "problem" for finding in findings)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def _stop_with(report: Report) -> Callable[[int, FrameType | None], None]:
    """End at once: readers may be in the middle of a request, and a staged file can be continued at any moment.

    No exception: one that is raised while Python clears something away is printed, and goes no further.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        try:
            report.event("stopped", _STOPPED)
        finally:
            os._exit(1)

    return stop


if __name__ == "__main__":
    sys.exit(main())
