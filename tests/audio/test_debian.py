"""Packages are fetched whole and unchanged, in as many pieces as the network needs, and read without trusting their paths."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from debs import Mirror, ar, deb, recordings, served
from duotone.audio.debian import fetch_package, is_safe, members
from duotone.errors import DownloadError


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    made = Mirror(tmp_path / "mirror")
    made.add("tunes", {"./usr/a.wav": b"x" * 5000}, [recordings("music", "*.wav")], mode="w", suffix="")
    return made


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    return folder


def test_a_package_comes_from_a_folder_or_a_server(mirror: Mirror, into: Path) -> None:
    (package,) = mirror.catalogue().packages
    path = fetch_package(package, into, [str(mirror.folder)])
    content = path.read_bytes()
    assert content == (mirror.folder / package.pool).read_bytes()
    path.unlink()
    told: list[tuple[int, int]] = []
    with served(mirror) as address:
        assert fetch_package(package, into, [address + "/"], lambda *n: told.append(n)).read_bytes() == content
        fetch_package(package, into, [address])  # it is there
    assert mirror.requests == [("tunes_1.0-1_all.deb", None)]
    assert told[-1] == (package.size, package.size)


def test_a_broken_download_is_continued(mirror: Mirror, into: Path) -> None:
    (package,) = mirror.catalogue().packages
    mirror.cut = [1000, 500]
    with served(mirror) as address:
        path = fetch_package(package, into, [address])
    assert [asked for _, asked in mirror.requests] == [None, "bytes=1000-", "bytes=1500-"]
    assert path.read_bytes() == (mirror.folder / package.pool).read_bytes()
    assert [p.name for p in into.iterdir()] == [package.file]


def test_a_download_of_a_killed_run_is_continued(mirror: Mirror, into: Path) -> None:
    (package,) = mirror.catalogue().packages
    (into / f"{package.file}.part").write_bytes((mirror.folder / package.pool).read_bytes()[:77])
    with served(mirror) as address:
        fetch_package(package, into, [address])
    assert mirror.requests == [(package.file, "bytes=77-")]


def test_another_content_is_refused_and_removed(mirror: Mirror, into: Path) -> None:
    (package,) = mirror.catalogue().packages
    path = mirror.folder / package.pool
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=f"SHA-256.*expected {package.sha256}"):
        fetch_package(package, into, [str(mirror.folder)])
    assert list(into.iterdir()) == []


def test_the_next_mirror_is_tried(mirror: Mirror, into: Path, tmp_path: Path) -> None:
    (package,) = mirror.catalogue().packages
    with served(Mirror(tmp_path / "empty")) as empty:
        assert fetch_package(package, into, [empty, str(mirror.folder)]).is_file()
        (into / package.file).unlink()
        with pytest.raises(DownloadError, match=r"tunes 1.0-1 could not be fetched: .* is not there.*--mirror"):
            fetch_package(package, into, [empty, str(tmp_path / "nowhere")])


def test_no_network_is_told(mirror: Mirror, into: Path) -> None:
    with served(mirror) as address:
        pass  # nobody listens there any more
    with pytest.raises(DownloadError, match=r"failed 3 times.*Check the network"):
        fetch_package(mirror.catalogue().packages[0], into, [address])


@pytest.mark.parametrize(("mode", "suffix"), [("w", ""), ("w:xz", ".xz"), ("w:gz", ".gz"), ("w:bz2", ".bz2")])
def test_members_of_all_compressions(mode: str, suffix: str, tmp_path: Path) -> None:
    link = tarfile.TarInfo("./b.wav")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    path = tmp_path / "x.deb"
    path.write_bytes(deb({"./usr/a.wav": b"abc", "./b.wav": link, "../c.wav": b"d"}, mode, suffix))
    found = {name: content and content.read() for name, content in members(path)}
    assert found == {"usr/a.wav": b"abc", "b.wav": None, "../c.wav": b"d"}


def test_members_of_zstandard(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    data = deb({"./a.wav": b"abc"}, "w", "")
    start = data.index(b"data.tar") + 60
    path = tmp_path / "x.deb"
    path.write_bytes(ar({"debian-binary": b"2.0\n", "data.tar.zst": zstandard.compress(data[start:])}))
    assert [(name, content and content.read()) for name, content in members(path)] == [("a.wav", b"abc")]


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", ar({"debian-binary": b"2.0\n"}), ar({"data.tar.xz": b"none"}), ar({"data.tar.lz": b"none"}),
     ar({"data.tar.gz": b"none"}), ar({"data.tar.bz2": b"none"}), deb({"./a.wav": b"abc" * 5000})[:-2000],
     b"!<arch>\n" + b"?" * 60],
)  # fmt: skip
def test_damaged_packages_are_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(content)
    with pytest.raises(DownloadError):
        list(members(path))


def test_safe_paths() -> None:
    assert all(is_safe(path) for path in ("a.wav", "usr/share/a b.wav", "a..b/c.wav"))
    assert not any(is_safe(path) for path in ("", "/a.wav", "../a.wav", "a/../../b.wav", "..\\a.wav", "a\0.wav"))
