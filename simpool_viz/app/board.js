// The board in the browser. Python sends the photo once and per row the raw grid of weights with its levels; everything that
// a visitor changes about the look is computed here, without a request. The rules are those of masks.py (masks.js stands
// behind this file, in the same scope): a mask is the level set `w >= level`, patches take the cell that holds a pixel's
// centre, smooth maps are bilinear with half-pixel centres, rows before columns, in double precision. So Python and the
// browser agree on every cell.
//
// Gradio runs this file once per board, with `element`, `props` and `watch`. Nothing of the data enters a template.

const look = { ...props.look };
const tables = Object.fromEntries(Object.entries(props.tables).map(([name, text]) => [name, bytes(text)]));
const WIDEST = 640; // pixels of a drawn cell's longer side
const LARGE = 1280; // and of an enlarged one's
let board = null; // decoded rows
let photo = null; // the display picture as an <img>
let drawn = 0; // counts loads, so that a late photo of an earlier board is ignored

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}
const floats = (text) => new Float32Array(bytes(text).buffer);

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// --- drawing ---------------------------------------------------------------------------------------------------------------

function scaleOf(row) {
  if (!look.shared) return row.scale;
  const alike = board.rows.filter((r) => r.unit === row.unit);
  return [Math.min(...alike.map((r) => r.scale[0])), Math.max(...alike.map((r) => r.scale[1]))];
}

const tableOf = (row) => tables[row.signed ? props.diverging : look.colours];

function photoPixels(width, height) {
  const canvas = make("canvas");
  canvas.width = width; canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

function drawOverlay(canvas, row, pixels, source) {
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height), out = image.data;
  const [low, high] = scaleOf(row), table = tableOf(row), a = look.opacity, unit = row.factor;
  for (let i = 0; i < pixels.values.length; i++) {
    const share = (pixels.values[i] * unit - low) / (high - low), c = 3 * Math.min(255, Math.max(0, Math.round(share * 255)));
    for (let k = 0; k < 3; k++) out[4 * i + k] = a * table[c + k] + (1 - a) * source[4 * i + k];
    out[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

function drawMask(canvas, row, pixels, source) {
  const { width, height } = canvas, { mask } = pixels;
  const context = canvas.getContext("2d"), image = context.createImageData(width, height), out = image.data;
  const thick = Math.max(1, Math.round(Math.min(width, height) / 240));
  const outside = (x, y) => x < 0 || y < 0 || x >= width || y >= height || !mask[y * width + x];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const i = y * width + x, p = 4 * i;
      if (mask[i]) {
        const edge = outside(x - thick, y) || outside(x + thick, y) || outside(x, y - thick) || outside(x, y + thick);
        for (let k = 0; k < 3; k++) out[p + k] = edge ? 255 : source[p + k];
      } else {
        const grey = ((source[p] + source[p + 1] + source[p + 2]) / 3) * 0.22 + 12;
        out[p] = out[p + 1] = out[p + 2] = grey;
      }
      out[p + 3] = 255;
    }
  context.putImageData(image, 0, 0);
  if (look.boxes) drawBoxes(context, mask, width, height, thick);
}

function drawBoxes(context, mask, width, height, thick) {
  const all = components(mask, height, width).boxes.slice(1);
  const large = all.filter(([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0) >= 0.002 * width * height);
  context.strokeStyle = "rgb(0, 200, 255)";
  context.lineWidth = thick;
  for (const [x0, y0, x1, y1] of large.length ? large : all)
    context.strokeRect(x0 + thick / 2, y0 + thick / 2, x1 - x0 - thick, y1 - y0 - thick);
}

function cellSize(longest) {
  const factor = longest / Math.max(photo.naturalWidth, photo.naturalHeight); // small photos are enlarged, so that patches stay sharp
  return [Math.max(1, Math.round(photo.naturalWidth * factor)), Math.max(1, Math.round(photo.naturalHeight * factor))];
}

function drawRow(row, source, width, height) {
  const pixels = pixelsOf(row, width, height);
  for (const canvas of [row.overlay, row.mask]) if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  drawOverlay(row.overlay, row, pixels, source);
  drawMask(row.mask, row, pixels, source);
  describe(row);
  drawBar(row);
}

function describe(row) {
  const grid = levelSet(row.weights, levelOf(row), row.h, row.w);
  const share = grid.reduce((sum, v) => sum + v, 0) / grid.length, parts = components(grid, row.h, row.w).sizes.length - 1;
  row.coverage.textContent = row.constant
    ? "the map is constant: the mask is the whole picture and says nothing"
    : `mask: ${Math.round(100 * share)} % of the picture, ${parts} ${parts === 1 ? "component" : "components"}`;
  const peak = row.weights.indexOf(Math.max(...row.weights)), y = Math.floor(peak / row.w), x = peak % row.w;
  const where = `strongest at ${Math.round((100 * (x + 0.5)) / row.w)} % from the left and ${Math.round((100 * (y + 0.5)) / row.h)} % from the top`;
  row.overlay.setAttribute("aria-label", `${row.map} over the photo, ${row.title}: ${where}.`);
  row.mask.setAttribute("aria-label", `Object mask, ${row.title}: ${Math.round(100 * share)} % of the picture in ${parts} components.`);
}

function drawBar(row) {
  const context = row.bar.getContext("2d"), image = context.createImageData(256, 1), table = tableOf(row), [low, high] = scaleOf(row);
  for (let i = 0; i < 256; i++) image.data.set([table[3 * i], table[3 * i + 1], table[3 * i + 2], 255], 4 * i);
  context.putImageData(image, 0, 0);
  const text = (v) => (Math.abs(v) >= 100 ? v.toFixed(0) : String(Number(v.toPrecision(2))));
  row.ticks.replaceChildren(...[low, (low + high) / 2, high].map((v) => make("span", "", text(v))));
  row.bar.setAttribute("aria-label", `Colour scale from ${text(low)} to ${text(high)} ${row.unit}.`);
}

function draw() {
  if (!board || !photo) return;
  const [width, height] = cellSize(WIDEST), source = remembered(board, "photo", width, () => photoPixels(width, height));
  for (const row of board.rows) drawRow(row, source, width, height);
}

// --- the page --------------------------------------------------------------------------------------------------------------

function readRow(data) {
  const [h, w] = data.grid;
  const levels = Object.fromEntries(Object.entries(data.levels).map(([rule, text]) => [rule, floats(text)]));
  return { ...data, h, w, weights: floats(data.weights), levels };
}

function buildCell(row, kind, label) {
  const figure = make("figure", "cell"), button = make("button", "enlarge"), canvas = make("canvas");
  button.type = "button";
  button.title = "Enlarge";
  canvas.setAttribute("role", "img");
  row[kind] = canvas;
  button.append(canvas);
  button.addEventListener("click", () => enlarge(row, kind));
  if (kind === "overlay") readOut(row, canvas);
  figure.append(button, make("figcaption", "", label));
  return figure;
}

function readOut(row, canvas) {
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.min(row.w - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * row.w)));
    const y = Math.min(row.h - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * row.h)));
    const value = row.weights[y * row.w + x] * row.factor;
    row.reading.textContent = `token (${y}, ${x}): ${Number(value.toPrecision(3))} ${row.unit}`;
  });
  canvas.addEventListener("pointerleave", () => { row.reading.textContent = ""; });
}

