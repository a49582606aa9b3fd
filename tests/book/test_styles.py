"""Methods stay apart for every reader: by colour, also under simulated colour blindness, and without any colour."""

import itertools

import numpy as np
import pytest
from cat_book.drawing.markup import SHAPES
from cat_book.drawing.styles import METHOD_STYLE, method_style

from cat_core.methods import METHODS

LINES = {method: style for method, style in METHOD_STYLE.items() if style.marker}
# Machado, Oliveira and Fernandes (2009), full severity, for linear RGB.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
CONTROLS = ("large-xent", "large-labels", "large-dist", "small-dist", "both-dist", "neither-dist", "gatekeeper",
            "call-token")  # fmt: skip


def linear(colour):
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE Lab (D65) of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_training_method_has_a_name_and_a_look():
    assert set(METHODS) == set(LINES)
    assert method_style("large-dist").label == "L-right mask" and method_style("gatekeeper").label == "Gatekeeper"


@pytest.mark.parametrize("field", ["label", "colour", "dash", "marker"])
def test_no_two_share(field):
    found = [getattr(style, field) for style in LINES.values()]
    assert len(set(found)) == len(found)


def test_markers_are_known_to_sliders_and_to_matplotlib():
    from matplotlib.markers import MarkerStyle

    shapes = [SHAPES[style.marker] for style in LINES.values()]
    assert len(set(shapes)) == len(shapes)
    for style in LINES.values():
        MarkerStyle(style.marker)


@pytest.mark.parametrize("method", LINES)
def test_contrast_on_white(method):
    assert 1.05 / (linear(LINES[method].colour) @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3


@pytest.mark.parametrize("kind", ["", *BLINDNESS])
def test_controls_stay_apart_under_colour_blindness(kind):
    matrix = np.array(BLINDNESS[kind]) if kind else np.eye(3)
    seen = {method: lab(matrix @ linear(style.colour)) for method, style in LINES.items()}
    for a, b in itertools.combinations(LINES, 2):
        if {a, b} & set(CONTROLS):
            assert np.linalg.norm(seen[a] - seen[b]) >= 17, (a, b)  # fifteen lines leave no more room
