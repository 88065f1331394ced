"""What docs/scale.md promises of many models, many servers and many bytes, tried here as far as one machine can.

Its tables are those of `python -m benchmarks.scale`. The tests on a cluster ask a real API server, and move nothing.
"""

from __future__ import annotations

import json
import pickle
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import scale
from loader.bundle.manifest import CHUNK_SIZE
from tests import helm
from tests.cluster import Namespace, run
from tests.lying_store.store import URI, LyingStore, running
from tests.serve import Server
from tests.sources import digits, pantry, published, write_models
from tests.test_docs import ROOT

DOC = (ROOT / "docs/scale.md").read_text()
MODELS = 50


def table(head: str) -> list[list[str]]:
    """The rows of the table in the doc whose first column is called so."""
    found = re.search(rf"^\| {head} \|.*\n\|[-|]*\n((?:\|.*\n)+)", DOC, re.MULTILINE)
    assert found is not None, head
    return [line.strip("| ").split(" | ") for line in found[1].splitlines()]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_the_sizes_of_a_release_still_hold() -> None:
    """Objects are as many as the doc says, and not a tenth larger or smaller."""
    rows = table("mode")
    assert {row[0].strip("`") for row in rows} == set(scale.MODES)
    for mode, models, objects, *sizes in rows:
        now = scale.size(mode.strip("`"), int(models))
        assert now.objects == int(objects), mode
        assert [number(each) for each in sizes] == [pytest.approx(each, rel=0.1) for each in now[1:]], mode


