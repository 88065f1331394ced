"""Packing a directory: proved and measured in processes of their own, and loaded only where it can be trusted."""

from __future__ import annotations

import gzip
import io
import json
import mmap
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from loader.bundle.bundle import Bundle
from loader.bundle.digest import digest_of
from loader.bundle.errors import DigestMismatch, ManifestInvalid, PickleInvalid
from loader.bundle.manifest import CHUNK_SIZE, MANIFEST_NAME, Manifest
from loader.bundle.pack.proof import digest_object
from loader.bundle.pack.record import RECORD_NAME, PackedPickle, PackRecord
from loader.bundle.verified import ignore_progress
from loader.errors import PackFailed, UsageError, VolumeError
from loader.packing import SMALL, pack_directory
from loader.packing_process import memory_to_spare, worker_environment
from loader.report import Report
from tests.model_kinds import Doubler
from tests.pack_kinds import Blob, Calls, Locked, Restless
from tests.sources import manifest_of, read_files, start_pantry, write_files

OLD = Path(__file__).with_name("pickles")
MODULE = "import os, signal, time\n"


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests pack little to be quick."""
    monkeypatch.setattr("loader.packing.SMALL", 0)


def table() -> dict[str, Any]:
    """What packing gains much with: 8 MB in 20,000 arrays."""
    return {f"word {number}": np.full(100, number, np.float32) for number in range(20_000)}


def pack(directory: Path, memory_limit: int | None = None) -> list[dict[str, Any]]:
    """Packs a directory and returns the events."""
    stream = io.StringIO()
    pack_directory(directory, Report(stream, json_lines=True), memory_limit=memory_limit)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def write(directory: Path, **objects: object) -> Path:
    """Writes pickles by name."""
    return write_files(directory, {f"{name}.pkl": pickle.dumps(value, protocol=5) for name, value in objects.items()})


def record_of(directory: Path) -> PackRecord:
    return PackRecord.decode((directory / RECORD_NAME).read_bytes(), "pack.json")


def packed_of(directory: Path, path: str = "model.pkl") -> PackedPickle:
    found = record_of(directory).find(path)
    assert found is not None
    return found


def bundle_of(directory: Path, *, publish_pack: bool = False) -> Bundle:
    """Opens a directory as a bundle on a volume; with its packs as assets, if they were published."""
    files = read_files(directory)
    named = {path: data for path, data in files.items() if publish_pack or not path.startswith(".")}
    manifest = manifest_of({path: data for path, data in named.items() if path != MANIFEST_NAME}, CHUNK_SIZE)
    (directory / MANIFEST_NAME).write_bytes(manifest.encode())
    return Bundle.open(directory)


def is_mapped(array: Any) -> bool:
    """Tells whether an array's memory is a file's."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


