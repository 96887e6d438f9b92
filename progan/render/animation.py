"""Frames into animations. A frame is a uint8 numpy array, [H, W, 3] or grey [H, W]; all frames of one file are alike.

Pillow's own writers of animations hold every frame before they write the first, so here Pillow encodes stills, and this
file joins them to WebP, GIF and APNG. One frame is held at a time, and equal neighbours stay two frames.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from progan.errors import RunFailed, UserError
from progan.files import atomic, atomic_folder

Frame = NDArray[np.uint8]
Writer = Callable[[Path, Iterator[Frame], Fraction, bool], int]  # draft, frames, fps, loop -> number of frames

WEBP_QUALITY = 90
PNG_LEVEL = 6
VIDEO_THREADS = 4  # a fixed number, because it changes the bytes


def write_animation(path: Path | str, frames: Iterable[Frame], fps: float, loop: bool = True) -> int:
    """Write frames at `fps` a second to .webp, .gif, .png (APNG), .mp4 or .webm; where the path has no suffix, to a new
    directory of frame-000000.png, frame-000001.png ... Returns the number of frames.

    Frames are taken one at a time, whatever the format. Same arguments, same bytes. The file appears whole or not at
    all and replaces one of its name. `loop`: image files say that they play for ever, else once; videos and directories
    have no such field. Odd sizes gain a copy of their last row or column in videos. GIF: 256 colours a frame.
    UserError: see check_target, or the disk refuses. ValueError: no frames, or frames that are not alike.
    """
    path = Path(path)
    check_target(path, fps)
    with atomic(path) if path.suffix else _new_folder(path) as draft:
        return WRITERS[path.suffix.lower()](draft, _checked(frames), _exact(fps), loop)


def encode_gif(frames: Iterable[Frame], fps: float) -> bytes:
    """The bytes of the GIF that write_animation would write, playing for ever (for TensorBoard). Raises as it does."""
    _check_rate(Path("picture.gif"), fps)
    file = io.BytesIO()
    _join_gif(file, _checked(frames), _exact(fps), True)
    return file.getvalue()


def check_target(path: Path | str, fps: float) -> None:
    """UserError, in one sentence, where write_animation could not write this path at this many frames a second: an
    unknown suffix, a rate outside 0.1..240 (GIF: 50), no video encoder, or something of the user's in the way."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITERS or not path.name:
        raise UserError(f"{path}: unknown suffix; use .webp, .gif, .png, .mp4, .webm, or none for a directory.")
    _check_rate(path, fps)
    if suffix in CODECS and not _has_av() and not shutil.which("ffmpeg"):
        raise UserError(f"{path}: needs PyAV, pip install 'progan[video]', or ffmpeg on the PATH; or take .webp.")
    if path.is_dir() and (suffix or any(path.iterdir())):
        raise UserError(f"{path}: a directory {'of this name' if suffix else 'with files in it'}; choose another name.")
    if not suffix and path.is_file():
        raise UserError(f"{path}: a file of this name; choose another for the directory of frames.")


