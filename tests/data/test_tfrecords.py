"""Laws of the official data sets: what is written is what others read, what others wrote is read, and damage never
passes for a picture.

The reader and the checksum here follow the formats' own specifications and share no line with the code.
"""

import gzip
import itertools
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from progan.data.source import Labels, Unreadable
from progan.data.tfrecords import is_tfrecords, tfrecords_source, write_tfrecords
from progan.errors import UserError

QUICK = settings(deadline=None, max_examples=30)


def pictures(count, top, channels=3, seed=0):
    """Random pictures at every level: {R: uint8 [count, channels, R, R]}."""
    rng = np.random.default_rng(seed)
    return {r: rng.integers(0, 256, (count, channels, r, r), np.uint8) for r in resolutions(top)}


def resolutions(top):
    return [2**k for k in range(2, top.bit_length())]


def write(folder, levels, labels=None, prefix="set"):
    folder.mkdir(parents=True, exist_ok=True)
    write_tfrecords(folder, prefix, levels, labels, lambda done, total: None)
    return folder


def read(source):
    """{number: levels} of the pictures that can be had, {number: reason} of the others."""
    whole, lost = {}, {}
    for number, name in enumerate(source.names):
        try:
            whole[number] = source.read(name)
        except Unreadable as error:
            lost[number] = str(error)
    return whole, lost


def same(picture, levels, number):
    """Whether a picture read is that number of what was written, at every level, top-down."""
    wanted = [levels[r][number] for r in sorted(levels, reverse=True)]
    return len(picture) == len(wanted) and all(
        np.array_equal(a, b) and a.dtype == np.uint8 for a, b in zip(picture, wanted)
    )


# --- the formats, by their specifications ---


def _crc_table():
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # the Castagnoli polynomial, bits reversed
        yield value


CRC_TABLE = list(_crc_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    rotated = (crc >> 15) | (crc << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) % 2**32


def framed(message):
    length = struct.pack("<Q", len(message))
    return length + struct.pack("<I", masked(length)) + message + struct.pack("<I", masked(message))


def messages(file):
    """The messages of a TFRecord file, both checksums of each checked."""
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        message = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12]) == (masked(data[:8]),)
        assert struct.unpack("<I", data[12 + length : 16 + length]) == (masked(message),)
        found.append(message)
        data = data[16 + length :]
    return found


