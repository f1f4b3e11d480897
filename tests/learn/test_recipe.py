"""Recipes: what they hold, and what is refused."""

import json

import pytest

from stepstream import InputError
from stepstream.learn.recipe import Recipe


def test_a_recipe_survives_json():
    recipe = Recipe(cell="gru", units=(8,), window=7, state_passing=0.5, class_weights={"a": 1, "b": 2.5})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json("{}") == Recipe()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cell": "transformer"}, "cell: expected one of lstm, gru, rnn, got 'transformer'"),
        ({"loss": "first"}, "loss: expected one of last, mean, ramp"),
        ({"units": ()}, "units: expected a number for each recurrent layer"),
        ({"units": (8, 0)}, "units: expected a whole number from 1"),
        ({"dropout": 1.0}, "dropout: expected a number from 0 to 0.999, got 1.0"),
        ({"rate": 0}, "rate: expected a number above 0"),
        ({"clip": 0}, "clip: expected a number above 0"),
        ({"noise": float("nan")}, "noise: expected a number from 0, got nan"),
        ({"epochs": True}, "epochs: expected a whole number"),
        ({"state_passing": 1.5}, "state_passing: expected a number from 0 to 1"),
        ({"truncated": 10, "window": 7}, "window: expected none beside truncated=10"),
        ({"truncated": 10, "prefixes": 0.5}, "prefixes: expected none beside truncated=10"),
        ({"class_weights": "equal"}, 'class_weights: expected None, "balanced"'),
        ({"class_weights": {"a": 0, "b": 0}}, "class_weights: expected one above 0 at least"),
        ({"class_weights": {"a": -1}}, "class_weights of 'a': expected a number from 0"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        Recipe(**settings)


@pytest.mark.parametrize("text", ["no json", "[1]", json.dumps({"learning_rate": 1})])
def test_a_recipe_of_another_kind_is_refused(text):
    with pytest.raises(InputError, match="recipe: expected"):
        Recipe.from_json(text)


def test_a_setting_given_twice_is_refused():
    with pytest.raises(InputError, match="recipe: expected every name once in an object, got 'epochs' twice"):
        Recipe.from_json('{"epochs": 3, "epochs": 4}')
