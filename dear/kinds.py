"""The registries whose kinds a configuration may name."""

from __future__ import annotations

from dear.codec import CODECS, VOCODERS
from dear.conditioning import ENCODERS
from dear.config import ConditioningConfig, HeadConfig, VAEConfig, VocoderConfig
from dear.heads import HEADS
from dear.settings import Kinds

KINDS: Kinds = {HeadConfig: HEADS, VAEConfig: CODECS, VocoderConfig: VOCODERS, ConditioningConfig: ENCODERS}
