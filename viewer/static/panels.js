// All panels of one image under one zoom and pan. A panel in a view's frame follows through the view's own
// transform, so that the same place of the surface is in the middle of each.

const MOST = 64;
const LIGHT = "#ffffff", DARK = "#1b1f24";
const CROSS = 7;  // half of it, in screen pixels: it reaches beyond a prompt's dot that lies on it

/** A marked piece as a path: its outline, or a cross where that would be no larger on the screen. */
function outline(piece, scale) {
  const span = [0, 1].map((axis) => {
    const along = piece.map((place) => place[axis]);
    return [along.reduce((a, b) => Math.min(a, b)), along.reduce((a, b) => Math.max(a, b))];
  });
  if (span.some(([low, high]) => (high - low) * scale > 2 * CROSS)) return `M${piece.join("L")}Z`;
  const [x, y] = span.map(([low, high]) => (low + high) / 2), arm = CROSS / scale;
  return `M${x - arm},${y}H${x + arm}M${x},${y - arm}V${y + arm}`;
}

export class Panels {
  /** strip: the element that holds the panels; data: of the page; zoomed, pointed: called with what changed. */
  constructor(strip, data, zoomed, pointed) {
    this.strip = strip;
    this.data = data;
    this.zoomed = zoomed;
    this.pointed = pointed;
    this.held = null;  // a place, x and y in pixels, that stays when the pointer goes
    this.tip = Object.assign(document.createElement("span"), { className: "tip", hidden: true });
    this.tip.setAttribute("aria-hidden", "true");  // the line above the panels says it, too
    this.all = [...strip.querySelectorAll(".panel")].map((element) => this.panel(element));
    strip.style.setProperty("--ratio", Math.min(2, Math.max(0.5, data.width / data.height)));
    this.fit();
    for (const panel of this.all) this.listen(panel);
    new ResizeObserver(() => this.place()).observe(strip);
  }

  panel(element) {
    const view = element.dataset.view === undefined ? null : this.data.views[Number(element.dataset.view)];
    const [height, width] = view ? view.grid : [this.data.height, this.data.width];
    const frame = element.querySelector(".frame");
    frame.style.aspectRatio = "var(--ratio)";
    const world = element.querySelector(".world");
    world.style.width = width + "px";
    world.style.height = height + "px";
    return { element, name: element.dataset.name, index: element.dataset.view, view, width, height, frame, world,
      cross: element.querySelector(".cross"), marks: element.querySelector(".marks") };
  }

  /** Show one slot's arrays. */
  show(slot) {
    const address = (name) => `/panel/${this.data.id}/${name}.png?v=${this.data.version}&slot=${slot}`;
    for (const panel of this.all) {
      const under = panel.element.querySelector("img.under");
      const over = panel.element.querySelector("img.over");
      for (const image of [under, over]) if (image) image.onerror = () => this.torn();
      const ground = panel.view ? `under-${panel.index}` : "image";
      if (!under.src) under.src = address(ground);
      if (over) over.src = address(panel.name);
    }
    this.prompts(slot);
  }

  torn() {
    if (this.gone) return;
    this.gone = true;
    fetch(`/panel/${this.data.id}/image.png?v=${this.data.version}`).then((answer) => {
      if (answer.status === 409) location.reload();  // a run has made the image anew
    });
  }

  prompts(slot) {
    const panel = this.all.find((item) => item.marks);
    if (!panel) return;
    panel.marks.setAttribute("viewBox", `-0.5 -0.5 ${this.data.width} ${this.data.height}`);
    const points = this.data.prompts[slot] || [];
    panel.marks.replaceChildren(...points.map((point) => {
      const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
      dot.setAttribute("cx", point.x);
      dot.setAttribute("cy", point.y);
      dot.setAttribute("fill", point.on ? LIGHT : DARK);
      dot.setAttribute("stroke", point.on ? DARK : LIGHT);
      return dot;
    }), ...(this.data.marks[slot] || []).flatMap((mark) => this.mark(mark)));
    this.place();
  }

