"""What the sitters of the built-in data set `faces` wear: clothes, eyewear, hats and ornaments.

Each table maps a category's code to the function that paints it. Conventions of planes and lengths: `faces_shapes`.
"""

from torch import Tensor

from progan.data.faces_shapes import (
    Canvas,
    Layer,
    box,
    capsule,
    coverage,
    deepen,
    disc,
    ellipse,
    eye_coordinates,
    mix,
    overlap,
    polygon,
    smooth,
    smooth_union,
    stroke,
    tint,
    union,
    zigzag,
)

# Body -----------------------------------------------------------------------------------------------------------------


def shoulders(canvas: Canvas) -> Tensor:
    """Distance to the torso: shoulders that leave the frame at its foot."""
    x = canvas.x - 0.6 * canvas["shift_x"]
    return smooth_union(ellipse(x, canvas.y - 1.3, 0.86, 0.52), ellipse(x, canvas.y - 1.0, 0.36, 0.26), 0.15)


def throat(canvas: Canvas) -> Tensor:
    """The colour of neck and chest: in the shadow of the chin, then in the light. -> [N, 3, H, W]."""
    shade = coverage(ellipse(canvas.u, canvas.v - 0.2, 0.62, canvas["head_height"] - 0.03), 0.16)
    shade = 0.3 + 0.6 * smooth(shade)
    return mix(canvas.colours["skin"], canvas.colours["skin_dark"], shade[:, None])


def neck(canvas: Canvas) -> None:
    """The neck, from behind the head into the garment."""
    shape = box(canvas.u, canvas.v - 0.7, 0.42 * canvas["head_width"] + 0.03, 0.5, 0.1)
    canvas.paint(shape, throat(canvas))


def torso(canvas: Canvas) -> Tensor:
    """Paint the garment's body, shaded to the sides, and give its distance."""
    shape, cloth = shoulders(canvas), canvas.colours["clothes"]
    canvas.paint(shape, cloth)
    side = (canvas.x * canvas["light"] * 0.6 - canvas.x.abs() * 0.5).clamp(-0.6, 0.3)
    canvas.paint(shape, deepen(cloth), smooth(0.1 - side) * 0.8)
    return shape


def collar_opening(canvas: Canvas, half_width: float, depth: float) -> Tensor:
    """Distance to the round hole of a collar."""
    return ellipse(canvas.x - 0.6 * canvas["shift_x"], canvas.y - 0.76, half_width, depth)


def skin_through(canvas: Canvas, opening: Tensor) -> None:
    """Show the sitter's skin in an opening of the garment."""
    canvas.paint(opening, throat(canvas))


def crew_neck(canvas: Canvas) -> None:
    """A plain jumper with a ribbed collar."""
    torso(canvas)
    opening = collar_opening(canvas, 0.27, 0.13)
    canvas.paint(opening - 0.055, tint(canvas.colours["clothes"], 0.74, 0.72, 0.78))
    skin_through(canvas, opening)


def v_neck(canvas: Canvas) -> None:
    """A jumper with a pointed collar, edged in the accessory's colour."""
    shape = torso(canvas)
    x = (canvas.x - 0.6 * canvas["shift_x"]).abs()
    opening = overlap(x * 0.85 + (canvas.y - 0.98) * 0.53, 0.74 - canvas.y)
    canvas.paint(overlap(opening - 0.055, shape), canvas.colours["accessory"])
    skin_through(canvas, overlap(opening, shape))


def shirt(canvas: Canvas) -> None:
    """A jacket over a shirt with a white collar."""
    shape = torso(canvas)
    x, y, white = (canvas.x - 0.6 * canvas["shift_x"]).abs(), canvas.y, canvas.colours["white"]
    canvas.paint(overlap(x * 0.9 + (y - 1.12) * 0.43, shape), white)
    skin_through(canvas, overlap(x * 0.8 + (y - 0.9) * 0.6, 0.7 - y))
    wing = polygon(x, y, (0.0, 0.9), (0.2, 0.68), (0.31, 0.76), (0.2, 1.0))
    canvas.paint(wing - 0.02, canvas.colours["ink"], 0.3, blur=0.05)
    canvas.paint(wing, mix(white, canvas.colours["clothes"], 0.08))


def turtleneck(canvas: Canvas) -> None:
    """A high rolled collar, round about the neck."""
    torso(canvas)
    x, cloth = canvas.x - 0.8 * canvas["shift_x"], canvas.colours["clothes"]
    roll = box(x, canvas.y - 0.84 - 0.5 * x * x, 0.27, 0.17, 0.08)
    canvas.paint(roll - 0.02, deepen(cloth), blur=0.06)
    round_off = smooth(1.15 - x * x * 14.0)[:, None]
    canvas.paint(roll, mix(deepen(cloth), mix(cloth, canvas.colours["white"], 0.1), round_off))
    canvas.paint(overlap((canvas.y - 0.86 - 0.5 * x * x).abs() - 0.012, roll), deepen(cloth), 0.6, blur=0.03)


