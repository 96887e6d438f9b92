"""The painter of the built-in data set `faces`: layers laid back to front over a canvas, one function a layer.

Layers that come in categories (hair, mouth, glasses ...) are tables from category code to function; every function
sees only the portraits of its category. Conventions of planes and lengths: `faces_shapes`.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from progan.data.faces_hair import EARS_COVERED, back_hair, front_hair, hair_shapes, hair_ties
from progan.data.faces_shapes import (
    Canvas,
    Layer,
    Number,
    capsule,
    coverage,
    deepen,
    disc,
    ellipse,
    eye_coordinates,
    face_coordinates,
    mix,
    overlap,
    paint_category,
    ramp,
    smooth,
    smooth_union,
    stroke,
    tint,
    union,
    zigzag,
)
from progan.data.faces_wardrobe import ACCESSORIES, CLOTHES_LAYERS, EYEWEAR, neck

SKIN = (0xFFE3CC, 0xF8CFAE, 0xE9B48A, 0xCC9064, 0xA06A45, 0x7C4F38, 0x623F2F)
HAIR = (
    0x221C26, 0x3B2620, 0x6B3F28, 0x93492A, 0xD06A2C, 0xE9B65A, 0xF6E2B4, 0xB9C0CC, 0xE888A4, 0x8658B4, 0x2C8CA0,
)  # fmt: skip
IRIS = (0x4A2A18, 0x7A4E20, 0x4E8A4C, 0x2F78C4, 0x6A8AA4)
BACKDROP = (0xF4B94F, 0xEE8A5E, 0xE2728A, 0xA682CC, 0x6A84D0, 0x55A8D2, 0x52BFAE, 0x9CC878, 0xF4B94F)
CLOTHES = (0x2C3E6B, 0xC8463F, 0xF3EFE6, 0x2F7A70, 0xE8AC3C, 0x6D4B92, 0x34363F, 0xEE9AA2, 0x3F86C8)
ACCESSORY = (0xD93F4C, 0xF2C14B, 0x2E8C7F, 0x30407E, 0xF08A5C, 0x7C4C9C, 0xF4EEE2)
FRAME = (0x17171D, 0x5A2E1C, 0xA8202C, 0x1D3A6E, 0x17171D)
INK, WHITE, BLUSH, RED = 0x231A20, 0xFCFAF6, 0xEC5F5A, 0xC2333F

MIDDLE = (-0.85, -0.62, 0.85, 0.55)  # left, top, right, bottom of the frame that eyes, nose and eyewear can reach
FOOT = (-0.85, -0.2, 0.85, 1.0)  # the same for cheeks, mouth and beard

Pattern = Callable[[Canvas], Tensor]


def palette(numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The colours of the parts of N portraits. numbers: factor -> [N] -> part -> [N, 3, 1, 1]."""
    skin, hair = ramp(SKIN, numbers["skin"]), ramp(HAIR, numbers["hair_colour"])
    fixed = {
        name: ramp((value, value), numbers["skin"])
        for name, value in {"ink": INK, "white": WHITE, "blush": BLUSH, "red": RED}.items()
    }
    lips = mix(tint(skin, 0.78, 0.5, 0.5), fixed["red"], 0.05 + 0.8 * numbers["lip_colour"][:, None, None, None])
    return fixed | {
        "skin": skin,
        "skin_light": mix(skin, fixed["white"], 0.28),
        "skin_dark": tint(skin, 0.74, 0.56, 0.56),
        "lips": lips,
        "hair": hair,
        "hair_light": mix(tint(hair, 1.25, 1.2, 1.18), fixed["white"], 0.16),
        "hair_dark": deepen(hair),
        "brow": torch.minimum(tint(hair, 0.62, 0.58, 0.6), tint(skin, 0.42, 0.34, 0.36)),
        "iris": ramp(IRIS, numbers["iris_colour"]),
        "backdrop": ramp(BACKDROP, numbers["backdrop_hue"]) * numbers["backdrop_value"][:, None, None, None],
        "clothes": ramp(CLOTHES, numbers["clothes_hue"]),
        "accessory": ramp(ACCESSORY, numbers["accessory_hue"]),
        "frame": ramp(FRAME, numbers["accessory_hue"]),
    }


def head_outline(u: Tensor, v: Tensor, width: Tensor, height: Tensor, jaw: Tensor) -> Tensor:
    """Distance to the head: a cranium and a jaw, grown together. Half width `width`, from -height to height."""
    cranium = ellipse(u, v + 0.2 * height, width, 0.8 * height)
    chin = ellipse(u, v - 0.3 * height, width * jaw * 0.93, 0.7 * height)
    return smooth_union(cranium, chin, 0.14)


