// Pixels: overlays, masks, boxes, colour bars; and the sentences that describe a picture.

function scaleOf(row) {
  if (!style.shared) return row.scale;
  const alike = shownRows().filter((r) => r.unit === row.unit);
  return [Math.min(...alike.map((r) => r.scale[0])), Math.max(...alike.map((r) => r.scale[1]))];
}

const tableOf = (row) => tables[row.signed ? drawing.diverging : style.colours];

function cellSize(photo, longest) {
  const { naturalWidth: w, naturalHeight: h } = photo.image;
  const factor = longest / Math.max(w, h); // small photos are enlarged, so that patches stay sharp
  return [Math.max(1, Math.round(w * factor)), Math.max(1, Math.round(h * factor))];
}

function photoPixels(photo, width, height) {
  const canvas = make("canvas");
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(photo.image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

const sourceOf = (photo, width, height) => cached(photo, "pixels", width, () => photoPixels(photo, width, height));

// Values (in the unit that is drawn) as colours over the photo.
function drawColours(canvas, values, factor, [low, high], table, source) {
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height), out = image.data, a = style.opacity;
  for (let i = 0; i < values.length; i++) {
    const share = (values[i] * factor - low) / (high - low), c = 3 * Math.min(255, Math.max(0, Math.round(share * 255)));
    for (let k = 0; k < 3; k++) out[4 * i + k] = a * table[c + k] + (1 - a) * source[4 * i + k];
    out[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

const drawOverlay = (canvas, row, pixels, source) => drawColours(canvas, pixels.values, row.factor, scaleOf(row), tableOf(row), source);

function drawMask(canvas, row, pixels, source) {
  const { width, height } = canvas, { mask } = pixels;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), out = image.data;
  const thick = Math.max(1, Math.round(Math.min(width, height) / drawing.lines));
  const outside = (x, y) => x < 0 || y < 0 || x >= width || y >= height || !mask[y * width + x];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const i = y * width + x, p = 4 * i;
      if (mask[i]) {
        const edge = outside(x - thick, y) || outside(x + thick, y) || outside(x, y - thick) || outside(x, y + thick);
        for (let k = 0; k < 3; k++) out[p + k] = edge ? drawing.outline[k] : source[p + k];
      } else {
        const grey = ((source[p] + source[p + 1] + source[p + 2]) / 3) * drawing.dimmed[0] + drawing.dimmed[1];
        out[p] = out[p + 1] = out[p + 2] = grey;
      }
      out[p + 3] = 255;
    }
  context.putImageData(image, 0, 0);
  if (style.boxes) drawBoxes(context, mask, width, height, thick);
}

function drawBoxes(context, mask, width, height, thick) {
  const all = components(mask, height, width).boxes.slice(1);
  const large = all.filter(([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0) >= drawing.speck * width * height);
  context.strokeStyle = `rgb(${drawing.box.join(", ")})`;
  context.lineWidth = thick;
  for (const [x0, y0, x1, y1] of large.length ? large : all)
    context.strokeRect(x0 + thick / 2, y0 + thick / 2, x1 - x0 - thick, y1 - y0 - thick);
}

// All that a mask, and all that an overlay depends on.
const maskState = (row) => `${levelOf(row)} ${style.smooth} ${style.largest} ${style.smoothing}`;
const overlayState = (row) => `${scaleOf(row)} ${style.colours} ${style.smooth} ${style.opacity}`;

// A canvas for a row, drawn once it is near the window (frames.js), and the mark of its token.
function addSpot(row, kind, longest) {
  const canvas = make("canvas"), mark = make("span", "mark");
  [canvas.width, canvas.height] = cellSize(photoOf(row), longest);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${kind === "mask" ? "Object mask" : row.map}, ${row.title}`); // until it is described
  mark.hidden = true;
  row.spots.push({ canvas, kind, mark, drawn: "" });
  watched.observe(canvas);
  return { canvas, mark };
}

// A row on some of the canvases where it stands.
function drawRow(row, spots) {
  const made = new Map(), states = { mask: `${maskState(row)} ${style.boxes}`, overlay: overlayState(row) };
  for (const spot of spots.filter(({ kind, drawn }) => drawn !== states[kind])) {
    const { canvas, kind } = spot, { width, height } = canvas;
    if (!made.has(width)) made.set(width, pixelsOf(row, width, height));
    (kind === "mask" ? drawMask : drawOverlay)(canvas, row, made.get(width), sourceOf(photoOf(row), width, height));
    spot.drawn = states[kind];
  }
}

// The words of a row, and its colour bar.
function describe(row) {
  const state = `${maskState(row)} ${overlayState(row)}`;
  if (row.described === state) return;
  row.described = state;
  const peak = row.weights.indexOf(Math.max(...row.weights)), y = Math.floor(peak / row.w), x = peak % row.w;
  const where = `strongest at ${Math.round((100 * (x + 0.5)) / row.w)} % from the left and ${Math.round((100 * (y + 0.5)) / row.h)} % from the top`;
  const labels = { overlay: `${row.map} over the photo ${photoOf(row).title}, ${row.title}: ${where}.` };
  let covers = "";
  if (row.levels.length) {
    const grid = levelSet(thresholded(row), levelOf(row), row.h, row.w);
    row.figures.coverage = grid.reduce((sum, v) => sum + v, 0) / grid.length;
    row.figures.components = components(grid, row.h, row.w).sizes.length - 1;
    const share = Math.round(100 * row.figures.coverage), parts = row.figures.components;
    labels.mask = `Object mask, ${row.title}: ${share} % of the picture in ${parts} components.`;
    const line = `mask: ${share} % of the picture, ${parts} ${parts === 1 ? "component" : "components"}`;
    covers = row.constant || line;
  }
  if (row.baseline) labels.mask = `Object mask of the baseline ${row.title}.`;
  for (const { canvas, kind } of row.spots) canvas.setAttribute("aria-label", labels[kind]);
  if (!row.scoreNode) return; // no view but rows shows the rest
  const scores = scoresOf(row);
  row.coverage.textContent = plainLine(covers, scores, row.finds);
  for (const name of SCORES) scores[name] === undefined ? delete row.figures[name] : (row.figures[name] = scores[name]);
  row.scoreNode.replaceChildren(...scoreLines(scores).map((line) => make("p", "live", line)));
  drawBar(row.bar, scaleOf(row), tableOf(row), row.unit);
}

// One line for everybody: what the mask covers, how well it agrees with the reference, and the class where it is probable.
function plainLine(covers, scores, finds) {
  const agrees = scores.iou === undefined ? "" : `IoU with the reference ${scores.iou.toFixed(2)}`;
  const text = [covers, agrees, finds].filter(Boolean).join("; ");
  return text && `${text[0].toUpperCase()}${text.slice(1)}.`;
}

// A colour bar: { canvas, ticks }.
function buildBar(unit) {
  const scale = make("div", "scale"), canvas = make("canvas"), ticks = make("div", "ticks");
  canvas.width = 256; canvas.height = 1;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Colours of ${unit}`); // until it is drawn
  scale.append(canvas, ticks, make("p", "unit", unit));
  return { node: scale, canvas, ticks };
}

function drawBar(bar, [low, high], table, unit) {
  const context = bar.canvas.getContext("2d"), image = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) image.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
  context.putImageData(image, 0, 0);
  const text = (v) => (Math.abs(v) >= 100 ? v.toFixed(0) : number(v, 2));
  bar.ticks.replaceChildren(...[low, (low + high) / 2, high].map((v) => make("span", "", text(v))));
  bar.canvas.setAttribute("aria-label", `Colour scale from ${text(low)} to ${text(high)} ${unit}.`);
}
