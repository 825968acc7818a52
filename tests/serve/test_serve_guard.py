"""Who may connect: tokens, origins, host names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

import httpx

from duotone.errors import ConfigError
from duotone.serve.frames import Handshake
from duotone.serve.settings import ServeConfig
from serving import Running, serving
from serving_client import Talk
from small_bands import random_bands

TOKEN, OTHER = "correct-horse-battery", "another-long-token-1"
PAGE = "https://studio.example"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    limits = {"sessions_per_token": 1}
    with serving(random_bands(), tokens=(TOKEN, OTHER), origins=(PAGE,), limits=limits) as found:
        yield found


@pytest.fixture(scope="module")
def open_one() -> Iterator[Running]:
    with serving(random_bands()) as found:
        yield found


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/v1/session", "/studio/../v1/models"])
def test_without_the_token_nothing_is_told(running: Running, path: str) -> None:
    for headers in (
        {},
        bearer("wrong-but-long-enough"),
        bearer(TOKEN + "x"),
        bearer(TOKEN[:-1]),
        {"Authorization": TOKEN},
    ):
        found = httpx.get(running.url + path, headers=headers, timeout=600)
        assert (
            found.status_code == 401
            and "token" in found.json()["message"]
            and found.headers["www-authenticate"] == "Bearer"
        )
        assert TOKEN not in found.text
    assert TOKEN not in running.log and OTHER not in running.log


def test_with_a_token_and_for_the_open_paths_the_service_answers(running: Running) -> None:
    assert httpx.get(running.url + "/v1/models", headers=bearer(TOKEN), timeout=600).status_code == 200
    assert httpx.get(running.url + "/v1/models", headers=bearer(OTHER), timeout=600).status_code == 200
    assert httpx.get(running.url + "/health", timeout=600).status_code == 200
    assert httpx.get(running.url + "/ready", timeout=600).status_code == 200


def test_sessions_take_the_token_in_the_header_or_in_the_first_message(running: Running) -> None:
    running.settle()  # one session a token
    with Talk(running, {"kind": "decode", "token": TOKEN}):
        pass
    running.settle()
    with Talk(running, {"kind": "decode"}, additional_headers=bearer(TOKEN)):
        pass
    for hello in ({"kind": "decode"}, {"kind": "decode", "token": "wrong-but-long-enough"}):
        with Talk(running) as talk:
            talk.say(Handshake(hello))
            code, found = talk.closed()
            assert code == 1008 and "token" in found[-1].document["message"]


def test_sessions_a_token_are_limited_and_others_are_not_concerned(running: Running) -> None:
    running.settle()
    with Talk(running, {"kind": "decode", "token": TOKEN}), Talk(running) as talk:
        talk.say(Handshake({"kind": "decode", "token": TOKEN}))
        code, found = talk.closed()
        assert (code, found[-1].document["limit"]) == (1013, "sessions_per_token")
        with Talk(running, {"kind": "decode", "token": OTHER}):
            pass


def test_pages_of_other_origins_are_refused(running: Running, open_one: Running) -> None:
    for origin in ("https://evil.example", "null", PAGE + ".evil.example", "http://studio.example"):
        assert (
            httpx.get(running.url + "/v1/models", headers={**bearer(TOKEN), "Origin": origin}, timeout=600).status_code
            == 403
        )
        with Talk(open_one, origin=origin) as talk:
            code, found = talk.closed()
            assert code == 1008 and "not allowed" in found[-1].document["message"]
    found = httpx.get(running.url + "/v1/models", headers={**bearer(TOKEN), "Origin": PAGE}, timeout=600)
    assert found.status_code == 200 and found.headers["access-control-allow-origin"] == PAGE
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    assert httpx.options(running.url + "/v1/encode", headers=asked).status_code == 200
    assert httpx.get(open_one.url + "/health", headers={"Origin": open_one.url}, timeout=600).status_code == 200


def test_on_loopback_a_name_of_somebody_else_is_refused(open_one: Running) -> None:
    """A page at evil.example whose name is made to lead here has an origin that equals its host."""
    evil = f"evil.example:{open_one.port}"
    found = httpx.get(open_one.url + "/v1/models", headers={"Host": evil, "Origin": f"http://{evil}"}, timeout=600)
    assert found.status_code == 403 and "evil.example" in found.json()["message"]
    for host in ("localhost", f"127.0.0.1:{open_one.port}", "[::1]:80"):
        assert httpx.get(open_one.url + "/health", headers={"Host": host}, timeout=600).status_code == 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "tokens"), ({"host": "::"}, "tokens"), ({"host": "studio.example"}, "tokens"),
        ({"tokens": ("short",)}, "16"), ({"origins": ("*",)}, "origin"), ({"origins": ("https://*.example",)}, "origin"),
        ({"origins": ("https://a.example/path",)}, "origin"), ({"limits": {"uploads": 3}}, "uploads"), ({"limits": {"sessions": 0}}, "sessions"),
    ],
)  # fmt: skip
def test_settings_that_leave_the_service_open_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServeConfig.parse(settings)


def test_other_machines_may_connect_with_tokens_and_loopback_is_recognised() -> None:
    assert not ServeConfig(host="0.0.0.0", tokens=(TOKEN,)).loopback
    assert (
        ServeConfig(host="127.0.0.2").loopback
        and ServeConfig(host="::1").loopback
        and ServeConfig(host="localhost").loopback
    )
