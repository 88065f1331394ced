"""`pantry-serve hash-password NAME`: prints a line for the file that PANTRY_USERS_FILE names."""

from __future__ import annotations

import argparse
import getpass
import sys

from serving.access.passwords import hash_password, name_problem


def main(arguments: list[str] | None = None) -> int:
    """Read a password from standard input, print NAME:HASH; return the exit status: 0 done, 2 wrong use."""
    parser = argparse.ArgumentParser(
        prog="pantry-serve hash-password",
        description="Read a password from standard input, and print a line for PANTRY_USERS_FILE.",
    )
    parser.add_argument("name", metavar="NAME", help="the user's name")
    name = parser.parse_args(arguments).name
    if problem := name_problem(name):
        parser.error(f"{problem}, got {name!r}")
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not password:
        parser.error("expected a password on standard input, got nothing")
    print(f"{name}:{hash_password(password)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