def test_the_requests_of_a_sync_still_hold() -> None:
    """Reads and pages of the listing are those that the sync's own rule makes of these bundles."""
    rows = table("bundle")
    assert [row[0] for row in rows] == list(scale.BUNDLES)
    for name, pages, reads, *_ in rows:
        files = scale.BUNDLES[name]
        assert number(pages) == -(-len(files) // scale.PAGE)
        assert number(reads) == scale.reads(files), name


def test_more_models_than_a_release_takes_are_refused() -> None:
    """The doc's number of models renders, and a tenth more of them is refused with a sentence."""
    (words,) = re.findall(r"about ([\d,]+) models a release", DOC)
    most = number(words)
    assert scale.size("shared", most * 95 // 100).objects
    with pytest.raises(Exception, match="use several releases"):
        scale.size("shared", most * 110 // 100)


@pytest.fixture(name="store")
def truthful_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingStore]:
    """A store that counts what it is asked for."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with running(LyingStore()) as store:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.url)
        yield store


def put(store: LyingStore, prefix: str, files: dict[str, bytes]) -> int:
    """Publish a bundle below a prefix, and return the bytes of its files."""
    store.put({f"{prefix}/{name}": data for name, data in published(files).items()})
    return sum(map(len, files.values()))


def word_table(word: str, answer: int) -> bytes:
    return pickle.dumps({word: [answer]}, protocol=5)


def moved(store: LyingStore) -> int:
    """Bytes of files that the store has sent."""
    return sum(ask.sent for ask in store.asks if ask.kind == "media" and not ask.name.endswith("manifest.json"))


def test_fifty_models_take_three_requests_each_and_then_one(store: LyingStore, tmp_path: Path) -> None:
    """A sync lists a model once, reads its manifest once, and each small file once; the next one only lists."""
    entries, total = [], 0
    for count in range(MODELS):
        total += put(store, f"m{count}", {"model.pkl": word_table("one", count)})
        entries.append({"name": f"m{count}", "version": "1", "storageUri": f"{URI}/m{count}"})
    models = write_models(tmp_path / "models.yaml", *entries)
    arguments = ("sync", "--models", models, "--volume", tmp_path / "volume")

    assert pantry(*arguments)[0] == 0
    assert Counter(ask.kind for ask in store.asks) == {"list": MODELS, "media": 2 * MODELS}
    assert moved(store) == total

    store.asks.clear()
    assert pantry(*arguments)[0] == 0
    assert Counter(ask.kind for ask in store.asks) == {"list": MODELS}


def test_servers_that_share_a_volume_move_its_bytes_once(store: LyingStore, tmp_path: Path) -> None:
    """Three servers and one sync on a volume: what they serve was sent once, and a swap sends only what is new."""
    big = bytes(CHUNK_SIZE) + b"weights"
    first = put(store, "1", {"model.pkl": word_table("one", 1), "big.bin": big})
    volume = tmp_path / "volume"
    volume.mkdir()
    servers = []
    for home in ("a", "b", "c"):
        (tmp_path / home).mkdir()
        server = Server(tmp_path / home)
        server.volume = volume
        server.desire(digits(f"{URI}/1"))
        servers.append(server)
    *early, late = servers
    try:
        for server in early:
            server.start()
        models = write_models(tmp_path / "1.yaml", digits(f"{URI}/1"))
        assert pantry("sync", "--models", models, "--volume", volume)[0] == 0
        for server in early:
            server.wait_for("digits", "ready", "1", seconds=100)
        assert moved(store) == first

        late.start()  # a replica more
        late.wait_for("digits", "ready", "1", seconds=100)
        asked = len(store.asks)

        put(store, "2", {"model.pkl": word_table("one", 2), "big.bin": big})
        for server in servers:
            server.desire(digits(f"{URI}/2", "2"))
        models = write_models(tmp_path / "2.yaml", digits(f"{URI}/2", "2"))
        assert pantry("sync", "--models", models, "--volume", volume)[0] == 0
        for server in servers:
            server.wait_for("digits", "ready", "2", seconds=100)
            assert server.post("/predict", json={"instance": "one"}).json() == {"prediction": [2]}
        assert moved(store) == first + len(word_table("one", 2))
        assert [ask.kind for ask in store.asks[asked:]].count("list") == 1
    finally:
        for server in servers:
            server.stop()


def test_volumes_of_their_own_move_their_bytes_each(store: LyingStore, tmp_path: Path) -> None:
    """As in mode ephemeral: two volumes ask for the same bytes twice."""
    size = put(store, "1", {"model.pkl": word_table("one", 1)})
    models = write_models(tmp_path / "models.yaml", digits(f"{URI}/1"))
    for volume in ("a", "b"):
        assert pantry("sync", "--models", models, "--volume", tmp_path / volume)[0] == 0
    assert moved(store) == 2 * size


def seconds(text: str) -> float:
    amount, unit = text.split()
    return float(amount) * {"s": 1, "min": 60, "h": 3600}[unit]


def test_the_herd_is_computed_right() -> None:
    """Seconds until a hundred nodes have read a bundle, by the doc's formula."""
    (head,) = re.findall(r"^\| bundle, unpacked \| (.*) \|$", DOC, re.MULTILINE)
    columns = [
        (int(number), 12_000 if "Hyperdisk" in words else 1200)
        for number, words in re.findall(r"(\d+) nodes, ([^|]*)", head)
    ]
    for bundle, *cells in table("bundle, unpacked"):
        size = int(bundle.split()[0]) * scale.GB
        expected = [nodes * size / (rate * 2**20) for nodes, rate in columns]
        assert [seconds(cell) for cell in cells] == [pytest.approx(each, rel=0.05) for each in expected], bundle


def test_the_rounds_are_computed_right() -> None:
    """Time for a hundred pods with disks of their own, by the doc's formula, one and twenty-five at a time."""
    for bundle, *cells in table("100 replicas, pd-balanced of 1,400 GiB"):
        size = int(bundle.split()[0]) * scale.GB
        one = 30 + size / 200e6 + size / (0.28 * 1400 * 2**20)
        assert [seconds(cell) for cell in cells] == [
            pytest.approx(each, rel=0.05) for each in (one, 100 * one, 4 * one)
        ]


def test_sources_are_named() -> None:
    """Every limit that is not ours has the page that says so, and every page is used."""
    links = dict(re.findall(r"^\[([\w-]+)\]: (https://\S+)$", DOC, re.MULTILINE))
    assert set(re.findall(r"\]\[([\w-]+)\]", DOC)) == set(links)
    sites = re.compile(r"https://((docs\.)?cloud\.google\.com|kubernetes\.io|etcd\.io|github\.com/(kubernetes|helm))/")
    assert all(sites.match(link) for link in links.values())


@pytest.fixture(name="namespace", scope="module")
def own_namespace() -> Iterator[Namespace]:
    """An empty namespace."""
    made = Namespace("pantry-scale")
    yield made
    made.remove()


def weigh(namespace: Namespace, kind: str) -> tuple[int, int]:
    """How many objects of a kind there are, and how many bytes they are as JSON."""
    items = namespace.get(kind)["items"]
    return len(items), sum(len(json.dumps(item, separators=(",", ":"))) for item in items)


@pytest.mark.cluster
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["shared", "ephemeral"])
def test_a_hundred_pods_and_fifty_models(namespace: Namespace, tmp_path: Path, mode: str) -> None:
    """The API server takes such a release within the doc's bounds; a swap writes to none of its pods."""
    nowhere = {"nowhere": "true"}  # no node is called so: the pods are objects, and run nothing
    values = helm.minimal(
        {
            "models": scale.entries(MODELS, mode),
            "storage.mode": mode,
            **scale.MODES[mode],
            "nodeSelector": nowhere,
            "sync.nodeSelector": nowhere,
        }
    )
    path = tmp_path / "values.yaml"

    def upgrade() -> float:
        path.write_text(json.dumps(values))
        began = time.monotonic()
        run(
            *("helm", "upgrade", "--install", mode, str(helm.CHART)),
            *("--namespace", namespace.name, "--values", str(path)),
        )
        return time.monotonic() - began

    seconds = upgrade()
    deadline = time.monotonic() + 60
    while (pods := weigh(namespace, "pods"))[0] < scale.REPLICAS and time.monotonic() < deadline:
        time.sleep(1)
    (secret,) = (s for s in namespace.get("secrets")["items"] if s["metadata"]["name"].startswith("sh.helm"))
    release = len(secret["data"]["release"]) * 3 // 4
    print(f"\n{mode}: helm {seconds:.1f} s; release {release:,} bytes; pods {pods[0]}: {pods[1]:,} bytes")
    assert pods[0] >= scale.REPLICAS
    assert release < 100_000
    assert pods[1] / pods[0] < (6_000 if mode == "shared" else 18_000)

    def versions() -> dict[str, str]:
        selector = "app.kubernetes.io/component=server"
        found = namespace.get("pods", "--selector", selector)["items"]
        return {pod["metadata"]["name"]: pod["metadata"]["resourceVersion"] for pod in found}

    time.sleep(5)  # the scheduler says of the last ones, too, that there is no node
    before = versions()
    for model in values["models"]:
        model["version"] = "2024-07-01.1"
    upgrade()
    time.sleep(5)
    changed = sum(before.get(name) != version for name, version in versions().items())
    assert (changed == 0) == (mode == "shared"), changed
    namespace.kubectl("delete", "all,pvc", "--all")
    run("helm", "uninstall", mode, "--namespace", namespace.name)
