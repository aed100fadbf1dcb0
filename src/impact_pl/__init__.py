"""IMPACT: text-to-audio by iterative mask-based parallel decoding over continuous audio latents."""

import os

# Before torch loads OpenMP: its threads otherwise spin while they wait for each other, and where anything else uses a
# core (another job on the node, a laptop's browser) a training step takes up to eight times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from impact_pl._torchaudio import make_torchaudio_importable

make_torchaudio_importable()
