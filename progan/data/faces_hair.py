"""The hair of the built-in data set `faces`: thirteen styles, each two shapes, one behind the head and one before it.

A style is a function Canvas -> (back, front), distances [N, H, W] in head coordinates; NOTHING is no hair there.
Conventions of planes and lengths: `faces_shapes`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from progan.data.faces_shapes import (
    Canvas,
    Number,
    box,
    capsule,
    disc,
    ellipse,
    mix,
    overlap,
    smooth,
    smooth_union,
    union,
    zigzag,
)

NOTHING = 9.0  # a distance far outside of any shape
EARS_COVERED = (4, 5, 6)  # hair codes: fringe, bob, long
HATS = {2: -0.36, 3: -0.4}  # accessory code -> height of its rim; hair above it is under the hat

Shapes = tuple[Tensor, Tensor]


def nothing(canvas: Canvas) -> Tensor:
    """No shape at all."""
    return torch.full_like(canvas.u, NOTHING)


def cap(canvas: Canvas, height: Number, ease: Number = 0.045) -> Tensor:
    """Distance to hair that lies on the skull, `ease` thick, down to v = height."""
    side = (canvas.u.abs() - 0.9 * canvas["head_width"]).clamp_min(0)  # behind it the hair ends above the ear
    return overlap(canvas.head - ease, canvas.v - height + 1.6 * side)


def opening(canvas: Canvas, width: float, top: float) -> Tensor:
    """Distance to the part of a face that hair leaves free: `width` of the head's width, from v = top down."""
    return ellipse(canvas.u - 0.03 * canvas["turn"], canvas.v - top - 0.62, width * canvas["head_width"], 0.62)


def curls(
    canvas: Canvas, rx: Number, ry: Number, middle: float, radius: Number, spots: int, sweep: float = 1.5
) -> Tensor:
    """Distance to a wreath of `spots` discs over the upper `sweep` half turns of an ellipse about (0, middle)."""
    out = nothing(canvas)
    for k in range(spots):
        angle = math.pi * (0.5 + sweep * (k / (spots - 1) - 0.5))
        dx, dy = math.cos(angle), -math.sin(angle)
        wobble = 0.9 + 0.2 * ((k * 7) % 3) / 2
        out = torch.minimum(out, disc(canvas.u - dx * rx, canvas.v - middle - dy * ry, radius * wobble))
    return out


def bald(canvas: Canvas) -> Shapes:
    """No hair."""
    return nothing(canvas), nothing(canvas)


def buzz(canvas: Canvas) -> Shapes:
    """A close crop, straight over the temples."""
    return nothing(canvas), overlap(cap(canvas, -0.05, 0.012), -opening(canvas, 0.93, -0.4))


def short(canvas: Canvas) -> Shapes:
    """A short cut with body on top."""
    lift = 0.05 + 0.07 * canvas["hair_volume"]
    top = ellipse(canvas.u, canvas.v + 0.36, canvas["head_width"] + 0.01, canvas["head_height"] - 0.36 + lift)
    return nothing(canvas), overlap(
        union(top, cap(canvas, 0.04, 0.03)), -opening(canvas, 0.9, -0.34) + 0.01 * zigzag(canvas.u * 9.0)
    )


def side_parting(canvas: Canvas) -> Shapes:
    """Combed over from a parting on the right: a high wave to the left, little to the right."""
    lift = 0.08 + 0.09 * canvas["hair_volume"]
    part = canvas.u - 0.45 * canvas["head_width"]
    wave = ellipse(canvas.u + 0.06, canvas.v + 0.38, canvas["head_width"] + 0.04, canvas["head_height"] - 0.38 + lift)
    line = canvas.v + 0.44 - 0.42 * part.abs() - 0.25 * part * part
    return nothing(canvas), overlap(union(overlap(wave, canvas.v + 0.2), cap(canvas, 0.06, 0.035)), line)


def fringe(canvas: Canvas) -> Shapes:
    """A bowl cut: a straight fringe over the brows, hair over the ears."""
    ease = 0.06 + 0.05 * canvas["hair_volume"]
    bowl = overlap(smooth_union(canvas.head - ease, ellipse(canvas.u, canvas.v + 0.2, 0.55, 0.45), 0.1), canvas.v - 0.2)
    teeth = 0.014 * zigzag(canvas.u * 11.0)
    free = box(canvas.u - 0.03 * canvas["turn"], canvas.v - 0.6, 0.86 * canvas["head_width"], 0.82 + teeth, 0.08)
    return nothing(canvas), overlap(bowl, -free)


