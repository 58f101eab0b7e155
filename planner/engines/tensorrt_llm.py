"""TensorRT-LLM: not planned, and why. Its PyPI package is a stub, so that neither parser nor allocator could be read.

Kimi K2.5 runs there only as NVFP4 and without its vision tower (NVIDIA/TensorRT-LLM PR 11777, release 1.3.0rc7); the
INT4 checkpoint is not supported (ai-dynamo/aiconfigurator PR 757).
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.engines.base import Config, LaunchSpec, Priced, Refusal
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts, load_engine

NOT_PLANNED = "TensorRT-LLM is not planned here: how much memory it takes is not known"


class TensorRtLlm:
    """An engine that is answered with a refusal."""

    name = "tensorrt-llm"

    @property
    def facts(self) -> EngineFacts:
        """Its versions."""
        return load_engine("tensorrt-llm")

    def accepts(self, release: PricedRelease) -> str:
        """Every kind of file: the refusal says more."""
        del release
        return ""

    def configurations(self, request: Request, release: PricedRelease) -> Iterator[Config | Refusal]:
        """One refusal with what is known of the model."""
        if request.model.uses_mla and request.model.vision is not None:
            if release.expert_format != "nvfp4":
                reason = f"TensorRT-LLM loads {request.model.name} only as NVFP4, without images, not as "
                yield Refusal(None, reason + release.expert_format, "use vLLM or SGLang, or an NVFP4 release")
                return
            reason = f"{NOT_PLANNED}; it runs {request.model.name} as NVFP4 without images since 1.3.0rc7"
            yield Refusal(None, reason, "use vLLM or SGLang")
            return
        yield Refusal(None, NOT_PLANNED, "use vLLM or SGLang")

    def price(self, request: Request, release: PricedRelease, config: Config) -> Priced:
        """Never asked, since no configuration is offered."""
        raise NotImplementedError

    def launch(self, request: Request, release: PricedRelease, config: Config) -> LaunchSpec:
        """Never asked either."""
        raise NotImplementedError


ENGINE = TensorRtLlm()
