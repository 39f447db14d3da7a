"""The order of the images in an epoch: a permutation of our own, the same everywhere and for ever.

It is grain's index_shuffle with four rounds, by which earlier versions drew, for all lengths but
2^16 + 1, 2^18 + 1, ... (grain leaves out an image of these and takes another twice). What it gives
is part of what settings mean: with another order, cxr_jax.store.identity.FORMAT must be raised.
"""

import numpy as np

_WORD = 0xFFFFFFFF


def epoch_order(n: int, seed: int) -> np.ndarray:
    """The numbers 0 .. n-1 as `seed`, 0 to 2**32 - 1, orders them, int32 [n].

    A Feistel cipher with the round function of Simon (Beaulieu et al. 2013, eprint 2013/404)
    permutes the numbers of an even count of bits; who leaves 0 .. n-1 is enciphered until he is
    back (Black and Rogaway 2002, doi 10.1007/3-540-45760-7_9).
    """
    if n == 1:
        return np.zeros(1, np.int32)
    half = max(8, ((n - 1).bit_length() + 1) // 2)
    number = np.arange(1 << 2 * half, dtype=np.uint32)
    left, right = number >> half, number & ((1 << half) - 1)
    keys = [key & ((1 << half) - 1) for key in _four_words(seed)]
    for first, second in (keys[:2], keys[2:]):
        left = left ^ _round(right, half) ^ first
        right = right ^ _round(left, half) ^ second
    after = left << half | right
    # Steps of 1, 2, 4, ... through the numbers outside; those inside stay.
    step, order = np.where(number < n, number, after), after[:n]
    while (order >= n).any():
        order, step = step[order], step[step]
    return order.astype(np.int32)


def _round(x: np.ndarray, bits: int) -> np.ndarray:
    def turned(by: int) -> np.ndarray:
        by %= bits
        return (x << by | x >> (bits - by)) & ((1 << bits) - 1)

    return turned(1) & turned(8) ^ turned(2)


def _four_words(seed: int) -> list[int]:
    """What C++'s std::seed_seq{seed} generates (ISO C++, rand.util.seedseq)."""
    words = [0x8B8B8B8B] * 4
    for k in range(8):
        here, after, last = k % 4, (k + 1) % 4, (k + 2) % 4
        if k < 4:
            mixed = words[here] ^ words[after] ^ words[k - 1]
            mixed = 1664525 * (mixed ^ mixed >> 27) & _WORD
            own = (mixed + (1 if k == 0 else here + seed if k == 1 else here)) & _WORD
            words[after] = (words[after] + mixed) & _WORD
            words[last] = (words[last] + own) & _WORD
        else:
            mixed = (words[here] + words[after] + words[(k - 1) % 4]) & _WORD
            mixed = 1566083941 * (mixed ^ mixed >> 27) & _WORD
            own = (mixed - here) & _WORD
            words[after] ^= mixed
            words[last] ^= own
        words[here] = own
    return words
