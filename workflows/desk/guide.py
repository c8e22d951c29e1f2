"""Going to places of the slide: from a line of the result, a picture, a click."""

from __future__ import annotations

from coverslip.workflows.desk.gallery import Picture
from coverslip.workflows.desk.lines import Line, single_px
from coverslip.workflows.desk.objects import Target
from coverslip.workflows.desk.place import Place, magnification, of_finding
from coverslip.workflows.desk.table import Table
from coverslip.workflows.pictures import format_score
from coverslip.workflows.result import SlideResult
from coverslip.workflows.review.corrections import Objects
from coverslip.workflows.review.queue import Suggestion

# A click reaches a cell whose centre is no further than this on the screen, or on the glass.
REACH_SCREEN_PX, REACH_UM = 10.0, 8.0
MOST_OF_CLASS = 60


class Guide:
    """Moves the camera of the desk, and selects what is there."""

    def __init__(self, desk: Table):
        self.desk = desk

    def go_to_line(self, line: Line) -> None:
        """Frame what a finding or a measurement is about, and show what decided it."""
        if self.desk.stage is None or self.desk.opened is None:
            return
        if line.places:
            self.desk.stage.go(line.places)
        pictures = self._pictures_of(line)
        if pictures:
            self.desk.gallery.show_pictures(line.name, pictures, self.desk.opened.scene.slide)

    def _pictures_of(self, line: Line) -> list[Picture]:
        result = self.desk.revised
        if result is None:
            return []
        if line.kind == "finding":
            scores = next((f.tiles for f in result.findings if f.name == line.name), ())
            captions = [format_score(tile.score) for tile in scores]
            captions += [""] * (len(line.places) - len(captions))
            return [Picture(place, text) for place, text in zip(line.places, captions, strict=False)]
        if line.kind == "measurement":
            return self._pictures_of_class(line.name)
        return []

    def _pictures_of_class(self, name: str) -> list[Picture]:
        """Of a count of one class, those that show it most."""
        opened, known = self.desk.opened, self.desk.known
        if opened is None or known is None:
            return []
        said = name.casefold()
        fitting: list[tuple[int, Objects, int]] = [
            (len(label), of, n)
            for of in self.desk.standing
            for n, label in enumerate(self.desk.labels(of))
            if said.endswith(label.casefold())
        ]
        if not fitting:
            return []
        _, of, number = max(fitting, key=lambda one: one[0])
        targets = known.of_class(of, number, self.desk.standing[of], MOST_OF_CLASS)
        return [Picture(known.place(one), f"{one.of[:-1]} {one.row + 1}", one) for one in targets]

    def show_first(self, result: SlideResult) -> None:
        """Of the finding with most pictures: what decided."""
        shown = max(result.findings, key=lambda one: len(one.tiles), default=None)
        if shown is None or not shown.tiles or self.desk.opened is None:
            self.desk.gallery.show_pictures("Click a finding or a count to see what decided it.", (), None)
            return
        places = of_finding(shown, single_px(result))
        pictures = [
            Picture(place, format_score(tile.score)) for place, tile in zip(places, shown.tiles, strict=True)
        ]
        self.desk.gallery.show_pictures(shown.name, pictures, self.desk.opened.scene.slide)

    def go_to_picture(self, picture: Picture) -> None:
        if self.desk.stage is None:
            return
        self.desk.stage.go([picture.place])
        if picture.target is not None:
            self.select(picture.target)
        elif self.desk.known is not None and picture.place.single:
            found = self.desk.known.at(*picture.place.middle, reach=picture.place.width / 2)
            if found is not None:
                self.select(found)

    def click(self, x: float, y: float, screen_px: float) -> None:
        """Select what lies at a place of level 0: a cell, a tile, and the finding it belongs to."""
        opened, known, stage = self.desk.opened, self.desk.known, self.desk.stage
        if opened is None or known is None or stage is None:
            return
        um = REACH_UM / min(stage.world.pixel) if stage.world.um else 3 * REACH_UM
        target = known.at(x, y, max(um, REACH_SCREEN_PX * screen_px))
        line = self.desk.findings.finding_at(x, y)
        if line is not None:
            self.desk.findings.select(line.kind, line.name)
        if target is not None:
            self.select(target)
        else:
            self.desk.point_at(None)
            stage.frame(line.places if line is not None else ())

    def select(self, target: Target) -> None:
        """Ring it, and tell what is known of it."""
        opened, known, stage = self.desk.opened, self.desk.known, self.desk.stage
        if opened is None or known is None or stage is None:
            return
        self.desk.point_at(target)
        outlined = opened.cells is not None and opened.cells.cells.outlines is not None
        if target.of == "cells" and outlined and opened.cells is not None:
            stage.ring(opened.cells.outline(target.row))
        else:
            stage.frame([known.place(target)])
        self.show_card(target)

    def show_card(self, target: Target) -> None:
        if self.desk.known is not None:
            self.desk.card.show_card(self.desk.known.card(target, self.desk.class_of(target)))

    def magnify(self, times: float) -> None:
        """As an objective shows it; 0 for the whole slide."""
        if self.desk.stage is None:
            return
        if times:
            self.desk.stage.zoom(times / magnification(1.0))
        else:
            self.desk.stage.whole()

    def go_to_suggestion(self, one: Suggestion) -> None:
        if self.desk.stage is None:
            return
        corner = one.x - one.width / 2, one.y - one.height / 2
        self.desk.stage.go([Place(*corner, one.width, one.height, one.of == "cells")])
        self.select(Target(one.of, one.row))
