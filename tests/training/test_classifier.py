"""A run's classifier in Python, saved, and pushed to a local stand-in for the hub."""

import base64
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

import crosslayer
from crosslayer.errors import FailedError, UsageError
from tests.conftest import QUICK


@pytest.fixture(scope="module")
def run(image_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from crosslayer.cli import main

    output = tmp_path_factory.mktemp("runs") / "run"
    words = ["train", "digits", "--data", image_tree, *QUICK, "--no-fused", "--output", output]
    assert main([str(word) for word in words]) == 0
    return output


def agree(ours: list, theirs: list) -> None:
    """The same classes; probabilities up to the rounding of another batch size or memory format."""
    assert [p.class_name for p in ours] == [p.class_name for p in theirs]
    assert [p.probability for p in ours] == pytest.approx([p.probability for p in theirs], rel=1e-5)


def test_a_loaded_run_predicts(run: Path, image_tree: Path):
    classifier = crosslayer.load(run)
    assert classifier.class_names == ("bright", "dark")
    files = sorted((image_tree / "val").rglob("*.png"))
    from_files = classifier.predict(files)
    pictures = [Image.open(file) for file in files]
    arrays = [np.asarray(picture) for picture in pictures]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    agree(classifier.predict([str(file) for file in files], batch_size=2), from_files)
    for same in (pictures, arrays, tensors, np.stack(arrays)):
        agree(classifier.predict(same), from_files)
    one = classifier.predict(pictures[0], top=1)[0]
    assert (one.class_name, len(one.ranking)) == (from_files[0].class_name, 1)
    assert sum(share for _, share in from_files[0].ranking) == pytest.approx(1)
    logits = classifier(classifier.transform(files[0])[None])
    assert one.probability == pytest.approx(float(logits.detach().softmax(1).max()))


def test_what_is_no_picture_is_refused(run: Path, tmp_path: Path, image_tree: Path):
    classifier = crosslayer.load(run)
    with pytest.raises(UsageError, match="there is no image file"):
        classifier.predict(tmp_path / "none.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(FailedError, match=r"cannot decode .*broken"):
        classifier.predict(tmp_path / "broken.png")
    with pytest.raises(ValueError, match="is no picture; give bytes"):
        classifier.predict(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="top is 0"):
        classifier.predict([], top=0)
    with pytest.raises(ValueError, match="no OWNER/NAME"):
        crosslayer.load(tmp_path / "a" / "b" / "c")


def test_a_loaded_run_brings_no_plots_or_bars(run: Path, image_tree: Path):
    file = next((image_tree / "val").rglob("*.png"))
    script = (
        "import sys, crosslayer\n"
        f"print(crosslayer.load({str(run)!r}).predict({str(file)!r})[0].class_name)\n"
        "print([name for name in ('matplotlib', 'rich', 'tyro', 'tensorboard') if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    name, brought = ended.stdout.splitlines()
    assert name in ("bright", "dark")
    assert brought == "[]"


def test_a_saved_run_is_the_same_classifier(run: Path, image_tree: Path, tmp_path: Path):
    classifier = crosslayer.load(run)
    classifier.save_pretrained(tmp_path / "saved")
    again = crosslayer.load(tmp_path / "saved")
    files = sorted((image_tree / "val").rglob("*.png"))
    agree(again.predict(files), classifier.predict(files))
    card = (tmp_path / "saved" / "README.md").read_text()
    summary = json.loads((run / "summary.json").read_text())
    assert f"| top-1 on the validation split (%) | {summary['last']['val/top1']:.2f} |" in card
    assert "`bright`, `dark`" in card
    assert card.startswith("---\nlibrary_name: ")


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face Hub as one repository needs: make, commit, read; files are kept in `files`."""

    files: dict[str, bytes]
    refuses: bool

    def log_message(self, *_words: object) -> None:
        """Says nothing."""

    def answer(self, content: object, code: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if type(self).refuses:
            return self.answer({"error": "you may not write here"}, 403)
        if self.path.startswith("/api/repos/create"):
            asked = json.loads(given)
            name = f"{asked.get('organization', 'someone')}/{asked['name']}"
            return self.answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        if "/preupload/" in self.path:
            files = [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(given)["files"]]
            return self.answer({"files": [{k: f[k] for k in ("path", "uploadMode", "shouldIgnore")} for f in files]})
        if "/commit/" in self.path:
            for line in map(json.loads, given.splitlines()):
                if line["key"] == "file":
                    type(self).files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/someone/net/commit/1",
                    "commitOid": "1" * 40,
                    "success": True,
                }
            )
        return self.answer({"type": "model"})

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        if "/resolve/" not in self.path:
            return self.answer({"id": "someone/net", "sha": "1" * 40, "siblings": []})
        if name not in type(self).files:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        content = type(self).files[name]
        tag = hashlib.sha256(content).hexdigest()
        return self.answer(content, ETag=f'"{tag}"', X_Repo_Commit="1" * 40)

    do_HEAD = do_GET  # noqa: N815  # the server looks for these names


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    kind = type("OneHub", (Hub,), {"files": {}, "refuses": False})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    yield kind
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_is_pushed_and_comes_back(
    run: Path, hub: type[Hub], crosslayer: Callable, image_tree: Path, tmp_path: Path
):
    from crosslayer import from_pretrained, load

    code, out, err = crosslayer("push", run, "someone/net")
    assert (code, err.count("cannot push")) == (0, 0), err
    assert "pushed to someone/net: http://127.0.0.1" in out
    assert {"README.md", "config.json", "model.safetensors"} <= set(hub.files)
    assert b'crosslayer.from_pretrained("someone/net")' in hub.files["README.md"]
    files = sorted((image_tree / "val").rglob("*.png"))
    again = load("someone/net")
    agree(again.predict(files), load(run).predict(files))
    assert from_pretrained("someone/net", cache_dir=tmp_path).num_classes == 2


def test_what_goes_wrong_with_the_hub_is_one_sentence(run: Path, hub: type[Hub], crosslayer: Callable):
    code, _, err = crosslayer("push", run, "net")
    assert code == 2
    assert "write it as OWNER/NAME" in err
    hub.refuses = True
    code, _, err = crosslayer("push", run, "someone/net")
    assert code == 1
    assert err.startswith("crosslayer: cannot push to someone/net: ")
    assert err.count("\n") == 1
    assert hub.files == {}
    from crosslayer import from_pretrained

    with pytest.raises(FailedError, match=r"config.json of the repository cannot be had"):
        from_pretrained("someone/net")