  /** What a person marked: never a dot, as the pipeline's own prompts are, and in the class's colour, edged. */
  mark({ class: k, pieces }) {
    const inks = k ? [[DARK, 5.5], [this.data.colours[k - 1], 3]] : [[LIGHT, 5.5], [DARK, 3]];
    return inks.map(([ink, width]) => {
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("fill", "none");
      path.setAttribute("stroke", ink);
      path.setAttribute("stroke-linecap", "square");
      return Object.assign(path, { pieces, width });
    });
  }

  // -- frames of reference --------------------------------------------------------------------------

  /** A point of the image in a panel's own frame. */
  into(panel, [x, y]) {
    if (!panel.view) return [x, y];
    const [[a, b, c], [d, e, f]] = panel.view.affine;
    return [a * x + b * y + c, d * x + e * y + f];
  }

  /** A point of a panel's frame in the image. */
  outOf(panel, [x, y]) {
    if (!panel.view) return [x, y];
    const [[a, b, c], [d, e, f]] = panel.view.affine;
    const area = a * e - b * d;
    return [(e * (x - c) - b * (y - f)) / area, (a * (y - f) - d * (x - c)) / area];
  }

  /** Scale in screen pixels a pixel, and offset, of a panel. */
  placed(panel) {
    const box = { width: panel.frame.clientWidth, height: panel.frame.clientHeight };
    const scale = this.zoom * Math.min(box.width / panel.width, box.height / panel.height);
    const middle = this.zoom === 1 ? [panel.width / 2 - 0.5, panel.height / 2 - 0.5] : this.into(panel, this.centre);
    return { scale, left: box.width / 2 - (middle[0] + 0.5) * scale, top: box.height / 2 - (middle[1] + 0.5) * scale };
  }

  place() {
    for (const panel of this.all) {
      const { scale, left, top } = this.placed(panel);
      panel.world.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
      if (panel.marks) {
        for (const item of panel.marks.children) {
          if (item.pieces) item.setAttribute("d", item.pieces.map((piece) => outline(piece, scale)).join(""));
          else item.setAttribute("r", 3.4 / scale);
          item.setAttribute("stroke-width", (item.width || 1.5) / scale);
        }
      }
    }
    if (this.held) this.cross(this.held);
    this.zoomed(this.zoom);
  }

  // -- moving ---------------------------------------------------------------------------------------

  fit() {
    this.zoom = 1;
    this.centre = [this.data.width / 2 - 0.5, this.data.height / 2 - 0.5];
    this.place();
  }

  /** Zoom by a factor around a point of the image. */
  scale(factor, around = this.centre) {
    const zoom = Math.min(MOST, Math.max(1, this.zoom * factor));
    const ratio = this.zoom / zoom;
    this.centre = this.centre.map((c, n) => around[n] + (c - around[n]) * ratio);
    this.zoom = zoom < 1.02 ? 1 : zoom;
    this.keepInside();
  }

  /** Pan by tenths of what is seen. */
  move(x, y) {
    const step = Math.max(this.data.width, this.data.height) / this.zoom / 8;
    this.centre = [this.centre[0] + x * step, this.centre[1] + y * step];
    this.keepInside();
  }

  keepInside() {
    const last = [this.data.width - 1, this.data.height - 1];
    this.centre = this.centre.map((c, n) => Math.min(last[n], Math.max(0, c)));
    this.place();
  }

  /** Where in the image an event points. */
  where(panel, event) {
    const box = panel.frame.getBoundingClientRect();
    const { scale, left, top } = this.placed(panel);
    const own = [(event.clientX - box.left - 1 - left) / scale - 0.5, (event.clientY - box.top - 1 - top) / scale - 0.5];
    return this.outOf(panel, own);
  }

