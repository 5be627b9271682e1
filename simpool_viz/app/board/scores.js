// Scores of maps and masks against a reference mask, at the reference's size, by the rules of scores/localization.py.

const OBJECT = 1, VOID = 2; // kinds of pixels; 0 lies outside

// A reference as Python sends it: runs of pixels of one kind, row by row.
function readReference(data) {
  const [width, height] = data.size, kinds = new Uint8Array(width * height);
  const lengths = new Uint32Array(bytes(data.lengths).buffer), values = bytes(data.values);
  let at = 0, objects = 0;
  lengths.forEach((length, i) => {
    kinds.fill(values[i], at, (at += length));
    if (values[i] === OBJECT) objects += length;
  });
  return { ...data, width, height, kinds, objects };
}

const referenceOf = (row) => board.references.get(photoOf(row).key) ?? null;

// IoU of a set of pixels with the objects, void left out of both; 1 for two empty sets.
function overlap(isIn, { kinds }) {
  let hits = 0, union = 0;
  for (let i = 0; i < kinds.length; i++) {
    if (kinds[i] === VOID) continue;
    const mine = isIn(i), object = kinds[i] === OBJECT;
    if (mine || object) union++;
    if (mine && object) hits++;
  }
  return union ? hits / union : 1;
}

function overlapOfMask(row, reference) {
  const { mask } = pixelsOf(row, reference.width, reference.height, "");
  return overlap((i) => mask[i], reference);
}

function overlapAtTrueArea(values, reference) {
  const counted = Float64Array.from(values).filter((_, i) => reference.kinds[i] !== VOID).sort();
  const level = counted[counted.length - reference.objects];
  return overlap((i) => values[i] >= level, reference);
}

function overlapAtBestThreshold(values, { kinds, objects }) {
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < kinds.length; i++) if (kinds[i] !== VOID) { low = Math.min(low, values[i]); high = Math.max(high, values[i]); }
  const steps = drawing.thresholds, hits = new Uint32Array(steps + 1), sizes = new Uint32Array(steps + 1);
  for (let i = 0; i < kinds.length; i++) {
    if (kinds[i] === VOID) continue;
    const step = Math.floor((high > low ? (values[i] - low) / (high - low) : 0) * steps);
    sizes[step]++;
    if (kinds[i] === OBJECT) hits[step]++;
  }
  let best = 0, hit = 0, size = 0;
  for (let step = steps; step >= 0; step--) {
    hit += hits[step];
    size += sizes[step];
    best = Math.max(best, hit / Math.max(size + objects - hit, 1));
  }
  return best;
}

function energyInside(values, { kinds }) {
  let inside = 0, all = 0;
  for (let i = 0; i < kinds.length; i++) {
    if (kinds[i] === VOID) continue;
    const mass = Math.max(values[i], 0);
    all += mass;
    if (kinds[i] === OBJECT) inside += mass;
  }
  return inside / Math.max(all, 1e-12);
}

// As Python's round: halves go to the even neighbour.
function roundToEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  return rest === 0.5 ? floor + (floor % 2) : Math.round(value);
}

// The pointing game: whether the middle of the largest plateau of maxima lies within a radius of an object.
function pointsAtObject(values, { width, height, kinds }) {
  let high = -Infinity, sum = 0, x = 0, y = 0;
  for (const value of values) high = Math.max(high, value);
  keepLargest(Uint8Array.from(values, (value) => (value === high ? 1 : 0)), height, width).forEach((mine, i) => {
    if (mine) { sum++; x += i % width; y += Math.floor(i / width); }
  });
  const column = roundToEven(x / sum), row = roundToEven(y / sum), reach = Math.floor(Math.min(drawing.pointing, width + height));
  for (let v = Math.max(0, row - reach); v <= Math.min(height - 1, row + reach); v++)
    for (let u = Math.max(0, column - reach); u <= Math.min(width - 1, column + reach); u++)
      if (kinds[v * width + u] === OBJECT && Math.hypot(v - row, u - column) <= drawing.pointing) return 1;
  return 0;
}

// The scores of a map, which no slider changes: computed once for each reference.
function scoresOfMap(row, reference) {
  if (row.scored?.reference !== reference) {
    const values = upsample(row.weights, row.h, row.w, reference.width, reference.height);
    const figures = {
      iou_at_true_area: overlapAtTrueArea(values, reference), iou_at_best_threshold: overlapAtBestThreshold(values, reference),
      pointing: pointsAtObject(values, reference), energy: energyInside(values, reference),
    };
    row.scored = { reference, figures };
  }
  return row.scored.figures;
}

const SCORES = ["iou", "iou_at_true_area", "iou_at_best_threshold", "pointing", "energy"];

// The figures of a row against the reference of its photo, {} without one.
function scoresOf(row) {
  if (row.baseline) return row.baseline.scores;
  const reference = referenceOf(row);
  return reference && row.levels.length ? { iou: overlapOfMask(row, reference), ...scoresOfMap(row, reference) } : {};
}

function scoreLines(scores) {
  if (scores.iou === undefined) return [];
  const text = (value) => value.toFixed(2);
  return [
    `IoU ${text(scores.iou)} of the mask, ${text(scores.iou_at_true_area)} at true area, ${text(scores.iou_at_best_threshold)} at the best threshold`,
    `pointing ${scores.pointing ? "hit" : "miss"}, ${Math.round(100 * scores.energy)} % of the energy inside`,
  ];
}

