"""The C++ build at first use: compilers, caches and libraries that are not as they should be."""

import ctypes
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crosslayer.fused.cpu import compiler

REAL = compiler.shutil.which("c++")
needs_compiler = pytest.mark.skipif(REAL is None, reason="no C++ compiler is installed")

ANSWER = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """One small source, a cache of its own, and nothing remembered."""

    def forget():
        for function in (compiler.built_library, compiler.fingerprint, compiler.warn_once):
            function.cache_clear()

    sources = tmp_path / "sources"
    (sources / "answer").mkdir(parents=True)
    (sources / "answer" / "cpu.cpp").write_text(ANSWER)
    monkeypatch.setattr(compiler, "SOURCES", sources)
    monkeypatch.setattr(compiler, "LIBRARIES", ("answer",))
    monkeypatch.setenv("CROSSLAYER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    forget()
    yield forget
    forget()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A shell script that $CXX names."""

    def write(script: str) -> Path:
        path = tmp_path / "fake-c++"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    return write


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "crosslayer"):
        yield lambda: [record.message for record in caplog.records]


def answer() -> int:
    return compiler.library("answer").answer()


def kept(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "native").glob("*"))


def counting(log: Path) -> str:
    """A compiler that writes down each library it makes."""
    return f'case "$*" in *-shared*) echo built >> {log};; esac\nexec {REAL} "$@"'


def builds(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


@needs_compiler
def test_a_library_is_built_once_and_kept(forgetful, fake, tmp_path: Path):
    log = tmp_path / "log"
    fake(counting(log))
    assert answer() == 42
    forgetful()
    assert answer() == 42
    assert builds(log) == 1
    assert len(kept(tmp_path)) == 1


@needs_compiler
@pytest.mark.parametrize("damage", ["truncated", "empty", "bit flipped", "foreign", "a folder"])
def test_a_damaged_library_is_built_anew(damage: str, fake, tmp_path: Path):
    log = tmp_path / "log"
    fake(counting(log))
    program = (  # without PyTorch, which takes seconds to import
        "import runpy, sys; from pathlib import Path; module = runpy.run_path(sys.argv[1]);"
        "module['library'].__globals__.update(SOURCES=Path(sys.argv[2]));"
        "print(module['library']('answer').answer())"
    )

    def in_a_process() -> str:
        command = [sys.executable, "-c", program, str(compiler.__file__), str(compiler.SOURCES)]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()

    assert in_a_process() == "42"
    (path,) = kept(tmp_path)
    content = path.read_bytes()
    middle = len(content) // 2
    made = {
        "truncated": content[:middle],
        "empty": b"",
        "bit flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "foreign": b"MZ" + content,
    }
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(made[damage])
    assert in_a_process() == "42"
    assert builds(log) == 2
    if damage != "a folder":
        assert in_a_process() == "42"
        assert builds(log) == 2


@needs_compiler
def test_a_library_with_the_right_digest_that_cannot_be_loaded_is_built_anew(forgetful, fake, tmp_path: Path):
    fake(counting(tmp_path / "log"))
    assert answer() == 42
    (path,) = kept(tmp_path)
    path.unlink()
    foreign = b"\x7fELF of another machine"
    name = path.name.rsplit("-", 1)[0]
    path.with_name(f"{name}-{compiler.digest(foreign)}.so").write_bytes(foreign)
    forgetful()
    assert answer() == 42
    assert builds(tmp_path / "log") == 2


@needs_compiler
def test_cxx_is_a_command_line(monkeypatch: pytest.MonkeyPatch, forgetful, tmp_path: Path):
    monkeypatch.setenv("CXX", f"env {REAL} -DONE='2 - 1'")
    (compiler.SOURCES / "answer" / "cpu.cpp").write_text('extern "C" int answer() { return 41 + ONE; }\n')
    assert answer() == 42
    monkeypatch.setenv("CXX", f"env {REAL} -DONE=2")
    forgetful()
    assert answer() == 43  # other flags, another library


def test_a_cxx_that_is_no_command_line_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "g++ '")
    assert "No closing quotation" in (compiler.obstacle() or "")


def test_an_obstacle_is_a_warning_of_one_line_once(monkeypatch: pytest.MonkeyPatch, messages):
    monkeypatch.setenv("CXX", "no-such-compiler")
    for _ in range(2):
        assert compiler.obstacle() == "no C++ compiler is installed (c++, or what CXX names)"
    assert len(messages()) == 1
    assert "plain PyTorch is slower: no C++ compiler is installed" in messages()[0]


def test_messages_need_not_be_utf8(fake, messages):
    fake(r"""[ "$1" = --version ] && { printf '\377\n'; exit 0; }
printf 'kaputt: \344\n\n  line two\n' >&2
exit 1""")
    reason = compiler.obstacle() or ""
    assert "cannot compile answer/cpu.cpp: kaputt: \N{REPLACEMENT CHARACTER} line two" in reason
    assert "\n" not in messages()[0]


def test_a_program_that_cannot_run_is_an_obstacle(fake):
    path = fake("")
    path.write_bytes(b"\x7fELF nothing")
    assert "cannot be built" in (compiler.obstacle() or "")


@needs_compiler
def test_without_a_home_another_folder_serves(monkeypatch: pytest.MonkeyPatch, forgetful, fake, tmp_path: Path):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    log = tmp_path / "log"
    fake(counting(log))
    monkeypatch.delenv("CROSSLAYER_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert answer() == 42
    assert compiler.cache_folder() == tmp_path / "temporary" / f"crosslayer-{os.getuid()}" / "native"
    forgetful()
    assert answer() == 42
    assert builds(log) == 1


def test_a_tilde_in_the_cache_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CROSSLAYER_CACHE", "~/kept")
    assert compiler.cache_folder() == tmp_path / "kept" / "native"
    monkeypatch.delenv("CROSSLAYER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert compiler.cache_folder() == tmp_path / ".cache" / "crosslayer" / "native"


@needs_compiler
def test_where_nothing_can_be_kept_the_library_is_loaded_from_where_it_was_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, messages
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CROSSLAYER_CACHE", str(tmp_path / "file"))
    assert answer() == 42
    assert len(messages()) == 1
    assert "built anew by each process" in messages()[0]


@needs_compiler
def test_a_full_disk_leaves_nothing_and_the_library_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, messages):
    def full(_descriptor: int):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compiler.os, "fsync", full)
    assert answer() == 42
    assert kept(tmp_path) == []
    assert "No space left on device" in messages()[0]


@needs_compiler
def test_what_others_may_write_to_is_not_loaded(tmp_path: Path, messages):
    folder = tmp_path / "cache" / "native"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert answer() == 42
    assert kept(tmp_path) == []
    assert "others may write" in messages()[0]


@needs_compiler
def test_what_killed_builds_left_is_removed_after_an_hour(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    temporary, folder = tmp_path / "temporary", tmp_path / "cache" / "native"
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(temporary))
    old, new = temporary / f"{compiler.PREFIX}old", temporary / f"{compiler.PREFIX}new"
    for path in (old, new, folder):
        path.mkdir(parents=True)
    (old / "library.so").touch()
    partial = folder / f"{compiler.PREFIX}partial"
    partial.touch()
    long_ago = time.time() - 2 * compiler.STALE
    for path in (old, partial):
        os.utime(path, (long_ago, long_ago))
    assert answer() == 42
    assert list(temporary.iterdir()) == [new]
    assert not partial.exists()


@needs_compiler
def test_an_interrupted_build_leaves_nothing_and_may_be_begun_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def interrupted(_command: list[str]) -> bytes:
        raise KeyboardInterrupt

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(compiler.tempfile, "tempdir", str(temporary))
    compiler.fingerprint(compiler.compiler())
    with monkeypatch.context() as patch:
        patch.setattr(compiler, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer()
    assert not list(temporary.iterdir())
    assert answer() == 42


@needs_compiler
def test_two_builds_at_once_are_both_fine(fake, tmp_path: Path):
    fake(f"sleep 0.1\n{counting(tmp_path / 'log')}")
    made: list[ctypes.CDLL | str] = []
    threads = [
        threading.Thread(target=lambda: made.append(compiler.built_library.__wrapped__("answer"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.answer() for one in made if isinstance(one, ctypes.CDLL)] == [42, 42]
    assert not [path for path in kept(tmp_path) if path.name.startswith(compiler.PREFIX)]


def test_a_library_is_named_after_what_native_means_to_the_compiler(fake, forgetful):
    prints = 'case "$*" in *-dM*) echo "#define {}";; esac'
    names = []
    for feature in ("__AVX2__ 1", "__AVX512F__ 1", "__AVX2__ 1"):
        path = fake(prints.format(feature))
        forgetful()
        names.append(compiler.fingerprint((str(path),)))
    assert names[0] == names[2] != names[1]


def test_where_the_compiler_does_not_say_the_system_is_asked(fake, monkeypatch: pytest.MonkeyPatch):
    path = fake('[ "$1" = --version ]')
    monkeypatch.setattr(compiler, "processor_features", lambda: "Features: many")
    assert compiler.processor((str(path),)) == b"Features: many"


@needs_compiler
def test_build_all_tells_what_it_does_where_there_is_something_to_do(forgetful):
    lines: list[str] = []
    assert compiler.build_all(lines.append) > 0
    assert lines[0] == "building C++ kernels …"
    assert lines[1].startswith("building C++ kernels took ")
    forgetful()
    compiler.build_all(lines.append)
    assert len(lines) == 2
    assert answer() == 42


def test_build_all_tells_why_nothing_came_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    lines: list[str] = []
    compiler.build_all(lines.append)
    assert "no C++ compiler is installed" in lines[-1]
