"""How a plan names a release and a layout."""

from __future__ import annotations

from planner import plan as out
from planner.engines.base import Config
from planner.request import PricedRelease


def quantization_ref(release: PricedRelease) -> out.QuantizationRef:
    """The release as shown."""
    return out.QuantizationRef(
        name=release.release.quantization,
        publisher=release.release.publisher,
        release=release.release.release,
        status=release.release.status,
        bytes=release.tensors.bytes,
        evidence=release.tensors.evidence,
    )


def parallel_ref(config: Config) -> out.Parallel:
    """Ranks as shown."""
    return out.Parallel(tp=config.tp, pp=config.pp, dp=config.dp, ep=config.ep, dcp=config.dcp)
