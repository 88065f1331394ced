"""Puts the columns, which come one by one, into the table that the pipeline takes."""

import numpy as np


class Predictor:
    def load(self, bundle):
        self.pipeline = bundle.load("model.pkl")
        _, encoder, places = self.pipeline[0].transformers_[0]
        self.words = {place: set(words) for place, words in zip(places, encoder.categories_, strict=True)}

    def predict(self, inputs):
        for place, (name, column) in enumerate(inputs.items()):
            if unknown := set(column).difference(self.words.get(place, column)):
                raise ValueError(f"{name} {min(unknown)[:100]!r} is not one that it has learned")
        table = np.column_stack([column.astype(object) for column in inputs.values()])
        return self.pipeline.predict(table)