// The baselines of every table as rows: their figures are Python's, their maps are drawn here.
function baselineRows(index) {
  const reference = board.references.get(board.photos[index].key);
  if (!reference || !style.baselines) return [];
  const side = 64, prior = new Float32Array(side * side), whole = new Float32Array(side * side).fill(1);
  for (let i = 0; i < prior.length; i++) {
    const y = (Math.floor(i / side) + 0.5) / side - 0.5, x = ((i % side) + 0.5) / side - 0.5;
    prior[i] = Math.exp(-(y * y + x * x) / 0.5);
  }
  return Object.entries(reference.baselines).map(([title, baseline], i) => ({
    id: `baseline-${index}-${i}`, picture: index, checkpoint: title, name: title, title: title[0].toUpperCase() + title.slice(1), map: "Baseline", lines: [],
    about: [], figures: {}, constant: "", levels: [], h: side, w: side, weights: i ? whole : prior, signed: false, scale: [0, 1], factor: 1,
    unit: "of its peak", baseline, spots: [], weightLines: [],
  }));
}

// --- a box as reference: drawn on the photo with the pointer -----------------------------------------------------------------

function buildBoxButton(frame, photo, index) {
  const button = make("button", "plain draw-box", "Mark the object with a box");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const drawn = make("span", "drawn-box");
  drawn.hidden = true;
  frame.append(drawn);
  let from = null;
  const share = (event) => {
    const box = frame.getBoundingClientRect(), inside = (v) => Math.min(1, Math.max(0, v));
    return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
  };
  const between = (to) => [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];
  const active = () => button.getAttribute("aria-pressed") === "true";
  const end = () => { from = null; drawn.hidden = true; button.setAttribute("aria-pressed", "false"); frame.classList.remove("drawing"); };
  button.addEventListener("click", () => {
    if (active()) return end();
    button.setAttribute("aria-pressed", "true");
    frame.classList.add("drawing");
    announce("Drag a box around the object on the photo.");
  });
  frame.addEventListener("pointerdown", (event) => { if (active()) { event.preventDefault(); from = share(event); frame.setPointerCapture(event.pointerId); } });
  frame.addEventListener("pointermove", (event) => {
    if (!from) return;
    const [x0, y0, x1, y1] = between(share(event));
    Object.assign(drawn.style, { left: `${100 * x0}%`, top: `${100 * y0}%`, width: `${100 * (x1 - x0)}%`, height: `${100 * (y1 - y0)}%` });
    drawn.hidden = false;
  });
  frame.addEventListener("pointerup", (event) => {
    if (!from) return;
    const [width, height] = photo.size, [x0, y0, x1, y1] = between(share(event));
    end();
    trigger("reference", { picture: index, key: photo.key, boxes: [[x0 * width, y0 * height, x1 * width, y1 * height].map((side) => Math.round(10 * side) / 10)] });
  });
  return button;
}

// --- insertion and deletion --------------------------------------------------------------------------------------------------

function buildCurvesButton(row) {
  const box = make("div", "curves"), button = make("button", "plain", "Insertion, deletion");
  button.type = "button";
  button.setAttribute("aria-label", `Insertion and deletion of ${row.title}`);
  button.addEventListener("click", () => {
    row.curvesBox.querySelector(".plot").replaceChildren(make("p", "", "Computing ..."));
    trigger("curves", { picture: row.picture, key: photoOf(row).key, checkpoint: row.checkpoint, map: row.name });
  });
  box.append(button, make("div", "plot"));
  row.curvesBox = box;
  if (row.curves) drawCurves(row);
  return box;
}

const svg = (tag, attributes, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
};

// The probability of the class over the share of pixels, heaviest first.
function drawCurves(row) {
  const { shares, deletion, insertion, areas, of, done } = row.curves, W = 250, H = 120, left = 26, top = 6;
  const plot = svg("svg", { viewBox: `0 0 ${W + left + 6} ${H + top + 20}`, role: "img" });
  const high = [0.1, 0.2, 0.5, 1].find((end) => end >= Math.max(...deletion, ...insertion)) ?? 1;
  const x = (v) => left + W * v, y = (v) => top + H * (1 - v / high);
  for (const v of [0, 0.5, 1]) {
    plot.append(svg("line", { x1: x(0), x2: x(1), y1: y(v * high), y2: y(v * high), class: "grid" }));
    plot.append(svg("text", { x: left - 4, y: y(v * high) + 4, "text-anchor": "end" }, String(v * high)));
    plot.append(svg("text", { x: x(v), y: H + top + 15, "text-anchor": "middle" }, `${100 * v} %`));
  }
  for (const [kind, values] of [["deletion", deletion], ["insertion", insertion]])
    plot.append(svg("polyline", { class: kind, points: values.map((value, i) => `${x(shares[i]).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
  const text = `Probability of ${of} while the heaviest pixels are deleted (area ${areas.deletion.toFixed(2)}, low is faithful) or inserted (${areas.insertion.toFixed(2)}, high is faithful)`;
  plot.setAttribute("aria-label", text);
  const legend = make("p", "origin");
  legend.append(make("span", "key deletion"), " deletion, ", make("span", "key"), ` insertion. ${done ? text : "Computing ..."}`);
  row.curvesBox.querySelector(".plot").replaceChildren(plot, legend);
}
