"""What vLLM runs to look at a model's class, with a stand-in for the package that its pictures are read with."""

from __future__ import annotations

import importlib
import runpy
import sys

from stand_ins import StandIns

# Transformers chooses what it offers by what it can import: before there is a stand-in.
for name in ("AutoModel", "AutoProcessor", "PreTrainedModel"):
    getattr(importlib.import_module("transformers"), name)
sys.meta_path.append(StandIns("torchvision"))
runpy.run_module("vllm.model_executor.models.registry", run_name="__main__")
