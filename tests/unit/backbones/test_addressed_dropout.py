import keras
import numpy as np
import pytest
import tensorflow as tf

from tljobs.backbones.dropout import AddressedDropout, addressed, set_batch_slice

ROWS = np.random.default_rng(0).normal(size=(16, 5, 5, 8)).astype("float32")


def worker(offset: int, noise_shape: tuple[int | None, ...] | None = None) -> AddressedDropout:
    layer = AddressedDropout(0.4, noise_shape, seed=7)
    layer.global_batch, layer.offset = 16, offset
    return layer


@pytest.mark.parametrize("noise_shape", [None, (None, 1, 1, 1), (None, 1, 1, None)])
def test_two_workers_drop_what_one_process_drops_step_by_step(noise_shape: tuple[int | None, ...] | None) -> None:
    one, first, second = (worker(offset, noise_shape) for offset in (0, 0, 8))
    for _ in range(3):
        whole = np.asarray(one(ROWS, training=True))
        parts = [np.asarray(first(ROWS[:8], training=True)), np.asarray(second(ROWS[8:], training=True))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_masks_are_the_same_inside_a_traced_step() -> None:
    eager, traced = worker(8), worker(8)

    @tf.function
    def step(rows: tf.Tensor) -> tf.Tensor:
        return traced(rows, training=True)

    for _ in range(2):
        np.testing.assert_array_equal(step(ROWS[8:]), eager(ROWS[8:], training=True))


def test_state_advances_by_one_per_step_and_restores_the_mask() -> None:
    layer = worker(0)
    before = np.asarray(layer.seed_generator.state)
    first = np.asarray(layer(ROWS, training=True))
    assert list(np.asarray(layer.seed_generator.state) - before) == [0, 1]
    assert not np.array_equal(first, layer(ROWS, training=True))
    layer.seed_generator.state.assign(before)
    np.testing.assert_array_equal(first, layer(ROWS, training=True))
    assert any(variable is layer.seed_generator.state for variable in layer.variables)


def test_drops_the_asked_share_and_keeps_the_mean() -> None:
    dropped = np.asarray(AddressedDropout(0.3, seed=1)(np.ones((500, 200), "float32"), training=True))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.7)}
    assert (dropped == 0).mean() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean() == pytest.approx(1, abs=0.01)


def test_one_number_per_image_with_a_noise_shape() -> None:
    dropped = np.asarray(worker(0, (None, 1, 1, 1))(np.ones_like(ROWS), training=True)).reshape(16, -1)
    assert (dropped == dropped[:, :1]).all()
    assert len(np.unique(dropped)) == 2


def test_does_nothing_without_training() -> None:
    np.testing.assert_array_equal(worker(0)(ROWS, training=False), ROWS)


def test_takes_the_place_of_keras_dropouts_only() -> None:
    spatial = addressed(keras.layers.SpatialDropout2D(0.25), "a", 1)
    plain = addressed(keras.layers.Dropout(0.5, noise_shape=(None, 1)), "b", 2)
    assert spatial is not None and (spatial.rate, spatial.noise_shape) == (0.25, (None, 1, 1, None))
    assert plain is not None and (plain.rate, plain.noise_shape, plain.name) == (0.5, (None, 1), "b")
    assert addressed(keras.layers.ReLU(), "c", 3) is None


def test_config_round_trip_and_variable_names() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, AddressedDropout(0.5, seed=3, name="drop")(inputs))
    copy = keras.Model.from_config(model.get_config())
    assert copy.get_layer("drop").seed == 3
    assert [v.path for v in copy.variables] == [v.path for v in model.variables] == [
        "drop_seed_generator/seed_generator_state"
    ]  # fmt: skip


def test_set_batch_slice_reaches_every_layer() -> None:
    inputs = keras.Input((4,))
    x = AddressedDropout(0.5, name="d1")(inputs)
    model = keras.Model(inputs, AddressedDropout(0.5, name="d2")(x))
    set_batch_slice(model, global_batch=32, offset=16)
    slices = [(model.get_layer(name).global_batch, model.get_layer(name).offset) for name in ("d1", "d2")]
    assert slices == [(32, 16), (32, 16)]
