# SPDX-License-Identifier: Apache-2.0
"""Counts the tables of codes that a lossless WebP makes its decoder build.

A lossless picture may have other codes for each block of 4 x 4 pixels or more. Their
number stands in a small picture within the file, behind other small pictures, which are
compressed. A file of 300 KB may so ask for 65,536 sets of tables, which take 350 MB and
a second. This module decodes the small pictures (RFC 9649, section 3) up to the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inkling.errors import TooLarge
from inkling.image.formats.containers import damaged

if TYPE_CHECKING:
    from inkling.image.budget import Spend

__all__ = ["Tables", "read_tables"]

_PREDICTOR, _COLOUR, _GREEN, _PALETTE = range(4)
_LITERALS, _LENGTHS, _DISTANCES = 256, 24, 40
_MAX_CACHE_BITS = 11
_MAX_CODE = 15
# The code for the lengths of codes: the order of its own lengths, and its repetitions
# (bits of the count, least count).
_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
_REPEAT = {16: (2, 3), 17: (3, 3), 18: (7, 11)}
_REPEAT_LAST = 16
_ROOT_BITS = 8
# Encoders keep a small picture below 16,384 pixels; libwebp makes at most 2,600 sets.
# Bytes of a set: five tables of codes of at most 15 bits, whose first level has 8 bits,
# beside the codes of a colour cache.
_MOST_PIXELS, _MOST_SETS = 1 << 14, 2600
_SET_BYTES, _CODE_BYTES, _SET_CODES = 640, 4, 3000
# CPU time in nanoseconds, measured: to read a pixel of a small picture, and its codes;
# to build a set of tables.
_PIXEL, _CODES, _SET = 700, 300_000, 12_000


@dataclass(frozen=True)
class Tables:
    """The tables of a picture.

    Attributes:
        sets: The number of sets of tables.
        size: Their memory, at most, in bytes.
    """

    sets: int
    size: int


def read_tables(data: memoryview, width: int, height: int, spend: Spend) -> Tables:
    """Return the tables that decoding a lossless picture needs.

    Args:
        data: The bits of the picture, behind its header.
        width: Columns, in pixels.
        height: Rows, in pixels.
        spend: A function that is told the CPU time of every step before it is done.

    Raises:
        InvalidImage: The data end too early, or have codes that are none.
        TooLarge: There are more tables than an encoder makes, or `spend` raised it.
    """
    bits = _Bits(data, spend)
    try:
        seen = set()
        while bits.read(1):
            kind = bits.read(2)
            if kind in seen:
                raise damaged("WebP")
            seen.add(kind)
            width = _skip_transform(bits, kind, width, height)
        cache_bits = _cache_bits(bits)
        sets = 1
        if bits.read(1):
            block = bits.read(3) + 2
            literals = _small_picture(bits, _up(width, block) * _up(height, block))
            sets = max(literals, default=0) + 1
    except (IndexError, KeyError):
        raise damaged("WebP") from None
    if sets > _MOST_SETS:
        raise _too_many()
    spend(_SET * sets)
    codes = _SET_CODES + (1 << cache_bits if cache_bits else 0)
    return Tables(sets, sets * (_SET_BYTES + _CODE_BYTES * codes))


def _skip_transform(bits: _Bits, kind: int, width: int, height: int) -> int:
    """Read a transform; return the columns of the picture that is left to decode."""
    if kind in (_PREDICTOR, _COLOUR):
        block = bits.read(3) + 2
        _small_picture(bits, _up(width, block) * _up(height, block))
    if kind == _PALETTE:
        colours = bits.read(8) + 1
        _small_picture(bits, colours)
        # Up to 16 colours, several pixels share one.
        return _up(width, 3 if colours <= 2 else 2 if colours <= 4 else colours <= 16)
    return width


def _small_picture(bits: _Bits, pixels: int) -> set[int]:
    """Read a small picture; return the numbers that its pixels may have.

    Copies of pixels, and colours out of the cache, bring no other numbers.
    """
    if pixels > _MOST_PIXELS:
        raise _too_many()
    bits.spend(_PIXEL * pixels + _CODES)
    cache_bits = _cache_bits(bits)
    cached = 1 << cache_bits if cache_bits else 0
    green = _code(bits, _LITERALS + _LENGTHS + cached)
    red, blue, alpha = (_code(bits, _LITERALS) for _ in range(3))
    distance = _code(bits, _DISTANCES)
    numbers, done = set(), 0
    while done < pixels:
        symbol = green.next()
        if symbol < _LITERALS:
            numbers.add(red.next() << 8 | symbol)
            blue.next()
            alpha.next()
            done += 1
        elif symbol < _LITERALS + _LENGTHS:
            done += bits.extent(symbol - _LITERALS)
            bits.extent(distance.next())
        else:
            done += 1
    if done > pixels:
        raise damaged("WebP")
    return numbers


def _cache_bits(bits: _Bits) -> int:
    found = bits.read(4) if bits.read(1) else 0
    if found > _MAX_CACHE_BITS:
        raise damaged("WebP")
    return found


class _Bits:
    """The bits of a picture, from the lowest of each byte on."""

    def __init__(self, data: memoryview, spend: Spend) -> None:
        self.spend = spend
        self._data = data
        self._place = 0
        self._value = 0
        self._count = 0

    def look(self) -> int:
        """Return the next bits, at least 32; zeros follow the last one."""
        if self._count < 32:
            more = self._data[self._place : self._place + 32]
            self._value |= int.from_bytes(more, "little") << self._count
            self._count += 8 * len(more)
            self._place += len(more)
        return self._value

    def skip(self, count: int) -> None:
        """Go on by some bits.

        Raises:
            IndexError: So many bits are not left.
        """
        if count > self._count:
            raise IndexError
        self._value >>= count
        self._count -= count

    def read(self, count: int) -> int:
        """Return a number of `count` bits, at most 32."""
        found = self.look() & ((1 << count) - 1)
        self.skip(count)
        return found

    def extent(self, symbol: int) -> int:
        """Return the length, or the distance, that a symbol and further bits state."""
        if symbol < 4:
            return symbol + 1
        extra = (symbol - 2) >> 1
        return ((2 + (symbol & 1)) << extra) + self.read(extra) + 1


class _Code:
    """A code of symbols (Huffman), as it stands in the bits."""

    def __init__(self, bits: _Bits, lengths: dict[int, int]) -> None:
        """Make the code.

        Args:
            bits: The bits from which symbols are read.
            lengths: The number of bits of each symbol.

        Raises:
            InvalidImage: The code is incomplete.
        """
        self._bits = bits
        self._only = next(iter(lengths)) if len(lengths) == 1 else -1
        self._root: list[tuple[int, int]] = []
        self._longer: dict[tuple[int, int], int] = {}
        if self._only < 0:
            self._build(lengths)

    def _build(self, lengths: dict[int, int]) -> None:
        """Give each symbol its bits, by length and number."""
        if sum(1 << (_MAX_CODE - length) for length in lengths.values()) != 1 << 15:
            raise damaged("WebP")
        root = [(0, 0)] * (1 << _ROOT_BITS)
        code = last = 0
        for length, symbol in sorted((n, symbol) for symbol, n in lengths.items()):
            code <<= length - last
            bits = int(f"{code:0{length}b}"[::-1], 2)
            if length <= _ROOT_BITS:
                root[bits :: 1 << length] = [(length, symbol)] * (
                    1 << (_ROOT_BITS - length)
                )
            else:
                self._longer[length, bits] = symbol
            code, last = code + 1, length
        self._root = root

    def next(self) -> int:
        """Return the next symbol."""
        if self._only >= 0:
            return self._only
        value = self._bits.look()
        length, symbol = self._root[value & 0xFF]
        while not length or length > _ROOT_BITS:
            length = max(length, _ROOT_BITS) + 1
            found = self._longer.get((length, value & ((1 << length) - 1)))
            if found is not None:
                symbol = found
                break
            if length > _MAX_CODE:
                raise KeyError(length)
        self._bits.skip(length)
        return symbol


def _code(bits: _Bits, symbols: int) -> _Code:
    """Read a code of so many symbols."""
    lengths = _simple(bits) if bits.read(1) else _lengths(bits, symbols)
    if any(symbol >= symbols for symbol in lengths):
        raise damaged("WebP")
    return _Code(bits, lengths)


def _simple(bits: _Bits) -> dict[int, int]:
    """Return the lengths of the bits of one or two symbols."""
    is_pair = bits.read(1)
    lengths = {bits.read(8 if bits.read(1) else 1): 1}
    if is_pair:
        lengths[bits.read(8)] = 1
    return lengths


def _lengths(bits: _Bits, symbols: int) -> dict[int, int]:
    """Return the lengths of the bits of symbols, which have a code themselves."""
    first = [bits.read(3) for _ in range(4 + bits.read(4))]
    code = _Code(bits, {_ORDER[at]: n for at, n in enumerate(first) if n})
    left = 2 + bits.read(2 + 2 * bits.read(3)) if bits.read(1) else symbols
    lengths: dict[int, int] = {}
    place, last = 0, 8
    while place < symbols and left:
        left -= 1
        length = code.next()
        if length < _REPEAT_LAST:
            if length:
                lengths[place] = last = length
            place += 1
            continue
        extra, least = _REPEAT[length]
        count = least + bits.read(extra)
        if length == _REPEAT_LAST:
            lengths |= dict.fromkeys(range(place, place + count), last)
        place += count
    return lengths


def _up(length: int, bits: int) -> int:
    """Return how many blocks of 2 ** `bits` pixels cover a length."""
    return -(-length >> bits)


def _too_many() -> TooLarge:
    return TooLarge(
        "The WebP has more tables of codes than encoders make; they would take too "
        "much memory. Save it again, or send PNG or JPEG."
    )