def blank_canvas(factors: dict[str, Tensor], size: int) -> Canvas:
    """A canvas of N portraits of size x size samples, all coordinates set. factors: name -> [N]."""
    numbers = {name: values[:, None, None] for name, values in factors.items()}
    n, device = len(factors["skin"]), factors["skin"].device
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * (2 / size) - 1  # [size]
    x, y = axis.expand(n, size, size).contiguous(), axis[:, None].expand(n, size, size).contiguous()
    cos = numbers["tilt"].double().cos().float() / numbers["zoom"]
    sin = numbers["tilt"].double().sin().float() / numbers["zoom"]
    x0, y0 = x - numbers["shift_x"], y - 0.78 - numbers["shift_y"]  # the head turns about the base of the neck
    u, v = cos * x0 + sin * y0, cos * y0 - sin * x0 + 0.75
    head = head_outline(u, v, numbers["head_width"], numbers["head_height"], numbers["jaw"])
    rgb = torch.zeros(n, 3, size, size, device=device)
    return Canvas(rgb, x, y, u, v, head, head, 2 / size, numbers, palette(factors))


# Backdrop -------------------------------------------------------------------------------------------------------------


def pattern_disc(canvas: Canvas) -> Tensor:
    """One great disc behind the head."""
    return coverage(disc(canvas.x, canvas.y + 0.05, 0.84), canvas.pixel)


def pattern_stripes(canvas: Canvas) -> Tensor:
    """Slanting stripes."""
    return coverage(zigzag((canvas.x + 0.6 * canvas.y) * 1.6) * 0.134, canvas.pixel)


def pattern_dots(canvas: Canvas) -> Tensor:
    """A lattice of dots, every other row moved by half a step."""
    row = (canvas.y * 2.6).floor()
    dx = zigzag(canvas.x * 2.6 + 0.5 * row) * 0.5 - 0.5
    dy = zigzag(canvas.y * 2.6 + 0.5) * 0.5 - 0.5
    return coverage((disc(dx, dy, 0.52)) * 0.385, canvas.pixel)


def pattern_rays(canvas: Canvas) -> Tensor:
    """Sixteen rays from behind the head: sectors by their slopes, without an angle."""
    x, y = canvas.x.abs(), (canvas.y + 0.1).abs()
    low, high = torch.minimum(x, y), torch.maximum(x, y).clamp_min(1e-3)
    return coverage((low / high - 0.4142).abs() * high - 0.21 * high, canvas.pixel)


def pattern_hills(canvas: Canvas) -> Tensor:
    """A low sun over two hills, the hills in half and full strength."""
    sun = coverage(disc(canvas.x - 0.62 * canvas["light"], canvas.y + 0.55, 0.26), canvas.pixel)
    far = coverage(ellipse(canvas.x + 0.7, canvas.y - 0.9, 1.1, 0.75), canvas.pixel)
    near = coverage(ellipse(canvas.x - 0.75, canvas.y - 1.0, 1.0, 0.7), canvas.pixel)
    return sun * 1.3 - far * 0.9 - near * (1.6 - 0.9 * far)


PATTERNS: dict[int, Pattern] = {
    1: pattern_disc, 2: pattern_stripes, 3: pattern_dots, 4: pattern_rays, 5: pattern_hills,
}  # fmt: skip


def backdrop(canvas: Canvas) -> None:
    """The wall: a colour, darker to the foot and away from the light, a pattern in its own hue."""
    pattern = torch.zeros_like(canvas.x)
    codes = canvas["backdrop"].flatten()
    for code, draw_pattern in PATTERNS.items():
        rows = (codes == code).nonzero().flatten()
        if len(rows):
            pattern[rows] = draw_pattern(canvas.take(rows))
    tone = 1.0 - 0.16 * canvas.y + 0.10 * canvas.x * canvas["light"] + 0.13 * pattern
    corner = (canvas.x * canvas.x + canvas.y * canvas.y) * 0.07
    canvas.rgb.copy_(canvas.colours["backdrop"] * (tone - corner)[:, None]).clamp_(0, 1)
    shadow = disc(canvas.x + 0.12 * canvas["light"], canvas.y - 0.1, 0.72)
    canvas.paint(shadow, canvas.rgb * canvas.rgb * 0.85, 0.5, blur=0.5)


# Head -----------------------------------------------------------------------------------------------------------------


