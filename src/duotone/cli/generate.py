"""``duotone generate``: a flow or a language model continues a prompt, or begins from nothing, for any length."""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.atomic import write_text
from duotone.cli.codec_options import Codec, Device, Dtype, load_codec
from duotone.cli.common import Force, Json, Quiet, Reporter, binary_stdout, check_outputs, duration
from duotone.cli.decode import FormatName
from duotone.cli.flow_options import (
    DEFAULT_FLOW,
    Context,
    Exact,
    Guidance,
    PromptFile,
    Seed,
    Shift,
    Solver,
    Steps,
    Temperature,
    load_flow,
    sampling,
)
from duotone.cli.generate_sources import ChosenFlow, Source, flow_source, lm_source, refuse
from duotone.cli.lm_options import LM, TopK, TopP, lm_sampling, load_lm
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.audio.files import AudioWriter
    from duotone.audio.wav_stream import WavStream

NAME = "generate"
EXAMPLES = """
Examples:

    duotone generate --seconds 30 -o out.wav

    duotone generate --prompt song.wav --seconds 60 --seed 7 -o more.flac

    duotone generate --flow flow/ --codec codec/ --prompt song.wav --seconds 20 --takes 4 -o take.wav

    duotone generate --prompt song.wav --seconds 600 -o - | ffplay -

    duotone generate --lm lm-tiny --prompt song.wav --seconds 30 --top-p 0.95 -o tokens.wav
"""


def command(
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="OUT", help="A sound file, or - to stream WAV to standard output."),
    ],
    seconds: Annotated[float, typer.Option(help="Length of the new sound.")],
    flow: ChosenFlow = None,
    language_model: LM = None,
    codec: Codec = None,
    prompt: PromptFile = None,
    include_prompt: Annotated[
        bool, typer.Option("--include-prompt", help="Write the prompt first, as the codec decodes it.")
    ] = False,
    takes: Annotated[
        int, typer.Option(min=1, max=64, help="Seeds to play, from --seed on, in one batch; files are numbered.")
    ] = 1,
    seed: Seed = 0,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    steps: Steps = None,
    solver: Solver = None,
    shift: Shift = None,
    guidance: Guidance = None,
    context: Context = None,
    exact: Exact = False,
    format: Annotated[FormatName | None, typer.Option(help="Format (default: by the name, else wav).")] = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Generate sound with a flow (latents) or a language model (tokens), chunk after chunk, written as it is made: any length, constant memory.

    Beside each file, OUT.json tells seed, fingerprints, settings and what it cost; the file's comment holds the same without the cost.
    """
    if not math.isfinite(seconds) or seconds <= 0:
        raise UsageError(f"--seconds got {seconds}, expected a length above 0.")
    if flow is not None and language_model is not None:
        raise UsageError("--flow and --lm were both given, expected one of them: latents or tokens.")
    if include_prompt and prompt is None:
        raise UsageError("--include-prompt needs a prompt. Name one with --prompt, or leave --include-prompt out.")
    targets = _targets(output, takes, format, as_json, force)
    from duotone.flow.prompt import read_prompt

    loaded = load_codec(codec, device, dtype)
    sound = read_prompt(prompt, loaded)
    seeds = range(seed, seed + takes)
    source: Source
    of_flows = {"steps": steps, "solver": solver, "shift": shift, "guidance": guidance}
    of_models = {"top_k": top_k, "top_p": top_p}
    if language_model is None:
        refuse(of_models, "--lm", "a flow")
        model = load_flow(flow or DEFAULT_FLOW, device)
        settings = sampling(model, temperature=temperature, **of_flows)
        source = flow_source(model, loaded, sound, seeds, settings, context, exact, include_prompt)
    else:
        refuse({**of_flows, "exact": exact or None}, "--flow", "a language model")
        written = load_lm(language_model, device)
        drawing = lm_sampling(written, temperature=temperature, **of_models)
        source = lm_source(written, loaded, sound, seeds, drawing, context, include_prompt)
    about = {
        "made_by": "duotone generate", **source.about, "codec": loaded.fingerprint, "space": loaded.spec.space,
        "prompt": prompt, "include_prompt": include_prompt, "seconds": seconds, "context": context,
    }  # fmt: skip
    work = _Work(source, targets, seed, about, Reporter(as_json, quiet), format and format.value)
    work.run(seconds)


def _targets(output: str, takes: int, format: FormatName | None, as_json: bool, force: bool) -> list[str]:
    """The files to write, checked before the work."""
    if output == "-":
        if takes > 1:
            raise UsageError(f"--takes {takes} makes as many files, and -o - is one stream. Name a file with -o.")
        if as_json:
            raise UsageError("--json and -o - would both write to standard output. Name a file with -o.")
        if format not in (None, FormatName.wav):
            raise UsageError(f"-o - streams WAV, --format got {format and format.value}. Name a file with -o.")
        return ["-"]
    path = Path(output)
    found = (
        [output] if takes == 1 else [str(path.with_name(f"{path.stem}-{i}{path.suffix}")) for i in range(1, takes + 1)]
    )
    for name in (each for target in found for each in (target, target + ".json")):
        if Path(name).exists() and not force:
            raise UsageError(f"{name} exists already. Add --force to replace it, or choose another name.")
    check_outputs(found)
    return found


@dataclass
class _Work:
    """Writing pieces as they are made, and what they were made with beside them."""

    source: Source
    targets: list[str]
    seed: int
    about: dict[str, Any]
    reporter: Reporter
    format: str | None

    def run(self, seconds: float) -> None:
        """Write so many seconds of new sound (after the prompt, where it is included) to every target."""
        from duotone.audio.waveform import Waveform

        started, rate = time.perf_counter(), self.source.rate
        wanted = max(1, round(seconds * rate)) + self.source.lead
        pieces = iter(self.source.pieces)
        with ExitStack() as stack:
            writers = [self._writer(stack, i, wanted) for i in range(len(self.targets))]
            advance = stack.enter_context(self.reporter.progress(self.targets[0], wanted / rate))
            done = 0
            while done < wanted:
                each = next(pieces)
                count = min(each[0].length, wanted - done)
                for writer, piece in zip(writers, each, strict=True):
                    writer.write(Waveform.of_checked(piece.samples[:, :count].contiguous(), rate))
                done += count
                advance(count / rate)
        self._tell(time.perf_counter() - started, done, rate)

    def _comment(self, take: int) -> dict[str, Any]:
        return {**self.about, "seed": self.seed + take}

    def _writer(self, stack: ExitStack, take: int, samples: int) -> AudioWriter | WavStream:
        from duotone.audio.files import open_writer
        from duotone.audio.wav_stream import WavStream

        comment = json.dumps(self._comment(take), ensure_ascii=True)
        rate, channels = self.source.rate, self.source.channels
        if self.targets[take] == "-":
            return WavStream(binary_stdout(), rate, channels, samples, comment)
        return stack.enter_context(open_writer(self.targets[take], rate, channels, format=self.format, comment=comment))

    def _tell(self, took: float, samples: int, rate: int) -> None:
        cost, told = self.source.cost()
        figures = {"samples": samples, "rate": rate, "took_seconds": took, "speed": samples / rate / took, **cost}
        for take, target in enumerate(self.targets):
            own = {"output": target, **self._comment(take), **figures}
            if target != "-":
                write_text(target + ".json", json.dumps(own, indent=2, sort_keys=True) + "\n")
            line = f"{target}: {duration(samples / rate)}, seed {self.seed + take}, {told}, {samples / rate / took:.1f}x real time"
            self.reporter.result(own, line)
