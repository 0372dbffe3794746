"""The configuration class of every command that reads a YAML file."""

from __future__ import annotations

from megatron_ipt.config.mixture import MixtureConfig
from megatron_ipt.config.plan import PlanConfig
from megatron_ipt.config.pretrain import PretrainConfig
from megatron_ipt.config.scoring import ScoreConfig
from megatron_ipt.config.settings import Settings
from megatron_ipt.config.stages import ConvertConfig, EvaluateConfig, PreprocessConfig
from megatron_ipt.config.synthesis import SynthesizeConfig
from megatron_ipt.config.tuning_set import TuningSetConfig

SCHEMAS: dict[str, type[Settings]] = {
    "tuning-set": TuningSetConfig,
    "synthesize": SynthesizeConfig,
    "preprocess": PreprocessConfig,
    "mix": MixtureConfig,
    "index": PretrainConfig,
    "plan": PlanConfig,
    "pretrain": PretrainConfig,
    "convert": ConvertConfig,
    "evaluate": EvaluateConfig,
    "score-synthesizer": ScoreConfig,
}