def ears(canvas: Canvas) -> None:
    """Two ears, where the hair style does not cover them: their shadowed hollow shows on the lit rim."""
    side = canvas.u.abs() - canvas["head_width"] - 0.025
    side = side + canvas["turn"] * 0.03 * canvas.u.sign()
    seen = torch.ones_like(canvas["zoom"])
    for style in EARS_COVERED:
        seen = seen * (canvas["hair"] != style)
    shape = ellipse(side, canvas.v - 0.09, 0.085, 0.125)
    canvas.paint(shape, mix(canvas.colours["skin"], canvas.colours["skin_dark"], 0.25), seen)
    canvas.paint(ellipse(side - 0.005, canvas.v - 0.09, 0.045, 0.075), canvas.colours["skin_dark"], seen, blur=0.04)


def head(canvas: Canvas) -> None:
    """The head as a lit egg: shadow away from the light and towards the rim, a soft highlight on the brow."""
    a, b = canvas.u / canvas["head_width"], canvas.v / canvas["head_height"]
    facing = (1.0 - 0.85 * (a * a + b * b)).clamp_min(0.0).sqrt()
    lit = a * canvas["light"] * 0.48 - 0.22 * b + 0.75 * facing
    colour = mix(canvas.colours["skin_dark"], canvas.colours["skin"], smooth(lit * 1.5 + 0.15)[:, None])
    colour = mix(colour, canvas.colours["skin_light"], smooth(lit * 2.2 - 1.1)[:, None])
    canvas.paint(canvas.head, colour)


def cheeks(canvas: Canvas) -> None:
    """Blushing cheeks, on the skin only."""
    x, y = face_coordinates(canvas)
    cheek = overlap(disc(x.abs() - 0.27, y - 0.24, 0.10), canvas.head + 0.06)
    canvas.paint(cheek, canvas.colours["blush"], 0.06 + 0.36 * canvas["blush"], blur=0.16)


def nose(canvas: Canvas) -> None:
    """A shadowed flank away from the light, a rounded tip, nostrils."""
    x, y = face_coordinates(canvas)
    tip, width, side = canvas["nose_length"], canvas["nose_width"], canvas["light"]
    x = x - 0.02 * canvas["turn"]
    flank = capsule(x + 0.045 * side, y + 0.02, 0.0, tip - 0.02, width * 0.45)
    canvas.paint(flank, canvas.colours["skin_dark"], 0.42, blur=0.08)
    canvas.paint(ellipse(x, y - tip - 0.03, width * 1.25, 0.055), canvas.colours["skin_dark"], 0.8, blur=0.05)
    canvas.paint(
        ellipse(x, y - tip, width, 0.055), mix(canvas.colours["skin"], canvas.colours["blush"], 0.12), blur=0.03
    )
    canvas.paint(disc(x - 0.025 * side, y - tip + 0.015, 0.025), canvas.colours["skin_light"], 0.8, blur=0.04)
    nostril = ellipse(x.abs() - 0.55 * width, y - tip - 0.038, 0.022, 0.014)
    canvas.paint(nostril, tint(canvas.colours["skin_dark"], 0.55, 0.45, 0.45), 0.9)


def freckles(canvas: Canvas) -> None:
    """Seven freckles a cheek."""
    x, y = face_coordinates(canvas)
    spots = ((0.17, 0.2), (0.22, 0.25), (0.26, 0.19), (0.3, 0.25), (0.13, 0.26), (0.2, 0.3), (0.27, 0.3))
    shape = union(*(disc(x.abs() - dx, y - dy, 0.014) for dx, dy in spots))
    canvas.paint(shape, tint(canvas.colours["skin_dark"], 0.8, 0.66, 0.6), 0.6)


def beauty_mark(canvas: Canvas) -> None:
    """One dark mark beside the mouth."""
    x, y = face_coordinates(canvas)
    canvas.paint(disc(x - 0.26, y - 0.33, 0.024), tint(canvas.colours["skin_dark"], 0.4, 0.3, 0.3))


# Eyes and brows -------------------------------------------------------------------------------------------------------