def hoodie(canvas: Canvas) -> None:
    """A hood lying about the neck, with two cords."""
    torso(canvas)
    x, cloth = canvas.x - 0.6 * canvas["shift_x"], canvas.colours["clothes"]
    canvas.paint(ellipse(x, canvas.y - 0.8, 0.5, 0.2), tint(cloth, 0.62, 0.6, 0.68))
    canvas.paint(ellipse(x, canvas.y - 0.76, 0.44, 0.17), mix(cloth, canvas.colours["white"], 0.1))
    skin_through(canvas, ellipse(x, canvas.y - 0.72, 0.28, 0.14))
    canvas.paint(capsule(x.abs() - 0.16, canvas.y - 0.9, 0.01, 0.2, 0.018), canvas.colours["white"])


def striped(canvas: Canvas) -> None:
    """A sailor's jersey: stripes that follow the chest."""
    shape = torso(canvas)
    band = zigzag((canvas.y + 0.35 * canvas.x * canvas.x) * 6.0) * 0.042
    canvas.paint(overlap(shape, band), mix(canvas.colours["white"], canvas.colours["accessory"], 0.15))
    skin_through(canvas, collar_opening(canvas, 0.29, 0.12))


CLOTHES_LAYERS: dict[int, Layer] = {
    0: crew_neck, 1: v_neck, 2: shirt, 3: turtleneck, 4: hoodie, 5: striped,
}  # fmt: skip


# Eyewear and accessories ----------------------------------------------------------------------------------------------


def frame_of(canvas: Canvas, lens: Tensor, thick: float) -> None:
    """Paint the rims around lenses, the bridge and the temples."""
    x, y, _ = eye_coordinates(canvas)
    spacing = canvas["eye_spacing"]
    bridge = overlap(stroke(x + spacing, y + 0.02, 0.1, -0.03, thick), -lens)
    temple = overlap(box(x - 0.3, y + 0.03, 0.2, thick * 0.7, 0.01), -lens, canvas.head - 0.03)
    canvas.paint(union(lens.abs() - thick, bridge, temple), canvas.colours["frame"])


def clear_lens(canvas: Canvas, lens: Tensor, thick: float) -> None:
    """Glasses to look through, with a slanting reflection."""
    x, y, side = eye_coordinates(canvas)
    canvas.paint(lens, canvas.colours["white"], 0.14)
    glare = overlap(lens + 0.03, (x * side + 0.8 * y - 0.05).abs() - 0.025)
    canvas.paint(glare, canvas.colours["white"], 0.4)
    frame_of(canvas, lens, thick)


def round_glasses(canvas: Canvas) -> None:
    """Round wire frames."""
    x, y, _ = eye_coordinates(canvas)
    clear_lens(canvas, disc(x - 0.005, y, 0.165), 0.017)


def square_glasses(canvas: Canvas) -> None:
    """Bold angular frames."""
    x, y, _ = eye_coordinates(canvas)
    clear_lens(canvas, box(x - 0.012, y - 0.005 + 0.08 * x, 0.165, 0.13, 0.045), 0.026)


def sunglasses(canvas: Canvas) -> None:
    """Dark lenses that mirror the sky."""
    x, y, side = eye_coordinates(canvas)
    lens = smooth_union(box(x - 0.01, y + 0.03, 0.17, 0.09, 0.04), ellipse(x - 0.01, y - 0.02, 0.14, 0.13), 0.05)
    sky = smooth((y + 0.12) * 4.0)[:, None]
    canvas.paint(lens, mix(canvas.colours["ink"], tint(canvas.colours["backdrop"], 0.75, 0.75, 0.85), sky * 0.7))
    glare = overlap(lens + 0.03, (x * side + 0.8 * y - 0.02).abs() - 0.02)
    canvas.paint(glare, canvas.colours["white"], 0.5)
    frame_of(canvas, lens, 0.02)


EYEWEAR: dict[int, Layer] = {1: round_glasses, 2: square_glasses, 3: sunglasses}


def earrings(canvas: Canvas) -> None:
    """A drop at each ear."""
    x, y = canvas.u.abs() - canvas["head_width"] - 0.05, canvas.v - 0.26
    canvas.paint(capsule(x, y + 0.06, 0.0, 0.05, 0.014), canvas.colours["accessory"])
    canvas.paint(disc(x, y - 0.04, 0.058), canvas.colours["accessory"])
    canvas.paint(disc(x + 0.015, y - 0.055 + 0.03, 0.018), canvas.colours["white"], 0.8)


