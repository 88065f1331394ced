"""What a kind of the corpus is, and when two answers are the same."""

from __future__ import annotations

import importlib.util
import operator
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_ma: Any = np.ma  # has no types yet


@dataclass(frozen=True)
class Kind:
    """One kind of object that a pickle may hold.

    Attributes:
        name: what the kind is, and the test's name.
        make: returns the object, the same one every time.
        answer: asks the object for what it is good for: predictions, next draws, what it is after learning more. It
            may change the object, so an object is asked once.
        needs: top-level modules that must be there.
        as_pickle: whether a plain pickle answers as the object did that was pickled. Where arrays share memory
            it does not: each becomes a copy.
        proved: whether the packer can prove that it kept the object. It cannot where the object's own code pickles it
            in another way each time; such a pickle is loaded as it is.
    """

    name: str
    make: Callable[[], Any]
    answer: Callable[[Any], Any]
    needs: tuple[str, ...] = ()
    as_pickle: bool = True
    proved: bool = True

    def missing(self) -> list[str]:
        """Return which of the modules it needs are not here."""
        old = ["theano (Python 3.12 or older)"] if "theano" in self.needs and sys.version_info >= (3, 13) else []
        return old + [name for name in self.needs if importlib.util.find_spec(name) is None]


def itself(value: Any) -> Any:
    """Answer with the object itself: `same` looks into it."""
    return value


def same(left: Any, right: Any) -> bool:
    """Tell whether two answers are equal to the last bit: types, values, dtypes, shapes, the order of dicts."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ma.MaskedArray):
        return all(
            same(of(left), of(right)) for of in (_ma.getdata, _ma.getmaskarray, operator.attrgetter("fill_value"))
        )
    if isinstance(left, np.ndarray | np.generic):
        return _same_array(np.asarray(left), np.asarray(right))
    if isinstance(left, float | complex):
        return repr(left) == repr(right)  # tells -0.0 from 0.0, and takes NaN for NaN
    if isinstance(left, dict):
        return len(left) == len(right) and all(map(same, left.items(), right.items()))
    if isinstance(left, list | tuple | deque):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def _same_array(left: Any, right: Any) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.names:  # the bytes between fields say nothing
        return all(_same_array(left[name], right[name]) for name in left.dtype.names)
    return same(left.tolist(), right.tolist()) if left.dtype.hasobject else left.tobytes() == right.tobytes()


def layout(array: Any) -> list[Any]:
    """Answer what an array is beside its values: contiguity, who may write it, and its dtype to the last detail."""
    flags = array.flags
    return [type(array), array.dtype.descr, array.shape, flags.c_contiguous, flags.f_contiguous, flags.writeable]
