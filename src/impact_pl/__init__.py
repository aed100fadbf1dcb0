"""IMPACT: text-to-audio by iterative mask-based parallel decoding over continuous audio latents."""

from impact_pl._torchaudio import make_torchaudio_importable

make_torchaudio_importable()
