// Masks on grids and in pixels, by the rules of masks.py; functions alone, in the scope of board.js, whose `style` they read.

function levelOf(row) {
  const table = row.levels[style.rule];
  if (!table) return Infinity; // a map of a gallery, which has no mask
  return table.length === 1 ? table[0] : table[Math.min(table.length, Math.max(1, Math.round(style.amount * table.length))) - 1];
}

function components(mask, h, w) {
  // 8-connected components in raster order: labels from 1, their sizes, and their half-open boxes [x0, y0, x1, y1].
  const labels = new Int32Array(h * w), sizes = [0], boxes = [null], stack = [];
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || labels[start]) continue;
    const label = sizes.length, box = [w, h, 0, 0];
    let size = 0;
    labels[start] = label;
    stack.push(start);
    while (stack.length) {
      const i = stack.pop(), y = Math.floor(i / w), x = i - y * w;
      size++;
      box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x + 1); box[3] = Math.max(box[3], y + 1);
      for (let v = Math.max(0, y - 1); v <= Math.min(h - 1, y + 1); v++)
        for (let u = Math.max(0, x - 1); u <= Math.min(w - 1, x + 1); u++) {
          const j = v * w + u;
          if (mask[j] && !labels[j]) { labels[j] = label; stack.push(j); }
        }
    }
    sizes.push(size); boxes.push(box);
  }
  return { labels, sizes, boxes };
}

function keepLargest(mask, h, w) {
  const found = components(mask, h, w);
  if (found.sizes.length <= 2) return mask;
  let best = 1;
  for (let label = 2; label < found.sizes.length; label++) if (found.sizes[label] > found.sizes[best]) best = label;
  return Uint8Array.from(found.labels, (label) => (label === best ? 1 : 0));
}

function levelSet(values, level, h, w) {
  const mask = Uint8Array.from(values, (v) => (v >= level ? 1 : 0));
  return style.largest ? keepLargest(mask, h, w) : mask;
}

function taps(cells, pixels) {
  const before = new Int32Array(pixels), share = new Float64Array(pixels);
  for (let i = 0; i < pixels; i++) {
    const position = Math.min(Math.max(((i + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
    before[i] = Math.floor(position);
    share[i] = position - before[i];
  }
  return { before, share };
}

function upsample(row, width, height) {
  const { weights, h, w } = row, out = new Float64Array(width * height), line = new Float64Array(w);
  const ys = taps(h, height), xs = taps(w, width);
  for (let y = 0; y < height; y++) {
    const r = ys.before[y], next = Math.min(r + 1, h - 1), b = ys.share[y];
    for (let c = 0; c < w; c++) line[c] = weights[r * w + c] * (1 - b) + weights[next * w + c] * b;
    for (let x = 0; x < width; x++) {
      const c = xs.before[x], a = xs.share[x];
      out[y * width + x] = line[c] * (1 - a) + line[Math.min(c + 1, w - 1)] * a;
    }
  }
  return out;
}

function cellOfPixels(row, width, height) {
  const of = (n, cells) => Int32Array.from({ length: n }, (_, i) => Math.floor(((2 * i + 1) * cells) / (2 * n)));
  return { ys: of(height, row.h), xs: of(width, row.w) };
}

// What does not change with the style is computed once for each width of a cell.
function cached(owner, name, width, compute) {
  if (owner[name]?.width !== width) owner[name] = { width, result: compute() };
  return owner[name].result;
}

// Weights and mask of a row in pixels of a canvas.
function pixelsOf(row, width, height) {
  const level = levelOf(row);
  if (style.smooth) {
    const values = cached(row, "smooth", width, () => upsample(row, width, height));
    return { values, mask: levelSet(values, level, height, width) };
  }
  const grid = levelSet(row.weights, level, row.h, row.w), cells = cellOfPixels(row, width, height);
  const values = new Float64Array(width * height), mask = new Uint8Array(width * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const cell = cells.ys[y] * row.w + cells.xs[x];
      values[y * width + x] = row.weights[cell];
      mask[y * width + x] = grid[cell];
    }
  return { values, mask };
}