@pytest.fixture(scope="module", name="made")
def packed_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed directory, for tests that copy it."""
    directory = write(tmp_path_factory.mktemp("table"), model=table())
    pack(directory)
    return directory


@pytest.fixture(name="directory")
def copy_of_the_packed_table(made: Path, tmp_path: Path) -> Path:
    return write_files(tmp_path / "bundle", read_files(made))


def pack_file(directory: Path) -> Path:
    asset = packed_of(directory).pack
    assert asset is not None
    return directory / asset.path


def test_a_packed_pickle_is_recorded_with_what_loading_takes(made: Path) -> None:
    """The record tells the form, the pack's digests, who made it, and the measured time and memory of a load."""
    source = (made / "model.pkl").read_bytes()
    packed = packed_of(made)
    assert (packed.form, packed.digest, packed.reason) == ("columns", digest_of(source), "")
    assert packed.environment.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert packed.environment.numpy == ".".join(np.__version__.split(".")[:2])
    assert packed.pack is not None
    data = pack_file(made).read_bytes()
    assert (packed.pack.size, packed.pack.digest) == (len(data), digest_of(data))
    assert len(packed.pack.chunks) == -(-len(data) // CHUNK_SIZE)
    assert packed.mapped_bytes >= 8_000_000
    assert 0 < packed.seconds < 5
    assert 0 < packed.resident_bytes <= packed.peak_bytes < 60_000_000


def test_a_bundle_loads_from_its_pack(directory: Path) -> None:
    """`Bundle.load` maps the pack where there is one, and the object equals the pickle's."""
    bundle = bundle_of(directory)
    loaded = bundle.load("model.pkl")
    assert isinstance(loaded, dict)
    assert is_mapped(loaded["word 7"])
    assert digest_object(loaded) == digest_object(pickle.loads((directory / "model.pkl").read_bytes()))


def test_a_bundle_loads_from_a_published_pack(directory: Path) -> None:
    """Where the manifest lists the record, it is read through the manifest: a changed one is refused."""
    bundle = bundle_of(directory, publish_pack=True)
    assert is_mapped(bundle.load("model.pkl")["word 7"])  # type: ignore[index]
    (directory / RECORD_NAME).write_bytes((directory / RECORD_NAME).read_bytes().replace(b"columns", b"colunms"))
    with pytest.raises(DigestMismatch, match=r"pack\.json: chunk 0"):
        bundle.load("model.pkl")


def test_loading_a_pack_counts_what_it_verified(directory: Path) -> None:
    """Progress tells the bytes that were read and verified, which are few."""
    counted: list[int] = []
    bundle_of(directory).load("model.pkl", counted.append)
    assert 0 < sum(counted) < pack_file(directory).stat().st_size / 2


def test_without_a_pack_the_pickle_is_loaded(tmp_path: Path) -> None:
    """A bundle of which nothing was packed loads as ever, every byte verified."""
    bundle = bundle_of(write(tmp_path, model={"a": 1}))
    counted: list[int] = []
    assert bundle.load("model.pkl", counted.append) == {"a": 1}
    assert sum(counted) == (tmp_path / "model.pkl").stat().st_size
    assert bundle.find_pack("model.pkl") == "it was not packed"


def test_a_stale_pack_is_not_loaded(directory: Path) -> None:
    """The pack of another pickle than the one that is there is left alone."""
    write(directory, model={"new": 1})
    bundle = bundle_of(directory)
    assert bundle.find_pack("model.pkl") == "the pickle is not the one that was packed"
    assert bundle.load("model.pkl", ignore_progress) == {"new": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"python": "3.7"}, "packed with python 3.7"),
        ({"numpy": "1.19"}, "packed with numpy 1.19"),
        ({"packages": {"msgspec": "0.1.3"}}, "packed with msgspec 0.1.3, and here is "),
        ({"packages": {"no-such-package": "1.0"}}, "packed with no-such-package 1.0, and here is none"),
    ],
)
def test_a_pack_of_another_environment_is_not_loaded(directory: Path, change: dict[str, Any], reason: str) -> None:
    """A pack that was made with another Python, numpy or class library is left alone, and the pickle is loaded."""
    packed = packed_of(directory)
    other = msgspec.structs.replace(packed, environment=msgspec.structs.replace(packed.environment, **change))
    (directory / RECORD_NAME).write_bytes(PackRecord((other,)).encode())
    bundle = bundle_of(directory)
    assert reason in str(bundle.find_pack("model.pkl"))
    assert not is_mapped(bundle.load("model.pkl")["word 7"])  # type: ignore[index]


def test_a_record_of_a_later_format_is_not_read(directory: Path) -> None:
    """A later Pantry's record means nothing here, and the pickle is loaded."""
    (directory / RECORD_NAME).write_text('{"formatVersion": 2, "pickles": {"other": true}}')
    bundle = bundle_of(directory)
    assert bundle.find_pack("model.pkl") == "it was not packed"
    assert not is_mapped(bundle.load("model.pkl")["word 7"])  # type: ignore[index]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"formatVersion": 1, "pickles": [{}]}', b"\xff"])
def test_a_damaged_record_is_an_error(directory: Path, data: bytes) -> None:
    """A record that is none is no reason to load something else quietly."""
    bundle = bundle_of(directory)
    (directory / RECORD_NAME).write_bytes(data)
    with pytest.raises(ManifestInvalid, match=r"pack\.json is no record of a pack"):
        bundle.load("model.pkl")


