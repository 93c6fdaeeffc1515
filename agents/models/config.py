"""The model entries of a configuration: one shape a backend, told apart by `kind`."""

from __future__ import annotations

from agents.models.autogen import AutogenConfig
from agents.models.llama import LlamaConfig
from agents.models.openai import OpenAIConfig
from agents.models.replay import ReplayConfig
from agents.models.scripted import ScriptedConfig
from agents.models.sentences import SentencesConfig
from agents.models.transformers import TransformersConfig
from agents.models.vllm import VllmConfig

ModelConfig = (
    LlamaConfig
    | OpenAIConfig
    | ScriptedConfig
    | ReplayConfig
    | AutogenConfig
    | VllmConfig
    | TransformersConfig
    | SentencesConfig
)
