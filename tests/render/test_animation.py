"""Laws of the writers: what goes in comes out, twice the same bytes, one frame in memory, nothing half-written."""

import io
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progan.errors import RunFailed, UserError
from progan.render import animation
from progan.render.animation import encode_gif, write_animation

STILLS = ["walk.webp", "walk.gif", "walk.png", "walk"]
VIDEOS = ["walk.mp4", "walk.webm"]
ALL = STILLS + VIDEOS


def _needs_av(name: str) -> None:
    if name in VIDEOS:
        pytest.importorskip("av", reason="PyAV is not installed (extra: video)")


def _frames(count: int, height: int = 32, width: int = 48, grey: bool = False):
    """A grey ramp that moves to the right, tinted: easy for every codec."""
    for k in range(count):
        ramp = (np.arange(width) * 3 + 8 * k).clip(0, 255).astype(np.uint8)
        frame = np.tile(ramp, (height, 1))
        yield frame if grey else np.stack([frame, frame // 2, 255 - frame], axis=2)


def _read(path: Path) -> tuple[list[np.ndarray], float]:
    """(frames as RGB, seconds) of an animation."""
    if path.is_dir():
        return [np.asarray(Image.open(file).convert("RGB")) for file in sorted(path.iterdir())], 0.0
    return _read_video(path) if path.suffix in (".mp4", ".webm") else _read_image(path)


def _read_image(path: Path) -> tuple[list[np.ndarray], float]:
    with Image.open(path) as image:
        frames, milliseconds = [], 0.0
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            frames.append(np.asarray(image.convert("RGB")))
            milliseconds += image.info["duration"]
    return frames, milliseconds / 1000


def _read_video(path: Path) -> tuple[list[np.ndarray], float]:
    import av

    with av.open(str(path)) as container:
        assert container.duration is not None
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return frames, container.duration / av.time_base


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fps", [25, 30, 7.5, 33.333333])
def test_frames_sizes_and_durations_come_back(tmp_path, name, fps):
    _needs_av(name)
    assert write_animation(tmp_path / name, _frames(9), fps) == 9
    frames, seconds = _read(tmp_path / name)
    assert len(frames) == 9
    assert {frame.shape for frame in frames} == {(32, 48, 3)}
    slack = 0.005 if name == "walk.gif" else 0.002  # half a tick of the format, or WebM's milliseconds
    assert name == "walk" or abs(seconds - 9 / fps) <= slack


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("grey", [False, True])
def test_pictures_come_back(tmp_path, name, grey):
    """Exactly from PNG and grey GIF; the octree and the lossy codecs stay close. A wrong colour matrix is off by 10."""
    _needs_av(name)
    write_animation(tmp_path / name, _frames(4, grey=grey), 25)
    exact = name in ("walk", "walk.png") or (grey and name == "walk.gif")
    for got, sent in zip(_read(tmp_path / name)[0], _frames(4, grey=grey)):
        sent = sent if sent.ndim == 3 else np.repeat(sent[:, :, None], 3, 2)
        error = np.abs(got.astype(float) - sent)
        assert error.mean() <= (0 if exact else 6)
        assert exact or error.mean() > 0  # the comparison sees what it should


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255), (90, 160, 30)])
def test_flat_colours_come_back(tmp_path, name, colour):
    """Videos say BT.709 and mean it: BT.601 in its place would be off by 18 and more."""
    _needs_av(name)
    write_animation(tmp_path / name, [np.full((32, 32, 3), colour, np.uint8)] * 2, 25)
    for frame in _read(tmp_path / name)[0]:
        assert np.abs(frame.astype(int) - colour).max() <= 4


@pytest.mark.parametrize("name", ALL)
def test_same_arguments_same_bytes(tmp_path, name):
    _needs_av(name)
    for folder in ("a", "b"):
        write_animation(tmp_path / folder / name, _frames(12, 64, 64), 25)
    write_animation(tmp_path / "c" / name, (255 - f for f in _frames(12, 64, 64)), 25)
    a, b, c = (_bytes(tmp_path / folder / name) for folder in "abc")
    assert a == b != c


