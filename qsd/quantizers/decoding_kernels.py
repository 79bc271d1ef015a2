"""The inner loops of decoding, compiled by numba; they release the interpreter lock."""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numpy.typing import NDArray

compiled = njit(nogil=True, cache=True, error_model="numpy")

WIDE = "+avx512bw" in cpu_target.target_context.codegen()._tm_features
"""Whether one instruction looks up all codes of a 512-bit register in a table that fills another."""

REGISTER_BYTES = 64


@intrinsic
def _look_up_register(
    typing_context: Any,
    out: Any,
    at: Any,
    planes: Any,
    low: Any,
    high: Any,
    shift: Any,
    mask: Any,
    table: Any,
) -> Any:
    """``out[at + j] = table[((planes[low + j] | planes[high + j] << 8) >> shift) & mask]`` for one register.

    ``table`` fills two registers: 64 words of 16 bits or 32 words of 32 bits.
    """
    signature = types.void(out, at, planes, low, high, shift, mask, table)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        width = signature.args[0].dtype.bitwidth
        lanes = 8 * REGISTER_BYTES // width
        vector = ir.VectorType(ir.IntType(width), lanes)

        def address(array: int, offset: Any, kind: Any) -> Any:
            struct = context.make_array(signature.args[array])(context, builder, arguments[array])
            return builder.bitcast(builder.gep(struct.data, [offset]), kind.as_pointer())

        def load(array: int, offset: Any, kind: Any) -> Any:
            return builder.load(address(array, offset, kind), align=1)

        def spread(value: Any) -> Any:
            empty = ir.Constant(vector, ir.Undefined)
            word = builder.trunc(value, ir.IntType(width))
            one = builder.insert_element(empty, word, ir.Constant(ir.IntType(32), 0))
            return builder.shuffle_vector(
                one, empty, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            )

        def bytes_at(offset: Any) -> Any:
            return builder.zext(load(2, offset, ir.VectorType(ir.IntType(8), lanes)), vector)

        words = builder.or_(
            bytes_at(arguments[3]), builder.shl(bytes_at(arguments[4]), ir.Constant(vector, [8] * lanes))
        )
        indices = builder.and_(builder.lshr(words, spread(arguments[5])), spread(arguments[6]))
        halves = [load(7, ir.Constant(ir.IntType(64), half * lanes), vector) for half in range(2)]
        name = f"llvm.x86.avx512.vpermi2var.{'hi' if width == 16 else 'd'}.512"
        kind = ir.FunctionType(vector, [vector] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        values = builder.call(function, [halves[0], indices, halves[1]])
        builder.store(values, address(0, arguments[1], vector), align=1)
        return context.get_dummy_value()

    return signature, generate


@compiled
def decode_portable(
    planes: NDArray[np.uint8], table: NDArray[Any], bits: int, out: NDArray[Any], start: int, stop: int
) -> None:
    """Decodes a range of the codes, one by one.

    Args:
        planes: uint8 [bytes per group * groups], contiguous.
        table: words of 2 or 4 bytes, [R, 2^bits].
        bits: bits per code.
        out: words of the same size [count].
        start: first code.
        stop: end of the range.
    """
    size = bits // math.gcd(8, bits)
    run, groups, mask = len(out) // len(table), len(planes) // size, np.uint32((1 << bits) - 1)
    entries = table.reshape(-1)
    i = start
    while i < stop:
        plane, row = i // groups, i // run
        end = min(stop, (plane + 1) * groups, (row + 1) * run)
        byte = plane * bits // 8
        shift = np.uint32(plane * bits - 8 * byte)
        low = byte * groups + i - plane * groups
        first = row * table.shape[1]
        if shift + bits <= 8:
            for j in range(end - i):
                code = (np.uint32(planes[np.uintp(low + j)]) >> shift) & mask
                out[np.uintp(i + j)] = entries[np.uintp(first + code)]
        else:
            high = low + groups
            for j in range(end - i):
                word = np.uint32(planes[np.uintp(low + j)]) | (
                    np.uint32(planes[np.uintp(high + j)]) << np.uint32(8)
                )
                out[np.uintp(i + j)] = entries[np.uintp(first + ((word >> shift) & mask))]
        i = end


@compiled
def decode_wide(
    planes: NDArray[np.uint8], table: NDArray[Any], bits: int, out: NDArray[Any], start: int, stop: int
) -> None:
    """Like :func:`decode_portable`, by registers; the table's rows fit into two."""
    size = bits // math.gcd(8, bits)
    run, groups, mask = len(out) // len(table), len(planes) // size, (1 << bits) - 1
    lanes = REGISTER_BYTES // out.itemsize
    registers = np.zeros(2 * lanes, table.dtype)
    held = -1
    i = start
    while i < stop:
        plane, row = i // groups, i // run
        end = min(stop, (plane + 1) * groups, (row + 1) * run)
        byte = plane * bits // 8
        shift = plane * bits - 8 * byte
        low = byte * groups + i - plane * groups
        high = low if shift + bits <= 8 else low + groups
        if row != held:
            for level in range(table.shape[1]):
                registers[level] = table[row, level]
            held = row
        whole = (end - i) // lanes * lanes
        for j in range(0, whole, lanes):
            _look_up_register(  # type: ignore[call-arg]
                out, i + j, planes, low + j, high + j, shift, mask, registers
            )
        for j in range(whole, end - i):
            word = planes[low + j] | (np.int64(planes[high + j]) << 8)
            out[i + j] = registers[(word >> shift) & mask]
        i = end


def decode(
    planes: NDArray[np.uint8], table: NDArray[Any], bits: int, out: NDArray[Any], start: int, stop: int
) -> None:
    """Decodes a range of the codes in the fastest way that this processor has."""
    if WIDE and table.shape[1] * table.itemsize <= 2 * REGISTER_BYTES:
        decode_wide(planes, table, bits, out, start, stop)
    else:
        decode_portable(planes, table, bits, out, start, stop)


@compiled
def _store_scaled(values: NDArray[np.float32], scale: Any, out: NDArray[Any], at: int) -> None:
    """``out[at:] = values * scale`` as words of float32, or of the nearest bfloat16; changes the values."""
    first, count, wide = np.uintp(at), np.uintp(len(values)), values.view(np.uint32)
    for j in range(count):
        values[j] *= scale
    if out.itemsize == 4:
        for j in range(count):
            out[first + j] = wide[j]
    else:
        for j in range(count):
            odd = (wide[j] >> np.uint32(16)) & np.uint32(1)
            out[first + j] = np.uint16((wide[j] + np.uint32(0x7FFF) + odd) >> np.uint32(16))


@compiled
def decode_scaled_portable(
    planes: NDArray[np.uint8],
    book: NDArray[Any],
    scales: NDArray[Any],
    bits: int,
    out: NDArray[Any],
    start: int,
    stop: int,
) -> None:
    """Decodes the rows from ``start`` to ``stop``, each under its own scale.

    Args:
        planes: uint8 [bytes per group * groups], contiguous.
        book: float32 [2^bits].
        scales: float32 [rows]; products are finite in the type of ``out``.
        bits: bits per code.
        out: words of 4 bytes (float32) or 2 (bfloat16), [rows * row length].
        start: first row.
        stop: end of the rows.
    """
    size = bits // math.gcd(8, bits)
    run, groups, mask = len(out) // len(scales), len(planes) // size, np.uint32((1 << bits) - 1)
    values = np.empty(run, np.float32)
    for row in range(start, stop):
        first = i = row * run
        while i < first + run:
            plane = i // groups
            end = min(first + run, (plane + 1) * groups)
            byte = plane * bits // 8
            shift = np.uint32(plane * bits - 8 * byte)
            low = byte * groups + i - plane * groups
            high = low if shift + bits <= 8 else low + groups
            for j in range(end - i):
                word = np.uint32(planes[np.uintp(low + j)]) | (
                    np.uint32(planes[np.uintp(high + j)]) << np.uint32(8)
                )
                values[i - first + j] = book[np.uintp((word >> shift) & mask)]
            i = end
        _store_scaled(values, scales[row], out, first)


@compiled
def decode_scaled_wide(
    planes: NDArray[np.uint8],
    book: NDArray[Any],
    scales: NDArray[Any],
    bits: int,
    out: NDArray[Any],
    start: int,
    stop: int,
) -> None:
    """Like :func:`decode_scaled_portable`; rows are whole registers and each lies in one plane."""
    size = bits // math.gcd(8, bits)
    run, groups, mask = len(out) // len(scales), len(planes) // size, (1 << bits) - 1
    lanes, per_plane, count = REGISTER_BYTES // 4, groups // run, np.uintp(run)
    table, values = np.zeros(2 * lanes, np.float32), np.empty(run, np.float32)
    table[: len(book)] = book
    entries, words, wide = table.view(np.int32), values.view(np.int32), values.view(np.uint32)
    for plane in range(start // per_plane, -(-stop // per_plane)):
        byte = plane * bits // 8
        shift = plane * bits - 8 * byte
        for row in range(max(start, plane * per_plane), min(stop, (plane + 1) * per_plane)):
            low = byte * groups + (row - plane * per_plane) * run
            high = low if shift + bits <= 8 else low + groups
            for j in range(0, run, lanes):
                _look_up_register(  # type: ignore[call-arg]
                    words, j, planes, low + j, high + j, shift, mask, entries
                )
            scale, first = scales[row], np.uintp(row * run)
            for k in range(count):
                values[k] *= scale
            if out.itemsize == 4:
                for k in range(count):
                    out[first + k] = wide[k]
            else:
                for k in range(count):
                    odd = (wide[k] >> np.uint32(16)) & np.uint32(1)
                    out[first + k] = np.uint16((wide[k] + np.uint32(0x7FFF) + odd) >> np.uint32(16))


def decode_scaled(
    planes: NDArray[np.uint8],
    book: NDArray[Any],
    scales: NDArray[Any],
    bits: int,
    out: NDArray[Any],
    start: int,
    stop: int,
) -> None:
    """Decodes rows in the fastest way that this processor has."""
    groups, run = len(planes) * math.gcd(8, bits) // bits, len(out) // len(scales)
    lanes = REGISTER_BYTES // 4
    whole = run % lanes == 0 and groups % run == 0 and len(book) <= 2 * lanes
    decoder = decode_scaled_wide if WIDE and whole else decode_scaled_portable
    decoder(planes, book, scales, bits, out, start, stop)


@compiled
def rotate(values: NDArray[np.float32], block: int) -> None:
    """Multiplies every block by Sylvester's orthonormal Hadamard matrix, in place.

    Sixteen blocks lie side by side, so that each step of the fast transform is one of whole registers.

    Args:
        values: float32, whole blocks.
        block: a power of two, at most 128.
    """
    lanes, size, factor = np.uintp(16), np.uintp(block), np.float32(1 / np.sqrt(block))
    total = size * lanes
    beside = np.zeros(total, np.float32)
    for first in range(0, len(values), block * 16):
        part = values[first : first + block * 16]
        blocks = np.uintp(len(part) // block)
        for lane in range(blocks):
            for i in range(size):
                beside[i * lanes + lane] = part[lane * size + i] * factor
        step = lanes
        while step < total:
            at = np.uintp(0)
            while at < total:
                for j in range(step):
                    low, high = beside[at + j], beside[at + j + step]
                    beside[at + j], beside[at + j + step] = low + high, low - high
                at += step + step
            step += step
        for lane in range(blocks):
            for i in range(size):
                part[lane * size + i] = beside[i * lanes + lane]