def eyes(canvas: Canvas) -> None:
    """Eyeballs with iris, pupil and catchlight under a lashed lid."""
    x, y, side = eye_coordinates(canvas)
    size = canvas["eye_size"]
    slanted = y + canvas["eye_slant"] * x
    ball = ellipse(x, slanted, size * 1.2, size * canvas["eye_open"])
    canvas.paint(ball - 0.03, canvas.colours["skin_dark"], 0.5, blur=0.06)
    canvas.paint(ball, canvas.colours["white"])
    ix = x - 0.3 * size * canvas["gaze_x"] * side
    iy = y - 0.2 * size * canvas["gaze_y"] + 0.01
    iris = overlap(disc(ix, iy, size * 0.72), ball)
    canvas.paint(iris, tint(canvas.colours["iris"], 0.6, 0.6, 0.6))
    canvas.paint(
        overlap(disc(ix, iy - 0.15 * size, size * 0.56), ball),
        tint(canvas.colours["iris"], 1.35, 1.35, 1.35),
        blur=0.03,
    )
    canvas.paint(overlap(disc(ix, iy, size * 0.38), ball), canvas.colours["ink"])
    canvas.paint(overlap(ball, slanted + 0.45 * size), canvas.colours["ink"], 0.45, blur=0.05)
    glint = overlap(disc(ix - side * canvas["light"] * 0.25 * size, iy + 0.28 * size, 0.23 * size), ball)
    canvas.paint(glint, canvas.colours["white"])
    lid = overlap(ball.abs() - 0.022, slanted + 0.1 * size + 0.25 * x.clamp_max(0.0))
    canvas.paint(lid, canvas.colours["ink"])


def brows(canvas: Canvas) -> None:
    """Two arched brows, never lighter than the skin allows."""
    x, y, _ = eye_coordinates(canvas)
    y = y + 0.198 + 0.055 * canvas["brow_height"] + canvas["brow_angle"] * x
    canvas.paint(stroke(x, y, 0.14, -0.035, canvas["brow_weight"]), canvas.colours["brow"])


# Mouth and beard ------------------------------------------------------------------------------------------------------


def mouth_coordinates(canvas: Canvas) -> tuple[Tensor, Tensor, Tensor]:
    """x, y from the middle of the mouth, and its half width."""
    x, y = face_coordinates(canvas)
    return x, y - 0.245 - 0.6 * canvas["nose_length"], canvas["mouth_width"]


def dark_lips(canvas: Canvas) -> Tensor:
    """The colour of the line between the lips."""
    return tint(canvas.colours["lips"], 0.5, 0.35, 0.4)


def mouth_line(canvas: Canvas, bend: float, slope: float) -> None:
    """Closed lips: the mouth as one bent line over a soft lower lip."""
    x, y, half = mouth_coordinates(canvas)
    y = y + slope * x
    canvas.paint(stroke(x, y - 0.035, half * 0.6, bend * 0.8, 0.035), canvas.colours["lips"], 0.8, blur=0.03)
    canvas.paint(stroke(x, y, half, bend, 0.026), dark_lips(canvas))


def smile(canvas: Canvas) -> None:
    """Corners up, with dimples."""
    x, y, half = mouth_coordinates(canvas)
    mouth_line(canvas, 0.085, 0.0)
    canvas.paint(disc(x.abs() - half - 0.01, y + 0.005, 0.024), canvas.colours["skin_dark"], 0.8, blur=0.03)


def sad(canvas: Canvas) -> None:
    """Corners down."""
    mouth_line(canvas, -0.06, 0.0)


def smirk(canvas: Canvas) -> None:
    """One corner up, on the side that the face turns to."""
    mouth_line(canvas, 0.045, 0.24)


def neutral(canvas: Canvas) -> None:
    """Full lips at rest: two lobes above, one below."""
    x, y, half = mouth_coordinates(canvas)
    upper = stroke(x.abs() - 0.3 * half, y + 0.012, half * 0.6, -0.012, 0.034)
    lower = stroke(x, y - 0.022, half * 0.75, 0.018, 0.044)
    canvas.paint(union(upper, lower), canvas.colours["lips"])
    canvas.paint(ellipse(x, y - 0.05, half * 0.3, 0.014), canvas.colours["white"], 0.35, blur=0.03)
    canvas.paint(stroke(x, y, half * 0.85, 0.01, 0.014), dark_lips(canvas))


def grin(canvas: Canvas) -> None:
    """A laughing crescent full of teeth."""
    x, y, half = mouth_coordinates(canvas)
    bowl = overlap(ellipse(x, y + 0.055, half * 1.05, 0.19), -0.03 - y + 0.6 * x * x)
    canvas.paint(bowl - 0.03, canvas.colours["lips"])
    canvas.paint(bowl, dark_lips(canvas))
    canvas.paint(overlap(bowl + 0.005, y - 0.045), canvas.colours["white"])
    canvas.paint(overlap(bowl, ellipse(x, y - 0.14, half * 0.5, 0.05)), canvas.colours["blush"], 0.8)


