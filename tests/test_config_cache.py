"""Where the cache is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from duotone.config import cache_folder


def test_the_cache_is_where_it_was_asked_for_or_below_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DUOTONE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "duotone"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/x")
    assert cache_folder() == Path("/var/x/duotone")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert cache_folder() == tmp_path / ".cache" / "duotone"
    monkeypatch.setenv("DUOTONE_CACHE", "~/own")
    assert cache_folder() == tmp_path / "own"
    assert not list(tmp_path.iterdir())  # asking makes nothing


@pytest.mark.skipif(os.name == "nt", reason="users without a name are known on Unix")
def test_a_user_without_a_home_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import pwd

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "DUOTONE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert cache_folder() is None
    monkeypatch.setenv("DUOTONE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
