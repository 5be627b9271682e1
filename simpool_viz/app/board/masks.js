// Masks on grids and in pixels, by the rules of masks.py; functions alone, in the scope of board.js, whose `style` they read.

function levelOf(row) {
  if (row.baseline) return row.baseline.level;
  const table = row.levels[drawing.smoothings.indexOf(style.smoothing)]?.[style.rule];
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

// As `smoothed` of masks.py, to the last bit: whole numbers over 2^20 as taps, along rows and then along columns.
function blurred(weights, h, w, sigma) {
  const reach = Math.ceil(3 * sigma), parts = [];
  for (let k = -reach; k <= reach; k++) parts.push(Math.floor(Math.exp(-(k * k) / (2 * sigma * sigma)) * 2 ** 20 + 0.5));
  const whole = parts.reduce((sum, part) => sum + part, 0);
  let values = Float64Array.from(weights);
  for (const alongRows of [true, false]) {
    const out = new Float64Array(h * w), count = alongRows ? w : h, step = alongRows ? 1 : w;
    for (let i = 0; i < h * w; i++) {
      const at = alongRows ? i % w : Math.floor(i / w);
      let sum = 0;
      for (let k = -reach; k <= reach; k++) sum += parts[k + reach] * values[i + (Math.min(Math.max(at + k, 0), count - 1) - at) * step];
      out[i] = sum / whole;
    }
    values = out;
  }
  return Float32Array.from(values);
}

// What the level is taken of: the weights, smoothed where that is asked for.
function thresholded(row) {
  const sigma = style.smoothing;
  if (!sigma || row.baseline) return row.weights;
  if (row.smoothing !== sigma) Object.assign(row, { smoothing: sigma, smoothed: blurred(row.weights, row.h, row.w, sigma) });
  return row.smoothed;
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

function upsample(weights, h, w, width, height) {
  const out = new Float64Array(width * height), line = new Float64Array(w);
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

// What does not change with the style is computed once for each width of a cell; without a name it is not kept.
function cached(owner, name, width, compute) {
  if (!name) return compute();
  if (owner[name]?.width !== width) owner[name] = { width, result: compute() };
  return owner[name].result;
}

// Weights and mask of a row in pixels of a canvas. What is enlarged is kept under a name, by default that of the cells.
function pixelsOf(row, width, height, name = "smooth") {
  const level = levelOf(row);
  if (style.smooth) {
    const values = cached(row, name, width, () => upsample(row.weights, row.h, row.w, width, height));
    const weights = thresholded(row), kept = name && `${name}Cut`;
    const cut = weights === row.weights ? values : cached(row, kept, `${width} ${style.smoothing}`, () => upsample(weights, row.h, row.w, width, height));
    return { values, mask: levelSet(cut, level, height, width) };
  }
  const grid = levelSet(thresholded(row), level, row.h, row.w), cells = cellOfPixels(row, width, height);
  const values = new Float64Array(width * height), mask = new Uint8Array(width * height);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const cell = cells.ys[y] * row.w + cells.xs[x];
      values[y * width + x] = row.weights[cell];
      mask[y * width + x] = grid[cell];
    }
  return { values, mask };
}
