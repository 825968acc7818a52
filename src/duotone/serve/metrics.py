"""Figures for Prometheus, in a registry of the service's own."""

from __future__ import annotations

from typing import Any

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLACK = (-5.0, -1.0, -0.5, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """What the service counts and measures."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()

        def histogram(name: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = _SECONDS) -> Any:
            return Histogram(f"duotone_{name}", text, labels, buckets=buckets, registry=self.registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Any:
            return Counter(f"duotone_{name}", text, labels, registry=self.registry)

        self.open = Gauge("duotone_open_sessions", "Sessions that are open", ["kind"], registry=self.registry)
        self.worst = Gauge(
            "duotone_worst_underrun_seconds",
            "The longest time that a listener waited for sound",
            registry=self.registry,
        )
        self.steps = histogram("step_seconds", "Time of a batch on the device", ("kind", "rows"))
        self.queued = histogram("queue_seconds", "Time that something waited for the device", ("kind",))
        self.slack = histogram("deadline_slack_seconds", "Time that was left when sound came", ("kind",), _SLACK)
        self.first = histogram("first_audio_seconds", "From a session's start to its first sound", ("kind",))
        self.control = histogram("control_to_ear_seconds", "From a command to the sample at which it is heard")
        self.refused = counter("refused", "What was not done", ("limit",))
        self.requests = counter("requests", "Requests by path and status", ("path", "status"))
        self.underruns = counter("underruns", "Times that a listener waited for sound")
        self._worst = 0.0

    def step(self, kind: str, rows: int, seconds: float) -> None:
        """A batch was computed."""
        self.steps.labels(kind, str(rows)).observe(seconds)

    def queue(self, kind: str, seconds: float) -> None:
        """An ask waited."""
        self.queued.labels(kind).observe(seconds)

    def sound(self, kind: str, slack: float) -> None:
        """A piece of sound came with so much time left; negative if the listener waited."""
        self.slack.labels(kind).observe(slack)
        if slack < 0:
            self.underruns.inc()
            self._worst = max(self._worst, -slack)
            self.worst.set(self._worst)

    def began(self, kind: str, seconds: float) -> None:
        """A session's first sound came."""
        self.first.labels(kind).observe(seconds)

    def text(self) -> bytes:
        """All figures in Prometheus's format."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))
