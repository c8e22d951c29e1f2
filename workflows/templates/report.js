"use strict";
// Looking into the slide: drag, wheel, pinch, keys, and links to places. Without it the page shows the same.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const svg = document.getElementById("view");
  const rule = document.querySelector(".rule");
  const where = document.querySelector(".where");
  const LINK = /^#(place|finding)=(\d{1,6})$/;
  const STEP = 1.3, DEEPEST_UM = 0.05;
  const numbers = Object.keys(data.places).map(Number);
  let middle = { x: data.width / 2, y: data.height / 2 };
  let unit = 1; // picture pixels per screen pixel
  let chosen = 0;

  const make = (name, attributes, parent) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };
  const size = () => ({ width: svg.clientWidth || 1, height: svg.clientHeight || 1 });
  const whole = () => Math.max(data.width / size().width, data.height / size().height);

  function draw() {
    const { width, height } = size();
    unit = Math.min(Math.max(unit, DEEPEST_UM / data.um[0]), whole() * 1.5);
    middle.x = Math.min(Math.max(middle.x, 0), data.width);
    middle.y = Math.min(Math.max(middle.y, 0), data.height);
    const box = [middle.x - (width * unit) / 2, middle.y - (height * unit) / 2, width * unit, height * unit];
    svg.setAttribute("viewBox", box.join(" "));
    for (const pin of svg.querySelectorAll(".pin")) {
      const [x, y] = data.places[pin.dataset.place].frame;
      pin.setAttribute("transform", `translate(${x} ${y}) scale(${unit})`);
    }
    // Coarse colours over what one looks at closely would hide it.
    const strength = Math.min(1, Math.max(0.3, unit / whole()));
    for (const layer of svg.querySelectorAll(".layer.coarse")) layer.setAttribute("opacity", strength.toFixed(2));
    measure();
  }
  function measure() {
    const most = 140 * unit * data.um[0];
    const decade = 10 ** Math.floor(Math.log10(most));
    const um = [5, 2, 1].map((n) => n * decade).find((n) => n <= most * (1 + 1e-9));
    const bar = document.createElement("span");
    bar.style.width = `${um / data.um[0] / unit}px`;
    const text = um >= 1000 ? `${+(um / 1000).toPrecision(3)} mm` : `${+um.toPrecision(3)} µm`;
    rule.replaceChildren(text, bar);
  }
  function fit() {
    middle = { x: data.width / 2, y: data.height / 2 };
    unit = whole();
    draw();
  }
  function zoom(factor, at) {
    const { width, height } = size();
    const off = at ? { x: at.x - width / 2, y: at.y - height / 2 } : { x: 0, y: 0 };
    const before = unit;
    const fixed = { x: middle.x + off.x * unit, y: middle.y + off.y * unit };
    unit *= factor;
    draw();
    if (unit === before) return;
    middle = { x: fixed.x - off.x * unit, y: fixed.y - off.y * unit };
    draw();
  }
  const pan = (x, y) => { middle.x += x * unit; middle.y += y * unit; draw(); };

  function show(frames, filled) {
    const left = Math.min(...frames.map((f) => f[0])), top = Math.min(...frames.map((f) => f[1]));
    const right = Math.max(...frames.map((f) => f[0] + f[2])), bottom = Math.max(...frames.map((f) => f[1] + f[3]));
    middle = { x: (left + right) / 2, y: (top + bottom) / 2 };
    unit = Math.max((right - left) / size().width, (bottom - top) / size().height) / filled;
    draw();
  }
  function mark(places) {
    const group = document.getElementById("frame");
    group.replaceChildren();
    for (const number of places) {
      const [x, y, width, height] = data.places[number].frame;
      for (const kind of ["frame back", "frame"]) make("rect", { class: kind, x, y, width, height }, group);
    }
    const on = new Set(places.map(String));
    for (const node of document.querySelectorAll(".pin, .gallery a")) {
      node.classList.toggle("on", on.has(node.dataset.place));
    }
  }
  function say(text) {
    where.textContent = text;
    where.classList.toggle("said", text !== "");
  }
  function goTo(number) {
    const place = data.places[number];
    if (!place) return;
    chosen = number;
    mark([number]);
    show([place.crop], 0.9);
    const picture = document.querySelector(`.gallery a[data-place="${number}"] img`);
    say(picture ? picture.alt : `place ${number}`);
  }
  function follow(moves) {
    const link = LINK.exec(location.hash);
    if (!link) return;
    if (link[1] === "place") goTo(Number(link[2]));
    else {
      const places = numbers.filter((n) => data.places[n].finding === Number(link[2]));
      if (!places.length) return;
      mark(places);
      show(places.map((n) => data.places[n].frame), 0.7);
      unit = Math.max(unit, data.places[places[0]].crop[2] / size().width);
      draw();
      say(`${places.length} places`);
    }
    if (moves) svg.closest("figure").scrollIntoView({ block: "center" });
  }
  function turn(step) {
    if (!numbers.length) return;
    const at = numbers.indexOf(chosen);
    const next = at < 0 ? (step > 0 ? 0 : numbers.length - 1) : (at + step + numbers.length) % numbers.length;
    history.replaceState(null, "", `#place=${numbers[next]}`);
    follow(false);
  }
  const doing = {
    in: () => zoom(1 / STEP), out: () => zoom(STEP), next: () => turn(1), previous: () => turn(-1),
    fit: () => { fit(); mark([]); say(""); chosen = 0; },
  };
  const keys = {
    "+": doing.in, "=": doing.in, "-": doing.out, "0": doing.fit, n: doing.next, p: doing.previous,
    ArrowLeft: () => pan(-60, 0), ArrowRight: () => pan(60, 0), ArrowUp: () => pan(0, -60), ArrowDown: () => pan(0, 60),
  };

  // Pictures of places lie where they were taken.
  const crops = document.getElementById("crops");
  for (const image of document.querySelectorAll(".gallery img")) {
    const [x, y, width, height] = data.places[image.closest("a").dataset.place].crop;
    make("image", { x, y, width, height, preserveAspectRatio: "none", href: image.src }, crops);
  }

  svg.setAttribute("tabindex", "0");
  svg.setAttribute("aria-label", "The slide. Drag to move, wheel or + and − to zoom, 0 for all of it, n and p for places");
  svg.addEventListener("keydown", (event) => {
    const act = event.ctrlKey || event.metaKey || event.altKey ? null : keys[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  // A page that is scrolled past the slide goes on scrolling: the wheel zooms once the slide was clicked.
  svg.addEventListener("wheel", (event) => {
    if (document.activeElement !== svg && !event.ctrlKey) return;
    event.preventDefault();
    zoom(STEP ** Math.max(-3, Math.min(3, event.deltaY / (event.deltaMode ? 3 : 100))), { x: event.offsetX, y: event.offsetY });
  }, { passive: false });

  const held = new Map();
  let moved = 0, spread = 0;
  const distance = () => {
    const [a, b] = [...held.values()];
    return b ? Math.hypot(a.x - b.x, a.y - b.y) : 0;
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    svg.focus({ preventScroll: true });
    svg.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (held.size === 1) moved = 0;
    spread = distance();
    svg.classList.add("held");
  });
  svg.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const step = { x: event.clientX - before.x, y: event.clientY - before.y };
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    moved += Math.abs(step.x) + Math.abs(step.y);
    pan(-step.x / held.size, -step.y / held.size);
    if (held.size === 2) {
      const now = distance();
      if (spread && now) zoom(spread / now);
      spread = now;
    }
  });
  const release = (event) => {
    held.delete(event.pointerId);
    spread = distance();
    if (!held.size) svg.classList.remove("held");
  };
  svg.addEventListener("pointerup", (event) => {
    const pin = moved < 5 && document.elementsFromPoint(event.clientX, event.clientY).map((n) => n.closest(".pin")).find(Boolean);
    release(event);
    if (pin) { history.replaceState(null, "", `#place=${pin.dataset.place}`); follow(false); }
  });
  svg.addEventListener("pointercancel", release);
  svg.addEventListener("dblclick", (event) => zoom(0.5, { x: event.offsetX, y: event.offsetY }));

  for (const button of document.querySelectorAll(".bar button")) button.addEventListener("click", doing[button.dataset.do]);
  for (const box of document.querySelectorAll(".bar input")) {
    box.addEventListener("change", () => document.getElementById(box.dataset.layer).classList.toggle("off", !box.checked));
  }
  // A link that is followed twice changes nothing in the address, and still leads there.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (link && link.hash === location.hash) follow(true);
  });
  addEventListener("hashchange", () => follow(true));
  addEventListener("resize", draw);
  addEventListener("beforeprint", () => {
    svg.setAttribute("viewBox", `0 0 ${data.width} ${data.height}`);
    for (const pin of svg.querySelectorAll(".pin")) {
      const [x, y] = data.places[pin.dataset.place].frame;
      pin.setAttribute("transform", `translate(${x} ${y})`);
    }
  });
  addEventListener("afterprint", draw);
  document.documentElement.classList.add("live");
  fit();
  follow(true);
})();
