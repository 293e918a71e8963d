"""Two trainings in one folder; signals at any time; processes that do not outlive those they work for."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from crosslayer.cli import main
from crosslayer.errors import UsageError
from crosslayer.training.lock import RunLock
from tests.faults.conftest import Sound, assert_same_run, assert_told

HOLD = """
import sys, time
from pathlib import Path
from crosslayer.training.lock import RunLock
RunLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(100)
"""


@pytest.fixture
def held(tmp_path: Path, sound: Sound):
    """A run that another process trains."""
    run = sound.copy(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", HOLD, run], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield run, process
    process.kill()
    process.communicate()


def test_a_second_training_is_refused(crosslayer, held, sound: Sound):
    run, process = held
    for words in (("train", "--resume", run, "--epochs", 4, "--device", "cpu"), (*sound.words, "--output", run)):
        code, _, err = crosslayer(*words)
        assert_told(code, err, 2)
        assert f"is being trained by process {process.pid} on {os.uname().nodename}" in err
    code, _, err = crosslayer(*sound.words, "--output", run, "--overwrite")
    assert_told(code, err, 2)
    assert (run / "recipe.json").read_text() == (sound.path / "recipe.json").read_text()
    process.kill()
    process.wait()
    assert (run / ".lock").exists()
    code, _, err = crosslayer("train", "--resume", run, "--device", "cpu", "--workers", 1)
    assert code == 0, err
    assert_same_run(run, sound.path)


def test_a_file_system_without_locks(monkeypatch, capsys, tmp_path: Path):
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UsageError, match=f"process {os.getpid()} on .*; if that has ended, remove"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / ".lock").write_text(f'{{"host": "{os.uname().nodename}", "process": {gone.pid}}}')
    first.acquire()
    first.release()
    (tmp_path / ".lock").write_text(f'{{"host": "elsewhere", "process": {gone.pid}}}')
    with pytest.raises(UsageError, match="on elsewhere; wait"):
        first.acquire()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"host": "\\n\\n\\n\\n", "process": 1e30}'])
def test_any_file_of_that_name_is_taken(tmp_path: Path, content: bytes):
    (tmp_path / ".lock").write_bytes(content)
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_training_in_another_thread(sound: Sound, tmp_path: Path):
    codes: list[int] = []
    words = [str(word) for word in (*sound.words, "--output", tmp_path / "run")]
    thread = threading.Thread(target=lambda: codes.append(main(words)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert_same_run(tmp_path / "run", sound.path)


def test_a_signal_leaves_the_checkpoints_of_a_run_without(crosslayer, sound: Sound, tmp_path: Path, monkeypatch):
    """Stopped within the third epoch, and again at its next step."""
    from crosslayer.training import trainer

    run = tmp_path / "run"
    step = trainer.training_step

    def stopped(state, parts):
        if state.progress.step in (4, 5) and state.progress.step not in state.progress.passing:
            os.kill(os.getpid(), signal.SIGHUP)
        return step(state, parts)

    monkeypatch.setattr(trainer, "training_step", stopped)
    code, _, err = crosslayer(*sound.words, "--output", run)
    assert code == 128 + signal.SIGHUP
    assert "saved; go on with" in err
    monkeypatch.setattr(trainer, "training_step", step)
    code, _, err = crosslayer("train", "--resume", run, "--device", "cpu", "--workers", 1)
    assert code == 0, err
    assert_same_run(run, sound.path)


def started(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "crosslayer", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=hears_all)


def hears_all() -> None:
    """What a process must not inherit of tests that were started to run on: signals that are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def ended(process: subprocess.Popen[str], number: int) -> str:
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2, err
    return err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_starting(sound: Sound, tmp_path: Path, number: int):
    code = "import os, sys, threading, time; t = threading.Timer(0.3, os.kill, (os.getpid(), int(sys.argv[1])))"
    code += "; from crosslayer.cli import main; t.start(); sys.argv[1:] = sys.argv[2:]; sys.exit(main())"
    words = [str(word) for word in (number, *sound.words, "--output", tmp_path / "run")]
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hears_all)
    assert ended(process, number) == f"crosslayer: stopped by {signal.Signals(number).name}\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
@pytest.mark.parametrize("delay", [0.2, 0.5, 1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_time(sound: Sound, tmp_path: Path, number: int, delay: float):
    process = started(*sound.words, "--output", tmp_path / "run", "--epochs", 100_000)
    while not (said := Path(f"/proc/{process.pid}/cmdline").read_bytes()) or b"crosslayer" not in said:
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(number)
    if delay > 0.5:  # before, Python itself is starting, which has no words
        ended(process, number)
    process.kill()
    process.communicate()


@pytest.mark.faults
def test_two_signals_end_at_once(sound: Sound, tmp_path: Path):
    run = tmp_path / "run"
    process = started(*sound.words, "--output", run, "--epochs", 100_000)
    wait_for(lambda: (run / "metrics.jsonl").exists())
    process.send_signal(signal.SIGSTOP)  # both come before the step is done
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=30)
    assert process.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def wait_for(happened) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


CROPS = ("--crop", "resized", "--workers", 2, "--loader", "stream")


@pytest.mark.faults
def test_workers_end_with_a_killed_training(sound: Sound, tmp_path: Path):
    run = tmp_path / "run"
    process = started(*sound.words, *CROPS, "--output", run, "--epochs", 100_000)
    wait_for(lambda: (run / "metrics.jsonl").exists())
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(children))


@pytest.mark.faults
def test_a_killed_worker_is_told(sound: Sound, tmp_path: Path):
    run = tmp_path / "run"
    process = started(*sound.words, *CROPS, "--output", run, "--epochs", 100_000)
    wait_for(lambda: (run / "metrics.jsonl").exists())
    children = psutil.Process(process.pid).children(recursive=True)
    grandchildren = [child for child in children if child.ppid() != process.pid]
    grandchildren[0].kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert "a process that decodes images was ended from outside" in err


REPRODUCE = ("reproduce", "table1", "--only", "cifar_resnet20", "none", "--epochs", 1000, "--seeds", "0")


@pytest.mark.faults
def test_runs_of_a_killed_study_end(image_tree: Path, tmp_path: Path):
    small = ("--set", "image_size=8", "batch_size=4", "--device", "cpu", "--workers", 0)
    data = ("--data", f"cifar10={image_tree}", f"cifar100={image_tree}")
    process = started(*REPRODUCE, *data, *small, "--output", tmp_path, "--jobs", 2)
    wait_for(lambda: list(tmp_path.rglob("metrics.jsonl")) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.kill()
    process.communicate()
    wait_for(lambda: not alive(children))
