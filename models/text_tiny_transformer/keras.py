"""text_tiny_transformer in Keras: the same network as torch.py. Layers have their names there, with _ for the dots."""

import math
from typing import Any

import keras
from keras import layers, ops

from pipeline.core import ModelSpec

WIDTH, HIDDEN, HEADS, LAYERS = 64, 128, 4, 2
FAR = 1e4


def small() -> keras.Initializer:
    """Initial values of tables and of the last layer."""
    return keras.initializers.RandomNormal(0.0, 0.02)


class Positions(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Adds a vector for each place to (N, length, WIDTH)."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="embeddings", shape=shape[1:], initializer=small())

    def call(self, x: Any) -> Any:
        return x + self.table


class Used(layers.Layer):  # type: ignore[misc]
    """(N, length) token ids to (N, length, 1): 1, and 0 where there is padding."""

    def __init__(self, padding: int, **options: Any) -> None:
        super().__init__(**options)
        self.padding = padding

    def call(self, ids: Any) -> Any:
        return ops.cast(ops.not_equal(ids, self.padding), "float32")[:, :, None]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "padding": self.padding}


class Attention(layers.Layer):  # type: ignore[misc]
    """Queries, keys and values (N, length, WIDTH) and what is used to (N, length, WIDTH)."""

    def call(self, query: Any, key: Any, value: Any, used: Any) -> Any:
        query, key, value = (heads(x) for x in (query, key, value))
        ignored = (1 - ops.transpose(used, (0, 2, 1))[:, None]) * FAR
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * (1 / math.sqrt(WIDTH // HEADS)) - ignored
        found = ops.transpose(ops.matmul(ops.softmax(scores, -1), value), (0, 2, 1, 3))
        return ops.reshape(found, (-1, found.shape[1], WIDTH))


def heads(x: Any) -> Any:
    """(N, length, WIDTH) to (N, HEADS, length, WIDTH / HEADS)."""
    return ops.transpose(ops.reshape(x, (-1, x.shape[1], HEADS, WIDTH // HEADS)), (0, 2, 1, 3))


class Mean(layers.Layer):  # type: ignore[misc]
    """The mean of the used tokens."""

    def call(self, x: Any, used: Any) -> Any:
        return ops.sum(x * used, 1) / ops.maximum(ops.sum(used, 1), 1.0)


def layer(x: keras.KerasTensor, used: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Self-attention and two dense layers, both added to their input."""
    y = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_before")(x)
    query, key, value = (layers.Dense(WIDTH, name=f"{name}_{part}")(y) for part in ("query", "key", "value"))
    found = layers.Dense(WIDTH, name=f"{name}_out")(Attention()(query, key, value, used))
    x = layers.Add()([x, found])
    y = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_after")(x)
    y = layers.Dense(HIDDEN, activation="relu", name=f"{name}_up")(y)
    return layers.Add()([x, layers.Dense(WIDTH, name=f"{name}_down")(y)])


def build(spec: ModelSpec) -> keras.Model:
    """An untrained network for the spec: (N, length) token ids to (N, classes) logits."""
    assert spec.tokens is not None and spec.inputs[0].value_range is not None
    ids = keras.Input(spec.inputs[0].shape, dtype="int32")
    vocabulary = int(spec.inputs[0].value_range[1]) + 1
    x = Positions(name="positions")(layers.Embedding(vocabulary, WIDTH, small(), name="tokens")(ids))
    used = Used(spec.tokens.padding)(ids)
    for i in range(LAYERS):
        x = layer(x, used, f"layers_{i}")
    x = layers.LayerNormalization(epsilon=1e-5, name="last")(x)
    return keras.Model(ids, layers.Dense(spec.classes, kernel_initializer=small(), name="classifier")(Mean()(x, used)))
