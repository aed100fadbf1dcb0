"""IMPACT: text-to-audio by iterative mask-based parallel decoding over continuous audio latents."""

import os

# Before torch loads OpenMP: its threads otherwise spin while they wait for each other, and where anything else uses a
# core (another job on the node, a laptop's browser) a training step takes up to eight times as long.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    # But asleep at once they take 45 us to wake, in each of the diffusion head's thousands of short operations: a few
    # microseconds of spinning make its loop 1.3 times as fast, and cost nothing measurable where cores are shared.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from impact_pl._torchaudio import make_torchaudio_importable

make_torchaudio_importable()
