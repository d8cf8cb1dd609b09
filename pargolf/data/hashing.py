"""Integer hashes written out here, so that they are the same in every version of every library.

`mix64` is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014): a bijection of 64-bit words in which every input bit influences every output bit. The training stream
draws its permutations from it, and the overlap check its n-gram hashes. numpy does not promise the same random numbers
in all versions, and a batch must be a pure function of seed and step.
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
    """The distinct hashes in order, (D,) of (N,); the input is sorted in place. Cheaper than numpy's `unique`."""
    hash_N.sort()
    first_N = np.ones(len(hash_N), dtype=np.bool_)
    np.not_equal(hash_N[1:], hash_N[:-1], out=first_N[1:])
    return hash_N[first_N]


def mix_words(*words: int) -> int:
    """One 64-bit hash of a few integers that depends on their order; negative integers count modulo 2**64."""
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = mix64(state ^ np.uint64(word & 0xFFFF_FFFF_FFFF_FFFF))
    return int(state[0])