def open_mouth(canvas: Canvas) -> None:
    """A surprised O."""
    x, y, half = mouth_coordinates(canvas)
    hole = ellipse(x, y - 0.03, half * 0.55, 0.095)
    canvas.paint(hole - 0.035, canvas.colours["lips"])
    canvas.paint(hole, dark_lips(canvas))
    canvas.paint(overlap(hole, y + 0.055), canvas.colours["white"])
    canvas.paint(overlap(hole, ellipse(x, y - 0.12, half * 0.45, 0.06)), canvas.colours["blush"], 0.9)


MOUTHS: dict[int, Layer] = {0: smile, 1: grin, 2: neutral, 3: open_mouth, 4: sad, 5: smirk}


def beard_shape(canvas: Canvas) -> Tensor:
    """Distance to a full beard: the foot of the head below a hollow about nose and mouth."""
    x, y = face_coordinates(canvas)
    hollow = ellipse(x, y - 0.02, canvas["head_width"] * 0.88, 0.27)
    thick = 0.035 * (canvas.v * 5.0).clamp(0, 1)
    return overlap(canvas.head - thick, -hollow, 0.0 - canvas.v)


def moustache_shape(canvas: Canvas) -> Tensor:
    """Distance to two wings between nose and mouth."""
    x, y, half = mouth_coordinates(canvas)
    return stroke(x.abs() - 0.42 * half, y + 0.062 - 0.18 * x.abs(), half * 0.62, -0.02, 0.042)


def hair_paint(canvas: Canvas, shape: Tensor, opacity: Number = 1.0) -> None:
    """Paint a piece of facial hair: brow-coloured, lit from above."""
    colour = mix(canvas.colours["brow"], canvas.colours["hair"], 0.45)
    strands = zigzag(canvas.u * 22.0 / (canvas.v + 0.9)) * 0.05
    canvas.paint(shape, colour * (1.0 + strands)[:, None], opacity)


def stubble(canvas: Canvas) -> None:
    """The shadow of a beard."""
    canvas.paint(overlap(beard_shape(canvas), canvas.head), canvas.colours["brow"], 0.36, blur=0.08)


def moustache(canvas: Canvas) -> None:
    """A moustache alone."""
    hair_paint(canvas, moustache_shape(canvas))


def goatee(canvas: Canvas) -> None:
    """A moustache and a tuft on the chin."""
    tuft = ellipse(canvas.u - 0.04 * canvas["turn"], canvas.v - canvas["head_height"] + 0.05, 0.13, 0.12)
    hair_paint(canvas, union(moustache_shape(canvas), tuft))


def full_beard(canvas: Canvas) -> None:
    """Beard and moustache in one."""
    hair_paint(canvas, smooth_union(beard_shape(canvas), moustache_shape(canvas), 0.05))


BEARDS: dict[int, Layer] = {1: stubble, 2: moustache, 3: goatee, 4: full_beard}


# The whole picture ----------------------------------------------------------------------------------------------------


def light(canvas: Canvas) -> None:
    """The colour of the light: warm yellow to cool blue."""
    warm = canvas["warmth"][:, None] * 0.045
    gain = torch.cat([1 + warm, 1 + 0.15 * warm, 1 - 1.3 * warm], dim=1)  # [N, 3, 1, 1]
    canvas.rgb.mul_(gain).clamp_(0, 1)


def draw_face(canvas: Canvas) -> None:
    """The features, bottom up. Each is drawn in the part of the frame that it can reach."""
    middle, foot = canvas.window(*MIDDLE), canvas.window(*FOOT)
    cheeks(foot)
    paint_category(foot, "marks", {1: freckles, 2: beauty_mark})
    paint_category(foot, "beard", BEARDS)
    nose(middle)
    paint_category(foot, "mouth", MOUTHS)
    eyes(middle)
    brows(middle)


def draw(factors: dict[str, Tensor], size: int) -> Tensor:
    """Paint N portraits at `size` x `size` samples. [N] factors -> rgb float32 [N, 3, size, size] in [0, 1]."""
    canvas = blank_canvas(factors, size)
    back, front = hair_shapes(canvas)
    canvas = replace(canvas, hair=torch.minimum(back, front))
    backdrop(canvas)
    back_hair(canvas, back)
    neck(canvas)
    paint_category(canvas, "clothes", CLOTHES_LAYERS)
    ears(canvas)
    head(canvas)
    draw_face(canvas)
    front_hair(canvas, front)
    hair_ties(canvas)
    paint_category(canvas.window(*MIDDLE), "eyewear", EYEWEAR)
    paint_category(canvas, "accessory", ACCESSORIES)
    light(canvas)
    return canvas.rgb
