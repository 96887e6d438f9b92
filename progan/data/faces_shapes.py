"""Signed distances, coverage and colour ramps: the brushes of the built-in data set `faces`.

Lengths are in half frames: the frame is [-1, 1] x [-1, 1], x to the right, y down. A distance is negative inside a
shape. Planes are [N, H, W], numbers per picture [N, 1, 1], colours [N, 3, 1, 1] in [0, 1]. Planes are computed with
IEEE-exact operations only (+ - * / sqrt floor min max): a vector lane and a scalar tail then give the same bits, which
is what makes a picture independent of its batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Number = Tensor | float

PLANES = ("x", "y", "u", "v", "head", "hair")  # of a Canvas


def disc(x: Tensor, y: Tensor, radius: Number) -> Tensor:
    """Distance to a disc around the origin."""
    return (x * x + y * y).sqrt() - radius


def ellipse(x: Tensor, y: Tensor, rx: Number, ry: Number) -> Tensor:
    """Distance to an ellipse of half axes rx, ry, to first order at its edge: f |f - 1| / |grad f|."""
    a, b = x / rx, y / ry
    f = (a * a + b * b).sqrt()
    a, b = a / rx, b / ry
    slope = (a * a + b * b).sqrt()
    return (f - 1) * f.clamp_min(1e-4) / slope.clamp_min(1e-4)


def box(x: Tensor, y: Tensor, half_width: Number, half_height: Number, corner: Number) -> Tensor:
    """Distance to a rectangle with corners of radius `corner`."""
    a, b = x.abs() - half_width + corner, y.abs() - half_height + corner
    return disc(a.clamp_min(0), b.clamp_min(0), corner) + torch.maximum(a, b).clamp_max(0)


def capsule(x: Tensor, y: Tensor, dx: Number, dy: Number, radius: Number) -> Tensor:
    """Distance to the thick line from the origin to (dx, dy)."""
    t = ((x * dx + y * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return disc(x - t * dx, y - t * dy, radius)


def stroke(x: Tensor, y: Tensor, half: Number, bend: Number, thick: Number) -> Tensor:
    """Distance to a pen stroke on [-half, half]: a parabola, in its middle `bend` below its ends."""
    t = (x / half).clamp(-1, 1)
    slope = t * (-2 * bend / half)
    pen = thick * (1.0 - 0.75 * t * t)
    off_curve = (y - bend * (1.0 - t * t)) / (1.0 + slope * slope).sqrt()
    return disc(off_curve, x - t * half, pen)


def polygon(x: Tensor, y: Tensor, *corners: tuple[float, float]) -> Tensor:
    """Distance to a convex polygon from the lines of its sides. corners: (x, y), clockwise as seen."""
    sides = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        sides.append((x - x0) * ((y1 - y0) / length) - (y - y0) * ((x1 - x0) / length))
    return overlap(*sides)


def smooth_union(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Union of two shapes whose joint is filled over a width k (polynomial smooth minimum)."""
    h = (k - (a - b).abs()).clamp_min(0)
    return torch.minimum(a, b) - h * h * (0.25 / k)


def union(*shapes: Tensor) -> Tensor:
    """Union of shapes given by their distances."""
    out = shapes[0]
    for shape in shapes[1:]:
        out = torch.minimum(out, shape)
    return out


def overlap(*shapes: Tensor) -> Tensor:
    """Intersection of shapes given by their distances."""
    out = shapes[0]
    for shape in shapes[1:]:
        out = torch.maximum(out, shape)
    return out


def zigzag(t: Tensor) -> Tensor:
    """Triangle wave of period 1 in [-1, 1]; -1 at half-integers, 1 at integers."""
    return (t - t.floor() - 0.5).abs() * 4 - 1


def coverage(distance: Tensor, width: Number) -> Tensor:
    """How much of a pixel a shape covers, 0..1, when its edge is a ramp of `width` about distance 0."""
    return (0.5 - distance / width).clamp_(0, 1)


