// The log's ring: positions count bytes for ever, and position p lies at p modulo the size, so
// the live part goes round clockwise.
"use strict";

const ring = {
  centre: 130, radius: 82, width: 25,

  make(parent, tag, attributes, text) {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, value);
    if (text !== undefined) e.textContent = text;
    parent.append(e);
    return e;
  },

  // point is the place of a share of the ring, from the top, at a distance from the centre.
  point(share, distance) {
    const angle = (share - 0.25) * 2 * Math.PI;
    return [ring.centre + distance * Math.cos(angle), ring.centre + distance * Math.sin(angle)].map((x) => x.toFixed(2));
  },

  // arc draws log positions [from, to) of a log of so many bytes.
  arc(svg, log, from, to, name) {
    const share = (to - from) / log.size_bytes;
    if (!(share > 0)) return;
    const attributes = { class: name, fill: "none", "stroke-width": ring.width };
    if (share > 0.9999) {
      ring.make(svg, "circle", { ...attributes, cx: ring.centre, cy: ring.centre, r: ring.radius });
      return;
    }
    const start = (from % log.size_bytes) / log.size_bytes;
    const drawn = Math.max(share, 0.002); // a sliver is seen
    const a = ring.point(start, ring.radius), b = ring.point(start + drawn, ring.radius);
    ring.make(svg, "path", { ...attributes, d: `M${a} A${ring.radius} ${ring.radius} 0 ${drawn > 0.5 ? 1 : 0} 1 ${b}` });
  },

  // mark is a triangle that points at the ring, with a word: from outside or inside.
  mark(svg, log, position, word, outside) {
    const share = (position % log.size_bytes) / log.size_bytes, way = outside ? 1 : -1;
    const edge = ring.radius + way * (ring.width / 2 + 2), far = edge + way * 8;
    const points = [ring.point(share, edge), ring.point(share - 0.011, far), ring.point(share + 0.011, far)];
    ring.make(svg, "polygon", { class: "mark", points: points.join(" ") });
    const [x, y] = ring.point(share, far + way * 6), sideways = Math.sin(2 * Math.PI * share) * way;
    const anchor = sideways > 0.35 ? "start" : sideways < -0.35 ? "end" : "middle";
    ring.make(svg, "text", { x, y, dy: anchor === "middle" ? -5 * way * Math.cos(2 * Math.PI * share) : 0, "font-size": 11.5,
      "text-anchor": anchor, "dominant-baseline": "central" }, word);
  },

  draw(svg, log) {
    svg.replaceChildren();
    ring.make(svg, "circle", { class: "track", fill: "none", cx: ring.centre, cy: ring.centre, r: ring.radius, "stroke-width": ring.width });
    const going = Math.min(Math.max(log.moving_to, log.tail), log.head);
    const durable = Math.min(Math.max(log.durable_up_to, going), log.head);
    ring.arc(svg, log, log.tail, going, "going");
    ring.arc(svg, log, going, durable, "durable");
    ring.arc(svg, log, durable, log.head, "fresh");
    let last = -1;
    for (const position of log.barriers) {
      const share = (position % log.size_bytes) / log.size_bytes;
      if (position <= log.tail || Math.abs(share - last) < 0.008) continue; // so many can be told apart
      last = share;
      const [x1, y1] = ring.point(share, ring.radius - ring.width / 2), [x2, y2] = ring.point(share, ring.radius + ring.width / 2);
      ring.make(svg, "line", { class: "barrier", x1, y1, x2, y2 });
    }
    // Both from outside, but where they would lie on each other.
    const apart = Math.abs(((log.head - log.tail) / log.size_bytes + 0.5) % 1 - 0.5);
    ring.mark(svg, log, log.tail, "tail", apart > 0.07);
    ring.mark(svg, log, log.head, "head", true);
    const middle = { x: ring.centre, "text-anchor": "middle" };
    const percent = (100 * log.used_bytes) / log.size_bytes;
    ring.make(svg, "text", { ...middle, y: 128, "font-size": 32, "font-weight": 600, id: "ring-fill" }, percent.toFixed(0) + " %");
    ring.make(svg, "text", { ...middle, y: 149, "font-size": 12.5, class: "quiet" }, "of " + figures.sizeText(log.size_bytes));
  },
};
