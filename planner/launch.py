"""What the launch files of a configuration need, from the facts of its engine, model and release."""

from __future__ import annotations

from typing import Final

from planner import plan as out
from planner.engines.base import Config, LaunchSpec
from planner.request import PricedRelease, Request
from profiles.model import Release
from profiles.serving import engine_image, load_serving

SLOWEST_READ_BYTES_PER_S: Final = 50_000_000
"""Assumed: weights come over a line of 400 Mbit/s at worst. It bounds how long a start may take, and nothing else."""
WARM_UP_S: Final = 1800
"""Assumed for what follows the weights: kernels compiled, graphs captured, a profile run."""


def launch_of(request: Request, release: PricedRelease, config: Config, spec: LaunchSpec) -> out.Launch:
    """The command of ``spec`` with what it takes to serve it. Raises ``KeyError`` for an incomplete fact file."""
    serving = serving_of(request, release, config)
    env = dict(spec.env)
    ready = load_serving(config.engine).ready_variable
    if ready:
        # Its default, ten minutes for vLLM, ends before some hundred GB are read.
        env[ready] = str(serving.startup_s)
    return out.Launch(argv=spec.argv, env=env, per_node_argv=spec.per_node, serving=serving)


def serving_of(request: Request, release: PricedRelease, config: Config) -> out.Serving:
    """Ports, health, image, weights and ways to ask."""
    model, known, source = request.model, load_serving(config.engine), release.release
    local = source.publisher == "local"
    vendor = config.group.gpu.vendor if config.group is not None else None
    image = engine_image(config.engine, config.version, vendor)
    return out.Serving(
        served_name=model.id,
        port=known.port,
        health=known.health,
        head_port=known.head_port,
        api_key_variable=known.api_key_variable,
        api_key_flag=known.api_key_flag,
        # Of a folder that was downloaded the engine knows no revision any more.
        revision_flag=None if local or known.needs_folder else known.revision_flag,
        startup_s=startup_seconds(release.tensors.bytes),
        gpu_vendor=vendor,
        shm_bytes=known.shm_bytes,
        packages=tuple(package.replace("{version}", config.version) for package in known.packages),
        repository=known.repository,
        image=out.ContainerImage(reference=image.reference, source=image.source) if image else None,
        image_program=known.image_program,
        download=None if local or not source.release else download_of(source),
        local_path=source.release if local else None,
        needs_folder=known.needs_folder and not local,
        chat=tuple(
            out.ChatMode(
                mode=mode.mode,
                temperature=mode.temperature,
                top_p=mode.top_p,
                chat_template_kwargs=dict(mode.template_kwargs),
                source=mode.source,
            )
            for mode in model.chat
        ),
        # llama.cpp takes pictures with a projector, which the plan does not load.
        images=model.vision is not None and not config.text_only and config.engine != "llama.cpp",
    )


def startup_seconds(weights_bytes: int) -> int:
    """Longest start to wait for, in whole ten minutes: weights / 50 MB/s + half an hour.

    >>> startup_seconds(595_148_192_736)  # Kimi K2.5, INT4
    13800
    """
    needed = weights_bytes / SLOWEST_READ_BYTES_PER_S + WARM_UP_S
    return int(-(-needed // 600)) * 600


def download_of(release: Release) -> out.Download:
    """A repository of GGUF files holds many quantizations, of which one is wanted.

    >>> source = Release("UD-Q2_K_XL", "unsloth", "unsloth/Kimi-K2.5-GGUF", "gguf", "gguf:Q2_K")
    >>> download_of(source).include
    ('*-UD-Q2_K_XL.gguf', '*-UD-Q2_K_XL-*.gguf')
    """
    name = release.quantization
    wanted = (f"*-{name}.gguf", f"*-{name}-*.gguf") if release.container == "gguf" else ()
    return out.Download(repository=release.release, include=wanted)
