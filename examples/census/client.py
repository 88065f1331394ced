"""The client: it logs in, asks, and was written for another server.

python client.py http://localhost:8080/ alice PASSWORD
"""

from __future__ import annotations

import sys

import requests

PEOPLE = [
    [25, "Private", 226802, "11th", 7, "Never-married", "Machine-op-inspct", "Own-child", "Black", "Male", 0, 0, 40,
     "United-States"],
    [52, "Self-emp-inc", 287927, "Masters", 14, "Married-civ-spouse", "Exec-managerial", "Wife", "White", "Female",
     15024, 0, 50, "United-States"],
]  # fmt: skip


def main() -> None:
    URL, user, password = sys.argv[1:]  # noqa: N806 - as the client has it
    answer = requests.get(URL + "login", auth=(user, password))
    answer.raise_for_status()
    token = answer.json()["token"]
    answer = requests.post(URL + "prediction", headers={"Authorization": token}, json={"inputs": PEOPLE})
    print(answer.status_code, answer.json())


if __name__ == "__main__":
    main()
