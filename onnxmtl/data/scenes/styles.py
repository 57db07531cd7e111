"""Room types: which walls, floors, solids and colours are likely.

They overlap on purpose, so that telling them apart takes more than one colour.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxmtl.data.scenes.textures import Pattern

Covering = tuple[Pattern, str, str, str]

ROOM_TYPES = ("gallery", "study", "playroom", "workshop")
"""Image-level classes, by id."""


@dataclass(frozen=True)
class Style:
    """What is likely in a room of one type. Walls and floors: pattern and three colours (third: skirting, gaps)."""

    walls: tuple[Covering, ...]
    floors: tuple[Covering, ...]
    colours: tuple[str, ...]
    solids: tuple[float, float, float]
    """How likely are boxes, spheres, cylinders."""
    solid_patterns: tuple[Pattern, ...]
    pictures: tuple[int, int]
    """Fewest and most."""
    rug: float
    """How likely is a rug."""
    warmth: tuple[float, float]
    """Of the lamp: 0 is white, 1 is candle light."""


STYLES: tuple[Style, ...] = (
    Style(  # gallery: pale walls, many pictures, plinths
        walls=(
            (Pattern.PLAIN, "#ece8e1", "#ece8e1", "#ffffff"),
            (Pattern.PLAIN, "#d9dfe0", "#d9dfe0", "#ffffff"),
            (Pattern.PLAIN, "#47525e", "#47525e", "#d8d4cc"),
            (Pattern.NOISE, "#dcd3c4", "#e9e2d6", "#ffffff"),
        ),
        floors=(
            (Pattern.PLANKS, "#c8a06a", "#b98d57", "#6b4c2c"),
            (Pattern.CHECKER, "#e6e2da", "#2f3338", "#888888"),
            (Pattern.NOISE, "#a5a29c", "#c5c2bc", "#777777"),
        ),
        colours=("#f2efe9", "#d8d2c8", "#2d4159", "#b4543c", "#d9a441", "#5d7f73"),
        solids=(0.4, 0.3, 0.3),
        solid_patterns=(Pattern.PLAIN, Pattern.PLAIN, Pattern.NOISE, Pattern.STRIPES),
        pictures=(3, 6),
        rug=0.1,
        warmth=(0.25, 0.6),
    ),
    Style(  # study: wallpaper, wood, a rug, warm light
        walls=(
            (Pattern.STRIPES, "#7d8f78", "#8d9d86", "#efe6d2"),
            (Pattern.STRIPES, "#c9a98a", "#d4b89b", "#f4ead8"),
            (Pattern.PLAIN, "#56707a", "#56707a", "#e8dfcc"),
            (Pattern.DOTS, "#b9b48f", "#a8a37f", "#f0e8d2"),
        ),
        floors=(
            (Pattern.PLANKS, "#8a5a34", "#6d4426", "#2b1a0e"),
            (Pattern.PLANKS, "#a8763f", "#8c5d30", "#3d2614"),
            (Pattern.CHECKER, "#9a6b3f", "#7b5230", "#402812"),
        ),
        colours=("#7a3b2e", "#2f5d50", "#c9973f", "#324a6d", "#a9744f", "#d9cbb0"),
        solids=(0.5, 0.2, 0.3),
        solid_patterns=(Pattern.PLAIN, Pattern.PLANKS, Pattern.NOISE, Pattern.STRIPES, Pattern.PLANKS),
        pictures=(1, 4),
        rug=0.7,
        warmth=(0.6, 1.0),
    ),
    Style(  # playroom: bright colours, balls
        walls=(
            (Pattern.PLAIN, "#a9d3e4", "#a9d3e4", "#ffffff"),
            (Pattern.PLAIN, "#f3d9a4", "#f3d9a4", "#ffffff"),
            (Pattern.DOTS, "#f0e3d8", "#e8a6a1", "#ffffff"),
            (Pattern.STRIPES, "#cfe5c8", "#e6f1e0", "#ffffff"),
        ),
        floors=(
            (Pattern.CHECKER, "#e9b44c", "#5fa8a0", "#888888"),
            (Pattern.CHECKER, "#d96459", "#f2e394", "#888888"),
            (Pattern.PLANKS, "#ddb985", "#cfa771", "#8a6a42"),
            (Pattern.NOISE, "#7fa6a8", "#8fb6b8", "#888888"),
        ),
        colours=("#e4572e", "#29a39a", "#f3a712", "#4062bb", "#a8c686", "#d1498b", "#f7f0e0"),
        solids=(0.3, 0.45, 0.25),
        solid_patterns=(Pattern.PLAIN, Pattern.STRIPES, Pattern.DOTS, Pattern.CHECKER),
        pictures=(0, 3),
        rug=0.5,
        warmth=(0.3, 0.8),
    ),
    Style(  # workshop: brick and concrete, crates and barrels, cool light
        walls=(
            (Pattern.BRICK, "#8e4b36", "#a65f45", "#b8aa9a"),
            (Pattern.BRICK, "#b9b2a7", "#cfc9bf", "#8f887d"),
            (Pattern.NOISE, "#85888a", "#a4a6a6", "#66696c"),
            (Pattern.BRICK, "#5b4a45", "#735d54", "#9a9086"),
        ),
        floors=(
            (Pattern.NOISE, "#6d6e6c", "#8a8b88", "#555555"),
            (Pattern.NOISE, "#8d8678", "#a39c8d", "#666666"),
            (Pattern.PLANKS, "#7c6a55", "#675642", "#2e251b"),
        ),
        colours=("#3c6e9e", "#c2502e", "#d8a928", "#58646b", "#3f7d4e", "#9aa3a6"),
        solids=(0.5, 0.1, 0.4),
        solid_patterns=(Pattern.CRATE, Pattern.STRIPES, Pattern.NOISE, Pattern.PLAIN),
        pictures=(0, 1),
        rug=0.0,
        warmth=(0.0, 0.4),
    ),
)
