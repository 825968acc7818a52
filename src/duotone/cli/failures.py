"""Errors as a message and an exit code; only a bug in Duotone shows a traceback.

Exit codes: 0 success; 1 any other error; 2 arguments or configuration; 3 unusable audio; 4 damaged `.duo`, store or tokenizer, or
none at all; 5 file of another codec; 6 weights; 7 operating system (disk, permissions, memory); 8 training failed; 129, 130, 143 interrupted (the
terminal closed, Ctrl-C, SIGTERM); 141 the reader of the output has closed the pipe. Of several files that failed, the first one's
code.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from duotone.errors import DuotoneError, UsageError

SYSTEM, INTERRUPTED, GONE = 7, 130, 141
#: Errors that `verdict` may know; any other is a defect and keeps its traceback.
EXPECTED = (DuotoneError, OSError, MemoryError, RuntimeError, UnicodeError)
_DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
_HINTS = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EDQUOT: "Free some space, or write to another disk.",
    errno.EFBIG: "The file is larger than the disk or the session allows.",
    errno.EACCES: "Check the rights of the file and its folder.",
    errno.EPERM: "Check the rights of the file and its folder.",
    errno.EROFS: "The disk is read-only; write elsewhere.",
    errno.ENOENT: "Check the name and the folder.",
    errno.ENOTDIR: "A part of the path is a file, not a folder.",
    errno.ENAMETOOLONG: "The name is too long for this disk; choose a shorter one.",
}


#: Control characters, which can move the cursor or hide text, and what is printed for them.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: cleans up as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def verdict(error: BaseException) -> tuple[str, int] | None:
    """The message and exit code of an expected error; None for a bug in Duotone."""
    if isinstance(error, DuotoneError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        hint = _HINTS.get(error.errno or 0, "")
        return f"The system refused: {where}{error.strerror or error}. {hint}".rstrip(), SYSTEM
    if type(error).__name__ == "LibsndfileError":  # while writing: reading failures are AudioErrors
        return f"The sound could not be written completely ({error}) Is the disk full?", SYSTEM
    if isinstance(error, UnicodeError):
        return f"A file name or text cannot be represented in this encoding ({error}). Rename the file.", SYSTEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return "Memory ran out. Use the wavefront strategy, a smaller codec, or another --device.", SYSTEM
    return None


def tell(message: str) -> None:
    """Print one message to standard error."""
    typer.echo(shown(message), err=True)


def shown(text: str) -> str:
    """Text that can be printed: bytes of file names that are not UTF-8 appear as ``\\xe9``, control characters as ``\\x1b``.

    Line breaks stay as they are; `one_line` escapes them.
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").translate(_CONTROLS)


def one_line(text: str) -> str:
    """Text that is printed in one line, whatever the names of files in it hold."""
    return shown(text).replace("\n", "\\n")


def debugging() -> bool:
    """Whether tracebacks are shown (``duotone --debug ...``)."""
    return _DEBUG.get()


class Guarded(TyperGroup):
    """The group of commands; turns expected errors of any of them into a message and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; errors outside a command (printing help, the last flush) are reported in the same way."""
        before = _DEBUG.set(False)
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # flush here, where a full disk is reported as an error, not at interpreter exit
        except SystemExit as left:
            if isinstance(left.__context__, BrokenPipeError):  # caught by the table printer, which gives another code
                _let_go_of_stdout()
                raise SystemExit(GONE) from None
            raise
        except (DuotoneError, OSError, UnicodeError) as error:
            if debugging():
                raise
            raise SystemExit(_told(error)) from None
        finally:
            _DEBUG.reset(before)
            try:
                sys.stdout.flush()
            except OSError:  # the buffered output cannot be written, and the error was reported
                _let_go_of_stdout()

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        _DEBUG.set(bool(ctx.params.get("debug")))
        try:
            with _warnings_as_lines(), _hint_at_names_with_a_dash(words):
                result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt as stopped:
            tell("Interrupted. Complete files are kept; incomplete ones are removed.")
            raise typer.Exit(getattr(stopped, "exit_code", INTERRUPTED)) from None
        except EXPECTED as error:
            if debugging() and not isinstance(error, BrokenPipeError):
                raise
            raise typer.Exit(_told(error)) from None


def _told(error: BaseException) -> int:
    """Report an expected error and return its exit code; raise any other again."""
    if isinstance(error, BrokenPipeError):  # the reader has closed the pipe (`| head`): nothing to report
        _let_go_of_stdout()
        return GONE
    found = verdict(error)
    if found is None:
        raise error
    tell(f"error: {found[0]}")
    return found[1]


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show each warning as one line, without its source location."""

    def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
        tell(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


@contextmanager
def _hint_at_names_with_a_dash(words: list[str]) -> Iterator[None]:
    """Where an unknown option is the name of a file, say how to write it."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "NoSuchOption":  # some versions of typer bundle click under another name
            for word in words:
                if word.startswith("-") and word != "-" and os.path.lexists(word):
                    name = shown(word)
                    vars(error)["message"] = f"{name} looks like an option. For the file of that name write ./{name}"
        raise


def prepare_process() -> None:
    """Prepare the process for a command: closed standard streams, text that cannot be encoded, progress bars, signals."""
    _stand_in_for_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name that is not UTF-8 is printed unchanged; characters that another encoding lacks are escaped.
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    if not sys.stderr.isatty():  # libraries that load or download weights draw progress bars even into files
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # `nohup` ignores this signal: keep that
            signal.signal(number, _terminate)
            if hasattr(os, "register_at_fork"):  # worker processes end at once, as their parents expect
                os.register_at_fork(after_in_child=lambda n=number: signal.signal(n, signal.SIG_DFL))


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


class _Closed(io.RawIOBase):
    """A standard stream that was closed before the program started: using it raises an error with a message."""

    def __init__(self, name: str, advice: str) -> None:
        self._message = f"Standard {name} is closed. {advice}"

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise UsageError(self._message)

    def write(self, data: Any) -> int:
        if len(data):
            raise UsageError(self._message)
        return 0


def require_stdout() -> None:
    """Raise `UsageError` where standard output is closed: before the work, not after it."""
    below = getattr(sys.stdout, "buffer", None)
    if isinstance(below, _Closed):
        below.write(b"?")


def _stand_in_for_closed_streams() -> None:
    """Replace closed standard streams: Python has None for them, and the next file opened would get their descriptor."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        handle = os.open(os.devnull, os.O_RDWR)
        if handle == number:
            os.set_inheritable(handle, True)
        else:
            os.close(handle)
    if sys.stdin is None:
        advice = "Name a file in place of -, or give the program its input with a pipe."
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_Closed("input", advice)))
    if sys.stdout is None:
        advice = "Name a file with -o, or redirect the output (> FILE)."
        sys.stdout = io.TextIOWrapper(_Closed("output", advice), "utf-8", write_through=True)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (open as long as the process)


def _let_go_of_stdout() -> None:
    """Redirect standard output to the null device, so that the flush at exit does not fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
