"""wandb (offline) and MLflow (file store) get what metrics.csv gets; wrong names are told in one line."""

import pytest
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger

from impact_pl.training.fit import train


def test_mlflow_continues_its_run(config, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"file:{tmp_path / 'mlruns'}"
    config.logger = {"csv": {}, "mlflow": {"experiment_name": "test", "tracking_uri": uri}}
    for steps in (3, 6):
        config.trainer.max_steps = steps
        assert train(config).exit_code == 0
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "valid/loss")] == [4]


def test_wandb_offline(config, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config.logger = {"wandb": {"project": "test", "offline": True}}
    assert train(config).exit_code == 0
    (folder,) = (tmp_path / "runs" / "run" / "wandb").glob("offline-run-*")
    assert next(folder.glob("run-*.wandb")).stat().st_size > 1000


def test_wrong_loggers(config):
    config.logger = {"magic": {}}
    with pytest.raises(ValueError, match="choose among tensorboard, csv, wandb, mlflow"):
        train(config)
    config.logger = {"csv": {"color": "red"}}
    with pytest.raises(ValueError, match=r"logger\.csv: .*color"):
        train(config)


class Counts(Callback):
    steps = 0

    def on_train_batch_end(self, *args):
        self.steps += 1


def test_callbacks_and_loggers_of_ones_own(config, tmp_path):
    mine, logger = Counts(), CSVLogger(tmp_path / "mine")
    result = train(config, callbacks=[mine], loggers=[logger])
    assert (result.step, result.exit_code, mine.steps) == (6, 0, 6)
    assert (result.model / "config.json").is_file()
    assert len((tmp_path / "mine/lightning_logs/version_0/metrics.csv").read_text().splitlines()) == 1 + 6 + 1
    assert not (tmp_path / "runs" / "run" / "metrics.csv").exists()


def test_a_refused_continuation_leaves_everything_as_it_is(config, tmp_path):
    assert train(config).exit_code == 0
    run_dir = tmp_path / "runs" / "run"
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    config.seed, config.trainer.max_steps = 1, 8
    with pytest.raises(ValueError, match="seed=1, but this training began with 0"):
        train(config)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