function buildRow(row) {
  const section = make("section", "row"), caption = make("div", "caption"), scale = make("div", "scale");
  const title = make("h2", "", row.title);
  title.id = row.id;
  section.setAttribute("aria-labelledby", row.id);
  row.coverage = make("p", "live");
  row.reading = make("p", "reading");
  row.bar = make("canvas");
  row.bar.width = 256; row.bar.height = 1;
  row.bar.setAttribute("role", "img");
  row.ticks = make("div", "ticks");
  scale.append(row.bar, row.ticks, make("p", "unit", row.unit));
  caption.append(title, ...row.lines.map((line) => make("p", "", line)), row.coverage, scale, row.reading);
  section.append(buildCell(row, "overlay", row.map), buildCell(row, "mask", "Object mask"), caption);
  return section;
}

function enlarge(row, kind) {
  const dialog = make("dialog", "large"), bar = make("div", "bar"), canvas = make("canvas");
  const close = make("button", "", "Close"), save = make("button", "", "Save PNG");
  dialog.setAttribute("aria-label", `${row.title}, ${kind === "mask" ? "object mask" : "overlay"}`);
  [canvas.width, canvas.height] = cellSize(LARGE);
  const source = photoPixels(canvas.width, canvas.height), pixels = pixelsOf(row, canvas.width, canvas.height);
  (kind === "mask" ? drawMask : drawOverlay)(canvas, row, pixels, source);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", row[kind].getAttribute("aria-label"));
  close.addEventListener("click", () => dialog.close());
  save.addEventListener("click", () => {
    const link = make("a");
    link.href = canvas.toDataURL("image/png");
    link.download = `${row.file}.${kind}.png`;
    link.click();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => dialog.remove());
  bar.append(make("strong", "", row.title), save, close);
  dialog.append(bar, canvas);
  element.append(dialog);
  dialog.showModal();
}

function status(text) {
  const line = make("p", "waiting", text);
  line.setAttribute("role", "status");
  return line;
}

function load() {
  const value = props.value, root = element.querySelector(".simpool-board"), mine = ++drawn;
  if (!value || !value.rows) {
    board = null;
    root.replaceChildren(make("p", "empty", "Drop a photo, choose checkpoints and maps, and press Run."));
    return;
  }
  const rows = value.rows.map(readRow), picture = new Image();
  picture.crossOrigin = "anonymous";
  picture.alt = `The photo ${value.title}`;
  picture.addEventListener("load", () => {
    if (mine !== drawn) return; // a newer board has arrived meanwhile
    board = { rows };
    photo = picture;
    const aside = make("figure", "photo"), list = make("div", "rows");
    aside.append(picture, make("figcaption", "", value.title));
    list.append(...rows.map(buildRow));
    if (value.waiting) list.append(status(value.waiting));
    for (const sentence of value.skipped) list.append(make("p", "note", sentence));
    root.replaceChildren(aside, list);
    draw();
  });
  picture.addEventListener("error", () => {
    if (mine === drawn) root.replaceChildren(make("p", "empty", "The photo could not be loaded from the server; press Run again."));
  });
  picture.src = value.photo.url;
}

// Controls beside the board tell it what changed by this event.
element.addEventListener("simpool-look", (event) => {
  Object.assign(look, event.detail);
  draw();
});

// Cancel: what has been shown stays, and nothing more will come.
element.addEventListener("simpool-stopped", () => {
  for (const line of element.querySelectorAll(".waiting")) line.textContent = "Stopped. Press Run to look again.";
});

// For tests and for the curious: the masks as drawn, on the grid and, where asked for, in the pixels of the cells.
element.readMasks = (inPixels) => {
  const [width, height] = cellSize(WIDEST);
  return board.rows.map((row) => ({
    title: row.title,
    grid: Array.from(levelSet(row.weights, levelOf(row), row.h, row.w)),
    width, height,
    pixels: inPixels ? Array.from(pixelsOf(row, width, height).mask).join("") : null,
  }));
};

watch("value", load);
load();
