"""Compiles what functions of Theano commonly consist of, into the image, so that a pod need not: see theano_cache.py.

Theano compiles each operation by itself, and finds it again by its code: any function that has an operation of these
needs no compiler for it. They are those of dense, recurrent (simple, GRU, LSTM) and convolutional networks.
"""

import os
import sys

from loader.bundle import theano_cache, theano_compat

if not theano_cache.processor_is_known():
    sys.exit(print("This processor cannot run x86-64-v3: pods compile Theano's operations themselves."))
os.environ["THEANO_COMPILEDIR"] = str(theano_cache.BAKED)
os.environ["THEANO_FLAGS"] = f"gcc.cxxflags={theano_cache.BAKED_FOR}"
theano_compat.prepare()

import numpy as np  # noqa: E402
import theano  # noqa: E402
import theano.tensor as T  # noqa: E402, N812

UNITS = 8


def shared(*shape: int, dtype: str) -> object:
    return theano.shared(np.zeros(shape, dtype))


def dense(dtype: str) -> None:
    x = T.matrix("x", dtype)
    w, b = shared(4, UNITS, dtype=dtype), shared(UNITS, dtype=dtype)
    for activation in (T.nnet.softmax, T.tanh, T.nnet.sigmoid, T.nnet.relu, lambda y: y):
        y = activation(T.dot(x, w) + b)
        theano.function([x], y)
        theano.function([x], [y, T.argmax(y, axis=1)])
    words = T.lmatrix("words")
    theano.function([words], w[words].mean(axis=1))


def recurrent(dtype: str) -> None:
    x = T.matrix("x", dtype)
    w, b = shared(4, UNITS, dtype=dtype), shared(UNITS, dtype=dtype)
    start = T.zeros((x.shape[0], UNITS), dtype)
    for steps in ({"n_steps": 4}, {"n_steps": 4, "go_backwards": True}):
        states, _ = theano.scan(lambda h: T.tanh(T.dot(x, w) + b + h), outputs_info=start, **steps)
        theano.function([x], states[-1])


def gated(dtype: str, step: object, gates: int, states: int) -> None:
    """A GRU or an LSTM over masked sequences, time first, from either end."""
    x, mask = T.tensor3("x", dtype), T.matrix("mask", dtype)
    w, b = shared(4, gates * UNITS, dtype=dtype), shared(gates * UNITS, dtype=dtype)
    wx, bx = shared(4, UNITS, dtype=dtype), shared(UNITS, dtype=dtype)
    u, ux = shared(UNITS, gates * UNITS, dtype=dtype), shared(UNITS, UNITS, dtype=dtype)
    lasts = []
    for order in (slice(None), slice(None, None, -1)):
        sequences = [mask[order], T.dot(x[order], w) + b, T.dot(x[order], wx) + bx]
        start = [T.alloc(np.zeros((), dtype), x.shape[1], UNITS) for _ in range(states)]
        found, _ = theano.scan(step, sequences=sequences, outputs_info=start, non_sequences=[u, ux])
        lasts.append((found[0] if states > 1 else found)[-1])
        theano.function([x, mask], lasts[-1])
        theano.function([x, mask], found)
    theano.function([x, mask], T.concatenate(lasts, axis=1))


def gru(m, x, xx, h, u, ux):  # type: ignore[no-untyped-def]
    gates = T.nnet.sigmoid(T.dot(h, u) + x)
    reset, update = gates[:, :UNITS], gates[:, UNITS:]
    new = T.tanh(T.dot(h, ux) * reset + xx)
    new = update * h + (1.0 - update) * new
    return m[:, None] * new + (1.0 - m)[:, None] * h


def lstm(m, x, _, h, c, u, __):  # type: ignore[no-untyped-def]
    gates = T.dot(h, u) + x
    i, f, o = (T.nnet.sigmoid(gates[:, n * UNITS : (n + 1) * UNITS]) for n in range(3))
    new = f * c + i * T.tanh(gates[:, 3 * UNITS :])
    c = m[:, None] * new + (1.0 - m)[:, None] * c
    return m[:, None] * (o * T.tanh(c)) + (1.0 - m)[:, None] * h, c


def convolutional(dtype: str) -> None:
    from theano.tensor.signal.pool import pool_2d

    x, w, b = T.tensor4("x", dtype), shared(2, 1, 3, 3, dtype=dtype), shared(2, dtype=dtype)
    y = T.nnet.relu(T.nnet.conv2d(x, w) + b.dimshuffle("x", 0, "x", "x"))
    y = pool_2d(y, (2, 2), ignore_border=True)
    theano.function([x], y.flatten(2))


for dtype in ("float32", "float64"):
    dense(dtype)
    recurrent(dtype)
    convolutional(dtype)
gated("float32", gru, 2, 1)
gated("float32", lstm, 4, 2)
count = sum(1 for _ in theano_cache.BAKED.rglob("key.pkl"))
print(f"{count} operations of Theano are compiled into the image")
