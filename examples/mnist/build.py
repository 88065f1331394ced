"""Train a model that reads handwritten digits of 28x28 pixels, and write it as a bundle's source.

python build.py OUT_DIR --version 1    a neural network, as model.joblib
python build.py OUT_DIR --version 2    a support vector machine, as model.pkl.gz, which errs less
python build.py --images DIR           one held-out digit of each kind as a PNG: 0.png ... 9.png

MNIST itself comes with no package. The digits are those of scikit-learn, 1,797 of 8x8 pixels, enlarged into MNIST's
form: white on black, 20x20 within 28x28. Half of them are held out of the training; the others are also learned a
little larger, smaller, aside and askew, as people write and scan them.
"""

from __future__ import annotations

import argparse
import gzip
import pickle
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

Array = np.ndarray[Any, np.dtype[Any]]

SIDE, DRAWN = 28, 20  # pixels
VARIANTS = 6  # of each digit that is learned


def main() -> None:
    options = parse()
    data = load_digits()
    trained_on, held_out, labels, held_out_labels = train_test_split(
        data.images, data.target, test_size=0.5, random_state=0
    )
    if options.images:
        options.images.mkdir(parents=True, exist_ok=True)
        for label in range(10):
            drawn = as_mnist(held_out[np.flatnonzero(held_out_labels == label)[0]])
            drawn.save(options.images / f"{label}.png")
    if options.directory:
        random = np.random.default_rng(0)
        images = [askew(as_mnist(digit), random) for digit in trained_on for _ in range(VARIANTS)]
        model = SVC(gamma=0.02, C=5) if options.version == 2 else MLPClassifier((128,), random_state=0, max_iter=40)
        fit(model, pixels(images), np.repeat(labels, VARIANTS))
        write(model, options.directory, options.version)
        right = int((model.predict(pixels(map(as_mnist, held_out))) == held_out_labels).sum())
        print(f"{type(model).__name__}: {right} of {len(held_out)} held-out digits right")


def as_mnist(digit: Array) -> Image.Image:
    """Enlarge 8x8 numbers from 0 to 16 into an image in MNIST's form."""
    small = Image.fromarray((digit * (255 / 16)).round().astype(np.uint8))
    image = Image.new("L", (SIDE, SIDE))
    margin = (SIDE - DRAWN) // 2
    image.paste(small.resize((DRAWN, DRAWN), Image.Resampling.BICUBIC), (margin, margin))
    return image


def askew(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Turn, stretch and move an image a little around its middle."""
    angle, middle = random.uniform(-0.2, 0.2), SIDE / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag(random.uniform(0.75, 1.25, 2))
    offset = middle - matrix @ np.full(2, middle) + random.uniform(-2.5, 2.5, 2)
    return image.transform(
        image.size, Image.Transform.AFFINE, np.c_[matrix, offset].ravel().tolist(), Image.Resampling.BILINEAR
    )


def pixels(images: Any) -> Array:
    """Return images as rows of numbers from 0 to 1, as the server makes them of what clients send."""
    return np.stack([np.asarray(image, np.float64).ravel() / 255 for image in images])


def fit(model: Any, rows: Array, labels: Array) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 40 rounds are enough, whatever the network thinks
        model.fit(rows, labels)


def write(model: Any, directory: Path, version: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("model.yaml"), directory)
    if version == 1:
        joblib.dump(model, directory / "model.joblib", compress=3)
    else:
        (directory / "model.pkl.gz").write_bytes(gzip.compress(pickle.dumps(model, protocol=5), 3, mtime=0))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a model of handwritten digits and write a bundle's source.")
    parser.add_argument("directory", type=Path, nargs="?", metavar="OUT_DIR", help="gets the model and model.yaml")
    parser.add_argument("--version", type=int, choices=(1, 2), default=1, help="1 (default) or 2, the better one")
    parser.add_argument("--images", type=Path, metavar="DIR", help="write ten PNGs of held-out digits")
    options = parser.parse_args()
    if not options.directory and not options.images:
        parser.error("give OUT_DIR, --images DIR, or both")
    return options


if __name__ == "__main__":
    main()
