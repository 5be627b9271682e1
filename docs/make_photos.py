"""Writes example photos into assets/: `python docs/make_photos.py`, with scikit-image installed.

Three of its photos that are free of rights, and five pictures that are drawn here, each with its reference mask. Drawn
ones are made twice as large as they are kept, so that edges are smooth, with light, shade and grain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).parent.parent / "assets"
SIZE, TIMES = (640, 480), 2
WIDTH, HEIGHT = SIZE[0] * TIMES, SIZE[1] * TIMES
Colour = tuple[int, int, int]
Points = list[tuple[float, float]]


class Scene:
    """A picture that is drawn with soft shadows and shading, and the mask of what was drawn as its subject."""

    def __init__(self, top: Colour, bottom: Colour, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.image = _gradient(top, bottom)
        self.mask = Image.new("L", self.image.size, 0)

    def shape(
        self, draw: Callable[[ImageDraw.ImageDraw], None], light: Colour, dark: Colour, subject: bool = False
    ) -> None:
        """Draw a shape in a shade that goes from `light` at its upper left to `dark` at its lower right.

        Args:
            draw: draws the shape, filled with 255, on a mask.
            subject: whether the shape is of the reference.
        """
        stencil = Image.new("L", self.image.size, 0)
        draw(ImageDraw.Draw(stencil))
        box = stencil.getbbox()
        if box is None:
            return
        x, y = np.meshgrid(np.linspace(0, 1, box[2] - box[0]), np.linspace(0, 1, box[3] - box[1]))
        share = np.clip(0.6 * x + 0.4 * y, 0, 1)[..., None] ** 1.2
        shade = ((1 - share) * np.array(light) + share * np.array(dark)).astype(np.uint8)
        self.image.paste(Image.fromarray(shade), box[:2], stencil.crop(box))
        if subject:
            self.mask.paste(255, mask=stencil)

    def polygon(self, points: Points, light: Colour, dark: Colour, subject: bool = False) -> None:
        self.shape(lambda d: d.polygon([(TIMES * x, TIMES * y) for x, y in points], 255), light, dark, subject)

    def ellipse(self, box: tuple[float, ...], light: Colour, dark: Colour, subject: bool = False) -> None:
        self.shape(lambda d: d.ellipse([TIMES * v for v in box], 255), light, dark, subject)

    def line(self, points: Points, width: float, colour: Colour, subject: bool = False) -> None:
        places = [(TIMES * x, TIMES * y) for x, y in points]
        self.shape(lambda d: d.line(places, 255, round(TIMES * width), joint="curve"), colour, colour, subject)

    def glow(self, box: tuple[float, ...], colour: Colour, strength: float, soft: float) -> None:
        """A soft spot: a highlight, a shadow, a cloud."""
        spot = Image.new("L", self.image.size, 0)
        ImageDraw.Draw(spot).ellipse([TIMES * v for v in box], round(255 * strength))
        self.image.paste(
            Image.new("RGB", self.image.size, colour), mask=spot.filter(ImageFilter.GaussianBlur(TIMES * soft))
        )

    def texture(self, top: float, bottom: float, strength: float, stretch: tuple[float, float]) -> None:
        """Grain between two heights, smoothed by `stretch` pixels down and across: grass, water, asphalt."""
        low, high = round(TIMES * top), round(TIMES * bottom)
        grain = cv2.GaussianBlur(
            self.random.normal(size=(high - low, WIDTH)), (0, 0), sigmaX=stretch[1], sigmaY=stretch[0]
        )
        pixels = np.asarray(self.image, np.float64).copy()
        pixels[low:high] += (strength * grain / grain.std())[..., None]
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))

    def save(self, name: str) -> None:
        small = np.asarray(self.image.resize(SIZE, Image.Resampling.LANCZOS), np.float64)
        grain = cv2.GaussianBlur(self.random.normal(size=small.shape), (0, 0), 0.7)
        Image.fromarray(np.clip(small + 5 * grain, 0, 255).astype(np.uint8)).save(FOLDER / f"{name}.jpg", quality=86)
        kept = self.mask.resize(SIZE, Image.Resampling.BOX).point(lambda v: 255 * (v > 127))
        kept.convert("1").save(FOLDER / "masks" / f"{name}.png", optimize=True)


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    share = np.linspace(0, 1, HEIGHT)[:, None, None]
    rows = (1 - share) * np.array(top) + share * np.array(bottom)
    return Image.fromarray(np.broadcast_to(rows, (HEIGHT, WIDTH, 3)).astype(np.uint8))


def _hill(base: float, high: float, waves: float, phase: float) -> Points:
    tops = [
        (x, base - high * (0.5 + 0.5 * math.sin(waves * x / SIZE[0] * 2 * math.pi + phase))) for x in range(0, 641, 8)
    ]
    return [(0, 480), *tops, (640, 480)]


def _clouds(scene: Scene, places: Points, size: float) -> None:
    for x, y in places:
        for i in range(6):
            w = size * scene.random.uniform(0.5, 1)
            dx, dy = size * (i - 2.5) * 0.35, scene.random.uniform(-0.12, 0.12) * size
            scene.glow((x + dx - w / 2, y + dy - w / 4, x + dx + w / 2, y + dy + w / 4), (255, 253, 250), 0.6, size / 9)


# --- the pictures -----------------------------------------------------------------------------------------------------


def balloon() -> None:
    """A hot-air balloon above hills."""
    scene = Scene((86, 142, 205), (222, 226, 214), 1)
    _clouds(scene, [(110, 110), (540, 70), (560, 235)], 90)
    for base, high, waves, phase, light, dark in (
        (380, 60, 1.3, 0.3, (126, 150, 158), (104, 130, 140)),
        (420, 55, 1.8, 2.0, (104, 142, 92), (72, 108, 66)),
        (470, 60, 1.1, 4.2, (128, 156, 76), (66, 96, 44)),
    ):
        scene.polygon(_hill(base, high, waves, phase), light, dark)
    scene.texture(370, 480, 6, (1.5, 2.5))
    centre, radius, top = 330, 105, 40

    def edge(share: float, side: float) -> Points:
        """A line of longitude: a circle that runs out into a cone."""
        points = []
        for y in np.linspace(0, 230, 60):
            below = y - radius
            wide = math.sqrt(max(0, radius**2 - below**2)) if below < 60 else 86 - (below - 60) / 65 * 70
            points.append((centre + side * share * wide, top + y))
        return points

    stripes = [((214, 58, 48), (140, 22, 30)), ((246, 236, 214), (196, 176, 140)), ((236, 164, 44), (180, 100, 20))]
    bounds = [-1, -0.72, -0.38, 0, 0.38, 0.72, 1]
    for i in range(6):
        left, right = (
            edge(abs(bounds[i]), math.copysign(1, bounds[i])),
            edge(abs(bounds[i + 1]), math.copysign(1, bounds[i + 1])),
        )
        scene.polygon([*left, *reversed(right)], *stripes[i % 3], subject=True)
    scene.glow((265, 70, 315, 150), (255, 255, 255), 0.35, 16)
    for x in (-14, 14):
        scene.line([(centre + x, 270), (centre + x * 0.8, 306)], 1.5, (70, 52, 40), subject=True)
    scene.polygon([(316, 304), (344, 304), (341, 328), (319, 328)], (168, 120, 70), (98, 62, 34), subject=True)
    scene.save("balloon")


def sailboat() -> None:
    """A boat under sail on the sea."""
    scene = Scene((120, 170, 216), (232, 232, 222), 2)
    _clouds(scene, [(140, 90), (500, 130)], 100)
    scene.polygon([(0, 262), (90, 236), (190, 250), (260, 262)], (122, 142, 150), (104, 124, 136))
    sea = [(0, 262), (640, 262), (640, 480), (0, 480)]
    scene.polygon(sea, (66, 128, 158), (22, 66, 104))
    scene.texture(262, 330, 6, (1, 14))
    scene.texture(330, 480, 9, (2.5, 26))
    scene.glow((250, 372, 470, 420), (16, 46, 74), 0.6, 10)
    scene.glow((300, 385, 400, 455), (226, 226, 220), 0.25, 12)
    scene.line([(348, 70), (348, 352)], 4, (120, 88, 58), subject=True)
    scene.polygon([(354, 78), (372, 150), (446, 322), (354, 330)], (252, 248, 238), (196, 192, 182), subject=True)
    scene.polygon([(342, 100), (318, 210), (252, 332), (342, 334)], (244, 238, 224), (206, 190, 164), subject=True)
    scene.line([(356, 200), (388, 198)], 2, (198, 62, 50), subject=True)
    hull = [(236, 346), (462, 346), (452, 366), (432, 384), (268, 384), (248, 364)]
    scene.polygon(hull, (196, 58, 48), (112, 26, 30), subject=True)
    scene.polygon([(236, 346), (462, 346), (459, 353), (240, 353)], (248, 244, 234), (206, 198, 184), subject=True)
    scene.glow((238, 378, 458, 396), (230, 240, 244), 0.55, 5)
    scene.save("sailboat")


def fruit() -> None:
    """A pear, an apple and an orange on a table."""
    scene = Scene((92, 88, 92), (150, 140, 132), 3)
    scene.glow((-60, -80, 360, 330), (206, 192, 170), 0.55, 80)
    scene.polygon([(0, 318), (640, 318), (640, 480), (0, 480)], (172, 122, 78), (104, 66, 38))
    scene.texture(318, 480, 8, (1.2, 40))
    for box in ((150, 372, 320, 418), (280, 392, 450, 432), (400, 376, 560, 414)):
        scene.glow(box, (44, 26, 16), 0.75, 9)
    pear = [
        (
            227 + (62 + 16 * math.cos(2 * a)) * math.sin(a) * (0.62 + 0.42 * (1 - math.cos(a)) / 2 * 1.25) * 1.08,
            300 - 102 * math.cos(a),
        )
        for a in np.linspace(0, 2 * math.pi, 80)
    ]
    scene.line([(227, 204), (231, 182), (242, 168)], 6, (84, 58, 32), subject=True)
    scene.polygon(pear, (226, 214, 96), (122, 124, 34), subject=True)
    scene.glow((190, 300, 222, 352), (255, 252, 214), 0.6, 11)
    scene.ellipse((400, 258, 540, 394), (248, 176, 62), (178, 84, 14), subject=True)
    scene.glow((430, 278, 470, 312), (255, 246, 214), 0.7, 10)
    apple = [
        (
            354 + 78 * math.sin(a) * (1 + 0.07 * math.cos(3 * a)),
            346 - 68 * math.cos(a) + 16 * math.exp(-((math.sin(a)) ** 2) * 14) * (math.cos(a) > 0),
        )
        for a in np.linspace(0, 2 * math.pi, 90)
    ]
    scene.polygon(apple, (214, 62, 52), (106, 14, 26), subject=True)
    scene.line([(354, 296), (357, 276), (366, 262)], 5, (72, 48, 30), subject=True)
    scene.polygon([(360, 276), (382, 258), (408, 262), (392, 280)], (112, 158, 60), (58, 100, 36), subject=True)
    scene.glow((308, 302, 346, 340), (255, 226, 214), 0.7, 9)
    scene.save("fruit")


def mushroom() -> None:
    """A toadstool in grass."""
    scene = Scene((44, 66, 40), (78, 104, 52), 4)
    for _ in range(40):
        x, y, r = scene.random.uniform(0, 640), scene.random.uniform(0, 300), scene.random.uniform(12, 46)
        colour = (150, 176, 96) if scene.random.random() < 0.5 else (32, 50, 30)
        scene.glow((x - r, y - r, x + r, y + r), colour, 0.4, 12)
    scene.polygon([(0, 380), (640, 366), (640, 480), (0, 480)], (86, 120, 48), (46, 70, 30))
    scene.texture(366, 480, 16, (6, 1.5))
    scene.glow((210, 398, 440, 446), (18, 26, 12), 0.7, 12)
    scene.polygon(
        [(292, 240), (352, 240), (360, 330), (374, 414), (346, 428), (296, 428), (270, 414), (286, 330)],
        (248, 242, 224),
        (170, 158, 132),
        subject=True,
    )
    scene.ellipse((262, 278, 382, 318), (238, 230, 208), (186, 174, 146), subject=True)
    cap = [
        (322 + 150 * math.cos(a), 250 - (168 if math.sin(a) > 0 else 26) * math.sin(a))
        for a in np.linspace(0, 2 * math.pi, 100)
    ]
    scene.polygon(cap, (228, 60, 40), (130, 18, 20), subject=True)
    for x, y, r in (
        (250, 176, 16),
        (318, 122, 18),
        (386, 170, 15),
        (292, 214, 13),
        (356, 226, 14),
        (430, 226, 11),
        (214, 232, 11),
        (330, 172, 9),
    ):
        scene.ellipse(
            (x - r * 1.15, y - r * 0.85, x + r * 1.15, y + r * 0.85), (252, 248, 238), (206, 196, 178), subject=True
        )
    scene.glow((228, 118, 300, 170), (255, 214, 200), 0.4, 16)
    for _ in range(170):
        x, base, high = scene.random.uniform(0, 640), scene.random.uniform(424, 490), scene.random.uniform(26, 64)
        lean = scene.random.uniform(-16, 16)
        green = int(scene.random.uniform(90, 170))
        scene.line(
            [(x, base), (x + lean / 2, base - high / 2), (x + lean, base - high)], 2.2, (green // 2, green, green // 3)
        )
    scene.save("mushroom")


def street() -> None:
    """A street between houses, with cars, trees and people; the subject of its reference is the car in front."""
    scene = Scene((132, 176, 218), (226, 230, 228), 5)
    _clouds(scene, [(250, 60), (420, 90)], 80)
    vanish = (330, 226)

    def towards(x: float, y: float, share: float) -> tuple[float, float]:
        return x + (vanish[0] - x) * share, y + (vanish[1] - y) * share

    for x, y, w, h, colour in ((286, 170, 46, 56, (168, 158, 150)), (330, 182, 40, 44, (150, 146, 148))):
        scene.polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], colour, colour)
    houses = [  # outer edge on either side as shares of the way to the vanishing point, height of the roof, colours
        (0.0, 0.36, -150, (182, 118, 92), (128, 78, 60)),
        (0.36, 0.6, -40, (214, 196, 160), (164, 146, 112)),
        (0.6, 0.78, 30, (156, 148, 144), (112, 106, 104)),
    ]
    for side in (0, 640):
        for near, far, roof, light, dark in houses if side == 0 else houses[::-1][::-1]:
            if side:
                light, dark = (light[2], light[1], light[0]), (dark[2], dark[1], dark[0])
            corners = [
                towards(side, roof - 20, near),
                towards(side, roof - 20, far),
                towards(side, 372, far),
                towards(side, 372, near),
            ]
            scene.polygon(corners, light, dark)
            for floor in range(4):
                for n in range(3):
                    a, b = near + (far - near) * (n + 0.25) / 3, near + (far - near) * (n + 0.75) / 3
                    high = roof + 30 + (372 - roof - 60) * floor / 4
                    low = high + (372 - roof) / 9
                    scene.polygon(
                        [towards(side, high, a), towards(side, high, b), towards(side, low, b), towards(side, low, a)],
                        (96, 116, 134),
                        (48, 60, 76),
                    )
    road = [(vanish[0] - 12, vanish[1] + 6), (vanish[0] + 12, vanish[1] + 6), (700, 480), (-40, 480)]
    for side in (-1, 1):
        far, near = vanish[0] + side * 60, 330 + side * 560
        scene.polygon(
            [(vanish[0], vanish[1] + 4), (far, vanish[1] + 18), (near, 480), (330, 480)],
            (186, 180, 172),
            (150, 144, 138),
        )
    scene.polygon(road, (92, 92, 98), (68, 68, 74))
    scene.texture(240, 480, 4, (1.2, 1.6))
    for i in range(6):
        a, b = 1 - 0.86 ** (3 * i), 1 - 0.86 ** (3 * i + 1.5)
        scene.polygon(
            [towards(322, 480, a), towards(340, 480, a), towards(340, 480, b), towards(322, 480, b)],
            (232, 230, 222),
            (214, 212, 204),
        )
    for x, base, size in ((112, 352, 1.0), (212, 292, 0.5), (556, 340, 0.9), (452, 288, 0.46)):
        scene.line([(x, base), (x, base - 110 * size)], 9 * size, (86, 64, 46))
        for _ in range(26):
            r = 30 * size * scene.random.uniform(0.6, 1)
            cx, cy = x + scene.random.normal() * 28 * size, base - 140 * size + scene.random.normal() * 26 * size
            green = int(scene.random.uniform(84, 140))
            scene.ellipse(
                (cx - r, cy - r, cx + r, cy + r), (green // 2 + 20, green + 10, 44), (green // 3, green - 30, 30)
            )
    for x, base, size, coat in (
        (52, 396, 1.1, (54, 72, 128)),
        (488, 318, 0.55, (160, 54, 60)),
        (508, 322, 0.58, (60, 60, 66)),
    ):
        scene.ellipse(
            (x - 9 * size, base - 92 * size, x + 9 * size, base - 72 * size), (226, 184, 156), (176, 130, 104)
        )
        scene.polygon(
            [
                (x - 14 * size, base - 70 * size),
                (x + 14 * size, base - 70 * size),
                (x + 12 * size, base - 30 * size),
                (x - 12 * size, base - 30 * size),
            ],
            coat,
            tuple(v // 2 for v in coat),
        )
        for leg in (-6, 6):
            scene.line([(x + leg * size * 0.6, base - 32 * size), (x + leg * size, base)], 8 * size, (46, 44, 52))
    _car(scene, 268, 300, 0.5, (206, 206, 210), (120, 122, 130), False)
    _car(scene, 430, 398, 1.25, (66, 118, 188), (20, 48, 100), True)
    scene.line([(600, 400), (600, 150)], 6, (74, 76, 82))
    scene.polygon([(585, 120), (615, 120), (615, 196), (585, 196)], (52, 54, 58), (30, 32, 36))
    for i, colour in enumerate(((90, 30, 28), (96, 80, 30), (70, 214, 120))):
        scene.ellipse((592, 126 + 23 * i, 608, 142 + 23 * i), colour, colour)
    scene.save("street")


def _car(scene: Scene, x: float, base: float, size: float, light: Colour, dark: Colour, subject: bool) -> None:
    """A car from behind that stands on `base`."""

    def at(points: Points) -> Points:
        return [(x + size * px, base - size * py) for px, py in points]

    scene.glow((x - 78 * size, base - 8 * size, x + 78 * size, base + 12 * size), (26, 26, 30), 0.7, 5 * size)
    for side in (-1, 1):
        scene.polygon(
            at([(side * 66, 26), (side * 44, 26), (side * 46, -2), (side * 64, -2)]),
            (40, 40, 44),
            (18, 18, 20),
            subject,
        )
    scene.polygon(at([(-72, 18), (-74, 56), (-64, 70), (64, 70), (74, 56), (72, 18)]), light, dark, subject)
    scene.polygon(at([(-62, 68), (-46, 108), (-34, 113), (34, 113), (46, 108), (62, 68)]), light, dark, subject)
    scene.polygon(at([(-52, 72), (-40, 104), (40, 104), (52, 72)]), (150, 176, 194), (58, 76, 92), subject)
    scene.polygon(at([(-70, 18), (-70, 28), (70, 28), (70, 18)]), (60, 62, 66), (36, 38, 42), subject)
    for side in (-1, 1):
        scene.polygon(
            at([(side * 70, 46), (side * 70, 62), (side * 50, 60), (side * 54, 48)]),
            (232, 60, 50),
            (150, 20, 24),
            subject,
        )
    scene.polygon(at([(-20, 36), (20, 36), (20, 46), (-20, 46)]), (240, 240, 236), (206, 206, 200), subject)


# --- photos of scikit-image -------------------------------------------------------------------------------------------


def photos() -> None:
    """Three photos of scikit-image that are free of rights: rocket, cameraman and the silhouette of a horse."""
    from skimage import data

    rocket = Image.fromarray(data.rocket())
    rocket.save(FOLDER / "rocket.jpg", quality=86)
    # Drawn by hand along the stage, its fairing and its legs.
    body = [
        (311, 408),
        (312, 190),
        (309, 172),
        (309, 150),
        (313, 136),
        (321, 127),
        (329, 136),
        (333, 150),
        (333, 172),
        (330, 190),
        (331, 408),
    ]
    _save_mask("rocket", rocket.size, [body])
    camera = Image.fromarray(data.camera()).convert("RGB")
    camera.save(FOLDER / "cameraman.jpg", quality=84)
    dark = cv2.morphologyEx((data.camera() < 62).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(dark)
    man = (labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
    # The bright parts by hand: face, collar, hands and camera.
    face = [(182, 118), (206, 92), (236, 76), (258, 92), (264, 128), (246, 152), (214, 178), (172, 196), (160, 150)]
    held = [(258, 138), (322, 138), (326, 178), (304, 200), (262, 182)]
    outlines, _ = cv2.findContours(man, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    _save_mask("cameraman", camera.size, [[tuple(p) for p in o[:, 0].tolist()] for o in outlines] + [face, held])
    horse = Image.fromarray((255 * data.horse()).astype(np.uint8))
    horse.convert("RGB").save(FOLDER / "horse.jpg", quality=86)
    horse.point(lambda v: 255 * (v < 128)).convert("1").save(FOLDER / "masks" / "horse.png", optimize=True)


def _save_mask(name: str, size: tuple[int, int], polygons: list[Points]) -> None:
    mask = Image.new("1", size)
    for points in polygons:
        ImageDraw.Draw(mask).polygon(points, 1)
    mask.save(FOLDER / "masks" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    for make in (balloon, sailboat, fruit, mushroom, street, photos):
        make()
