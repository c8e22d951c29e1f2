"""Pages as tests read them: walked from end to end, and found to be safe."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

from PIL import Image

VOID = {"meta", "img", "br", "link", "input", "hr", "base", "source", "embed"}
EVIL = "<script>window.evil=1</script>\"'><img src=x onerror=window.evil=2>&amp;{{ 7 * 7 }}</script><!--"
HELD = ("data:image/jpeg;base64,", "data:image/png;base64,")


@dataclass
class Page(HTMLParser):
    """A page walked from end to end: every element closed in turn, its attributes, its text and scripts."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        kept = {"script": self.scripts, "style": self.styles}.get(self.open[-1] if self.open else "")
        (self.words if kept is None else kept).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def policy(self) -> str:
        return next(value for _, name, value in self.attributes if name == "content" and "-src" in value)

    @property
    def images(self) -> Iterator[Image.Image]:
        for tag, name, value in self.attributes:
            if (tag, name) in {("img", "src"), ("image", "href")}:
                yield Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2])))


def walk(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == [], "elements are left open"
    return page


def sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def safe_page(html: str, *, links: bool = False) -> Page:
    """Walked; nothing runs but the page's own script, nothing is fetched, no attribute is a script."""
    page = walk(html)
    assert not {"iframe", "object", "embed", "link", "form", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name != "style", (tag, value)
        if name in {"src", "href", "action", "data", "srcset"}:
            inside = ("slides/",) if links and tag == "a" else ()
            assert value.startswith((*HELD, "#", *inside)), (tag, name, value[:60])
    outside = re.sub(r"data:image/(jpeg|png);base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"url\(|@import|https?://(?!www.w3.org/2000/svg)", outside)
    assert page.policy.startswith("default-src 'none'; img-src data:; ")
    for text in page.styles:
        assert f"style-src 'sha256-{sha256(text)}'" in page.policy
    if page.scripts:
        data, program = page.scripts
        assert isinstance(json.loads(data), dict)
        assert f"script-src 'sha256-{sha256(program)}'" in page.policy
        kinds = [value for tag, name, value in page.attributes if (tag, name) == ("script", "type")]
        assert kinds == ["application/json"]
    return page
