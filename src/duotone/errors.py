"""All exceptions of Duotone. Every message says what was given, what was expected, and what to do."""

from __future__ import annotations


class DuotoneError(Exception):
    """Base of all errors that Duotone raises deliberately; the command line prints them without a traceback."""

    exit_code = 1


class ConfigError(DuotoneError, ValueError):
    """A configuration has an unknown key, a value out of range, or values that contradict each other."""

    exit_code = 2


class UsageError(DuotoneError, ValueError):
    """An argument of a public call (or of the command line) is not acceptable."""

    exit_code = 2


class AudioError(DuotoneError, ValueError):
    """Unusable audio: missing, empty, truncated, not audio, not finite, too many channels."""

    exit_code = 3


class FormatError(DuotoneError, ValueError):
    """A ``.duo`` file or stream is damaged, truncated, or not a ``.duo`` file."""

    exit_code = 4


class CodecMismatchError(DuotoneError, ValueError):
    """Latents or codes were given to a codec that did not make them; the message names both codecs."""

    exit_code = 5


class WeightsError(DuotoneError, ValueError):
    """Weights that do not fit the network: missing, unexpected or misshapen tensors."""

    exit_code = 6


class DownloadError(DuotoneError):
    """A file could not be fetched, or is not what it should be: no network, not on the mirror, another hash, damaged."""


class ServiceError(DuotoneError):
    """A service (`duotone serve`) cannot be reached, is too busy, or broke off what it was doing."""
