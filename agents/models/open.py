"""From a configuration's entry to a model: the one place that knows every backend."""

from __future__ import annotations

from agents.calls import Seat
from agents.models.adapters import Adapters
from agents.models.autogen import AutogenConfig, AutogenModel
from agents.models.config import ModelConfig
from agents.models.llama import LlamaConfig, LlamaModel
from agents.models.openai import OpenAIConfig, OpenAIModel
from agents.models.protocol import Model
from agents.models.replay import ReplayConfig, ReplayModel
from agents.models.scripted import ScriptedModel
from agents.models.sentences import SentencesConfig, SentencesModel
from agents.models.transformers import TransformersConfig, TransformersModel
from agents.models.vllm import VllmConfig, VllmModel
from agents.permits import Permits
from agents.retries import RetryPolicy


def open_model(name: str, config: ModelConfig, adapters: Adapters | None = None) -> Model:
    """The model that an entry describes, not yet loaded. `adapters` finds what its `adapter` names."""
    match config:
        case LlamaConfig():
            return LlamaModel(name, config, adapters)
        case OpenAIConfig():
            return OpenAIModel(name, config)
        case ReplayConfig():
            return ReplayModel(name, config)
        case TransformersConfig():
            return TransformersModel(name, config, adapters)
        case SentencesConfig():
            return SentencesModel(name, config)
        case AutogenConfig():
            return AutogenModel(name, config)
        case VllmConfig():
            return VllmModel(name, config, adapters)
        case _:
            return ScriptedModel(name, config)


def seat_of(model: Model, config: ModelConfig) -> Seat:
    """A loaded model with how its entry allows it to be asked."""
    policy = RetryPolicy(attempts=config.attempts, max_retry_after_s=config.max_retry_after_s)
    return Seat(model, model.identity.id, Permits(config.limit()), config.deadline_s, policy)
