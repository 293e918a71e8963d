"""Runs that are really trained: side by side, stopped, resumed, failed, and on a cluster that loses a worker."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from crosslayer.reproduce import local, ray_engine
from crosslayer.reproduce.plan import Planned
from crosslayer.reproduce.remote import Task, pack, train_here, unpack
from crosslayer.training.checkpoint import saved_steps
from tests.reproduce.made import planned

SETTINGS = ("batch_size=8", "image_size=8")
ONLY = ("cifar10", "cifar_resnet20")
LAUNCH = ["--device", "cpu", "--workers", "1"]
DEADLINE = 120
"""Seconds after which what should have happened has not."""


def runs_on(tree: Path, output: Path, *mechanisms: str, epochs: int = 1) -> list[Planned]:
    data = (str(tree),)
    return planned(output, seeds=(0,), only=(*ONLY, *mechanisms), epochs=epochs, settings=SETTINGS, data=data)


def words_for(tree: Path, output: Path, *mechanisms: str, epochs: int = 1) -> list[str]:
    words = ["table1", "--only", *ONLY, *mechanisms, "--seeds", "0", "--epochs", epochs, "--set", *SETTINGS]
    return [str(word) for word in ["reproduce", *words, "--data", tree, "--output", output, *LAUNCH]]


def test_jobs_share_the_machine(monkeypatch):
    for name in (*local.THREADS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(local, "own_cores", lambda: 16)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert local.share_of_machine(3, 5) == {"OMP_NUM_THREADS": "3", "TORCHINDUCTOR_COMPILE_THREADS": "3"}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert local.share_of_machine(3, 32) == {"TORCHINDUCTOR_COMPILE_THREADS": "1", "CUDA_VISIBLE_DEVICES": "1"}
    assert local.own_cores() >= 1


def test_who_shares_a_gpu_is_told(monkeypatch):
    for gpus, jobs, told in (
        (0, 5, None),
        (1, 1, None),
        (2, 2, None),
        (1, 5, "5 runs share 1 GPU:"),
        (2, 3, "2 GPUs:"),
    ):
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        advice = local.on_sharing(jobs)
        assert advice is None if told is None else told in advice


def wait_until(condition) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


@pytest.mark.slow
def test_failed_runs_do_not_stop_others_and_broken_ones_go_on(crosslayer, image_tree: Path, tmp_path: Path):
    plain, se, eca = runs_on(image_tree, tmp_path, "none", "se", "eca")
    assert crosslayer(*plain.words(), *LAUNCH)[0] == 0
    (plain.path / "summary.json").unlink()
    se.path.mkdir(parents=True)
    (se.path / "thesis.txt").write_text("in the way")
    words = words_for(image_tree, tmp_path, "none", "se", "eca")
    code, out, err = crosslayer(*words, "--jobs", 2)
    assert code == 1
    assert "3 runs, 0 finished, 1 to be resumed" in out
    assert f"1 of 3 runs failed; the first, {se.name}: --output {se.path}: the folder holds other files" in err
    assert [run.state() for run in (plain, se, eca)] == ["finished", "absent", "finished"]
    assert "already trained" in (tmp_path / "logs" / f"{plain.name}.log").read_text()
    assert "not run" in (tmp_path / "table1.md").read_text()
    (se.path / "thesis.txt").unlink()
    code, out, err = crosslayer(*words)
    assert code == 0, err
    assert "3 runs, 2 finished, 0 to be resumed" in out
    assert out.count("begins") == 1
    assert "not run" not in (tmp_path / "table1.md").read_text()


@pytest.mark.slow
def test_a_signal_is_passed_on_and_runs_save(image_tree: Path, tmp_path: Path):
    (run,) = runs_on(image_tree, tmp_path, "none", epochs=10000)
    words = words_for(image_tree, tmp_path, "none", epochs=10000)
    process = subprocess.Popen([sys.executable, "-m", "crosslayer", *words], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: saved_steps(run.path / "checkpoints"))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 128 + signal.SIGINT
    assert "the same command goes on" in err
    assert "stopped by a signal" in (tmp_path / "logs" / f"{run.name}.log").read_text()
    assert run.state() == "broken"
    assert run.words()[:2] == ["train", "--resume"]


def task_for(run: Planned, token: Path, begun: bytes | None = None) -> Task:
    return Task(run.fresh_words(), str(run.path), str(token), begun, LAUNCH)


@pytest.mark.slow
def test_a_worker_without_the_folder_sends_the_run_back(image_tree: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    (run,) = runs_on(image_tree, tmp_path / "here", "se")
    outcome = train_here(task_for(run, tmp_path / "absent-1"), "there")
    assert outcome.code == 0, outcome.reason
    assert outcome.archive is not None
    assert not run.path.exists()
    unpack(outcome.archive, run.path)
    assert run.state() == "finished"
    (run.path / "summary.json").unlink()
    outcome = train_here(task_for(run, tmp_path / "absent-2", pack(run.path)), "there")
    assert outcome.code == 0, outcome.reason
    assert "already trained" in capsys.readouterr().out


def test_a_worker_says_why_a_run_failed(tmp_path: Path, capsys):
    (tmp_path / "images").write_text("no folder")
    (run,) = runs_on(tmp_path / "images", tmp_path / "here", "se")
    outcome = train_here(task_for(run, tmp_path / "absent"), "there")
    assert outcome.code == 2
    assert "this is a file, not a folder" in outcome.reason


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")  # ray's
def test_ray_survives_a_lost_worker(image_tree: Path, tmp_path: Path, monkeypatch):
    pytest.importorskip("ray", reason="ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    room = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=room | {"num_cpus": 0, "include_dashboard": False})
    told: list[str] = []
    runs = runs_on(image_tree, tmp_path, "none", "se", epochs=60)
    try:
        _, doomed = cluster.add_node(**room), cluster.add_node(**room)

        def kill() -> None:
            wait_until(lambda: all(saved_steps(run.path / "checkpoints") for run in runs))
            told.append("a node is lost")
            cluster.remove_node(doomed, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        failures = ray_engine.run_on_ray(runs, None, LAUNCH, cluster.address, told.append)
        killer.join()
    finally:
        cluster.shutdown()
    assert not failures, told
    assert told[0] == "a node is lost"
    assert len({line.split()[2:4][-1] for line in told[1:]}) == 1, "both were finished by the node that was left"
    for run in runs:
        assert run.state() == "finished"
        rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in rows] == list(range(1, 61))


def test_an_address_without_a_cluster_is_told_at_once(crosslayer, image_tree: Path, tmp_path: Path):
    pytest.importorskip("ray", reason="ray is not installed")
    words = words_for(image_tree, tmp_path, "none")
    code, _, err = crosslayer(*words, "--engine", "ray", "--address", "127.0.0.1:1")
    assert code == 2
    assert "--address 127.0.0.1:1: no ray cluster answers there (Connection refused)" in err
    assert not list(tmp_path.iterdir())
