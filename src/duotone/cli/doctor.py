"""``duotone doctor``: lists what is installed, and tests whether a codec works on this machine."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import textwrap
import time
import warnings
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Any

import typer

from duotone.cli.codec_options import decoding_format
from duotone.errors import DuotoneError

NAME = "doctor"
EXAMPLES = """
Examples:

    duotone doctor

    duotone doctor --device cuda --json
"""

_WIDTH, _INDENT = 80, 13
#: Programs that some commands start: what for, and the Debian package that has them.
PROGRAMS = {
    "opusenc": ("evaluate --against opus", "opus-tools"),
    "opusdec": ("evaluate --against opus", "opus-tools"),
    "fluidsynth": ("make-sounds, music", "fluidsynth"),
    "espeak-ng": ("make-sounds, speech", "espeak-ng"),
}
#: Extras of the package that are not for users.
_OURS = ("test", "dev", "bench")
#: What a device's results may differ by from those of PyTorch on the CPU in float32: equal codes, and the log-mel distance of
#: decoded sound in dB. Samples are not compared: where phases are made from magnitudes, rounding changes them.
LEAST_EQUAL, LARGEST_DISTANCE = 0.98, 0.5


def command(
    device: Annotated[str, typer.Option(help="Device to test the codec on: cpu, cuda, cuda:N or mps.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object.")] = False,
) -> None:
    """Report what is installed, then encode and decode one second of audio with the bundled codec on a device.

    The exit code is not 0 if the codec does not work there.
    """
    report = survey()
    error: DuotoneError | None = None
    try:
        report["check"] = check(device)
    except (DuotoneError, RuntimeError) as failed:  # a RuntimeError is PyTorch's, about the device
        if isinstance(failed, DuotoneError):
            error = failed
        else:
            error = DuotoneError(
                f"PyTorch failed on {device}: {str(failed).strip().splitlines()[0]}. Use --device cpu."
            )
        report["check"] = {"device": device, "passed": False, "error": str(error)}
    typer.echo(json.dumps(report) if as_json else "\n".join(_lines(report)))
    if error is not None:
        raise error


def survey() -> dict[str, Any]:
    """What is installed, as plain JSON values; nothing is downloaded."""
    from duotone import __version__

    return {
        "duotone": {"version": __version__, "folder": str(Path(__file__).parents[1])},
        "python": {"version": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"},
        "torch": _torch(),
        "kernels": _kernels(),
        "sound": _sound(),
        "extras": _extras(),
        "programs": {name: shutil.which(name) for name in PROGRAMS},
        "soundfont": _soundfont(),
        "cache": _cache(),
    }


def check(device: str) -> dict[str, Any]:
    """Encode and decode one second of audio on a device, and compare with PyTorch on the CPU in float32.

    Raises `UsageError` for a missing device, `DuotoneError` if the results differ by more than rounding.
    """
    import torch

    from duotone.audio.synth import synthesize
    from duotone.evaluate.metrics import log_mel_distance
    from duotone.hub import DEFAULT, load
    from duotone.nn import native

    def timed(work: Any) -> tuple[Any, float]:
        work()  # the first run allocates and compiles
        started = time.perf_counter()
        return work(), wave.seconds / (time.perf_counter() - started)

    wave = synthesize(seed=0, seconds=1.0)
    codec, plain = load(DEFAULT, device, "auto"), load(DEFAULT, "cpu", "float32")
    with native.declined():
        wanted = plain.encode(wave).codes()
        sound = plain.decode(wanted)
    codes, encoding = timed(lambda: codec.encode(wave).codes())
    heard, decoding = timed(lambda: codec.decode(wanted))
    equal = float((codes.indices == wanted.indices).float().mean())
    whole = heard.samples.shape == wave.samples.shape and bool(torch.isfinite(heard.samples).all())
    distance = log_mel_distance(sound, heard) if whole else math.inf
    found = {
        "device": str(codec.device), "codec": DEFAULT, "equal_codes": equal, "decoded_log_mel_db": distance,
        "decoding_dtype": decoding_format(codec), "encode_speed": encoding, "decode_speed": decoding,
    }  # fmt: skip
    if not equal >= LEAST_EQUAL or not distance <= LARGEST_DISTANCE:
        raise DuotoneError(
            f"The codec {DEFAULT} does not work on {device}: {equal:.1%} of its codes equal those of PyTorch on the CPU "
            f"(expected {LEAST_EQUAL:.0%} or more), and decoded sound differs by {distance:.2f} dB in log-mel distance (expected "
            f"at most {LARGEST_DISTANCE:g} dB). Use --device cpu, and report it with the output of: duotone doctor --json"
        )
    return {**found, "passed": True}


def _torch() -> dict[str, Any]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__, "threads": torch.get_num_threads(), "cores": cores,
        "instructions": torch.backends.cpu.get_cpu_capability(), "cuda": cuda,
        "mps": torch.backends.mps.is_available(),
    }  # fmt: skip


def _kernels() -> dict[str, Any]:
    """Whether the C kernels of `duotone.nn` are compiled, or why not."""
    from duotone.nn import native

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        library = native.library()
    if library is not None:
        return {"compiled": True, "compiler": native.compiler()}
    if os.environ.get("DUOTONE_NATIVE", "1") == "0":
        why = "DUOTONE_NATIVE=0 is set"
    elif platform.system() != "Linux":
        why = f"they are for Linux, this is {platform.system()}"
    elif native.compiler() is None:
        why = "no C compiler was found; install gcc or clang, or set CC"
    else:
        why = "; ".join(str(warning.message) for warning in said) or "the compiler failed"
    return {"compiled": False, "compiler": native.compiler(), "why": why}


def _sound() -> dict[str, Any]:
    import soundfile

    cards = Path("/proc/asound/cards")
    lines = cards.read_text(encoding="utf-8", errors="replace").splitlines() if cards.is_file() else []
    names = [line.partition("]:")[2].strip() for line in lines if "]:" in line]
    return {"libsndfile": soundfile.__libsndfile_version__, "cards": names if platform.system() == "Linux" else None}


def _extras() -> dict[str, dict[str, str | None]]:
    """Extra -> package -> installed version, None where it is missing."""
    found: dict[str, dict[str, str | None]] = {}
    for line in requires("duotone") or []:
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", line)
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if extra is None or name is None or extra[1] in _OURS:
            continue
        try:
            installed: str | None = version(name[0])
        except PackageNotFoundError:
            installed = None
        found.setdefault(extra[1], {})[name[0]] = installed
    return found


def _soundfont() -> str | None:
    from duotone.audio.midi import find_soundfont
    from duotone.errors import AudioError

    try:
        return str(find_soundfont())
    except AudioError:
        return None


def _cache() -> dict[str, Any]:
    from duotone.config import cache_folder

    folder = cache_folder()
    if folder is None:
        return {"folder": None, "writable": False}
    near = next((f for f in (folder, *folder.parents) if f.exists()), folder)
    return {"folder": str(folder), "writable": near.is_dir() and os.access(near, os.W_OK | os.X_OK)}


def _cache_line(cache: dict[str, Any]) -> str:
    if cache["folder"] is None:
        return "none: there is no home folder (nothing is cached; set DUOTONE_CACHE to a folder)"
    return str(cache["folder"]) + ("" if cache["writable"] else " (cannot be written; nothing is cached)")


def _lines(report: dict[str, Any]) -> list[str]:
    """The report for people, in 80 columns."""
    torch, kernels, sound, cache = (report[key] for key in ("torch", "kernels", "sound", "cache"))
    rows = [
        ("duotone", f"{report['duotone']['version']} in {report['duotone']['folder']}"),
        ("python", f"{report['python']['version']}, {report['python']['system']}"),
        ("torch", f"{torch['version']}, {torch['threads']} threads on {torch['cores']} cores ({torch['instructions']})"),
        ("devices", ", ".join(["cpu", *(f"cuda:{i} ({n})" for i, n in enumerate(torch["cuda"])), *["mps"] * torch["mps"]])),
        ("kernels", f"compiled with {kernels['compiler']}" if kernels["compiled"] else f"not used: {kernels['why']}"),
        ("sound files", f"libsndfile {sound['libsndfile']}"),
        ("sound cards", "unknown on this system" if sound["cards"] is None else ", ".join(sound["cards"]) or "none"),
        *(
            (f"[{extra}]", ", ".join(f"{name} {installed or 'missing'}" for name, installed in packages.items()))
            for extra, packages in report["extras"].items()
        ),
        *(
            (name, path or f"missing (for {PROGRAMS[name][0]}; Debian package {PROGRAMS[name][1]})")
            for name, path in report["programs"].items()
        ),
        ("soundfont", report["soundfont"] or "missing (for make-sounds, music; Debian package fluid-soundfont-gm)"),
        ("cache", _cache_line(cache)),
    ]  # fmt: skip
    rows.append(("check", _verdict(report["check"])))
    return [line for key, value in rows for line in _wrapped(key, value)]


def _verdict(found: dict[str, Any]) -> str:
    if not found["passed"]:
        return f"FAILED on {found['device']}"
    return (
        f"passed on {found['device']}: 1 s of sound through {found['codec']}, {found['equal_codes']:.1%} of codes equal to "
        f"the CPU's; encoding {found['encode_speed']:.1f}x and decoding ({found['decoding_dtype']}) "
        f"{found['decode_speed']:.1f}x real time"
    )


def _wrapped(key: str, value: str) -> list[str]:
    return textwrap.wrap(
        value, _WIDTH, initial_indent=f"{key:<{_INDENT}}", subsequent_indent=" " * _INDENT, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
