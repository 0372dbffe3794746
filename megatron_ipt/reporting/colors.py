"""The colors of pages and plots, by the name of their CSS variable: a light and a dark theme."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT = {
    "page": "#f6f6f3",
    "card": "#ffffff",
    "ink": "#1c2024",
    "muted": "#60666d",
    "grid": "#e3e4e0",
    "first": "#2f6f9f",
    "second": "#c2571a",
    "chance": "#b3261e",
    "mark": "#eef3f7",
    "hue-1": "#2f6f9f",
    "hue-2": "#c2571a",
    "hue-3": "#3c8552",
    "hue-4": "#8a5aa8",
    "hue-5": "#a8842a",
    "hue-6": "#b5476b",
    "hue-7": "#3a8f93",
    "hue-8": "#6b7480",
}
DARK = {
    "page": "#14171a",
    "card": "#1c2024",
    "ink": "#e9ebec",
    "muted": "#9aa2aa",
    "grid": "#32383e",
    "first": "#6cb0e0",
    "second": "#f0954f",
    "chance": "#ff8a80",
    "mark": "#232a31",
    "hue-1": "#6cb0e0",
    "hue-2": "#f0954f",
    "hue-3": "#74c48a",
    "hue-4": "#c095dd",
    "hue-5": "#dcbb60",
    "hue-6": "#ee8aab",
    "hue-7": "#6fcbcf",
    "hue-8": "#a3adb8",
}


def declare(colors: Mapping[str, str]) -> str:
    """Return the declarations of the CSS variables."""
    return " ".join(f"--{name}: {color};" for name, color in colors.items())
