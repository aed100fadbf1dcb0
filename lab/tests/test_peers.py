"""Other systems' sounds for a test list, on small random weights in the formats that are published."""

import pytest
import soundfile
import torch

from lab import peers
from tests.helpers.published import roberta_config, save_roberta_tokenizer, save_t5_tokenizer, vae_config, vocoder

pytest.importorskip("diffusers", reason="the extra [audioldm] is not installed")
CAPTIONS = {"Y7fmOlUlwoNg": "a dog barks", "rain_2": "rain falls on tin"}


@pytest.fixture
def listed(tmp_path):
    path = tmp_path / "list.csv"
    rows = [f'{number},{clip},0,"{caption}"' for number, (clip, caption) in enumerate(CAPTIONS.items())]
    path.write_text("\n".join(["audiocap_id,youtube_id,start_time,caption", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def audioldm(tmp_path_factory):
    from diffusers import AudioLDMPipeline, AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import ClapTextConfig, ClapTextModelWithProjection, RobertaTokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("audioldm")
    save_roberta_tokenizer(folder / "words")
    unet = UNet2DConditionModel(
        in_channels=8, out_channels=8, sample_size=16, layers_per_block=1, block_out_channels=[8, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=[8, 16], norm_num_groups=8, class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=20, class_embeddings_concat=True,
    )  # fmt: skip
    hifigan = vocoder(16)
    with torch.no_grad():
        for weight in hifigan.parameters():
            weight.mul_(8)  # random ones are silent at 16 bits
    AudioLDMPipeline(
        vae=AutoencoderKL(**vae_config(8)),
        text_encoder=ClapTextModelWithProjection(ClapTextConfig(**roberta_config(), projection_dim=20)),
        tokenizer=RobertaTokenizer.from_pretrained(folder / "words", model_max_length=77),
        unet=unet,
        scheduler=DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False),
        vocoder=hifigan,
    ).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def musicgen(tmp_path_factory):
    from transformers import (
        EncodecConfig,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("musicgen")
    save_t5_tokenizer(folder)
    text = T5Config(vocab_size=32, d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2)
    codec = EncodecConfig(
        sampling_rate=32_000, upsampling_ratios=[8, 5, 4, 4], num_filters=4, codebook_size=32, hidden_size=16,
        codebook_dim=16, target_bandwidths=[1.0], norm_type="weight_norm", num_lstm_layers=1,
    )  # fmt: skip
    decoder = MusicgenDecoderConfig(
        vocab_size=32, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2, hidden_size=12, num_codebooks=4,
        pad_token_id=32, bos_token_id=32,
    )  # fmt: skip
    config = MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict())
    model = MusicgenForConditionalGeneration(config)
    model.generation_config.decoder_start_token_id = 32
    model.save_pretrained(folder)
    return folder


def generate(run, system, weights, listed, out, *more):
    return run(
        peers.main, "generate", "--system", system, "--weights", weights, "--test-list", listed, "-o", out, *more
    )


def test_audioldm_makes_one_sound_a_clip_and_continues(run, audioldm, listed, tmp_path, capsys):
    out, few = tmp_path / "out", ["--steps", 2, "--seconds", 0.64]
    assert generate(run, "audioldm", audioldm, listed, out, *few) == 0
    files = [out / f"{clip}.wav" for clip in CAPTIONS]
    before = [soundfile.read(file) for file in files]
    assert [rate for _, rate in before] == [16_000, 16_000]
    assert all(len(samples) == 10_240 for samples, _ in before)
    assert not (before[0][0] == before[1][0]).all()
    files[0].unlink()
    capsys.readouterr()
    assert generate(run, "audioldm", audioldm, listed, out, *few) == 0
    assert "2 sounds of audioldm, 1 of them made now" in capsys.readouterr().out
    assert (soundfile.read(files[0])[0] == before[0][0]).all()
    assert generate(run, "audioldm", audioldm, listed, out, "--steps", 3) == 2
    assert "made with steps 2, seconds 0.64: repeat those options" in capsys.readouterr().err


def test_musicgen_draws_tokens_at_its_own_rate(run, musicgen, listed, tmp_path):
    out = tmp_path / "out"
    assert generate(run, "musicgen", musicgen, listed, out, "--seconds", 0.4, "--limit", 1) == 0
    samples, rate = soundfile.read(out / "Y7fmOlUlwoNg.wav")
    assert rate == 32_000
    assert 0.2 < len(samples) / rate < 0.6
    assert not (out / "rain_2.wav").exists()


def test_mistakes_are_one_line(run, listed, tmp_path, capsys):
    assert generate(run, "audioldm2", tmp_path / "gone", listed, tmp_path / "out") == 2
    assert "gone: no such folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert generate(run, "audioldm", tmp_path / "empty", listed, tmp_path / "other") == 2
    assert "empty: not a folder of audioldm" in capsys.readouterr().err
