"""CRC-32C, of bytes and of files that come in pieces."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable

import google_crc32c

_POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed


def crc32c_of(data: bytes) -> str:
    """Return the CRC-32C of some bytes as Cloud Storage writes it."""
    return text_of_crc32c(google_crc32c.value(data))


def text_of_crc32c(crc32c: int) -> str:
    """Return a CRC-32C as Cloud Storage writes it: big-endian, in base64."""
    return base64.b64encode(crc32c.to_bytes(4, "big")).decode()


def join_crc32c(pieces: Iterable[tuple[int, int]]) -> int:
    """Return the CRC-32C of a file from those of its pieces.

    Args:
        pieces: the crc32c and the length in bytes of each piece, in order.
    """
    joined = 0
    for crc32c, length in pieces:
        joined = _apply(_zeros(length), joined) ^ crc32c
    return joined


# A CRC is linear over GF(2): following a file by n zero bytes multiplies its CRC's bits by a 32 x 32 matrix, which
# squaring finds in log2(n) steps. A matrix is the tuple of its columns.
Matrix = tuple[int, ...]


@functools.lru_cache(maxsize=64)
def _zeros(length: int) -> Matrix:
    """Return the matrix of `length` zero bytes."""
    power: Matrix = (_POLYNOMIAL, *(1 << bit for bit in range(31)))  # of one zero bit
    result: Matrix = tuple(1 << bit for bit in range(32))
    bits = 8 * length
    while bits:
        if bits & 1:
            result = tuple(_apply(power, column) for column in result)
        power = tuple(_apply(power, column) for column in power)
        bits >>= 1
    return result


def _apply(matrix: Matrix, vector: int) -> int:
    product = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            product ^= column
        vector >>= 1
    return product