@pytest.mark.parametrize("path", ["../elsewhere.pack", "/etc/passwd", "other.pack", ".pack/../../x"])
def test_a_record_cannot_name_a_file_elsewhere(directory: Path, path: str) -> None:
    """A pack is a file of the folder .pack and nothing else."""
    packed = packed_of(directory)
    assert packed.pack is not None
    other = msgspec.structs.replace(packed, pack=msgspec.structs.replace(packed.pack, path=path))
    (directory / RECORD_NAME).write_bytes(PackRecord((other,)).encode())
    with pytest.raises(ManifestInvalid, match=r"not in \.pack|'\.\.' part"):
        bundle_of(directory).load("model.pkl")


def test_a_damaged_pack_is_an_error(directory: Path) -> None:
    """A pack whose code has another byte is refused by file and chunk, not replaced by the pickle."""
    bundle, file = bundle_of(directory), pack_file(directory)
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)
    with pytest.raises(DigestMismatch, match=rf"{file.name}: chunk {(len(data) - 1000) // CHUNK_SIZE} "):
        bundle.load("model.pkl")
    file.unlink()
    with pytest.raises(DigestMismatch, match=rf"{file.name}: .*cannot be read"):
        bundle.load("model.pkl")


def test_packing_again_does_nothing(directory: Path) -> None:
    """What the record says of an unchanged pickle stands: nothing is run and no file is touched."""
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    assert pack(directory) == []
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.name != ".pack"} == {
        path: at for path, at in before.items() if path.name != ".pack"
    }


def test_a_changed_pickle_is_packed_again(directory: Path) -> None:
    """The pack of the old content goes, and the new one's comes."""
    old = pack_file(directory)
    write(directory, model=dict(reversed(table().items())))
    assert [event["phase"] for event in pack(directory)] == ["packing", "packed"]
    assert sorted(path.name for path in old.parent.iterdir()) == sorted(["pack.json", pack_file(directory).name])
    assert not old.exists()


def test_a_removed_pickle_leaves_no_pack(directory: Path) -> None:
    """Packs of pickles that are gone go too."""
    (directory / "model.pkl").unlink()
    pack(directory)
    assert read_files(directory / ".pack").keys() == {"pack.json"}
    assert record_of(directory).pickles == ()


def test_a_lost_pack_is_made_again(directory: Path) -> None:
    """A record without its file does not stand."""
    pack_file(directory).unlink()
    pack(directory)
    assert is_mapped(bundle_of(directory).load("model.pkl")["word 7"])  # type: ignore[index]


def test_which_files_are_packed(tmp_path: Path) -> None:
    """Pickles by their endings, compressed ones too, in folders too; hidden folders and other files are left out."""
    data = pickle.dumps([1, 2])
    files = ["a.pkl", "b.pickle", "c.p", "deep/d.pkl", ".hidden/e.pkl", ".f.pkl", "g.txt", "h.pkl.txt", ".pack/i.pkl"]
    write_files(tmp_path, {**dict.fromkeys(files, data), "z.pkl.gz": gzip.compress(data)})
    pack(tmp_path)
    assert [packed.path for packed in record_of(tmp_path).pickles] == [
        "a.pkl",
        "b.pickle",
        "c.p",
        "z.pkl.gz",
        "deep/d.pkl",
    ]
    assert read_files(tmp_path / ".pack").keys() == {"pack.json"}


def test_a_directory_without_pickles(tmp_path: Path) -> None:
    """Where there is nothing to pack there is nothing written."""
    write_files(tmp_path, {"model.onnx": b"1"})
    assert pack(tmp_path) == []
    assert read_files(tmp_path) == {"model.onnx": b"1"}
    with pytest.raises(UsageError, match="is no directory"):
        pack(tmp_path / "model.onnx")


def test_a_compressed_pickle_is_packed(tmp_path: Path) -> None:
    """A compressed pickle's pack saves inflating it; it is mapped like any other."""
    write_files(tmp_path, {"model.pkl.gz": gzip.compress(pickle.dumps(table(), protocol=2), 1)})
    pack(tmp_path)
    assert packed_of(tmp_path, "model.pkl.gz").form == "columns"
    assert is_mapped(bundle_of(tmp_path).load("model.pkl.gz")["word 7"])  # type: ignore[index]