def varint(value):
    return bytes([value]) if value < 128 else bytes([value % 128 + 128]) + varint(value // 128)


def field(number, payload):
    return varint(8 * number + 2) + varint(len(payload)) + payload


def feature(key, kind, values):
    """An entry of Features.feature, the kind 1 for a list of bytes and 3 for one of integers."""
    return field(1, field(1, key) + field(2, field(kind, values)))


def example(picture):
    """The plainest tf.train.Example of a picture."""
    shape = feature(b"shape", 3, field(1, b"".join(map(varint, picture.shape))))
    return field(1, shape + feature(b"data", 1, field(1, picture.tobytes())))


def _example_class():
    """tf.train.Example as Google's protobuf has it, from its public definition."""
    repeated, text, bytes_, int64, message = 3, 9, 12, 3, 11
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tensorflow", syntax="proto3")

    def add(name, *fields):
        kind = file.message_type.add(name=name)
        for number, (label, key, type_, type_name) in enumerate(fields, 1):
            kind.field.add(name=key, number=number, label=label, type=type_, type_name=type_name)
        return kind

    add("BytesList", (repeated, "value", bytes_, None))
    add("Int64List", (repeated, "value", int64, None))
    kind = add("Feature")
    kind.field.add(name="bytes_list", number=1, label=1, type=message, type_name=".tensorflow.BytesList", oneof_index=0)
    kind.field.add(name="int64_list", number=3, label=1, type=message, type_name=".tensorflow.Int64List", oneof_index=0)
    kind.oneof_decl.add(name="kind")
    features = add("Features", (repeated, "feature", message, ".tensorflow.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry", options={"map_entry": True})
    entry.field.add(name="key", number=1, label=1, type=text)
    entry.field.add(name="value", number=2, label=1, type=message, type_name=".tensorflow.Feature")
    add("Example", (1, "features", message, ".tensorflow.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


Example = _example_class()


def parsed(message):
    """A picture by Google's protobuf."""
    found = Example.FromString(message).features.feature
    (data,) = found["data"].bytes_list.value
    return np.frombuffer(data, np.uint8).reshape(found["shape"].int64_list.value)


def test_the_checksum_is_crc32c():
    assert crc32c(b"123456789") == 0xE3069283


# --- writing ---


@QUICK
@given(st.integers(1, 5), st.sampled_from([1, 3]), st.sampled_from([4, 8, 16, 32, 128]), st.integers(0, 9))
def test_others_read_what_is_written(tmp_path_factory, count, channels, top, seed):
    folder = tmp_path_factory.mktemp("set")
    levels = pictures(count if top < 128 else 1, top, channels, seed)
    write(folder, levels)
    for r, level in levels.items():
        found = messages(folder / f"set-r{r.bit_length() - 1:02d}.tfrecords")
        assert len(found) == len(level)
        for message, picture in zip(found, level):
            assert np.array_equal(parsed(message), picture)


def test_records_are_as_large_as_the_official_ones(tmp_path):
    """The README of progressive_growing_of_gans: CIFAR-10's 50,000 pictures take 156,350,000 and 4,900,000 bytes."""
    write(tmp_path, pictures(7, 32))
    assert (tmp_path / "set-r05.tfrecords").stat().st_size * 50_000 == 156_350_000 * 7
    assert (tmp_path / "set-r02.tfrecords").stat().st_size * 50_000 == 4_900_000 * 7


def test_the_files_have_the_official_names(tmp_path):
    labels = Labels(np.array([1, 0]), ("0", "1"))
    write(tmp_path, pictures(2, 32), labels, "faces")
    levels = {"faces-r02.tfrecords", "faces-r03.tfrecords", "faces-r04.tfrecords", "faces-r05.tfrecords"}
    assert {p.name for p in tmp_path.iterdir()} == levels | {"faces-rxx.labels"}
    write(tmp_path / "1024", {2**k: np.zeros((1, 1, 2**k, 2**k), np.uint8) for k in range(2, 11)})
    assert max(p.name for p in (tmp_path / "1024").iterdir()) == "set-r10.tfrecords"


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_labels_are_what_numpy_saves_of_one_hot_rows(tmp_path, count):
    values = np.random.default_rng(0).integers(0, 5, count)
    write(tmp_path, pictures(count, 4), Labels(values, tuple("abcde")))
    np.save(tmp_path / "wanted.npy", np.eye(5, dtype=np.float32)[values])
    assert (tmp_path / "set-rxx.labels").read_bytes() == (tmp_path / "wanted.npy").read_bytes()


def test_vectors_are_what_numpy_saves(tmp_path):
    values = np.random.default_rng(0).standard_normal((70, 3)).astype(np.float32)
    write(tmp_path, pictures(70, 4), Labels(values))
    np.save(tmp_path / "wanted.npy", values)
    assert (tmp_path / "set-rxx.labels").read_bytes() == (tmp_path / "wanted.npy").read_bytes()
    assert not (tmp_path / "set-names.json").exists()


def test_classes_with_names_have_them_beside(tmp_path):
    write(tmp_path, pictures(2, 4), Labels(np.array([1, 0]), ("Brötchen", "hat")))
    assert json.loads((tmp_path / "set-names.json").read_text(encoding="utf-8")) == ["Brötchen", "hat"]


def test_names_that_are_no_utf8_come_back(tmp_path):
    names = ("hat", os.fsdecode(b"caf\xe9"), "é\n\u2028\U0001f600")
    write(tmp_path, pictures(3, 4), Labels(np.arange(3), names))
    assert tfrecords_source(tmp_path).labels.names == names


def test_progress_counts_pictures(tmp_path):
    seen = []
    write_tfrecords(tmp_path, "set", pictures(130, 8), None, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (130, 130)
    assert seen == sorted(set(seen))
    assert {total for _, total in seen} == {130}


@pytest.mark.parametrize("prefix", ["", "../set", "a/b", "a\\b", ".set", "a:b", "a\nb", "/set"])
def test_a_prefix_cannot_lead_out_of_the_folder(tmp_path, prefix):
    (tmp_path / "inner").mkdir()
    with pytest.raises(UserError, match="cannot begin the names of files"):
        write_tfrecords(tmp_path / "inner", prefix, pictures(1, 4), None, lambda done, total: None)
    assert [p.name for p in tmp_path.rglob("*")] == ["inner"]


# --- there and back ---

SETS = st.tuples(st.integers(1, 70), st.sampled_from([1, 3]), st.sampled_from([4, 8, 16]), st.integers(0, 9))


@QUICK
@given(SETS, st.sampled_from(["none", "classes", "named", "vectors"]))
def test_everything_comes_back(tmp_path_factory, size, kind):
    folder, (count, channels, top, seed) = tmp_path_factory.mktemp("set"), size
    levels, rng = pictures(count, top, channels, seed), np.random.default_rng(seed)
    labels = {
        "none": None,
        "classes": Labels(rng.integers(0, 3, count), ("0", "1", "2")),
        "named": Labels(rng.integers(0, 2, count), ("0", "zwölf")),
        "vectors": Labels(rng.standard_normal((count, 4)).astype(np.float32)),
    }[kind]
    source = tfrecords_source(write(folder, levels, labels))
    whole, lost = read(source)
    assert not lost
    assert len(whole) == count
    assert all(same(picture, levels, number) for number, picture in whole.items())
    assert (source.top, source.channels, source.shuffled, source.names[0]) == (top, channels, True, "000000")
    assert (source.labels is None) == (labels is None)
    if labels and source.labels:
        assert source.labels.names == labels.names
        assert source.labels.values.dtype == labels.values.dtype
        assert np.array_equal(source.labels.values, labels.values)


def test_a_set_of_1024_comes_back(tmp_path):
    levels = pictures(1, 1024)
    whole, lost = read(tfrecords_source(write(tmp_path, levels)))
    assert same(whole[0], levels, 0)
    assert not lost


def test_reading_can_be_sent_to_another_process_and_is_small(tmp_path):
    levels = pictures(500, 8)
    source = tfrecords_source(write(tmp_path, levels))
    sent = pickle.dumps(source.read)
    assert len(sent) < 2000
    assert same(pickle.loads(sent)(source.names[321]), levels, 321)


def test_a_picture_can_be_written_to(tmp_path):
    source = tfrecords_source(write(tmp_path, pictures(1, 8)))
    for level in source.read(source.names[0]):
        level[:] = 0


def test_a_million_names_are_in_order(tmp_path):
    write(tmp_path, pictures(1, 4))
    np.save(tmp_path / "labels.npy", np.ones((1_000_001, 1), np.float32))
    os.replace(tmp_path / "labels.npy", tmp_path / "set-rxx.labels")
    names = tfrecords_source(tmp_path).names
    assert names == sorted(names)
    assert (len(names), names[12], names[-1]) == (1_000_001, "0000012", "1000000")


def test_neither_module_loads_torch():
    code = "import sys, progan.data.tfrecords, progan.data.stylegan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what others write ---


def set_of(folder, messages_of):
    """A set of hand-made messages: {log2: [message, ...]}."""
    folder.mkdir(parents=True, exist_ok=True)
    for log2, found in messages_of.items():
        (folder / f"set-r{log2:02d}.tfrecords").write_bytes(b"".join(map(framed, found)))
    return folder


def spellings(picture):
    """Examples that mean the same picture."""
    sizes = field(1, b"".join(map(varint, picture.shape)))
    shape, data = feature(b"shape", 3, sizes), feature(b"data", 1, field(1, picture.tobytes()))
    singly = b"".join(b"\x08" + varint(size) for size in picture.shape)
    mixed = b"\x08" + varint(picture.shape[0]) + field(1, b"".join(map(varint, picture.shape[1:])))
    parted = field(3, singly[:2]) + field(3, singly[2:])
    unknown = b"\x50\x96\x01" + b"\x51" + 8 * b"\x01" + field(10, b"what") + b"\x55" + 4 * b"\x0a"
    yield "official", field(1, shape + data)
    yield "data first", field(1, data + shape)
    yield "not packed", field(1, feature(b"shape", 3, singly) + data)
    yield "half packed", field(1, feature(b"shape", 3, mixed) + data)
    yield "two messages", field(1, shape) + field(1, data)
    yield "two lists", field(1, field(1, field(1, b"shape") + field(2, parted)) + data)
    yield "value before key", field(1, field(1, field(2, field(3, sizes)) + field(1, b"shape")) + data)
    yield "two keys, the last counts", field(1, field(1, field(1, b"data") + shape[2:]) + data)
    yield "two shapes, the last counts", field(1, feature(b"shape", 3, field(1, b"\x07\x07")) + data + shape)
    yield "another feature", field(1, shape + feature(b"label", 3, field(1, b"\x05")) + data)
    yield "a feature of floats", field(1, shape + feature(b"score", 2, field(1, b"\0\0\x80\x3f")) + data)
    yield "unknown fields outside", unknown + field(1, shape + data) + unknown
    yield "unknown fields inside", field(1, unknown + shape + unknown + data + unknown)
    yield "Google's order", Example.FromString(field(1, shape + data)).SerializeToString(deterministic=True)


@pytest.mark.parametrize("kind", [name for name, _ in spellings(np.zeros((1, 4, 4), np.uint8))])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_spelling_of_a_picture_is_read(tmp_path, kind, channels):
    levels = pictures(3, 128, channels)
    made = {r.bit_length() - 1: [dict(spellings(p))[kind] for p in level] for r, level in levels.items()}
    assert np.array_equal(parsed(made[7][0]), levels[128][0]), "Google's protobuf agrees that it means the picture"
    whole, lost = read(tfrecords_source(set_of(tmp_path, made)))
    assert not lost
    assert all(same(whole[number], levels, number) for number in range(3))


def test_records_may_have_many_lengths(tmp_path):
    levels = pictures(12, 8)
    made = {k: [field(9, bytes(number % 5)) + example(levels[2**k][number]) for number in range(12)] for k in (2, 3)}
    whole, lost = read(tfrecords_source(set_of(tmp_path, made)))
    assert not lost
    assert all(same(whole[number], levels, number) for number in range(12))


BROKEN = {
    "empty": b"",
    "a picture and a group": example(np.zeros((3, 4, 4), np.uint8)) + b"\x53\x54",
    "a picture and half a field": example(np.zeros((3, 4, 4), np.uint8)) + b"\x52\x7f\x00",
    "a picture and half an integer": example(np.zeros((3, 4, 4), np.uint8)) + b"\x50\x80",
    "a picture and an integer of 11 bytes": example(np.zeros((3, 4, 4), np.uint8)) + b"\x50" + b"\x80" * 10 + b"\x01",
    "no shape": field(1, feature(b"data", 1, field(1, bytes(48)))),
    "no data": field(1, feature(b"shape", 3, field(1, b"\x03\x04\x04"))),
    "data twice": field(
        1, feature(b"shape", 3, field(1, b"\x03\x04\x04")) + feature(b"data", 1, 2 * field(1, bytes(48)))
    ),
    "no protobuf": b"\xff" * 30,
    "a group": b"\x0b\x0c",
    "a field longer than its message": b"\x0a\x7f\x00",
    "an endless integer": b"\x08" + b"\x80" * 40,
    "cut in an integer": b"\x08\x80",
    "cut in a fixed field": b"\x51\x00",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_record_that_is_no_picture_is_one_lost_picture(tmp_path, kind):
    level = pictures(3, 4)[4]
    made = [example(level[0]), BROKEN[kind], example(level[2])]
    whole, lost = read(tfrecords_source(set_of(tmp_path, {2: made})))
    assert lost == {1: "a record of set-r02.tfrecords is no picture"}
    assert all(same(whole[number], {4: level}, number) for number in (0, 2))


ODD = {
    (3, 4, 8): "is 3x4x8 where 3x4x4 belongs",
    (3, 8, 8): "is 3x8x8 where 3x4x4 belongs",
    (4, 4, 3): "is 4x4x3 where 3x4x4 belongs",
    (1, 4, 4): "is 1x4x4 where 3x4x4 belongs",
    (48,): "is 48 where 3x4x4 belongs",
}


@pytest.mark.parametrize("shape", ODD)
def test_a_record_of_another_form_is_one_lost_picture(tmp_path, shape):
    made = [example(np.zeros((3, 4, 4), np.uint8)), example(np.zeros(shape, np.uint8))]
    assert read(tfrecords_source(set_of(tmp_path, {2: made})))[1] == {1: f"a record of set-r02.tfrecords {ODD[shape]}"}


@pytest.mark.parametrize("size", [0, 47, 49])
def test_a_record_without_all_pixels_is_one_lost_picture(tmp_path, size):
    odd = field(1, feature(b"shape", 3, field(1, b"\x03\x04\x04")) + feature(b"data", 1, field(1, bytes(size))))
    source = tfrecords_source(set_of(tmp_path, {2: [example(np.zeros((3, 4, 4), np.uint8)), odd]}))
    assert read(source)[1] == {1: "a record of set-r02.tfrecords has not as many bytes as pixels"}


def test_levels_of_other_channels_are_not_mixed(tmp_path):
    write(tmp_path, pictures(1, 8, 3))
    grey = write(tmp_path / "grey", pictures(1, 8, 1))
    shutil.copy(grey / "set-r02.tfrecords", tmp_path)
    assert read(tfrecords_source(tmp_path))[1] == {0: "a record of set-r02.tfrecords is 1x4x4 where 3x4x4 belongs"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (example(np.zeros((2, 4, 4), np.uint8)), "a record of set-r02.tfrecords is 2x4x4 where 1x4x4 or 3x4x4 belongs"),
        (example(np.zeros((3, 4, 2), np.uint8)), "a record of set-r02.tfrecords is 3x4x2 where 1x4x4 or 3x4x4 belongs"),
        (field(1, feature(b"img", 1, field(1, b"jpeg"))), "a record of set-r02.tfrecords is no picture"),
    ],
)
def test_a_set_of_other_things_is_a_users_mistake(tmp_path, message, reason):
    with pytest.raises(UserError, match=f"is no level of an official data set: {reason}"):
        tfrecords_source(set_of(tmp_path, {2: [message]}))


# --- damage ---

LEVELS = pictures(3, 8, 1, seed=5)


@pytest.fixture
def small(tmp_path):
    """Three grey pictures of 8x8."""
    return write(tmp_path / "small", LEVELS)


@pytest.mark.parametrize("name", ["set-r02.tfrecords", "set-r03.tfrecords"])
def test_no_flipped_bit_passes_for_a_picture(small, name):
    file = small / name
    data = file.read_bytes()
    length = len(data) // 3
    for position, bit in itertools.product(range(len(data)), range(8)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << bit
        file.write_bytes(flipped)
        hit, in_head = position // length, position % length < 12
        if in_head and hit == 0:
            with pytest.raises(UserError, match="no whole record"):
                tfrecords_source(small)
            continue
        source = tfrecords_source(small)
        whole, lost = read(source)
        assert all(same(picture, LEVELS, number) for number, picture in whole.items())
        gone = range(hit, 3) if in_head else [hit]
        reason = f"missing in {name} (the file is damaged)" if in_head else f"damaged record in {name} (checksum)"
        assert lost == dict.fromkeys(gone, reason)
        assert len(source.names) == 3


@pytest.mark.parametrize("name", ["set-r02.tfrecords", "set-r03.tfrecords"])
def test_a_file_cut_off_anywhere_loses_the_pictures_behind(small, name):
    file = small / name
    data = file.read_bytes()
    length = len(data) // 3
    for size in range(len(data)):
        file.write_bytes(data[:size])
        if size < length:
            with pytest.raises(UserError, match="is empty" if size == 0 else "no whole record"):
                tfrecords_source(small)
            continue
        whole, lost = read(tfrecords_source(small))
        assert all(same(picture, LEVELS, number) for number, picture in whole.items())
        assert lost == dict.fromkeys(range(size // length, 3), f"missing in {name} (the file is cut off)")


def test_damage_after_opening_is_noticed(small):
    source = tfrecords_source(small)
    file = small / "set-r02.tfrecords"
    data = file.read_bytes()
    length = len(data) // 3
    file.write_bytes(data[:-1])
    assert read(source)[1] == {2: "damaged record in set-r02.tfrecords (checksum)"}
    file.write_bytes(data[:length] + bytes(length) + data[2 * length :])
    assert read(source)[1] == {1: "damaged record in set-r02.tfrecords (checksum)"}
    head = bytearray(data)
    head[0] ^= 1
    file.write_bytes(head)
    assert read(source)[1] == {0: "damaged record in set-r02.tfrecords (checksum)"}
    file.unlink()
    with pytest.raises(FileNotFoundError):
        source.read(source.names[0])


def test_the_channels_are_told_from_the_first_whole_record(small):
    file = small / "set-r03.tfrecords"
    data = bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    whole, lost = read(tfrecords_source(small))
    assert (sorted(whole), sorted(lost)) == ([1, 2], [0])
    for position in range(20, len(data), len(data) // 3):
        data[position] = 0
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"set-r03.tfrecords holds no undamaged record"):
        tfrecords_source(small)


# --- which files ---


def test_what_is_a_set(small, tmp_path):
    assert is_tfrecords(small)
    assert is_tfrecords(small / "set-r02.tfrecords")
    empty = tmp_path / "empty"
    (empty / "folder-r02.tfrecords").mkdir(parents=True)
    (empty / "photo.png").write_bytes(b"")
    (empty / "photos.tfrecords").write_bytes(b"")
    (empty / "set-r01.tfrecords").write_bytes(b"")
    for path in (empty, *empty.iterdir(), empty / "set-r02.tfrecords", empty / ("x" * 5000), Path("a\0b")):
        assert not is_tfrecords(path), path
        with pytest.raises(UserError, match="is neither a folder with"):
            tfrecords_source(path)


def test_any_file_stands_for_its_set(small):
    for file in small.iterdir():
        source = tfrecords_source(file)
        assert source.top == 8
        assert same(source.read(source.names[1]), LEVELS, 1)


def test_of_several_sets_one_must_be_named(small):
    other = {4: 255 - LEVELS[4]}
    write(small, other, Labels(np.array([0, 1, 0]), ("a", "b")), "other")
    with pytest.raises(
        UserError, match=r"several data sets \(other, set\); name one of the files, such as .*other-r02"
    ):
        tfrecords_source(small)
    source = tfrecords_source(small / "other-r02.tfrecords")
    assert same(source.read(source.names[2]), other, 2)
    assert source.labels is not None
    assert tfrecords_source(small / "set-r02.tfrecords").labels is None


def test_a_missing_level_is_named(small):
    write(small, pictures(3, 32, 1))
    (small / "set-r04.tfrecords").unlink()
    (small / "set-r02.tfrecords").unlink()
    with pytest.raises(UserError, match=r"lacks set-r02.tfrecords, set-r04.tfrecords; a data set has a file for every"):
        tfrecords_source(small)


def test_hidden_and_other_files_are_passed_over(small):
    for name in ("._set-r02.tfrecords", "notes.txt", "set-r02.tfrecords.part", "set-r00.tfrecords"):
        (small / name).write_bytes(b"junk")
    assert not read(tfrecords_source(small))[1]


def test_a_compressed_file_is_named(small):
    file = small / "set-r03.tfrecords"
    file.write_bytes(gzip.compress(file.read_bytes()))
    with pytest.raises(UserError, match=r"set-r03.tfrecords is compressed with gzip; unpack it first"):
        tfrecords_source(small)


def test_a_file_of_another_kind_is_named(small):
    (small / "set-r03.tfrecords").write_bytes(b"\x89PNG\r\n\x1a\n" * 20)
    with pytest.raises(UserError, match=r"set-r03.tfrecords holds no whole record: it is no TFRecord file"):
        tfrecords_source(small)


def test_a_file_that_cannot_be_opened_is_named(small, monkeypatch):
    def refuse(path, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"set-r03.tfrecords cannot be read: Permission denied\.$"):
        tfrecords_source(small)


def test_a_folder_that_cannot_be_listed_is_named(small, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    for look in (is_tfrecords, tfrecords_source):
        with pytest.raises(UserError, match=r"small cannot be read: Permission denied\.$"):
            look(small)


def test_the_state_tells_of_changes(small):
    states = [tfrecords_source(small).state]
    assert tfrecords_source(small / "set-r03.tfrecords").state == states[0]
    os.utime(small / "set-r02.tfrecords", ns=(1, 1))
    states.append(tfrecords_source(small).state)
    with (small / "set-r03.tfrecords").open("ab") as file:
        file.write(b"tail")
    os.utime(small / "set-r03.tfrecords", ns=(1, 1))
    states.append(tfrecords_source(small).state)
    with (small / "set-r03.tfrecords").open("ab") as file:
        file.write(b"more")
    os.utime(small / "set-r03.tfrecords", ns=(1, 1))
    states.append(tfrecords_source(small).state)
    save_labels(small, np.eye(3, dtype=np.float32))
    states.append(tfrecords_source(small).state)
    (small / "set-names.json").write_text('["a", "b", "c"]')
    states.append(tfrecords_source(small).state)
    assert len(set(states)) == 6


# --- labels of others ---


def save_labels(folder, values, allow_pickle=False):
    with (folder / "set-rxx.labels").open("wb") as file:
        np.save(file, values, allow_pickle=allow_pickle)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool, np.int64])
def test_one_hot_rows_are_classes(small, dtype):
    save_labels(small, np.asfortranarray(np.eye(5)[[4, 0, 4]].astype(dtype)))
    labels = tfrecords_source(small).labels
    assert (labels.values.dtype, labels.values.tolist()) == (np.int64, [4, 0, 4])
    assert labels.names == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    "values",
    [
        [[0, 0], [0, 1], [1, 0]],  # a row without one
        [[1, 1], [0, 1], [1, 0]],  # a row with two
        [[0.5, 0.5], [0, 1], [1, 0]],
        [[2, -1], [0, 1], [1, 0]],
    ],
)
def test_other_rows_are_vectors(small, values):
    save_labels(small, np.array(values, np.float32))
    labels = tfrecords_source(small).labels
    assert (labels.values.dtype, labels.values.tolist(), labels.names) == (np.float32, values, ())


def test_rows_without_numbers_are_no_labels(small):
    save_labels(small, np.zeros((3, 0), np.float32))
    assert tfrecords_source(small).labels is None


def test_labels_tell_of_pictures_that_every_file_has_lost(small):
    save_labels(small, np.eye(5, dtype=np.float32))
    source = tfrecords_source(small)
    assert len(source.names) == len(source.labels.values) == 5
    assert read(source)[1] == dict.fromkeys((3, 4), "missing in set-r03.tfrecords (the file is cut off)")


def _infinite(value):
    return np.array([[1, value], [0, 1], [1, 0]])


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.eye(2, 3, dtype=np.float32), "has labels for 2 of 3 pictures"),
        (np.arange(3), r"holds int64 \(3,\) where one row of numbers a picture is expected"),
        (np.zeros((3, 1, 1), np.float32), r"holds float32 \(3, 1, 1\)"),
        (np.array([["a"], ["b"], ["c"]]), r"holds <U1 \(3, 1\)"),
        (np.ones((3, 2), complex), "holds complex128"),
        (_infinite(np.nan), "no finite numbers"),
        (_infinite(np.inf), "no finite numbers"),
        (_infinite(1e300), "no finite numbers"),
    ],
)
def test_labels_that_do_not_fit_are_named(small, values, match):
    save_labels(small, values)
    with pytest.raises(UserError, match=match):
        tfrecords_source(small)


def test_nothing_pickled_is_loaded(small):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(small / "crater"),)

    save_labels(small, np.array([[Bomb()]] * 3, object), allow_pickle=True)
    with pytest.raises(UserError, match=r"set-rxx.labels is no array of labels, or is damaged"):
        tfrecords_source(small)
    assert not (small / "crater").exists()


def test_damaged_labels_are_named(small):
    """Values have no checksum; but no damage may end in anything else than a source or one sentence."""
    save_labels(small, np.eye(3, dtype=np.float32))
    file = small / "set-rxx.labels"
    data, refused = file.read_bytes(), 0
    changed = [data[:size] for size in range(0, len(data), 3)]
    for position in range(len(data) - 36):
        for bit in (0, 2, 5, 7):
            changed.append(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :])
    for damaged in [*changed, b"PK\x03\x04 a zip", data.replace(b"(3, 3)", b"(3,-3)"), b"\x93NUMPY"]:
        file.write_bytes(damaged)
        try:
            tfrecords_source(small)
        except UserError:
            refused += 1
    assert refused > 0.4 * len(changed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "3",
        '["a", "b"]',
        '["a", "b", 3]',
        '["a", "b", "a"]',
        '["a", "b", "c", "d"]',
        "\udcff",
        "[" * 99_999,
    ],
)
def test_damaged_names_are_named(small, text):
    save_labels(small, np.eye(3, dtype=np.float32))
    (small / "set-names.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"set-names.json must be a list of 3 names, one a class, each once"):
        tfrecords_source(small)


def test_names_belong_to_classes(small):
    save_labels(small, np.full((3, 3), 0.5, np.float32))
    (small / "set-names.json").write_text('["a", "b", "c"]')
    with pytest.raises(UserError, match=r"names classes, but set-rxx.labels holds no one-hot labels"):
        tfrecords_source(small)