def cloth_lit(canvas: Canvas, shape: Tensor, colour: Tensor) -> None:
    """Paint a shape as cloth over the head: darker to the sides and away from the light."""
    side = smooth(0.75 + canvas.u * canvas["light"] * 0.7 - canvas.u * canvas.u * 0.9 - 0.3 * (canvas.v + 0.5))
    canvas.paint(shape, mix(deepen(colour), colour, side[:, None]))


def beanie(canvas: Canvas) -> None:
    """A knitted cap with a turned-up rim and a bobble."""
    u, v, colour = canvas.u, canvas.v, canvas.colours["accessory"]
    width, height = canvas["head_width"], canvas["head_height"]
    cap = overlap(ellipse(u, v + 0.3, width + 0.07, height - 0.18), v + 0.34)
    bobble = disc(u, v + height + 0.13, 0.11)
    cloth_lit(canvas, bobble, canvas.colours["white"])
    cloth_lit(canvas, cap, colour)
    rim = box(u, v + 0.35 - 0.12 * u * u, width + 0.085, 0.085, 0.07)
    canvas.paint(rim - 0.02, canvas.colours["ink"], 0.35, blur=0.08)
    knit = (1.0 + 0.09 * zigzag(u * 9.0))[:, None]
    cloth_lit(canvas, rim, tint(colour, 0.82, 0.8, 0.86) * knit)


def brimmed_hat(canvas: Canvas) -> None:
    """A felt hat with a ribbon and a wide brim."""
    u, v, colour = canvas.u, canvas.v, mix(canvas.colours["clothes"], canvas.colours["accessory"], 0.35)
    width = canvas["head_width"]
    crown = overlap(ellipse(u, v + 0.42, width + 0.03, 0.42), v + 0.34)
    brim = ellipse(u, v + 0.37 - 0.1 * u * u, width + 0.27, 0.085)
    cloth_lit(canvas, crown, colour)
    cloth_lit(canvas, overlap(crown, -0.5 - v), tint(canvas.colours["accessory"], 0.7, 0.7, 0.75))
    canvas.paint(brim - 0.02, canvas.colours["ink"], 0.35, blur=0.1)
    cloth_lit(canvas, brim, tint(colour, 1.08, 1.08, 1.08))


def headband(canvas: Canvas) -> None:
    """A band over the forehead hair."""
    band = (canvas.v + 0.42 - 0.25 * canvas.u * canvas.u).abs() - 0.06
    cloth_lit(
        canvas,
        overlap(band, union(canvas.head - 0.012, canvas.hair - 0.012), canvas.head - 0.14),
        canvas.colours["accessory"],
    )


def headphones(canvas: Canvas) -> None:
    """A bow over the crown and two cushions over the ears."""
    width, height = canvas["head_width"], canvas["head_height"]
    bow = overlap(ellipse(canvas.u, canvas.v - 0.02, width + 0.09, height + 0.11).abs() - 0.032, canvas.v - 0.02)
    canvas.paint(bow, canvas.colours["frame"])
    x, y = canvas.u.abs() - width - 0.07, canvas.v - 0.08
    canvas.paint(box(x + 0.03, y, 0.08, 0.17, 0.06), canvas.colours["ink"])
    cloth_lit(canvas, box(x - 0.02, y, 0.07, 0.15, 0.06), canvas.colours["accessory"])


def flower(canvas: Canvas) -> None:
    """A blossom in the hair, five petals."""
    x, y = canvas.u - 0.78 * canvas["head_width"], canvas.v + 0.72 * canvas["head_height"]
    centres = ((0.0, -0.1), (0.095, -0.031), (0.059, 0.081), (-0.059, 0.081), (-0.095, -0.031))
    petals = union(*(disc(x - dx, y - dy, 0.072) for dx, dy in centres))
    canvas.paint(petals - 0.02, canvas.colours["ink"], 0.3, blur=0.05)
    canvas.paint(petals, canvas.colours["accessory"])
    canvas.paint(disc(x, y, 0.11), tint(canvas.colours["accessory"], 0.8, 0.7, 0.75), 0.6, blur=0.08)
    canvas.paint(disc(x, y, 0.05), mix(canvas.colours["white"], canvas.colours["backdrop"], 0.4))


ACCESSORIES: dict[int, Layer] = {
    1: earrings, 2: beanie, 3: brimmed_hat, 4: headband, 5: headphones, 6: flower,
}  # fmt: skip
