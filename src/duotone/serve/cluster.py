"""Encoding, decoding and measuring of files by replicas on a Ray cluster: an application of Ray Serve.

Ray's proxy spreads the requests over the replicas, each of which is a whole service of its own without sessions; it starts, restarts and
scales them. Sessions stay with ``duotone serve``: their state lives in the process in which they began.

    serve run duotone.serve.cluster:jobs replicas=2 config=serve.yaml
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from duotone.config import Config
from duotone.errors import UsageError
from duotone.serve.settings import ServeConfig

if TYPE_CHECKING:
    from duotone.serve.service import Service

_NAME = "duotone"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Jobs(Config):
    """What `jobs` takes: how many replicas there are, and what each has."""

    replicas: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)  # of a replica, which computes with as many threads
    gpus: float = Field(default=0.0, ge=0)
    config: str | None = (
        None  # a file as that of `duotone serve --config`, at the same path on all machines; tokens may stand in it
    )


def jobs(settings: dict[str, Any]) -> Any:
    """The application, for ``serve run`` or `ray.serve.run`. Raises `UsageError` where Ray Serve is not installed, `ConfigError` for bad settings."""
    try:
        from ray import serve
    except ImportError as error:
        raise UsageError(f'Ray Serve is missing ({error}): pip install "duotone[serve,ray]".') from None
    found = Jobs.parse(settings, "The settings of jobs")
    config = ServeConfig() if found.config is None else ServeConfig.read(found.config)
    options: dict[str, Any] = {
        "num_cpus": found.cpus, "num_gpus": found.gpus,
        "runtime_env": {"env_vars": dict.fromkeys(_THREADS, str(found.cpus))},
    }  # fmt: skip
    deployment = serve.deployment(
        name=_NAME, num_replicas=found.replicas, ray_actor_options=options, max_ongoing_requests=config.limits.requests
    )
    return deployment(serve.ingress(_application(config.model_copy(update={"flow": None})))(Replica)).bind()


class Replica:
    """The service of this process, which Ray asks whether it is well."""

    service: ClassVar[Service | None] = None

    def check_health(self) -> None:
        """Raise `Refusal` where nothing can be computed any more; Ray then starts another replica."""
        if Replica.service is not None:
            Replica.service.check_health()

    def __del__(self) -> None:
        """Ray lets go of the replica: end the model thread."""
        if Replica.service is not None:
            Replica.service.stop()


def _application(config: ServeConfig) -> Callable[[], Any]:
    """A function that makes the application of a replica, to be called in its process."""

    def made() -> Any:
        from duotone.serve.app import create_app
        from duotone.serve.cluster import Replica
        from duotone.serve.models import load_models
        from duotone.serve.service import Service

        Replica.service = Service(config, load_models(config))
        Replica.service.start(sessions=False)
        return create_app(Replica.service, sessions=False)

    return made
