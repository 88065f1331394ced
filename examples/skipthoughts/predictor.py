"""Sentences to vectors as skip-thoughts makes them: words by the tables, states by the encoders, each of length 1."""

import re
from collections.abc import Mapping

import numpy as np

TABLES = {"uni": "utable.npy", "bi": "btable.npy"}
TOKEN = re.compile(r"[\w'-]+|[^\w\s]")  # in place of NLTK's tokenizer, which is not in the image
WORD = 620  # numbers


class Predictor:
    def load(self, bundle):
        words = bundle.read("dictionary.txt").decode().splitlines()
        self.numbers = {word: number for number, word in enumerate(words)}
        here = {asset.path for asset in bundle.manifest.assets}
        self.encoders = [
            (bundle.load(table), as_function(bundle.load(f"{name}.pkl")))
            for name, table in TABLES.items()
            if table in here
        ]

    def predict(self, inputs):
        unknown = self.numbers["UNK"]
        sentences = [
            [self.numbers.get(word, unknown) for word in TOKEN.findall(text) or ["<eos>"]] for text in inputs["text"]
        ]
        mask = np.zeros((max(map(len, sentences)), len(sentences)), np.float32)
        for column, sentence in enumerate(sentences):
            mask[: len(sentence), column] = 1
        vectors = []
        for table, encode in self.encoders:
            embedding = np.zeros((*mask.shape, WORD), np.float32)
            for column, sentence in enumerate(sentences):
                embedding[: len(sentence), column] = [table[number] for number in sentence]
            states = encode(embedding, mask)
            vectors.append(states / np.linalg.norm(states, axis=1, keepdims=True))
        return np.concatenate(vectors, axis=1)


def as_function(encoder):
    """Return a compiled function as it is, and a function of numpy for weights."""
    if not isinstance(encoder, Mapping):
        return encoder
    ends = [("", slice(None)), ("_r", slice(None, None, -1))] if "encoder_W_r" in encoder else [("", slice(None))]
    return lambda embedding, mask: np.concatenate(
        [gru(embedding[order], mask[order], encoder, end) for end, order in ends], axis=1
    )


def gru(embedding, mask, weights, end):
    """Return the last state of a gated recurrent unit."""
    w, b, u, wx, bx, ux = (weights[f"encoder_{key}{end}"] for key in ("W", "b", "U", "Wx", "bx", "Ux"))
    units = len(ux)
    state = np.zeros((embedding.shape[1], units), np.float32)
    for x, m in zip(embedding, mask[:, :, None], strict=True):
        gates = 1 / (1 + np.exp(-(state @ u + x @ w + b)))
        reset, update = gates[:, :units], gates[:, units:]
        new = np.tanh(state @ ux * reset + x @ wx + bx)
        state = m * (update * state + (1 - update) * new) + (1 - m) * state
    return state
