"""Frozen, validated configurations, to and from YAML and JSON; unknown keys are refused."""

from duotone.config.base import Config, NoiseConfig
from duotone.config.codicodec import (
    PRESETS,
    BandsConfig,
    CoDiCodecConfig,
    DecodeConfig,
    Framing,
    RefinementConfig,
    SynthesisConfig,
    codicodec_config,
    preset,
)
from duotone.config.flow import FLOW_PRESETS, FlowConfig, NegativeBranch, SamplingConfig, Solver, flow_preset
from duotone.config.folders import cache_folder
from duotone.config.lm import LM_PRESETS, LMConfig, LMSampling, lm_preset
from duotone.config.lycodec import LYCODEC_PRESETS, LycodecConfig, LycodecDecodeConfig, LycodecPhases, lycodec_preset

__all__ = [
    "FLOW_PRESETS",
    "LM_PRESETS",
    "LYCODEC_PRESETS",
    "PRESETS",
    "BandsConfig",
    "CoDiCodecConfig",
    "Config",
    "DecodeConfig",
    "FlowConfig",
    "Framing",
    "LMConfig",
    "LMSampling",
    "LycodecConfig",
    "LycodecDecodeConfig",
    "LycodecPhases",
    "NegativeBranch",
    "NoiseConfig",
    "RefinementConfig",
    "SamplingConfig",
    "Solver",
    "SynthesisConfig",
    "cache_folder",
    "codicodec_config",
    "flow_preset",
    "lm_preset",
    "lycodec_preset",
    "preset",
]