def bob(canvas: Canvas) -> Shapes:
    """A bob to the chin, with a rounded fringe swept to the sides."""
    width = canvas["head_width"] + 0.11 + 0.05 * canvas["hair_volume"]
    back = smooth_union(
        ellipse(canvas.u, canvas.v + 0.14, width, 0.58), box(canvas.u, canvas.v - 0.2, width + 0.02, 0.34, 0.16), 0.1
    )
    sides = overlap(smooth_union(canvas.head - 0.07, back + 0.02, 0.02), canvas.v - 0.5)
    return back, overlap(sides, -opening(canvas, 0.9, -0.24))


def long(canvas: Canvas) -> Shapes:
    """Long hair from a middle parting, falling behind the shoulders."""
    width = canvas["head_width"] + 0.12 + 0.07 * canvas["hair_volume"]
    fall = box(canvas.u, canvas.v - 0.5, width + 0.05 * zigzag(canvas.v * 1.4), 0.75, 0.2)
    back = smooth_union(ellipse(canvas.u, canvas.v + 0.14, width, 0.58), fall, 0.15)
    curtain = ellipse(canvas.u.abs() + 0.03, canvas.v - 0.24, 0.93 * canvas["head_width"], 0.78)
    cut = smooth_union(curtain, opening(canvas, 0.8, -0.36), 0.05)
    return back, overlap(canvas.head - 0.075, -cut, canvas.v - 0.42)


def bun(canvas: Canvas) -> Shapes:
    """Hair drawn up to a bun on the crown."""
    radius = 0.15 + 0.06 * canvas["hair_volume"]
    knot = disc(canvas.u, canvas.v + canvas["head_height"] + 0.11, radius)
    return knot, overlap(cap(canvas, 0.02, 0.035), -opening(canvas, 0.94, -0.4))


def pigtails(canvas: Canvas) -> Shapes:
    """A middle parting and a tuft at each side."""
    x = canvas.u.abs() - canvas["head_width"] - 0.15
    size = 0.15 + 0.06 * canvas["hair_volume"]
    tuft = smooth_union(disc(x, canvas.v + 0.14, size), ellipse(x - 0.06, canvas.v - 0.2, size * 0.8, 0.34), 0.2)
    line = canvas.v + 0.5 - 0.55 * canvas.u.abs() - 0.9 * canvas.u * canvas.u
    return tuft, overlap(cap(canvas, 0.0, 0.045), line)


def curly(canvas: Canvas) -> Shapes:
    """A mop of curls that falls over the forehead."""
    radius = 0.12 + 0.05 * canvas["hair_volume"]
    mop = curls(canvas, canvas["head_width"] - 0.01, canvas["head_height"] - 0.1, -0.1, radius, 13)
    locks = curls(canvas, canvas["head_width"] - 0.02, 0.3, -0.12, radius * 0.75, 10, 1.0)
    crown = overlap(canvas.head - 0.05, -opening(canvas, 0.88, -0.42), canvas.v + 0.1)
    return mop, union(overlap(mop, canvas.v + 0.42), locks, crown)


def afro(canvas: Canvas) -> Shapes:
    """A great round cloud of hair around the face."""
    radius = 0.62 + 0.09 * canvas["hair_volume"]
    rim = curls(canvas, radius, radius - 0.04, -0.18, 0.14, 17)
    cloud = union(rim, disc(canvas.u, canvas.v + 0.18, radius + 0.03))
    return cloud, overlap(cloud, -opening(canvas, 1.06, -0.36))


def mohawk(canvas: Canvas) -> Shapes:
    """A tall crest over shaved temples, notched at its edges."""
    reach = 0.3 + 0.1 * canvas["hair_volume"]
    crest = ellipse(canvas.u, canvas.v + canvas["head_height"] + 0.06, 0.19, reach)
    notches = 0.03 * (1 + zigzag((canvas.v - 0.8 * canvas.u.abs()) * 7.0))
    return nothing(canvas), crest + notches * (canvas.u.abs() * 12.0).clamp(0, 1)


def spiky(canvas: Canvas) -> Shapes:
    """Tousled spikes that fan out from the forehead."""
    lift = 0.05 + 0.08 * canvas["hair_volume"]
    height = canvas["head_height"] - 0.2 + lift
    teeth = zigzag(canvas.u * 6.4 / (0.7 - canvas.v) + 0.12) * (0.06 + 0.5 * lift)
    top = overlap(ellipse(canvas.u, canvas.v + 0.2, canvas["head_width"] + 0.05, height) + 0.6 * teeth, canvas.v + 0.12)
    hairline = opening(canvas, 0.93, -0.36) + 0.045 * zigzag(canvas.u * 6.0 + 0.3)
    return nothing(canvas), overlap(union(top, cap(canvas, 0.04, 0.035)), -hairline)