def test_equal_pickles_have_packs_of_their_own(tmp_path: Path) -> None:
    """Two pickles of one content do not stand in each other's way."""
    data = pickle.dumps(table(), protocol=5)
    write_files(tmp_path, {"one/model.pkl": data, "two/model.pkl": data})
    pack(tmp_path)
    packs = [packed.pack for packed in record_of(tmp_path).pickles]
    assert len({pack.path for pack in packs if pack is not None}) == 2


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Theano 1.0.5 needs Python 3.12 or older")
def test_a_theano_function_of_python_2_stays(tmp_path: Path) -> None:
    """A function that Theano compiled under Python 2 is loaded and measured, and stays a pickle, with the reason."""
    write_files(tmp_path, {"model.pkl": (OLD / "theano-1.0.5-py2.7" / "function.pkl").read_bytes()})
    pack(tmp_path)
    packed = packed_of(tmp_path)
    assert (packed.form, packed.seconds > 0) == ("pickle", True)
    assert packed.reason == "it cannot be proved equal: it holds sets of objects that hold one another"


def test_a_pickle_that_gains_nothing_stays(tmp_path: Path) -> None:
    """Where the packed form does not load faster and shares nothing, the pickle itself is kept, with its figures."""
    write(tmp_path, model=[{"id": number, "name": str(number)} for number in range(30_000)])
    [_, event] = pack(tmp_path)
    packed = packed_of(tmp_path)
    assert (packed.form, packed.pack) == ("pickle", None)
    assert "no arrays" in packed.reason
    assert packed.reason in event["message"]
    assert packed.seconds > 0
    assert packed.peak_bytes > 1_000_000
    assert isinstance(bundle_of(tmp_path).load("model.pkl"), list)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Restless(), "not proved equal"),
        (Locked(), "cannot be pickled again: TypeError: cannot be pickled twice"),
        (Calls(int, "x"), "cannot be loaded: ValueError"),
        (Blob(bytes(200_000)), "processor|not proved equal"),
    ],
    ids=["unproved", "unpicklable", "failing", "buffer"],
)
def test_what_cannot_be_packed_stays(tmp_path: Path, value: object, reason: str) -> None:
    """An object that cannot be proved equal, pickled again or loaded keeps its pickle, and the record says why."""
    write(tmp_path, model=value)
    pack(tmp_path)
    packed = packed_of(tmp_path)
    assert packed.form == "pickle"
    assert any(part in packed.reason for part in reason.split("|"))
    assert read_files(tmp_path / ".pack").keys() == {"pack.json"}


def test_a_module_that_is_missing_here(tmp_path: Path) -> None:
    """A pickle for another image is no error: it is kept as it is, with the module's name."""
    write_files(tmp_path, {"model.pkl": b"\x80\x02cno_such_package.deep\nModel\n)\x81."})
    pack(tmp_path)
    assert "needs the module 'no_such_package'" in packed_of(tmp_path).reason


def runs(code: str) -> Calls:
    return Calls(exec, MODULE + code)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL, as for want of memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"killed by SIGSEGV"),
        ("os._exit(3)", r"exited with 3: it said nothing"),
        ("os.write(2, b'the library says no'); os._exit(4)", r"exited with 4: the library says no"),
        ("os.fork() or os._exit(0); os.kill(os.getpid(), signal.SIGKILL)", r"killed by SIGKILL"),
    ],
)
def test_a_killed_or_crashed_process_is_one_sentence(directory: Path, code: str, sentence: str) -> None:
    """Whatever becomes of the process that packs, the caller gets a sentence, and the record is as before."""
    before = read_files(directory / ".pack")
    write(directory, another=runs(code))
    with pytest.raises(PackFailed, match=rf"another\.pkl: packing ended early: .*{sentence}") as failed:
        pack(directory)
    assert len(str(failed.value).splitlines()) == 1
    assert read_files(directory / ".pack") == before


@pytest.mark.parametrize(
    "value",
    [Calls(bytes, 10**11), runs("b = b'x' * 400_000_000\ntime.sleep(60)")],
    ids=["asked for at once", "taken and kept"],
)
def test_a_process_without_enough_memory_is_one_sentence(tmp_path: Path, value: object) -> None:
    """A limit that does not suffice is told, whether the memory is refused or the process must be ended."""
    write(tmp_path, model=value)
    began = time.monotonic()
    with pytest.raises(PackFailed, match=r"model\.pkl needs more memory"):
        pack(tmp_path, memory_limit=200_000_000)
    assert time.monotonic() - began < 30
    assert read_files(tmp_path).keys() == {"model.pkl"}
    assert not (tmp_path / ".pack").exists()


