import math

import pytest

from crosslayer.training.recipe import Recipe
from crosslayer.training.schedule import final_step, rate_factor


def test_milestones_divide_by_ten():
    recipe = Recipe(warmup_epochs=2, milestones=(4, 6))
    factors = [rate_factor(recipe, step, steps_per_epoch=10) for step in (0, 10, 20, 39, 40, 59, 60)]
    assert factors == pytest.approx([0.01, 0.505, 1, 1, 0.1, 0.1, 0.01])


def test_cosine_falls_to_zero_after_the_warm_up():
    recipe = Recipe(schedule="cosine", epochs=6, warmup_epochs=2, lr=0.4)
    factors = [rate_factor(recipe, step, steps_per_epoch=10) for step in (0, 10, 20, 40, 59, 60)]
    last = (1 + math.cos(math.pi * 39 / 40)) / 2
    assert factors == pytest.approx([0.01, 0.505, 1, 0.5, last, 0], abs=1e-12)


def test_a_line_falls_to_zero_after_the_warm_up():
    recipe = Recipe(schedule="linear", epochs=6, warmup_epochs=2, lr=0.4)
    factors = [rate_factor(recipe, step, steps_per_epoch=10) for step in (0, 10, 20, 40, 59, 60)]
    assert factors == pytest.approx([0.01, 0.505, 1, 0.5, 1 / 40, 0], abs=1e-12)


def test_small_steps_of_whole_epochs():
    recipe = Recipe(schedule="step", warmup_epochs=1, decay_epochs=2.4, decay_rate=0.5)
    factors = [rate_factor(recipe, step, steps_per_epoch=10) for step in (0, 10, 29, 30, 49, 50, 79, 80)]
    assert factors == pytest.approx([0.01, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.125])  # after epochs 3, 5 and 8


def test_final_step():
    assert final_step(Recipe(epochs=3), 10) == 30
    assert final_step(Recipe(epochs=3, max_steps=7), 10) == 7
    assert final_step(Recipe(epochs=3, max_steps=70), 10) == 30
