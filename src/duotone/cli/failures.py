"""What went wrong, in a sentence and an exit code; only a defect of ours shows a traceback.

Exit codes: 0 done; 1 any other error; 2 arguments or configuration; 3 unusable sound; 4 damaged `.duo`; 5 another
codec's file; 6 weights; 7 the system refused (disk, rights, memory); 8 training failed; 130 interrupted; 141 the
reader of our output has gone. Of several files that failed, the first one's code.
"""

from __future__ import annotations

import errno
import os
import sys
from contextvars import ContextVar
from typing import Any

import typer
from typer.core import TyperGroup

from duotone.errors import DuotoneError

SYSTEM, INTERRUPTED, GONE = 7, 130, 141
_DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
_HINTS = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EDQUOT: "Free some space, or write to another disk.",
    errno.EFBIG: "The file is larger than the disk or the session allows.",
    errno.EACCES: "Check the rights of the file and its folder.",
    errno.EPERM: "Check the rights of the file and its folder.",
    errno.EROFS: "The disk is read-only; write elsewhere.",
    errno.ENOENT: "Check the name and the folder.",
}


def verdict(error: BaseException) -> tuple[str, int] | None:
    """The sentence and exit code of an error that can be expected; None for a defect of ours."""
    if isinstance(error, DuotoneError):
        return str(error), error.exit_code
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        hint = _HINTS.get(error.errno or 0, "")
        return f"The system refused: {where}{error.strerror or error}. {hint}".rstrip(), SYSTEM
    if type(error).__name__ == "LibsndfileError":  # while writing: what cannot be read is an AudioError long before
        return f"The sound could not be written completely ({error}) Is the disk full?", SYSTEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return "Memory ran out. Use the wavefront strategy, a smaller codec, or another --device.", SYSTEM
    return None


def tell(message: str) -> None:
    """One message to standard error."""
    typer.echo(message, err=True)


def debugging() -> bool:
    """Whether tracebacks were asked for (``duotone --debug ...``)."""
    return _DEBUG.get()


class Guarded(TyperGroup):
    """The group of commands; turns expected errors of any of them into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        before = _DEBUG.set(bool(ctx.params.get("debug")))
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a full disk gets its sentence, not at the interpreter's end
            return result
        except BrokenPipeError:  # whoever reads us has gone (`| head`): nothing to tell, and nobody to tell it to
            _let_go_of_stdout()
            raise typer.Exit(GONE) from None
        except KeyboardInterrupt:
            tell("Interrupted. Files that were complete are kept; nothing half-written is left behind.")
            raise typer.Exit(INTERRUPTED) from None
        except (DuotoneError, OSError, MemoryError, RuntimeError) as error:
            found = verdict(error)
            if found is None or debugging():
                raise
            tell(f"error: {found[0]}")
            raise typer.Exit(found[1]) from None
        finally:
            _DEBUG.reset(before)
            try:
                sys.stdout.flush()
            except OSError:  # what waits there cannot be written, and was told of
                _let_go_of_stdout()


def _let_go_of_stdout() -> None:
    """Point standard output at nothing, so that the flush at exit does not fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