STYLES: dict[int, Callable[[Canvas], Shapes]] = dict(
    enumerate((bald, buzz, short, side_parting, fringe, bob, long, bun, pigtails, curly, afro, mohawk, spiky))
)


def hair_shapes(canvas: Canvas) -> Shapes:
    """The hair of every portrait, behind and before the head, less what is under a hat. -> 2 x [N, H, W]."""
    back, front = torch.empty_like(canvas.u), torch.empty_like(canvas.u)
    codes = canvas["hair"].flatten()
    for code, style in STYLES.items():
        rows = (codes == code).nonzero().flatten()
        if len(rows):
            back[rows], front[rows] = style(canvas.take(rows))
    rim = torch.full_like(canvas["zoom"], -NOTHING)
    for code, height in HATS.items():
        rim = torch.where(canvas["accessory"] == code, height, rim)
    under = rim - canvas.v
    return torch.maximum(back, under), torch.maximum(front, under)


def paint_hair(canvas: Canvas, shape: Tensor, shade: float) -> None:
    """Paint hair: lit from above and from the light's side, combed into strands, with a shine around the crown.

    shape: distance [N, H, W]. shade: 1 for hair in the light, less for hair behind the head.
    """
    u, v = canvas.u, canvas.v
    strands = zigzag(u * 13.0 / (v + 1.9)) * (0.5 * u.abs() + 0.4)  # a fan from above the head
    tone = 0.48 - 0.42 * v + 0.55 * u * canvas["light"] - 0.35 * u * u + 0.1 * strands
    halo = disc(u - 0.1 * canvas["light"], v + 0.02, 0.5) + 0.035 * strands
    shine = (1.0 - halo.abs() * 14.0).clamp_min(0) * (-v * 1.6).clamp(0, 0.8)
    colour = mix(canvas.colours["hair_dark"], canvas.colours["hair"], smooth(tone * 1.6 * shade)[:, None])
    colour = mix(
        colour, canvas.colours["hair_light"], (shine * shade + 0.5 * smooth(tone * 1.6 - 1.0))[:, None].clamp(0, 1)
    )
    rim = 0.42 * smooth(1.0 + shape * 11.0)[:, None]  # the outer tenth turns away from the light
    colour = mix(colour, canvas.colours["hair_dark"], rim)
    thin = 1.0 - 0.45 * (canvas["hair"] == 1)  # a close crop lets the skin through
    canvas.paint(shape, colour, thin)


def back_hair(canvas: Canvas, back: Tensor) -> None:
    """The hair behind head and neck, darkest around the neck."""
    paint_hair(canvas, back, 0.84)
    nape = overlap(back + 0.02, canvas.head - 0.16, 0.05 - canvas.v)
    canvas.paint(nape, canvas.colours["hair_dark"], 0.6, blur=0.2)


def front_hair(canvas: Canvas, front: Tensor) -> None:
    """The hair before the head, with the shadow that it throws on the skin."""
    shadow = overlap(front - 0.035, canvas.head)
    dimmed = canvas.rgb * canvas.rgb.new_tensor([0.78, 0.6, 0.6])[:, None, None]
    canvas.paint(shadow, dimmed, 0.6 * (canvas["hair"] > 1), blur=0.08)
    paint_hair(canvas, front, 1.0)


def hair_ties(canvas: Canvas) -> None:
    """Ribbons of pigtails and buns that no hat covers."""
    x = canvas.u.abs() - canvas["head_width"] - 0.04
    sides = capsule(x, canvas.v + 0.24, 0.02, 0.16, 0.04)
    crown = capsule(canvas.u.abs(), canvas.v + canvas["head_height"] + 0.02, 0.1, 0.0, 0.03)
    hidden = torch.zeros_like(canvas["zoom"], dtype=torch.bool)
    for code in HATS:
        hidden = hidden | (canvas["accessory"] == code)
    tail, knot = canvas["hair"] == 8, (canvas["hair"] == 7) & ~hidden
    canvas.paint(sides, canvas.colours["accessory"], tail.float())
    canvas.paint(crown, canvas.colours["accessory"], knot.float())
