import keras
import numpy as np
import pytest

from tljobs.backbones.cuts import cut_points, split
from tljobs.backbones.graph import flatten, leaf_operations, steady_names
from tljobs.errors import InputRefused


def residual_model() -> keras.Model:
    """a -> b -> [c, d joined by add] -> e; and a nested model at the end."""
    inputs = keras.Input((8,), name="in")
    x = keras.layers.Dense(8, name="a")(inputs)
    x = y = keras.layers.Dense(6, name="b")(x)
    y = keras.layers.Dense(6, name="c")(y)
    y = keras.layers.Dense(6, name="d")(y)
    x = keras.layers.Add(name="add")([x, y])
    nested = keras.Sequential([keras.layers.Dense(4, name="e"), keras.layers.Dense(3, name="f")], name="nested")
    return keras.Model(inputs, nested(x))


def test_cuts_lie_exactly_where_one_tensor_separates_input_from_output() -> None:
    cuts = cut_points(flatten(residual_model()))
    assert [cut.layer for cut in cuts] == ["a", "b", "add", "e"]
    assert [[op.name for op in cut.new_layers] for cut in cuts] == [["a"], ["b"], ["c", "d", "add"], ["e"]]
    assert [cut.bytes_per_image for cut in cuts] == [32, 24, 24, 16]


def test_flatten_shares_the_weights_and_the_result() -> None:
    model = residual_model()
    flat = flatten(model)
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    assert {id(w) for w in flat.weights} == {id(w) for w in model.weights}
    np.testing.assert_array_equal(flat(rows), model(rows))


def test_top_of_trunk_equals_the_whole_at_every_cut() -> None:
    model = flatten(residual_model())
    rows = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    for cut in cut_points(model):
        trunk, top = split(model, cut.tensor)
        np.testing.assert_array_equal(top(trunk(rows)), model(rows))
        assert {id(w) for w in trunk.weights} | {id(w) for w in top.weights} == {id(w) for w in model.weights}
        assert trunk.layers[-1].name == cut.layer


def test_no_cut_between_two_uses_of_one_layer() -> None:
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    x = keras.layers.Dense(4, name="low")(inputs)
    x = keras.layers.ReLU(name="between")(shared(x))
    x = keras.layers.Dense(2, name="high")(shared(x))
    x = keras.layers.Softmax(name="out")(x)
    assert [cut.layer for cut in cut_points(keras.Model(inputs, x))] == ["low", "shared", "high"]


def test_steady_names_do_not_depend_on_what_was_built_before() -> None:
    def names() -> list[str]:
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(2, 3)(inputs)
        x = keras.layers.Conv2D(2, 3, name="mine")(x)
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(x))
        model = keras.Model(inputs, keras.ops.flip(x, axis=-1))
        found = steady_names(model)
        return [found[id(operation)] for operation in leaf_operations(model)]

    assert names() == names() == ["conv2d", "mine", "conv2d_1", "global_average_pooling2d", "flip"]


def test_a_subclassed_model_is_refused() -> None:
    class Own(keras.Model):
        pass

    with pytest.raises(InputRefused, match="not a functional model"):
        cut_points(Own())