def _check_rate(path: Path, fps: float) -> None:
    """UserError where a file of this kind cannot show so many frames a second: 0.1 to 240, GIF to 50."""
    most = 50 if path.suffix.lower() == ".gif" else 240
    if not 0.1 <= fps <= most:
        raise UserError(f"{path}: cannot show {fps:g} frames a second; {path.suffix or 'this'} takes 0.1 to {most}.")


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` at the end. An empty folder of that name gives way."""
    with atomic_folder(path) as draft:
        yield draft
        if path.is_dir():
            path.rmdir()


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames as they come. ValueError unless there is one, and all are uint8 and of the shape of the first."""
    shape: tuple[int, ...] = ()
    for frame in frames:
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.shape != shape or shape[2:] not in ((), (3,)):
            raise ValueError(f"frames are uint8 [H, W, 3] or [H, W], all alike: {frame.dtype} {frame.shape} {shape}")
        yield frame
    if not shape:
        raise ValueError("an animation needs at least one frame")


def _exact(fps: float) -> Fraction:
    """The rate that people mean: 29.97 is 2997/100, 33.333333 is 100/3. Both parts fit in 16 bits."""
    return Fraction(str(fps)).limit_denominator(200)


def _delay(index: int, fps: Fraction, ticks_per_sec: int) -> int:
    """How long a frame shows, in ticks. Rounded so that the sum of all delays is never more than half a tick off."""
    return round((index + 1) * ticks_per_sec / fps) - round(index * ticks_per_sec / fps)


def _still(image: Image.Image, kind: str, **options: Any) -> bytes:
    """One picture as a file of Pillow's."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _joined(join: Callable[[BinaryIO, Iterator[Frame], Fraction, bool], int]) -> Writer:
    """The writer to a path from a writer to a file."""

    def write(draft: Path, frames: Iterator[Frame], fps: Fraction, loop: bool) -> int:
        with draft.open("wb") as file:
            return join(file, frames, fps, loop)

    return write


def _join_gif(file: BinaryIO, frames: Iterator[Frame], fps: Fraction, loop: bool) -> int:
    """GIF89a: screen, how often to play, then for each frame its delay (1/100 s), size, colours and pixels."""
    count = 0
    for count, frame in enumerate(frames, 1):
        size = struct.pack("<HH", frame.shape[1], frame.shape[0])
        if count == 1:
            file.write(b"GIF89a" + size + b"\x70\0\0")
            file.write(b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" if loop else b"")
        flags, colours, blocks = _gif_still(frame)
        file.write(b"\x21\xf9\x04\x04" + struct.pack("<H", _delay(count - 1, fps, 100)) + b"\0\0")
        file.write(b"\x2c\0\0\0\0" + size + flags + colours + blocks)
    file.write(b"\x3b")
    return count


def _gif_still(frame: Frame) -> tuple[bytes, bytes, bytes]:
    """(flags, colours, LZW blocks) of a frame, cut from the GIF that Pillow makes of it: a header of 13 bytes, the
    table of colours, 10 bytes of descriptor, the blocks, a trailer. The octree: 50 times faster than the median cut."""
    image = Image.fromarray(frame)
    if image.mode == "RGB":
        image = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    data = _still(image, "GIF", interlace=0, optimize=False)
    size = data[10] & 7  # the table has 2^(size + 1) colours of 3 bytes
    end = 13 + (6 << size)
    if data[end : end + 1] != b"\x2c":
        raise RuntimeError("Pillow lays out its GIF stills in another way than this file expects")
    return bytes([0x80 | size]), data[13:end], data[end + 10 : -1]


def _join_webp(file: BinaryIO, frames: Iterator[Frame], fps: Fraction, loop: bool) -> int:
    """WebP: VP8X (animated, canvas size), ANIM (black ground, plays: 0 for ever), one ANMF a frame (1/1000 s)."""
    count = 0
    for count, frame in enumerate(frames, 1):
        if max(frame.shape) > 16383:
            raise UserError(
                "WebP pictures have at most 16383 pixels a side; make --grid smaller, or take .mp4 or .png."
            )
        size = _u24(frame.shape[1] - 1) + _u24(frame.shape[0] - 1)
        if count == 1:
            file.write(b"RIFF\0\0\0\0WEBP" + _riff(b"VP8X", b"\x02\0\0\0" + size))
            file.write(_riff(b"ANIM", b"\0\0\0\xff" + struct.pack("<H", 0 if loop else 1)))
        still = _still(Image.fromarray(frame).convert("RGB"), "WEBP", quality=WEBP_QUALITY, method=4)[12:]
        place = bytes(6) + size + _u24(_delay(count - 1, fps, 1000)) + b"\x02"  # at (0, 0), not blended with the last
        file.write(_riff(b"ANMF", place + still))
    length = file.tell()
    file.seek(4)
    file.write(struct.pack("<I", length - 8))
    return count


def _u24(number: int) -> bytes:
    return struct.pack("<I", number)[:3]


def _riff(name: bytes, body: bytes) -> bytes:
    """A RIFF chunk, padded to an even length."""
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _join_apng(file: BinaryIO, frames: Iterator[Frame], fps: Fraction, loop: bool) -> int:
    """APNG: IHDR, acTL (frames, plays: 0 for ever), then fcTL and data a frame: IDAT for the first, fdAT thereafter."""
    count, sequence, control_at = 0, 0, 0
    for count, frame in enumerate(frames, 1):
        header, data = _png_still(frame)
        if count == 1:
            file.write(b"\x89PNG\r\n\x1a\n" + _png(b"IHDR", header))
            control_at = file.tell()
            file.write(_png(b"acTL", bytes(8)))
        delay = struct.pack(">HH", fps.denominator, fps.numerator)  # seconds, as a fraction
        file.write(_png(b"fcTL", struct.pack(">I", sequence) + header[:8] + bytes(8) + delay + b"\0\0"))
        file.write(_png(b"IDAT", data) if count == 1 else _png(b"fdAT", struct.pack(">I", sequence + 1) + data))
        sequence += 1 if count == 1 else 2
    file.write(_png(b"IEND", b""))
    file.seek(control_at)
    file.write(_png(b"acTL", struct.pack(">II", count, 0 if loop else 1)))
    return count


def _png_still(frame: Frame) -> tuple[bytes, bytes]:
    """(IHDR, joined IDAT) of the PNG that Pillow makes of a frame."""
    data = _still(Image.fromarray(frame), "PNG", compress_level=PNG_LEVEL)
    chunks: dict[bytes, list[bytes]] = {}
    at = 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunks.setdefault(name, []).append(data[at + 8 : at + 8 + length])
        at += 12 + length
    return chunks[b"IHDR"][0], b"".join(chunks[b"IDAT"])


def _png(name: bytes, body: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _write_directory(draft: Path, frames: Iterator[Frame], fps: Fraction, loop: bool) -> int:
    """frame-000000.png, frame-000001.png ...; PNG stills know neither rate nor repetition."""
    count = 0
    for count, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(draft / f"frame-{count - 1:06}.png", compress_level=PNG_LEVEL)
    return count


@dataclass(frozen=True)
class Codec:
    """How to make one kind of video: FFmpeg's names of container and encoder, and the options of each."""

    container: str
    encoder: str
    options: dict[str, str]
    muxer: dict[str, str]


BITEXACT = {"fflags": "+bitexact"}  # without it WebM files carry random identifiers
CODECS = {
    ".mp4": Codec("mp4", "libx264", {"crf": "18", "preset": "medium"}, BITEXACT | {"movflags": "+faststart"}),
    ".webm": Codec("webm", "libvpx-vp9", {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "4"}, BITEXACT),
}


def _has_av() -> bool:
    return importlib.util.find_spec("av") is not None


def _even_rgb(frame: Frame) -> Frame:
    """[H, W, 3] or [H, W] -> [H', W', 3], odd sizes made even by repeating the last row or column: yuv420p halves
    both."""
    colour = frame if frame.ndim == 3 else np.repeat(frame[:, :, None], 3, axis=2)
    height, width = frame.shape[:2]
    return np.pad(colour, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _encode_with_av(draft: Path, frames: Iterator[Frame], fps: Fraction, codec: Codec) -> int:
    import av

    count = 0
    with av.open(str(draft), "w", format=codec.container, container_options=codec.muxer) as container:
        stream: Any = container.add_stream(codec.encoder, rate=fps, options={**codec.options, "flags": "+bitexact"})
        for count, frame in enumerate(frames, 1):
            if count == 1:
                _set_up_stream(stream, frame)
            picture = _bt709(av.VideoFrame.from_ndarray(frame, format="rgb24"))
            picture.pts, picture.time_base = count - 1, 1 / fps
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return count


def _set_up_stream(stream: Any, frame: Frame) -> None:
    """Tell PyAV's video stream the size of its frames and its colours (1: BT.709 or limited range)."""
    stream.height, stream.width = frame.shape[:2]
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.thread_count = VIDEO_THREADS
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1


def _bt709(picture: Any) -> Any:
    """A PyAV frame in RGB -> in yuv420p, BT.709, limited range: what players take HD video to be."""
    return picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")


def _encode_with_ffmpeg(draft: Path, frames: Iterator[Frame], fps: Fraction, codec: Codec) -> int:
    """Raw frames through a pipe. RunFailed with ffmpeg's own words where it gives up."""
    first = next(frames)
    command, pipe = _ffmpeg_command(draft, first, fps, codec), subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stderr=pipe) as process:
        try:
            count = _pour(itertools.chain([first], frames), process.stdin)
        except BaseException:
            process.kill()
            raise
        finally:
            words = process.communicate()[1].decode(errors="replace").strip()
    if process.returncode:
        raise RunFailed(f"ffmpeg could not write the {codec.container} file: {words}")
    return count


def _pour(frames: Iterator[Frame], pipe: Any) -> int:
    """Write frames into a pipe until they, or its reader, end. Returns how many."""
    count = 0
    try:
        for frame in frames:
            pipe.write(frame.tobytes())
            count += 1
    except BrokenPipeError:
        pass  # the reader has ended and will say why
    return count


def _ffmpeg_command(draft: Path, frame: Frame, fps: Fraction, codec: Codec) -> list[str]:
    """The command that reads frames like this one from its standard input and writes the draft as PyAV would."""
    height, width = frame.shape[:2]
    source = ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", f"{width}x{height}"]
    source += ["-framerate", str(fps), "-i", "pipe:0"]
    colours = ["-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p", "-color_range", "tv"]
    colours += [word for name in ("colorspace", "color_primaries", "color_trc") for word in (f"-{name}", "bt709")]
    options = [word for name, value in codec.options.items() for word in (f"-{name}:v", value)]
    muxer = [word for name, value in codec.muxer.items() for word in (f"-{name}", value)]
    output = ["-c:v", codec.encoder, *options, "-threads", str(VIDEO_THREADS), "-flags:v", "+bitexact", *muxer]
    output += ["-f", codec.container, str(draft.resolve())]
    return ["ffmpeg", "-y", "-loglevel", "error", *source, *colours, *output]


def _video(codec: Codec) -> Writer:
    """The writer of one kind of video: by PyAV where it is installed, else by ffmpeg. yuv420p, BT.709."""

    def write(draft: Path, frames: Iterator[Frame], fps: Fraction, loop: bool) -> int:
        encode = _encode_with_av if _has_av() else _encode_with_ffmpeg
        return encode(draft, (_even_rgb(frame) for frame in frames), fps, codec)

    return write


WRITERS: dict[str, Writer] = {
    ".webp": _joined(_join_webp),
    ".gif": _joined(_join_gif),
    ".png": _joined(_join_apng),
    "": _write_directory,
    **{suffix: _video(codec) for suffix, codec in CODECS.items()},
}
