"""The Python interface, used as a script would use it."""

import subprocess
import sys
import threading
from typing import get_type_hints

import pytest
import soundfile
import torch

import impact_pl
from impact_pl import DecodingConfig, ImpactPipeline, UserError, load_codec, load_experiment, load_text_encoder
from impact_pl.inference.pipeline import DecodingOptions

QUICK = {"num_iterations": 2, "num_diffusion_steps": 3}
CLOSE = {"rtol": 0, "atol": 1e-4}
CAPTIONS = ["a dog barks", "rain falls", "a door closes", "birds sing"]


@pytest.fixture(scope="module")
def pipeline() -> ImpactPipeline:
    return ImpactPipeline.from_pretrained()  # the model that comes with the package


def test_importing_the_package_is_cheap_and_leaves_the_environment_alone():
    code = (
        "import os, sys; before = dict(os.environ); import impact_pl; assert dict(os.environ) == before;"
        "print({'torch', 'numpy', 'lightning', 'hydra'} & sys.modules.keys(), 'ImpactPipeline' in dir(impact_pl))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set() True"


def test_every_name_is_there():
    for name in impact_pl.__all__:
        assert getattr(impact_pl, name).__name__ == name
    assert set(impact_pl.__all__) == set(impact_pl._MODULES) <= set(dir(impact_pl))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        impact_pl.nothing  # noqa: B018


def test_captions_to_files(pipeline, tmp_path):
    sounds = pipeline(["a dog barks", "rain on a roof"], duration=1.0, seed=1, progress=False, **QUICK)
    assert (sounds.sample_rate, sounds.seeds, len(sounds)) == (16_000, (1, 1), 2)
    assert sounds.captions == ("a dog barks", "rain on a roof")
    assert sounds.waveforms.shape == (2, 16_000)
    assert sounds.waveforms.abs().max() <= 1
    files = sounds.save(tmp_path / "sounds")
    assert [file.name for file in files] == ["0000_a_dog_barks.wav", "0001_rain_on_a_roof.wav"]
    assert soundfile.info(files[0]).samplerate == 16_000
    with pytest.raises(UserError, match=r"is one file, but there are 2 sounds"):
        sounds.save(tmp_path / "both.wav")
    assert pipeline("a dog barks", 1.0, **QUICK).save(tmp_path / "dog.flac") == [tmp_path / "dog.flac"]


def test_four_variations_and_each_of_them_again(pipeline):
    four = pipeline("a dog barks", duration=1.0, seeds=range(4), **QUICK)
    assert four.captions == ("a dog barks",) * 4
    assert four.seeds == (0, 1, 2, 3)
    for seed, waveform in zip(four.seeds, four.waveforms, strict=True):
        alone = pipeline("a dog barks", duration=1.0, seed=seed, **QUICK)
        torch.testing.assert_close(alone.waveforms[0], waveform, **CLOSE)
    assert not torch.allclose(four.waveforms[0], four.waveforms[1], **CLOSE)


def test_a_sound_does_not_depend_on_its_neighbours(pipeline):
    batch = pipeline(CAPTIONS, duration=1.0, seed=5, **QUICK)
    turned = pipeline(CAPTIONS[::-1], duration=1.0, seed=5, **QUICK)
    torch.testing.assert_close(turned.waveforms.flip(0), batch.waveforms, **CLOSE)


def test_what_is_not_given_is_the_models_own(pipeline):
    own = pipeline.model.spec.own_decoding
    seen = []
    pipeline("rain", 1.0, num_diffusion_steps=1, progress=lambda *at: seen.append(at))
    assert seen == [(i, own.num_iterations) for i in range(1, own.num_iterations + 1)]
    given = DecodingConfig(**pipeline.model.spec.decoding | QUICK)
    assert torch.equal(pipeline("rain", 1.0, decoding=given).waveforms, pipeline("rain", 1.0, **QUICK).waveforms)
    fast = pipeline("rain", 1.0, preset="fast", **QUICK | {"precision": "32-true"})
    assert fast.waveforms.shape == (1, 16_000)


def test_the_options_are_the_fields_of_the_configuration(pipeline):
    assert get_type_hints(DecodingOptions) == get_type_hints(DecodingConfig)
    with pytest.raises(TypeError, match="num_steps"):
        pipeline("rain", num_steps=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"captions": []}, "0 captions and 0 seeds"),
        ({"captions": ["a", "b"], "seeds": [1]}, "2 captions and 1 seeds"),
        ({"captions": ["rain", " "]}, "at least one word"),
        ({"captions": "rain", "duration": 99}, "duration 99 s is outside"),
        ({"captions": "rain", "solver": "euler"}, "choose ancestral, ddim"),
    ],
)
def test_mistakes_are_told(pipeline, arguments, message):
    with pytest.raises(UserError, match=message):
        pipeline(**arguments)


def test_threads_share_a_pipeline(pipeline):
    alone = [pipeline(caption, 1.0, **QUICK).waveforms for caption in CAPTIONS]
    together: dict[str, torch.Tensor] = {}

    def make(caption):
        together[caption] = pipeline(caption, 1.0, **QUICK).waveforms

    threads = [threading.Thread(target=make, args=(caption,)) for caption in CAPTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[caption], want) for caption, want in zip(CAPTIONS, alone, strict=True))


def test_sound_to_latents_and_back(pipeline):
    waveform = torch.sin(torch.arange(44_100) * 2 * torch.pi * 440 / 44_100) / 2  # a second of A at 44.1 kHz
    latents = pipeline.encode(waveform, sample_rate=44_100)
    assert latents.shape == (1, 64, 25, 1)
    again = pipeline.decode(latents)
    assert again.shape == (1, 16_000)
    power = torch.fft.rfft(again[0]).abs().square()
    assert power[400:480].sum() > power.sum() / 2
    assert torch.equal(pipeline.decode(torch.cat([latents, latents]))[1], again[0])
    with pytest.raises(UserError, match="waveform of shape"):
        pipeline.encode(torch.zeros(1, 2, 100), 16_000)


def test_saved_and_loaded(pipeline, tmp_path):
    pipeline.to("cpu").save_pretrained(tmp_path)
    loaded = ImpactPipeline.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(loaded("rain", 1.0, **QUICK).waveforms, pipeline("rain", 1.0, **QUICK).waveforms)
    with pytest.raises(UserError, match="device 'tpu': PyTorch sees cpu"):
        ImpactPipeline.from_pretrained(tmp_path, device="tpu")


def test_parts_by_name():
    assert load_codec("builtin").sample_rate == 16_000
    assert load_text_encoder("minilm").encode(["rain"]).mask.shape == (1, 32)


def test_an_experiment_in_python():
    path = "/data/ünit 1,b=(c)'s\\"  # strings stay strings
    config = load_experiment("text", model="tiny", trainer="cpu", name="2024_11_30", data={"path": path})
    assert (config.stage, config.name, config.data.path, config.trainer.accelerator) == (
        "text",
        "2024_11_30",
        path,
        "cpu",
    )
    config = load_experiment("pretrain", **{"trainer.max_steps": 3, "optim": {"betas": (0.9, 0.99)}})
    assert (config.trainer.max_steps, list(config.optim.betas)) == (3, [0.9, 0.99])
    with pytest.raises(UserError, match="there is no experiment=pretrian"):
        load_experiment("pretrian")
