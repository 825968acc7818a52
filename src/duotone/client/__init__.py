"""Talks to a service (`duotone serve`): files through `Client`, live sessions through `Client.session` (docs/serve.md)."""

from duotone.client.files import Client
from duotone.client.live import LiveSession, Part, Sound

__all__ = ["Client", "LiveSession", "Part", "Sound"]