def smooth(t: Tensor) -> Tensor:
    """Smoothstep of a number clamped to [0, 1]."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def ramp(stops: tuple[int, ...], t: Tensor) -> Tensor:
    """The colour at position t in 0..1 on a ramp of equally spaced stops (0xRRGGBB). t: [N] -> [N, 3, 1, 1]."""
    table = [[(stop >> shift & 255) / 255 for shift in (16, 8, 0)] for stop in stops]
    colours = torch.tensor(table, device=t.device)  # [K, 3]
    position = t.clamp(0, 1) * (len(stops) - 1)
    low = position.long().clamp_max(len(stops) - 2)
    weight = (position - low)[:, None]
    return (colours[low] * (1 - weight) + colours[low + 1] * weight)[:, :, None, None]


def tint(colour: Tensor, red: float, green: float, blue: float) -> Tensor:
    """Multiply the channels of a colour; factors above 1 may leave the gamut and are clipped. [N, 3, 1, 1] -> same."""
    return (colour * colour.new_tensor([red, green, blue])[:, None, None]).clamp(0, 1)


def deepen(colour: Tensor) -> Tensor:
    """The colour in shadow: darker and more saturated, as pigment is. [N, 3, 1, 1] -> same."""
    return colour * (0.38 + 0.36 * colour)


def mix(a: Tensor, b: Tensor, t: Number) -> Tensor:
    """The colour a at t = 0, b at t = 1, straight in between."""
    return a + (b - a) * t


@dataclass(frozen=True)
class Canvas:
    """N unfinished portraits: their picture so far, the coordinates to draw in, and what is known of the sitters.

    rgb: [N, 3, H, W] in [0, 1], painted in place. x, y: [N, H, W] frame coordinates. u, v: [N, H, W] head coordinates
    (origin in the middle of the head, turned and scaled with it). head, hair: [N, H, W] distances to their outlines.
    pixel: the size of one sample. numbers: factor -> [N, 1, 1]. colours: part -> [N, 3, 1, 1].
    """

    rgb: Tensor
    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor
    head: Tensor
    hair: Tensor
    pixel: float
    numbers: dict[str, Tensor]
    colours: dict[str, Tensor]

    def __getitem__(self, factor: str) -> Tensor:
        """The factor's values. -> [N, 1, 1]."""
        return self.numbers[factor]

    def paint(self, distance: Tensor, colour: Tensor, opacity: Number = 1.0, blur: float = 0.0) -> None:
        """Lay a colour over the shape of `distance`, its edge one pixel wide, or `blur` wide when that is more.

        distance: [N, H, W]. colour: [N, 3, 1, 1] or [N, 3, H, W]. opacity: number, [N, 1, 1] or [N, H, W].
        """
        alpha = coverage(distance, max(self.pixel, blur))
        if blur > self.pixel:
            alpha = smooth(alpha)
        alpha = (alpha * opacity)[:, None] if not isinstance(opacity, float) or opacity != 1.0 else alpha[:, None]
        self.rgb.add_((colour - self.rgb).mul_(alpha))

    def window(self, left: float, top: float, right: float, bottom: float) -> "Canvas":
        """The part of the canvas in a frame rectangle; its picture is a view, so that painting it paints this one."""
        size = self.rgb.shape[-1]
        rows = slice(int((top + 1) / 2 * size), -(int((1 - bottom) / 2 * size)) or None)
        cols = slice(int((left + 1) / 2 * size), -(int((1 - right) / 2 * size)) or None)
        planes = {name: getattr(self, name)[:, rows, cols].contiguous() for name in PLANES}
        return replace(self, rgb=self.rgb[:, :, rows, cols], **planes)

    def take(self, rows: Tensor) -> "Canvas":
        """A copy with some of the portraits. rows: [M] int64 -> a canvas of M portraits."""
        planes = {name: getattr(self, name)[rows] for name in ("rgb", *PLANES)}
        numbers = {name: values[rows] for name, values in self.numbers.items()}
        colours = {name: values[rows] for name, values in self.colours.items()}
        return replace(self, **planes, numbers=numbers, colours=colours)


Layer = Callable[[Canvas], None]


def paint_category(canvas: Canvas, factor: str, layers: dict[int, Layer]) -> None:
    """Let each portrait be painted by the layer of its category. Codes that `layers` lacks paint nothing."""
    codes = canvas[factor].flatten()  # [N]
    for code, layer in layers.items():
        rows = (codes == code).nonzero().flatten()
        if len(rows):
            part = canvas.take(rows)
            layer(part)
            canvas.rgb[rows] = part.rgb


def face_coordinates(canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Coordinates that the features are drawn in: they slide over the head when it turns and nods. -> 2 x [N, H, W]."""
    return canvas.u - 0.065 * canvas["turn"], canvas.v - 0.035 * canvas["nod"]


def eye_coordinates(canvas: Canvas) -> tuple[Tensor, Tensor, Tensor]:
    """Both eyes at once, by mirroring: x outwards and y down from an eye's centre, and the side (-1 left, 1 right)."""
    x, y = face_coordinates(canvas)
    out = x.abs() - canvas["eye_spacing"]
    return out, y - 0.03, x.sign()
