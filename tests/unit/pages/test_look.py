"""What every page is made of: escaped text, colours that can be read, and no address of another host."""

from __future__ import annotations

import re
from pathlib import Path

import continual_gateway
import pytest
from continual_gateway.pages.rendering import environment

PACKAGE = Path(continual_gateway.__file__).parent
CSS = (PACKAGE / "static" / "app.css").read_text()
LIGHT, DARK = CSS.split("@media (prefers-color-scheme: dark)")[:2]
STATES = ("good", "warn", "bad", "busy", "idle")


def colours(block: str) -> dict[str, tuple[int, int, int]]:
    found = re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block)
    return {name: (int(hexa[1:3], 16), int(hexa[3:5], 16), int(hexa[5:7], 16)) for name, hexa in reversed(found)}


def luminance(colour: tuple[int, int, int]) -> float:
    parts = [value / 255 for value in colour]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("block", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read_on_every_surface(block: str) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text on its surface, states on their wash, the label of a button; 3 to 1 for curves."""
    c = colours(block)
    pairs = [(text, surface) for text in ("ink", "soft", "accent") for surface in ("page", "surface", "sunken")]
    pairs += (
        [(state, f"{state}-wash") for state in STATES]
        + [(state, "surface") for state in STATES]
        + [("on-accent", "accent")]
    )
    weak = {
        pair: round(contrast(c[pair[0]], c[pair[1]]), 2) for pair in pairs if contrast(c[pair[0]], c[pair[1]]) < 4.5
    }
    faint = {
        n: round(contrast(c[f"v{n}"], c["surface"]), 2) for n in range(6) if contrast(c[f"v{n}"], c["surface"]) < 3
    }
    assert (weak, faint) == ({}, {})


def test_a_name_that_is_markup_stays_text() -> None:
    """A class, a file name or a message is a stranger's text: the templates print it, they never obey it."""
    hostile = '"><script>alert(1)</script>'
    page = environment().from_string(
        "{% from 'parts.html' import pill %}<p>{{ name }}</p>{{ pill('good', name, name) }}"
    )
    shown = page.render(name=hostile)
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 3


def test_nothing_of_the_pages_lies_elsewhere() -> None:
    """No template, style or script of ours names another host, an inline style, an inline script or an inline handler."""
    wrong = []
    for file in [*PACKAGE.glob("templates/*.html"), *PACKAGE.glob("static/*.*")]:
        text = file.read_text()
        for pattern in (
            r"(?:src|href)=\"(?:https?:)?//",
            r"url\(\s*['\"]?(?:https?:)?//",
            r"\sstyle=\"",
            r"<script>",
            r"\son[a-z]+=\"",
        ):
            wrong += [f"{file.name}: {hit}" for hit in re.findall(pattern, text)]
    assert wrong == []


def test_every_template_can_be_read() -> None:
    """A template that nobody has opened yet has no syntax error either."""
    for name in environment().list_templates():
        environment().get_template(name)
