import importlib
import json
import struct
import tracemalloc
import zlib
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pargolf.core.errors import UserError
from pargolf.packing import artifact, coder
from pargolf.packing.artifact import ArtifactError, NewerFormat, from_bytes, to_bytes
from pargolf.packing.codecs import CODECS, Brotli, Damage, Lzma, Zlib, Zstd
from pargolf.packing.layout import body_digest
from pargolf.packing.tensors import DTYPES, CodesTensor, RawTensor

META = {"recipe": "demo", "digest": "0123456789abcdef", "model": {"blocks": [{"attn": {"heads": 4}}]}}


def quantized(rows, columns, *, bits=6, clip=12.85, row_spread=0.3, column_spread=0.0, tails=None, seed=0):
    """Codes of a synthetic matrix: Gaussian or Student weights with unequal rows and columns, clipped per row."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, columns)) if tails is None else rng.standard_t(tails, size=(rows, columns))
    w *= np.exp(row_spread * rng.standard_normal((rows, 1))) * np.exp(column_spread * rng.standard_normal((1, columns)))
    high = 2 ** (bits - 1) - 1
    limit = clip * w.std(1, keepdims=True) if clip else np.abs(w).max(1, keepdims=True)
    return np.clip(np.round(w * high / limit), -high, high).astype(np.int8)


def repeated(rows, columns):
    """What unused tokens look like after training: rows that are almost one another."""
    codes = np.tile(quantized(1, columns, seed=3), (rows, 1))
    codes[:: rows // 8] = quantized(8, columns, seed=4)
    return codes


SHAPES = {
    "gaussian": quantized(256, 256),
    "columns": quantized(256, 256, column_spread=0.3),
    "heavy tails": quantized(256, 256, tails=4, clip=None, column_spread=0.2),
    "int4": quantized(192, 256, bits=4, clip=7),
    "int8": quantized(192, 256, bits=8, clip=20),
    "ternary": quantized(256, 256, bits=2, clip=1.5),
    "one scale": quantized(1, 65536).reshape(256, 256),
    "tall": quantized(1024, 64, column_spread=0.5),
    "small": quantized(48, 48),
    "repeated": repeated(256, 96),
    "constant": np.full((64, 64), 5, np.int8),
    "pruned columns": quantized(256, 256) * (np.arange(256) % 3 > 0).astype(np.int8),
}


def best_general(codes):
    data = codes.tobytes()
    return min(len(codec.encode(data)) for codec in (Brotli(), Zstd(), Lzma()))


# The coder


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_codes_come_back_whatever_their_shape_and_range(data):
    matrices = []
    for _ in range(data.draw(st.integers(0, 4))):
        shape = data.draw(st.integers(0, 24)), data.draw(st.integers(0, 24))
        low = data.draw(st.integers(-(1 << 15), (1 << 15) - 1))
        high = min((1 << 15) - 1, low + data.draw(st.sampled_from([0, 1, 2, 15, 63, 255, 256, 70000])))
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        matrices.append(rng.integers(low, high, shape, endpoint=True).astype(np.int16))
    stream = coder.encode(matrices)
    back = coder.decode(stream, [m.shape for m in matrices])
    assert len(back) == len(matrices)
    assert all(np.array_equal(a, b) for a, b in zip(back, matrices))


@pytest.mark.parametrize("name", [n for n in SHAPES if n not in ("repeated", "constant", "small")])
def test_coder_is_below_every_general_codec_and_near_order0(name):
    codes = SHAPES[name]
    size = len(coder.encode([codes]))
    assert size < best_general(codes)
    # Adaptive tables learn what order-0 entropy is given for free: about a byte per symbol of the alphabet.
    assert size <= coder.order0_bytes(codes) + len(np.unique(codes)) + 40


@pytest.mark.parametrize("with_sides", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_the_style_that_is_weighed_is_the_one_that_encodes_shortest(name, with_sides):
    """To a word: a tie of lengths may go to either."""
    codes = [SHAPES[name].astype(np.int32)[:, :48]]
    sides = [(np.arange(codes[0].size) * 7 % 4).astype(np.uint8).reshape(codes[0].shape) if with_sides else None]
    lengths = {style: len(coder._encode(codes, sides, style)) for style in coder._STYLES}
    assert lengths[coder._best_style(codes, sides)] <= min(lengths.values()) + 4


def test_unequal_columns_bring_the_coder_below_order0():
    codes = quantized(512, 512, column_spread=0.3)
    variance = 0.3**2
    gaussian_gain = 1.44 * (variance - 3 * variance**2)  # bits per weight, to second order in var(ln sigma)
    gain = 8 * (coder.order0_bytes(codes) - len(coder.encode([codes]))) / codes.size
    assert 0.75 * gaussian_gain < gain < gaussian_gain


def test_one_symbol_costs_nothing():
    assert len(coder.encode([SHAPES["constant"]])) < 16
    assert len(coder.encode([np.zeros((0, 7), np.int8)])) < 16


def test_matrices_of_one_role_are_smaller_together():
    matrices = [quantized(64, 64, column_spread=0.2, seed=i) for i in range(4)]
    assert len(coder.encode(matrices)) < sum(len(coder.encode([m])) for m in matrices)


def test_every_machine_writes_the_same_bytes():
    # Integers only, so that the input is the same everywhere too: a linear congruential generator, eight draws summed.
    state, out = 12345, []
    for _ in range(96 * 80):
        total = 0
        for _ in range(8):
            state = (1103515245 * state + 12345) % (1 << 31)
            total += state >> 27
        out.append(total - 60)
    codes = np.array(out, np.int16).reshape(96, 80)
    codes[:, ::5] //= 3
    stream = coder.encode([codes, codes[:40, :30] * 5])
    assert stream == coder.encode([codes, codes[:40, :30] * 5])
    assert blake2b(stream, digest_size=8).hexdigest() == "bb14e65bd7ae4be4"


def test_shared_tables_start_with_the_magnitude_asked_for():
    for context in range(0, 113, 7):
        prior = coder._prior(context, 2, 255)
        magnitude = (prior * np.abs(np.arange(-255, 256))).sum() / prior.sum()
        # Past 128 no table of magnitudes up to 255 falls with distance: it is flat.
        assert magnitude == pytest.approx(min(128, 2 ** (context / 8 - 6)), rel=0.02, abs=0.07)
        assert np.array_equal(prior, prior[::-1]) and prior.min() >= 1


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=3))
def test_noise_is_refused_or_read_but_never_crashes(noise, shapes):
    try:
        out = coder.decode(noise, shapes)
    except Damage:
        return
    assert [m.shape for m in out] == shapes


def test_a_cut_stream_is_damage():
    stream = coder.encode([SHAPES["small"]])
    for cut in (0, 1, 3, 5, len(stream) // 2, len(stream) - 1):
        with pytest.raises(Damage):
            coder.decode(stream[:cut], [(48, 48)])
    with pytest.raises(Damage):
        coder.decode(stream + bytes(8), [(48, 48)])
    with pytest.raises(Damage):
        coder.decode(stream, [(1 << 15, 1 << 15)])


def test_only_small_integers_are_coded():
    for wrong in (np.zeros((2, 2), np.float32), np.zeros(4, np.int8), np.full((2, 2), 40000)):
        with pytest.raises(UserError):
            coder.encode([wrong])


# Codecs


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_codecs_come_back_and_stop_at_the_declared_size(codec):
    for data in (b"", b"x", SHAPES["gaussian"].tobytes()):
        assert codec.decode(codec.encode(data), size=len(data)) == data
    stored = codec.encode(data)
    for bad, size in ((stored, len(data) - 1), (stored, len(data) + 1), (stored[:-9], len(data)), (b"", 3)):
        with pytest.raises(Damage):
            codec.decode(bad, size=size)


@pytest.mark.parametrize("codec", [Zlib(), Lzma(0), Zstd(3), Brotli(1)], ids=lambda codec: codec.name)
def test_a_bomb_does_not_fill_the_memory(codec):
    bomb = codec.encode(bytes(1 << 22))
    assert len(bomb) < 1 << 16
    tracemalloc.start()
    with pytest.raises(Damage):
        codec.decode(bomb, size=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_missing_library_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install backports\.zstd"):
        Zstd().encode(b"x")


# The container


def model(seed=0):
    """A small model: three layers of codes, an embedding, side data of every kind."""
    rng = np.random.default_rng(seed)
    grid = {"is": "pargolf.quant.grid:Int", "bits": 6}
    tensors = []
    for i in range(3):
        for role, shape in (("attn.q", (32, 32)), ("mlp.up", (64, 32))):
            codes = quantized(*shape, seed=i)
            scales = (0.01 * np.exp(0.2 * rng.standard_normal(shape[0]))).astype(np.float16)
            tensors.append(CodesTensor(f"blocks.{i}.{role}.weight", role, codes, scales, grid))
        tensors.append(RawTensor(f"blocks.{i}.gate", "gate", rng.standard_normal(32).astype(np.float32), "float32"))
    scales = rng.integers(0x3C00, 0x3D00, 50).astype(np.uint16)
    embed = CodesTensor("embed.weight", "embed", quantized(50, 32), scales, {"bits": 8})
    tensors.append(embed)
    tensors.append(RawTensor("scalar", "scalar", np.array(0.5, np.float16)))
    return tensors


def same(a, b):
    if type(a) is not type(b) or (a.name, a.role) != (b.name, b.role):
        return False
    if isinstance(a, RawTensor):
        return a.dtype == b.dtype and identical(a.data, b.data)
    return (
        identical(a.codes, b.codes)
        and identical(a.scales, b.scales)
        and (a.grid, a.scale_dtype) == (b.grid, b.scale_dtype)
    )


def identical(x, y):
    return x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()


@st.composite
def stored(draw, name):
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    role = draw(st.sampled_from(["attn.q", "mlp", "scalar", "größe"]))
    if draw(st.booleans()):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        kind = DTYPES[dtype]
        bits = rng.integers(0, 256, int(np.prod(shape)) * kind.itemsize).astype(np.uint8)
        return RawTensor(name, role, bits.view(kind).reshape(shape), dtype)
    kind = draw(st.sampled_from([np.int8, np.int16]))
    reach = draw(st.sampled_from([0, 1, 31, 127]))
    codes = rng.integers(-reach, reach, shape, endpoint=True).astype(kind)
    scales = rng.standard_normal(draw(st.integers(0, 5))).astype(draw(st.sampled_from([np.float16, np.float32])))
    return CodesTensor(name, role, codes, scales, draw(st.sampled_from([None, {"bits": 4}, [1, "x"]])))


@settings(max_examples=30, deadline=None)
@given(st.data(), st.sampled_from([None, *CODECS.values()]))
def test_tensors_come_back_whatever_they_are(data, codec):
    names = data.draw(
        st.lists(st.sampled_from(["a", "b.0.w", "b.1.w", "b.01.w", "c*", "c.2.*", "7", "x.3.y.4"]), unique=True)
    )
    tensors = [data.draw(stored(name)) for name in names]
    packed = to_bytes(META, tensors, codec=codec)
    back = from_bytes(packed)
    assert back.meta == META and set(back.tensors) == set(names)
    assert all(same(back.tensors[t.name], t) for t in tensors)
    assert sum(row["bytes"] for row in back.by_role()) == len(packed) == back.size
    assert to_bytes(back.meta, list(back.tensors.values()), codec=codec) == packed


def test_what_is_read_can_be_written_to():
    for tensor in from_bytes(to_bytes(META, model(), codec=Zlib())).tensors.values():
        assert (tensor.data if isinstance(tensor, RawTensor) else tensor.codes).flags.writeable


def test_every_byte_is_accounted_for():
    packed = to_bytes(META, model())
    rows = {row["role"]: row for row in from_bytes(packed).by_role()}
    assert sum(row["bytes"] for row in rows.values()) == len(packed)
    assert rows["attn.q"]["tensors"] == 3 and rows["attn.q"]["weights"] == 3 * 32 * 32
    assert 2 < rows["attn.q"]["bits_per_weight"] < 5
    assert rows["(container)"]["bytes"] < 100 and rows["(header)"]["bytes"] < 450
    assert rows["gate"]["bytes"] > 0 and rows["scalar"]["bytes"] > 0


def test_the_header_grows_little_with_layers():
    def header(layers):
        codes, scales = np.zeros((4, 4), np.int8), np.ones(4, np.float16)
        tensors = [CodesTensor(f"blocks.{i}.mlp.up.weight", "mlp.up", codes, scales, {}) for i in range(layers)]
        return from_bytes(to_bytes(META, tensors)).sections[0].size

    assert header(40) - header(10) < 90


@pytest.mark.parametrize("name", SHAPES)
def test_sections_are_never_larger_than_with_a_general_codec(name):
    codes = SHAPES[name]
    tensors = [CodesTensor("w", "w", codes, np.ones(len(codes), np.float16), {})]
    ours = len(to_bytes(None, tensors))
    assert ours <= min(len(to_bytes(None, tensors, codec=codec)) for codec in (Brotli(), Zstd(), Lzma()))


def test_mutations_and_cuts_are_refused_with_the_section_named():
    packed = to_bytes(META, model())
    rng = np.random.default_rng(0)
    sections = from_bytes(packed).sections
    known = {section.name for section in sections} | {"the container"}
    for trial in range(500):
        damaged = bytearray(packed)
        if trial % 5 == 0:
            damaged = damaged[: rng.integers(0, len(packed))]
        elif trial % 5 == 1:
            at = rng.integers(0, len(packed))
            damaged[at:at] = rng.bytes(rng.integers(1, 9))
        else:
            for at in rng.integers(0, len(packed), rng.integers(1, 4)):
                damaged[at] ^= rng.integers(1, 256)
        if damaged == packed:
            continue
        with pytest.raises(ArtifactError) as caught:
            from_bytes(bytes(damaged))
        assert caught.value.section in known
    for section in sections:
        damaged = bytearray(packed)
        damaged[section.offset + section.size // 2] ^= 1
        with pytest.raises(ArtifactError, match=section.name) as caught:
            from_bytes(bytes(damaged))
        assert caught.value.section == section.name


def test_a_newer_format_says_upgrade():
    packed = bytearray(to_bytes(META, model()))
    packed[8] = artifact.FORMAT + 1
    with pytest.raises(NewerFormat, match="Upgrade pargolf"):
        from_bytes(bytes(packed))


def forged(**changes):
    """A file with true checksums over a header that claims what it should not."""
    header = {
        "meta": None,
        "grids": [{}],
        "tensors": [{"role": "w", "shape": [4, 4], "dtype": "int8", "scales": [4], "of": "float16", "grid": 0}],
        "sections": [["range", 5], ["raw", 8]],
    }
    header["tensors"][0] |= {"names": ["w"]} | changes.pop("tensor", {})
    payloads = [artifact._with_crc(bytes([0, 0, 0, 255, 0])), artifact._with_crc(bytes(8))]
    return artifact._assemble(header | changes, payloads)


def test_the_forger_can_write_a_true_file():
    assert from_bytes(forged()).tensors["w"].codes.shape == (4, 4)


LIES = {
    "huge": {"tensor": {"shape": [1 << 20, 1 << 12]}},
    "huge scales": {"tensor": {"scales": [1 << 30]}},
    "overflowing": {"tensor": {"shape": [1 << 30] * 8}},
    "empty and overflowing": {"tensor": {"shape": [0] + [(1 << 31) - 1] * 7}},
    "negative": {"tensor": {"shape": [-4, -4]}},
    "fractional": {"tensor": {"shape": [4.0, 4]}},
    "many dimensions": {"tensor": {"shape": [1] * 99}},
    "shape is a word": {"tensor": {"shape": "44"}},
    "no such dtype": {"tensor": {"dtype": "float8"}},
    "codes as floats": {"tensor": {"dtype": "float16"}},
    "same name twice": {"tensor": {"names": ["w", "w"]}},
    "endless names": {"tensor": {"names": [["*" * 200, [10**200]]]}},
    "names missing": {"tensor": {"names": []}},
    "names of no kind": {"tensor": {"names": [[None, [1]]]}},
    "no such grid": {"tensor": {"grid": 5}},
    "tensors of no kind": {"tensors": 5},
    "sections missing": {"sections": []},
    "no such codec": {"sections": [["pickle", 5], ["raw", 8]]},
    "negative size": {"sections": [["range", -5], ["raw", 8]]},
    "past the end": {"sections": [["range", 1 << 40], ["raw", 8]]},
    "another codec": {"sections": [["brotli", 5], ["raw", 8]]},
    "floats by the coder": {"tensor": {"of": "float32", "scales": [2]}, "sections": [["range", 5], ["range", 8]]},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_forged_header_is_refused_before_it_costs_memory(lie):
    packed = forged(**LIES[lie])
    tracemalloc.start()
    with pytest.raises(ArtifactError):
        from_bytes(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


def test_a_forged_header_size_is_refused():
    packed = bytearray(forged())
    stored_size = struct.unpack_from("<I", packed, 9)[0]
    packed[9:17] = struct.pack("<II", stored_size, 1 << 31)
    packed[17:21] = struct.pack("<I", zlib.crc32(packed[9:17] + packed[21 : 21 + stored_size]))
    with pytest.raises(ArtifactError, match="lengths"):
        from_bytes(bytes(packed))


def test_deep_json_is_refused():
    depth = json.dumps("x") + "]" * 100_000
    text = ("[" * 100_000 + depth).encode()
    body = Brotli().encode(text)
    lengths = struct.pack("<II", len(body), len(text))
    packed = artifact.MAGIC + b"\x01" + lengths + struct.pack("<I", zlib.crc32(lengths + body)) + body
    packed += body_digest(packed)
    with pytest.raises(ArtifactError, match="JSON"):
        from_bytes(packed)


def test_names_and_dtypes_are_checked_when_packing():
    codes, scales = np.zeros((2, 2), np.int8), np.ones(2, np.float16)
    with pytest.raises(UserError, match="different names"):
        to_bytes(None, [CodesTensor("w", "a", codes, scales, {}), CodesTensor("w", "b", codes, scales, {})])
    with pytest.raises(UserError, match="int8 or int16"):
        CodesTensor("w", "a", codes.astype(np.int32), scales, {})
    with pytest.raises(UserError, match="uint16"):
        RawTensor("w", "a", scales, "bfloat16")