def _bytes(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in (sorted(path.iterdir()) if path.is_dir() else [path])]


@pytest.mark.parametrize("name", ALL)
def test_one_frame_at_a_time(tmp_path, name):
    _needs_av(name)
    alive, most = weakref.WeakSet(), 0

    class Tracked(np.ndarray):
        """An array that can be looked for by identity."""

        __hash__ = object.__hash__

    def tracked():
        nonlocal most
        for frame in _frames(40):
            frame = frame.view(Tracked)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame
            del frame

    write_animation(tmp_path / name, tracked(), 25)
    assert 1 <= most <= 2


@pytest.mark.parametrize("name", STILLS)
def test_equal_neighbours_stay_frames(tmp_path, name):
    frame = np.full((8, 8, 3), 77, np.uint8)
    write_animation(tmp_path / name, [frame] * 5, 10)
    frames, seconds = _read(tmp_path / name)
    assert len(frames) == 5
    assert name == "walk" or seconds == pytest.approx(0.5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (31, 17)])
def test_one_frame_of_any_size(tmp_path, name, size):
    _needs_av(name)
    write_animation(tmp_path / name, _frames(1, *size), 25)
    even = tuple(n + n % 2 for n in size) if name in VIDEOS else size
    assert [frame.shape for frame in _read(tmp_path / name)[0]] == [(*even, 3)]


def test_odd_sizes_repeat_their_edge():
    frame = next(_frames(1, 3, 5))
    even = animation._even_rgb(frame)
    assert even.shape == (4, 6, 3)
    assert np.array_equal(even[:3, :5], frame)
    assert np.array_equal(even[3, :5], frame[2])
    assert np.array_equal(even[:3, 5], frame[:, 4])


@pytest.mark.parametrize(("name", "default"), [("walk.webp", 1), ("walk.gif", None), ("walk.png", 1)])
def test_loop_is_in_the_file(tmp_path, name, default):
    for loop in (True, False):
        write_animation(tmp_path / name, _frames(3), 25, loop=loop)
        with Image.open(tmp_path / name) as image:
            assert image.info.get("loop") == (0 if loop else default)


def test_encode_gif_is_the_file_and_tensorboard_can_read_it(tmp_path):
    write_animation(tmp_path / "walk.gif", _frames(6), 12)
    data = encode_gif(_frames(6), 12)
    assert data == (tmp_path / "walk.gif").read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        assert (image.n_frames, image.size) == (6, (48, 32))
    with pytest.raises(UserError, match=r"0\.1 to 50"):
        encode_gif(_frames(6), 60)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "walk.webp"
    write_animation(target, _frames(3), 25)
    before = target.read_bytes()

    def broken():
        yield from _frames(2)
        raise RuntimeError("the generator fell over")

    for name in (*STILLS, *(VIDEOS if animation._has_av() else [])):
        with pytest.raises(RuntimeError, match="fell over"):
            write_animation(tmp_path / name, broken(), 25)
    assert [path.name for path in tmp_path.iterdir()] == ["walk.webp"]
    assert target.read_bytes() == before
    write_animation(target, _frames(4), 25)
    assert target.read_bytes() != before


