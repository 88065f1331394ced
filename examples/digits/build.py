"""Train a model of handwritten digits and write it as a bundle's source: model.pkl and model.yaml.

python build.py OUT_DIR --version 1    logistic regression
python build.py OUT_DIR --version 2    a support vector machine, which errs less
python build.py --images DIR           one held-out digit of each kind as a PNG: 0.png … 9.png

The data come with scikit-learn: 1,797 digits of 8x8 pixels, each pixel a number from 0 to 16. Half of them are held
out of the training, to judge by.
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

Array = np.ndarray[Any, np.dtype[Any]]

MAXIMUM = 16  # of a pixel in the data; 255 in a PNG
ENLARGED = (64, 64)  # pixels: 8x8 is too small for a person to see

MODEL_YAML = f"""\
inputs:
- name: pixels
  datatype: FP64
  shape: [-1, 64]
  image: {{size: [8, 8], mode: L, maximum: {MAXIMUM}}}   # so that a PNG can be posted, too
outputs:
- {{name: digit, datatype: INT64, shape: [-1]}}
answer: {{one: digit, many: predictions}}
"""


def main() -> None:
    options = parse()
    data = load_digits()
    trained_on, held_out, labels, held_out_labels = train_test_split(
        data.data, data.target, test_size=0.5, random_state=0
    )
    if options.images:
        write_images(options.images, held_out, held_out_labels)
    if options.directory:
        model = LogisticRegression(max_iter=5000) if options.version == 1 else SVC(gamma=0.001)
        model.fit(trained_on, labels)
        options.directory.mkdir(parents=True, exist_ok=True)
        (options.directory / "model.pkl").write_bytes(pickle.dumps(model, protocol=5))
        (options.directory / "model.yaml").write_text(MODEL_YAML)
        right = int((model.predict(held_out) == held_out_labels).sum())
        print(f"{type(model).__name__}: {right} of {len(held_out)} held-out digits right")


def write_images(directory: Path, held_out: Array, labels: Array) -> None:
    """Write the first held-out digit of each kind; the file's name is the right answer."""
    directory.mkdir(parents=True, exist_ok=True)
    for label in range(10):
        pixels = held_out[np.flatnonzero(labels == label)[0]].reshape(8, 8) * (255 / MAXIMUM)
        image = Image.fromarray(pixels.round().astype(np.uint8))
        image.resize(ENLARGED, Image.Resampling.NEAREST).save(directory / f"{label}.png")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a model of handwritten digits and write a bundle's source.")
    parser.add_argument("directory", type=Path, nargs="?", metavar="OUT_DIR", help="gets model.pkl and model.yaml")
    parser.add_argument("--version", type=int, choices=(1, 2), default=1, help="1 (default) or 2, the better one")
    parser.add_argument("--images", type=Path, metavar="DIR", help="write ten PNGs of held-out digits")
    options = parser.parse_args()
    if not options.directory and not options.images:
        parser.error("give OUT_DIR, --images DIR, or both")
    return options


if __name__ == "__main__":
    main()
