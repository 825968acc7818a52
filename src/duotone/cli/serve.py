"""``duotone serve``: the service (docs/serve.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from duotone.cli.failures import require_stdout, tell
from duotone.cli.flow_options import DEFAULT_FLOW
from duotone.errors import UsageError

NAME = "serve"
EXAMPLES = """
Examples:

    duotone serve --open

    duotone serve --flow run/flow --state states/

    duotone serve --host 0.0.0.0 --tokens tokens.txt --origin https://studio.example

    duotone serve --print-config > serve.yaml
"""


def command(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings and limits, YAML or JSON; options override it."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; other than loopback needs --tokens (default: 127.0.0.1).")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one (default: 8777).")] = None,
    codec: Annotated[
        list[str] | None,
        typer.Option("--codec", metavar="CODEC", help="Codec to load; the first one is the default. Repeatable."),
    ] = None,
    flow: Annotated[
        str | None,
        typer.Option(
            "--flow",
            metavar="FLOW",
            help="Flow to load, for continue and jam; plays through the first codec (default: the bundled one, with the bundled codec; none: no flow).",
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="FILE", help="File with one token a line (or $DUOTONE_TOKENS, by commas)."),
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option("--origin", metavar="URL", help="Origin of pages that may connect. Repeatable.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="DIR", help="Keep sessions here when the service stops, and go on with them."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N or mps (default: cpu).")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Number format of codecs: auto (default), float32, bfloat16 or float16.")
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Tell the studio's address, and show it in a browser.")
    ] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the settings with all limits as YAML, and do nothing else.")
    ] = False,
) -> None:
    """Serve files over HTTP, live sessions over WebSocket, and the studio's page; logs are JSON on standard error."""
    from duotone.serve.settings import ServeConfig

    given: dict[str, Any] = {
        "host": host, "port": port, "codecs": codec or None, "flow": flow, "tokens": _tokens(tokens) or None,
        "origins": origin or None, "state": state, "device": device, "dtype": dtype,
    }  # fmt: skip
    wanted = {name: value for name, value in given.items() if value is not None}
    stored = {} if config is None else ServeConfig.read(config).model_dump(exclude_unset=True)
    merged = {**stored, **wanted}
    if not {"flow", "codecs"} & merged.keys():  # the bundled flow plays through the bundled codec
        merged["flow"] = DEFAULT_FLOW
    settings = ServeConfig.parse(
        {**merged, "flow": None if merged.get("flow") == "none" else merged.get("flow")},
        "The configuration of the service",
    )
    if print_config:
        import yaml

        require_stdout()
        shown = settings.to_dict()
        del shown["tokens"]  # secrets are not printed
        typer.echo(yaml.safe_dump(shown, sort_keys=False), nl=False)
        return
    _serve(settings, open_page)


def _serve(settings: Any, open_page: bool) -> None:
    import asyncio
    import threading

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise UsageError(f'duotone serve needs more packages ({error}): pip install "duotone[serve]".') from None
    from duotone.serve.models import load_models
    from duotone.serve.run import Server, bound
    from duotone.serve.service import Service

    async def run() -> None:
        server = Server(service, listening)
        if open_page:
            threading.Thread(target=_show, args=(server, settings.host), daemon=True).start()
        await server.serve()

    with bound(settings.host, settings.port) as listening:  # first: loading takes long
        service = Service(settings, load_models(settings, tell))
        asyncio.run(run())


def _show(server: Any, host: str) -> None:
    """Tell the studio's address when the service listens, and open it in a browser."""
    server.started.wait()
    if not server.port:
        return  # it could not listen, and said so
    own = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url = f"http://{own}:{server.port}/"
    tell(f"The studio is at {url} (Ctrl-C ends the service).")
    if typer.launch(url) != 0:
        tell(f"No browser could be opened here. Open {url} in one.")


def _tokens(path: Path | None) -> tuple[str, ...]:
    """Tokens of the file, else of the environment; not on the command line, where every user of the machine could read them."""
    if path is None:
        return tuple(token.strip() for token in os.environ.get("DUOTONE_TOKENS", "").split(",") if token.strip())
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not text in UTF-8 (byte {error.start}), expected a token a line.") from None
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not found:
        raise UsageError(f"{path} holds no token, expected one a line.")
    return found
