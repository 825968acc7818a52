"""Alignment of a codec's tokens with features of a pretrained model of sound, such as HuBERT or MERT.

The loss is ``1 - cos`` between a linear map of each token and the teacher's mean feature over the token's time. Only the maps
learn beside the codec; they are saved with the run, and are no part of the codec.

Legend: B examples, S samples, T features of an example, D width of a feature, n tokens of an example, V values of a token.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from duotone.audio.waveform import Waveform
from duotone.config import Config
from duotone.errors import UsageError, WeightsError
from duotone.represent.spans import shares_of_parts


class TeacherSection(Config):
    """A model of transformers, and the weight of its term."""

    model: str  # a folder, or org/name on the Hugging Face Hub
    weight: float = Field(default=0.1, ge=0)
    trust_code: bool = False  # run the code of a repository whose model is no class of transformers (MERT)


class Teacher:
    """A frozen model that gives features of sound at a rate of its own. It is no module of the objective: runs do not store it.

    Raises `WeightsError` for what transformers cannot load, `UsageError` without transformers.
    """

    def __init__(self, section: TeacherSection) -> None:
        try:
            transformers: Any = importlib.import_module("transformers")
        except ImportError:
            raise UsageError(
                "objective.teachers needs transformers. Install it with the extra codecs: pip install 'duotone[codecs]'."
            ) from None
        try:
            options: dict[str, Any] = {"trust_remote_code": section.trust_code}
            self.extractor = transformers.AutoFeatureExtractor.from_pretrained(section.model, **options)
            model = transformers.AutoModel.from_pretrained(section.model, **options)
        except (OSError, ValueError, ImportError) as error:  # ImportError: packages that a repository's code needs
            raise WeightsError(
                f"objective.teachers got {section.model}, which transformers cannot load ({error}). Give a folder or a name of the Hub with a "
                f"model of sound, and trust_code: true if its class is code of its repository."
            ) from error
        self.model: nn.Module = model.eval().requires_grad_(False)
        self.weight = section.weight
        self.rate, self.width = int(self.extractor.sampling_rate), int(model.config.hidden_size)

    @torch.no_grad()
    def features(self, samples: Tensor, rate: int) -> Tensor:
        """Samples `[B, channels, S]` at `rate` -> features of their mean channel `[B, T, D]`, float32."""
        waves = [Waveform(x.mean(0, keepdim=True).cpu(), rate).resample(self.rate).samples[0].numpy() for x in samples]
        given = self.extractor(waves, sampling_rate=self.rate, return_tensors="pt").input_values.to(samples.device)
        with torch.autocast(samples.device.type, enabled=False):
            found: Tensor = self.model.to(samples.device)(given).last_hidden_state
        return found.float()


class Alignment(nn.Module):
    """The maps from tokens to the features of each teacher; `spans` are the tokens' times, `[n, 2]` as shares of an example."""

    spans: Tensor

    def __init__(self, teachers: list[Teacher], values: int, spans: Tensor) -> None:
        super().__init__()
        self.teachers = teachers
        self.register_buffer("spans", spans, persistent=False)
        self.maps = nn.ModuleList(nn.Linear(values, teacher.width) for teacher in teachers)

    def forward(self, tokens: Tensor, samples: Tensor, rate: int) -> list[tuple[float, Tensor]]:
        """Tokens `[B, n, V]` of samples `[B, channels, S]` -> weight and loss (scalar) of each teacher."""
        out = []
        for teacher, layer in zip(self.teachers, self.maps, strict=True):
            wanted = over_time(teacher.features(samples, rate), self.spans)
            out.append((teacher.weight, (1 - F.cosine_similarity(layer(tokens.float()), wanted, dim=-1)).mean()))
        return out


def over_time(features: Tensor, spans: Tensor) -> Tensor:
    """Features `[B, T, D]`, each of an equal part of the time -> their means over spans `[n, 2]` of it, `[B, n, D]`."""
    edges = torch.arange(features.shape[1] + 1, device=features.device) / features.shape[1]
    return shares_of_parts(spans.to(features.device), edges) @ features
