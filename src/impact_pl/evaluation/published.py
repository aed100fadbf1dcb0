"""The published table on AudioCaps (S1 table 1): what a paper's own row stands beside.

Figures as S1 prints them: FD, KL and IS on PANNs CNN14 at 16 kHz, FAD on VGGish, CLAP with clap-htsat-fused, one
caption a clip; S1 does not say which list of clips it used. Latency is seconds for 8 clips on one V100.
The listening test had one MAGNeT and one AudioLDM2; their ratings stand here at the smaller model of each.
"""

from dataclasses import dataclass

SOURCE = "IMPACT (ICML 2025), table 1"
ITERATION_LATENCY = {4: 1.8, 8: 3.2, 16: 5.7, 32: 11.2, 64: 22.2}  # S1's ablation: T of base at 100 steps -> seconds


@dataclass(frozen=True)
class System:
    """A row; None: not reported."""

    name: str
    fd: float
    fad: float
    kl: float
    inception: float
    clap: float
    rel: float | None = None
    ovl: float | None = None
    steps: int | None = None
    latency: float | None = None


SYSTEMS = (
    System("AudioGen v2, 1.5 B", 16.51, 2.11, 1.54, 9.64, 0.315, latency=37.2),
    System("Tango, 866 M", 24.42, 1.73, 1.27, 7.70, 0.313, steps=200, latency=182.6),
    System("Tango 2", 20.66, 2.63, 1.12, 9.09, 0.375, 4.13, 3.37, 200, 182.3),
    System("EzAudio-L", 15.59, 2.25, 1.38, 11.35, 0.391, 4.05, 3.44, 50, 29.1),
    System("EzAudio-XL", 14.98, 3.01, 1.29, 11.38, 0.387, 4.00, 3.35, 50, 40.2),
    System("MAGNeT-S", 23.02, 3.22, 1.42, 9.72, 0.287, 3.83, 2.84, latency=6.9),
    System("MAGNeT-L", 26.19, 2.36, 1.64, 9.10, 0.253, latency=24.8),
    System("Make-An-Audio 2", 16.23, 2.03, 1.29, 9.95, 0.345, steps=100, latency=15.9),
    System("AudioLDM2-full", 32.14, 2.17, 1.62, 6.92, 0.273, 3.74, 3.19, 200, 96.1),
    System("AudioLDM2-large", 33.18, 2.12, 1.54, 8.29, 0.281, steps=200, latency=195.7),
    System("IMPACT base, T 32 (1200 h)", 14.90, 1.07, 1.05, 10.06, 0.364, steps=100, latency=11.2),
    System("IMPACT base, T 64 (5500 h, 1200 h)", 14.72, 1.13, 1.09, 10.03, 0.353, 4.31, 3.51, 100, 22.2),
    System("IMPACT large, T 64 (5500 h, 1200 h)", 14.72, 1.17, 1.07, 10.53, 0.364, 4.39, 3.47, 100, 28.4),
)
