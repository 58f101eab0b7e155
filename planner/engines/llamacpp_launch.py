"""``llama-server`` with the placement of a configuration written out."""

from __future__ import annotations

from planner.engines.base import Config, LaunchSpec, listening, placed_gpus, visible_devices
from planner.engines.llamacpp_work import batch_size, cells_for, is_unified
from planner.request import PricedRelease, Request
from profiles.engines import EngineFacts
from profiles.model import Release


def launch_spec(request: Request, release: PricedRelease, config: Config, facts: EngineFacts) -> LaunchSpec:
    """Arguments and environment; nothing that decides memory is left to a default or to ``--fit``."""
    settings, version = request.settings, config.version
    arguments = ["llama-server", *model_arguments(request.model.id, release.release, facts, version)]

    def add(key: str, *values: str) -> None:
        arguments.extend((facts.flag(key, version), *values))

    add("context", str(cells_for(request, config, facts).total))
    add("sequences", str(config.sequences))
    add("batch", str(batch_size(request, config, facts)))
    add("ubatch", str(config.batched_tokens))
    add("flash_attention", "off" if settings.flash_attention is False else "on")
    add("cache_type_k", config.kv_dtype)
    add("cache_type_v", settings.cache_type_v or config.kv_dtype)
    add("fit", "off")
    if config.sequences > 1:
        add("kv_unified" if is_unified(request, config) else "no_kv_unified")
    add("gpu_layers", "999" if config.placement else "0")
    if len(config.placement) > 1:
        # The output layer counts as one more layer, and the plan has it on the last GPU.
        shares = (*config.placement[:-1], config.placement[-1] + 1)
        add("tensor_split", ",".join(str(share) for share in shares))
    if config.placement and config.cpu_expert_layers:
        add("n_cpu_moe", str(config.cpu_expert_layers))
    if ("op_offload", "off") in config.options:
        add("no_op_offload")
    if config.disk_bytes:
        add("no_repack")
    if ("prompt_cache", "off") in config.options:
        add("cache_ram", "0")
    add("jinja")
    add("alias", request.model.id)
    arguments += listening(facts, version, config.engine)
    node = request.machine.nodes[config.group.nodes[0]] if config.group else None
    used = [gpu.driver_index for gpu in placed_gpus(node, config)] if node else []
    return LaunchSpec(tuple(arguments), visible_devices(node, used) if node else {})


def model_arguments(model_id: str, release: Release, facts: EngineFacts, version: str) -> list[str]:
    """How the release is found: on the Hub, in the user's file, or in the one that quantizing the model would write.

    From a repository llama.cpp would take a vision projector along, which a plan for text does not count.
    """
    if release.publisher == "local":
        return [facts.flag("model", version), release.release]
    if release.status == "published":
        return [
            facts.flag("repository", version),
            f"{release.release}:{release.quantization}",
            facts.flag("no_mmproj", version),
        ]
    return [facts.flag("model", version), f"{model_id}-{release.quantization}.gguf"]
