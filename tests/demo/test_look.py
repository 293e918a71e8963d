"""What the page shows is what the commands say; a network that does not look back has no pictures of it."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import crosslayer as package
from crosslayer.demo.look import look


def test_a_picture_is_seen_as_predict_and_attention_see_it(demo_runs: dict[str, Path], image_tree: Path):
    classifier = package.load(demo_runs["dla_l"])
    picture = image_tree / "val" / "dark" / "0.png"
    seen = look(classifier, picture)
    (prediction,) = classifier.predict(picture)
    assert list(seen.ranking.items()) == list(prediction.ranking)
    assert seen.overlay is not None
    assert (seen.overlay.shape, seen.overlay.dtype) == ((384, 384, 3), np.uint8)
    assert isinstance(seen.attention, Figure)
    (matrices,) = package.attention(classifier.network, classifier.transform(picture)[None])[2].mean(1)
    written = [float(text.get_text()) for text in seen.attention.axes[2].texts]
    assert written == pytest.approx(
        [float(matrices[row, column]) for row, column in ((0, 0), (1, 0), (1, 1))], abs=5e-3
    )


def test_the_overlay_is_the_picture_where_it_is_not_looked_at(demo_runs: dict[str, Path], monkeypatch):
    from crosslayer.demo import look as module

    classifier = package.load(demo_runs["dla_l"])
    white = np.full((8, 8, 3), 255, np.uint8)
    real = module.explain
    monkeypatch.setattr(module, "explain", lambda *given: real(*given)._replace(cam=real(*given).cam * 0))
    overlay = look(classifier, white).overlay
    assert overlay is not None
    assert np.ptp(overlay, axis=(0, 1)).max() <= 1
    assert overlay.mean() == pytest.approx(128, abs=2)


def test_no_pictures_of_a_network_that_does_not_look_back(demo_runs: dict[str, Path], image_tree: Path):
    seen = look(package.load(demo_runs["se"]), image_tree / "val" / "dark" / "0.png")
    assert set(seen.ranking) == {"bright", "dark"}
    assert seen.overlay is None
    assert seen.attention is None


def test_what_is_no_picture_is_told(demo_runs: dict[str, Path], tmp_path: Path):
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(RuntimeError, match="cannot decode"):
        look(package.load(demo_runs["se"]), tmp_path / "x.png")
