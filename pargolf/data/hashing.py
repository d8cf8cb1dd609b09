"""Two small integer hashes, written out here so that they never change.

`mix64` is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014): a bijection of 64-bit words in which every input bit reaches every output bit. The stream draws its
permutations with it, the overlap check its n-gram hashes; numpy promises no stable random streams across versions,
and a batch that depends on numpy's version would not be a pure function of seed and step.
"""

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]


def mix64(x_N: U64) -> U64:
    """Hash each 64-bit word; shape kept, arithmetic modulo 2**64."""
    x_N = x_N + np.uint64(0x9E3779B97F4A7C15)
    x_N = (x_N ^ (x_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x_N = (x_N ^ (x_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x_N ^ (x_N >> np.uint64(31))


def distinct(hash_N: U64) -> U64:
    """Each hash once, in order: (D,) of (N,), which is sorted in place. numpy's `unique` takes more memory and time."""
    hash_N.sort()
    first_N = np.ones(len(hash_N), dtype=np.bool_)
    np.not_equal(hash_N[1:], hash_N[:-1], out=first_N[1:])
    return hash_N[first_N]


def mix_words(*words: int) -> int:
    """One 64-bit hash of a few integers, order included; negative ones count modulo 2**64."""
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = mix64(state ^ np.uint64(word & 0xFFFF_FFFF_FFFF_FFFF))
    return int(state[0])