  listen(panel) {
    let held = null;
    const { frame } = panel;
    frame.addEventListener("pointerdown", (event) => {
      held = [event.clientX, event.clientY, ...this.centre];
      frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointerup", (event) => {
      const still = held && Math.hypot(event.clientX - held[0], event.clientY - held[1]) < 3;
      held = null;
      if (still) this.click(panel, this.where(panel, event));
    });
    frame.addEventListener("pointercancel", () => (held = null));
    frame.addEventListener("pointermove", (event) => {
      if (held && this.zoom > 1) this.drag(panel, event, held);
      else if (!this.held) this.point(this.where(panel, event), panel);
    });
    frame.addEventListener("pointerleave", () => this.held || this.release());
    frame.addEventListener("dblclick", (event) => this.scale(2, this.where(panel, event)));
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && this.zoom === 1) return;  // a page that cannot be scrolled past is worse than a key more
      event.preventDefault();
      this.scale(event.deltaY < 0 ? 1.2 : 1 / 1.2, this.where(panel, event));
    }, { passive: false });
  }

  drag(panel, event, [x, y, ...centre]) {
    const { scale } = this.placed(panel);
    const from = this.outOf(panel, [0, 0]);
    const to = this.outOf(panel, [(event.clientX - x) / scale, (event.clientY - y) / scale]);
    this.centre = centre.map((c, n) => c - (to[n] - from[n]));
    this.keepInside();
  }

  // -- a place ---------------------------------------------------------------------------------------

  inside([x, y]) {
    return x >= 0 && y >= 0 && x < this.data.width && y < this.data.height;
  }

  /** Mark a place of the image in every panel, and have its values read. */
  point(place, panel) {
    const pixel = place.map(Math.round);
    if (panel !== this.active) this.tip.hidden = true;
    this.active = panel;
    this.last = pixel;
    this.cross(place);
    if (this.inside(pixel)) this.pointed(...pixel);
    else this.tip.hidden = true;
  }

  cross(place) {
    const inside = this.inside(place.map(Math.round));
    for (const panel of this.all) {
      const { scale, left, top } = this.placed(panel);
      const [x, y] = this.into(panel, place);
      panel.cross.style.display = inside ? "block" : "none";
      panel.cross.style.left = left + (x + 0.5) * scale + "px";
      panel.cross.style.top = top + (y + 0.5) * scale + "px";
      if (panel === this.active) this.placeTip(panel, left + (x + 0.5) * scale, top + (y + 0.5) * scale);
    }
  }

  /** Beside the cross, on the side where there is room. */
  placeTip(panel, x, y) {
    if (this.tip.parentElement !== panel.element) panel.element.append(this.tip);
    const across = x > panel.frame.clientWidth / 2;
    this.tip.style.left = x + (across ? -12 : 12) + "px";
    this.tip.style.top = y + "px";
    this.tip.style.transform = `translate(${across ? "-100%" : "0"}, -50%)`;
    this.keepTipInside();
  }

  /** A panel may be narrower than what is said beside its cross: the window's edges are the bounds. */
  keepTipInside() {
    this.tip.style.marginLeft = "0";
    if (this.tip.hidden) return;
    const { left, right } = this.tip.getBoundingClientRect(), last = document.documentElement.clientWidth - 4;
    this.tip.style.marginLeft = Math.max(4 - left, Math.min(0, last - right)) + "px";
  }

  /** Say something beside the cross. */
  tell(text) {
    this.tip.textContent = text;
    this.tip.hidden = !this.active;
    this.keepTipInside();
  }

  /** A click holds a place; one more at the same place lets go of it. */
  click(panel, place) {
    const pixel = place.map(Math.round);
    if (this.held?.every((value, n) => value === pixel[n])) return this.release();
    if (this.inside(pixel)) this.hold(pixel, panel.name);
  }

  /** Hold a place, in the panel of that name or in P's. */
  hold(place, name = "p") {
    this.held = place.map(Math.round);
    this.point(this.held, this.all.find((panel) => panel.name === name));
  }

  /** Hold the place under the pointer; where it is at none, the middle, in the panel of that name or in P's. */
  holdHere(name) {
    if (this.active && this.inside(this.last)) this.hold(this.last, this.active.name);
    else this.hold(this.centre, name);
  }

  /** Let go of a place. */
  release() {
    this.held = this.active = null;
    this.tip.hidden = true;
    for (const panel of this.all) panel.cross.style.display = "none";
  }

  /** Move the held place by pixels; where it would leave what is seen, the panels follow. */
  step(x, y) {
    const last = [this.data.width - 1, this.data.height - 1];
    this.held = [x, y].map((by, n) => Math.min(last[n], Math.max(0, this.held[n] + by)));
    if (this.zoom > 1) {
      this.centre = [...this.held];
      this.place();
    }
    this.point(this.held, this.active);
  }
}
