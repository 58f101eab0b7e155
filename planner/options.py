"""Everything a person can ask, as text, before it is parsed. The command line, the TUI and the API all fill this."""

from __future__ import annotations

from dataclasses import dataclass, fields

from planner.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Options:
    """Raw values as typed; None was not given. Names are those of the command line's flags.

    ``gpu`` holds one text per ``--gpu`` (``8xH200``; ``none`` is a machine without one).
    """

    model: str
    gpu: tuple[str, ...] = ()
    nodes: str | None = None
    ram: str | None = None
    ram_bandwidth: str | None = None
    cpu: str | None = None
    cores: str | None = None
    disk: str | None = None
    link: str | None = None
    network: str | None = None
    inventory: str | None = None
    context: str | None = None
    concurrency: str | None = None
    input_tokens: str | None = None
    output_tokens: str | None = None
    images: str | None = None
    routing: str | None = None
    workload: str | None = None
    ttft: str | None = None
    tpot: str | None = None
    min_throughput: str | None = None
    max_kld: str | None = None
    quality_suite: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    quant: str | None = None
    kv_dtype: str | None = None
    tp: str | None = None
    pp: str | None = None
    dp: str | None = None
    ep: str | None = None
    dcp: str | None = None
    objective: str | None = None
    top: str | None = None
    gpu_memory_utilization: str | None = None
    max_model_len: str | None = None
    max_num_batched_tokens: str | None = None
    max_num_seqs: str | None = None
    text_only: bool = False
    batch: str | None = None
    ubatch: str | None = None
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    sequences: str | None = None
    kv_unified: bool = False
    flash_attention: str | None = None
    n_cpu_moe: str | None = None
    enforce_eager: bool = False
    mm_encoder_tp_mode: str | None = None
    max_loras: str | None = None
    max_lora_rank: str | None = None
    cpu_offload_gb: str | None = None
    speculative: str | None = None
    speculative_tokens: str | None = None
    calibration: str | None = None
    simulate: bool = False
    arrival_rate: str | None = None
    length_variation: str | None = None
    accept_length: str | None = None

    def __post_init__(self) -> None:
        """Raises ``BadRequest`` for a value of the wrong type, or one that no file name and no number can hold."""
        for field in fields(self):
            value = getattr(self, field.name)
            flag = f"--{field.name.replace('_', '-')}"
            if isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise BadRequest(f"{flag} takes no value; it is on or off")
                continue
            texts = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(isinstance(text, str) for text in texts):
                raise BadRequest(f"{flag} takes text or a number")
            if any("\0" in text for text in texts):
                raise BadRequest(f"{flag}: a zero byte is not allowed")

    @property
    def describes_hardware(self) -> bool:
        """Whether any hardware flag was given, which switches detection off."""
        return bool(self.gpu) or any(
            value is not None
            for value in (
                self.nodes, self.ram, self.ram_bandwidth, self.cpu, self.cores, self.disk, self.link, self.network,
            )
        )  # fmt: skip