def test_nothing_that_a_pickle_started_outlives_it(tmp_path: Path) -> None:
    """A process that a pickle's code started is ended with the one that packs."""
    write(tmp_path, model=runs(f"if os.fork() == 0:\n  time.sleep(2)\n  open({str(tmp_path / 'late')!r}, 'w')"))
    pack(tmp_path)
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_the_process_that_packs_has_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could be a credential is not in the environment in which a pickle's code runs."""
    secret = [
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_PROFILE",
        "HF_TOKEN",
        "MY_API_KEY",
        "DB_PASSWORD",
    ]
    for name in (*secret, "THEANO_FLAGS"):
        monkeypatch.setenv(name, "")
    seen = tmp_path / "seen"
    write(tmp_path, model=runs(f"open({str(seen)!r}, 'w').write(' '.join(os.environ))"))
    pack(tmp_path)
    names = seen.read_text().split()
    assert "THEANO_FLAGS" in names
    assert not set(secret) & {*names, *worker_environment()}


def test_a_pickle_that_writes_to_the_output_disturbs_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What a pickle's code prints goes nowhere."""
    write(tmp_path, model=runs("print('hello'); os.write(1, b'hello'); os.write(2, b'hello')"))
    pack(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    """Killed in the middle, a run leaves no file that a server reads, and the next one clears up after it."""
    write(tmp_path, model=[runs("time.sleep(60)"), bytes(SMALL)])
    with start_pantry("pack", tmp_path) as process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".pack/.making-*/*.log")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / RECORD_NAME).exists()
    assert [path.name.startswith(".making-") for path in (tmp_path / ".pack").iterdir()] == [True]
    write(tmp_path, model=[1])
    pack(tmp_path)
    assert read_files(tmp_path / ".pack").keys() == {"pack.json"}


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the folder should be is one sentence."""
    write(tmp_path, model=[1])
    (tmp_path / ".pack").write_bytes(b"")
    with pytest.raises(VolumeError, match="refused"):
        pack(tmp_path)


def test_memory_to_spare_is_what_the_machine_has() -> None:
    """The default limit is positive and not more than the machine's memory."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory_to_spare() < total


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    """A pickle of one's own class loads from wherever, and is what it was."""
    write(tmp_path, model=Doubler(4.0))
    pack(tmp_path)
    loaded = bundle_of(tmp_path).load("model.pkl")
    assert isinstance(loaded, Doubler)
    assert loaded.predict([2.0]) == [8.0]


def test_a_failing_pickle_fails_by_name(tmp_path: Path) -> None:
    """The sentence of a load names the bundle's directory and the pickle."""
    write(tmp_path, model=Calls(int, "x"))
    with pytest.raises(PickleInvalid, match=rf"{tmp_path.name}/model\.pkl cannot be loaded"):
        bundle_of(tmp_path).load("model.pkl")


def test_a_manifest_may_list_packs(directory: Path) -> None:
    """The files of a pack are assets as good as any once they are published."""
    bundle_of(directory, publish_pack=True)
    manifest = Manifest.decode((directory / MANIFEST_NAME).read_bytes(), "manifest.json")
    assert RECORD_NAME in {asset.path for asset in manifest.assets}


def test_a_small_pickle_is_not_even_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that loads in no time is not run to find that out; a compressed one may hold a lot."""
    monkeypatch.setattr("loader.packing.SMALL", SMALL)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(list(range(1000))))
    (tmp_path / "b.pkl.gz").write_bytes(gzip.compress(pickle.dumps(np.zeros(1_000_000))))
    pack_directory(tmp_path, Report(io.StringIO()))
    record = PackRecord.decode((tmp_path / RECORD_NAME).read_bytes(), "record")
    assert [(packed.form, packed.reason) for packed in record.pickles] == [("pickle", "it is small"), ("columns", "")]
