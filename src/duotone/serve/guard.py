"""Who may connect: host names, origins, tokens. Pure functions of headers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from http import HTTPStatus

from duotone.serve.refusal import Refusal
from duotone.serve.settings import ServeConfig

#: What is answered without a token: the page asks for one itself.
OPEN = ("/", "/health", "/ready", "/studio")
_OWN = ("localhost", "127.0.0.1", "::1")


def check_host(config: ServeConfig, headers: Mapping[str, str]) -> None:
    """Raise `Refusal` for host names or origins that are not allowed.

    On loopback without tokens only its own names are answered: another name that leads here is a page's trick (DNS rebinding).
    """
    host = headers.get("host", "")
    if config.loopback and not config.tokens and _name(host) not in _OWN:
        raise Refusal(
            f"Got the host name {_name(host)!r}, expected one of {', '.join(_OWN)}. Use http://127.0.0.1, or start the service with tokens.",
            HTTPStatus.FORBIDDEN,
        )
    origin = headers.get("origin")
    if origin is None or origin in config.origins:
        return
    if origin.partition("://")[2] == host and host and origin.partition("://")[0] in ("http", "https"):
        return
    raise Refusal(
        f"Got a request of a page of {origin[:200]!r}, which is not allowed. Start the service with --origin for it.",
        HTTPStatus.FORBIDDEN,
    )


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of the header `Authorization`, if there is one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def client_of(config: ServeConfig, token: str | None) -> str:
    """Who presents a token: a short hash, for counting; everyone is the same where none is needed. Raises `Refusal` for a wrong one."""
    if not config.tokens:
        return "local"
    given = (token or "").encode()
    found = [own for own in config.tokens if hmac.compare_digest(own.encode(), given)]
    if not found:
        what = "a wrong token" if token else "no token"
        raise Refusal(
            f"Got {what}, expected one of the service's: send it as Authorization: Bearer TOKEN.",
            HTTPStatus.UNAUTHORIZED,
        )
    return hashlib.sha256(found[0].encode()).hexdigest()[:12]


def _name(host: str) -> str:
    """A host name without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