def test_a_directory_with_files_is_never_touched(tmp_path):
    (tmp_path / "empty").mkdir()
    assert write_animation(tmp_path / "empty", _frames(2), 25) == 2
    assert [p.name for p in sorted((tmp_path / "empty").iterdir())] == ["frame-000000.png", "frame-000001.png"]
    with pytest.raises(UserError, match="with files in it"):
        write_animation(tmp_path / "empty", _frames(3), 25)
    assert len(list((tmp_path / "empty").iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "fps", "words"),
    [
        ("walk.avi", 25, "unknown suffix; use .webp, .gif, .png, .mp4, .webm"),
        ("walk.gif", 60, "0.1 to 50"),
        ("walk.webp", 0, "0.1 to 240"),
        ("folder.webp", 25, "a directory of this name"),
        ("file", 25, "a file of this name"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_first_frame(tmp_path, name, fps, words):
    (tmp_path / "folder.webp").mkdir()
    (tmp_path / "file").touch()

    def never():
        raise AssertionError("a frame was asked for")
        yield

    with pytest.raises(UserError, match=words):
        write_animation(tmp_path / name, never(), fps)


@pytest.mark.parametrize(
    "frames",
    [[], [np.zeros((4, 4, 3))], [np.zeros((4, 4, 4), np.uint8)], [np.zeros((4, k, 3), np.uint8) for k in (4, 5)]],
)
def test_frames_must_be_pictures_and_alike(tmp_path, frames):
    with pytest.raises(ValueError, match="frame"):
        write_animation(tmp_path / "walk.gif", frames, 25)
    assert not list(tmp_path.iterdir())


def test_webp_has_a_largest_size(tmp_path):
    with pytest.raises(UserError, match="16383"):
        write_animation(tmp_path / "walk.webp", [np.zeros((2, 16384, 3), np.uint8)], 25)
    assert write_animation(tmp_path / "walk.webp", [np.zeros((2, 16383, 3), np.uint8)], 25) == 1


def test_video_without_encoder_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "_has_av", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'progan\[video\]'"):
        write_animation(tmp_path / "walk.mp4", _frames(2), 25)


def _fake_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script called ffmpeg first on the PATH, and hide PyAV."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ffmpeg").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "ffmpeg").chmod(0o755)
    monkeypatch.setattr(animation, "_has_av", lambda: False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_ffmpeg_gets_raw_frames_and_the_draft(tmp_path, monkeypatch):
    _fake_ffmpeg(tmp_path, monkeypatch, 'for last; do :; done; echo "$@" > "$(dirname $0)/args"; cat > "$last"')
    assert write_animation(tmp_path / "walk.mp4", _frames(5, 31, 17), 29.97) == 5
    sent = b"".join(animation._even_rgb(frame).tobytes() for frame in _frames(5, 31, 17))
    assert (tmp_path / "walk.mp4").read_bytes() == sent
    arguments = (tmp_path / "bin" / "args").read_text()
    assert "-video_size 18x32 -framerate 2997/100 -i pipe:0" in arguments
    assert "-crf:v 18" in arguments
    assert "-movflags +faststart" in arguments


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="no ffmpeg on the PATH")
@pytest.mark.parametrize("name", VIDEOS)
def test_ffmpeg_writes_what_pyav_writes(tmp_path, monkeypatch, name):
    """Same frames, sizes and duration; pixels as close as the codec; twice the same bytes."""
    _needs_av(name)
    write_animation(tmp_path / "av" / name, _frames(9, 31, 17), 30)
    monkeypatch.setattr(animation, "_has_av", lambda: False)
    for folder in ("a", "b"):
        assert write_animation(tmp_path / folder / name, _frames(9, 31, 17), 30) == 9
    assert _bytes(tmp_path / "a" / name) == _bytes(tmp_path / "b" / name)
    (ours, seconds), (theirs, expected) = (_read(tmp_path / folder / name) for folder in ("a", "av"))
    assert seconds == pytest.approx(expected, abs=0.002)
    assert np.abs(np.stack(ours).astype(float) - np.stack(theirs)).mean() < 2


def test_ffmpegs_own_words_reach_the_user(tmp_path, monkeypatch):
    _fake_ffmpeg(tmp_path, monkeypatch, "echo no such encoder >&2; exit 1")
    with pytest.raises(RunFailed, match="no such encoder"):
        write_animation(tmp_path / "walk.webm", _frames(200, 256, 256), 25)
    assert [p.name for p in tmp_path.iterdir()] == ["bin"]
