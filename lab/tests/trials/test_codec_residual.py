"""A codec gets a residual to draw without any change to its latents."""

import numpy as np
import soundfile
import torch

from impact_pl.codecs.builtin import BuiltinCodec, BuiltinCodecSpec
from impact_pl.codecs.registry import load_codec
from impact_pl.data.manifest import Record, write_manifest
from lab.trials import codec_residual


def test_the_residual_is_fitted_and_the_latents_stay(tmp_path):
    torch.manual_seed(0)
    codec = BuiltinCodec(BuiltinCodecSpec(decoder_dim=16, decoder_depth=1))
    noise = 0.1 * np.random.default_rng(0).standard_normal(192_000)
    codec.fit_latents([torch.from_numpy(noise).float()])
    codec.save_pretrained(tmp_path / "old")
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)
    write_manifest(tmp_path / "manifest.jsonl", [Record("noise", "noise.wav")])
    options = ["--manifest", str(tmp_path / "manifest.jsonl"), "--codec", str(tmp_path / "old")]
    codec_residual.main([*options, "--out", str(tmp_path / "new")])
    old, new = load_codec(str(tmp_path / "old")), load_codec(str(tmp_path / "new"))
    assert new.identity == old.identity
    assert new.residual_basis.shape == (192, 256)
    assert new.residual_basis.any()
    assert (new.residual_basis @ new.pca_basis.T).abs().max() < 1e-3
    latents = old.encode(torch.from_numpy(noise[None]).float())[:, :64]
    assert not torch.equal(old.decode(latents), new.decode(latents))
