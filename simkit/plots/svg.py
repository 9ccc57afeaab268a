"""A figure as an SVG element that may stand beside others in one HTML page."""

import re
from xml.etree import ElementTree


_SVG = "{http://www.w3.org/2000/svg}"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def inline_svg(drawn: bytes, name: str, title: str, description: str) -> str:
    """The bytes of an SVG file as an `<svg>` element with a text for those who cannot see it.

    `name` prefixes every identifier, since those of matplotlib (`figure_1`, `axes_1`)
    are the same in each figure and identifiers of a page must differ. The size is left
    to the page; the element keeps its aspect and its natural width as `--width`.
    Metadata, comments and the style sheet, which would hold for the whole page, are
    dropped.
    """
    root = ElementTree.fromstring(drawn)
    _drop(root, {f"{_SVG}metadata", f"{_SVG}style"})
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {
            # HTML knows no namespaces; SVG 2 writes a plain href.
            key.rpartition("}")[2]: _prefixed(key, value, name)
            for key, value in element.attrib.items()
        }
        element.tail = None
        element.text = None
    width = root.attrib.pop("width")
    for superfluous in ("height", "version"):
        root.attrib.pop(superfluous)
    root.attrib |= {
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-description",
        "style": f"--width: {width}",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        spoken = ElementTree.Element(
            tag, id=f"{name}-{'title' if place == 0 else 'description'}"
        )
        spoken.text = text
        root.insert(place, spoken)
    return ElementTree.tostring(root, encoding="unicode")


def _drop(element: ElementTree.Element, tags: set[str]) -> None:
    for child in list(element):
        if child.tag in tags:
            element.remove(child)
        else:
            _drop(child, tags)


def _prefixed(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href") and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)
