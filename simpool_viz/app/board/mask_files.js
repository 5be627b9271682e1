// Masks in the formats of other tools, as mask_files.py writes them; functions alone, in the scope of board.js.

// Runs of 0, 1, 0, ... down the columns, as `run_lengths`.
function runLengths(mask, width, height) {
  const counts = [];
  let value = 0, run = 0;
  for (let x = 0; x < width; x++)
    for (let y = 0; y < height; y++) {
      const here = mask[y * width + x];
      if (here === value) run++;
      else { counts.push(run); value = here; run = 1; }
    }
  return { size: [height, width], counts: [...counts, run] };
}

// The mask that run lengths say, row by row, as `mask_of_runs`.
function maskOfRuns({ size: [height, width], counts }) {
  const mask = new Uint8Array(width * height);
  let at = 0;
  counts.forEach((count, i) => {
    for (const end = at + count; at < end; at++) if (i % 2) mask[(at % height) * width + Math.floor(at / height)] = 1;
  });
  return mask;
}

// The outer outline [x0, y0, x1, y1, ...] of each 8-connected component in raster order, as `polygons`.
function polygons(mask, width, height) {
  const { labels, sizes } = components(mask, height, width), outlines = [];
  for (let i = 0; i < labels.length && outlines.length < sizes.length - 1; i++)
    if (labels[i] === outlines.length + 1) outlines.push(outlineFrom(labels, i, width, height));
  return outlines;
}

// Walks the edges of pixels clockwise from a component's first pixel, through their middles, and keeps the corners.
function outlineFrom(labels, first, width, height) {
  const label = labels[first], steps = [[1, 0], [0, 1], [-1, 0], [0, -1]], middles = [];
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && labels[y * width + x] === label;
  const [startX, startY] = [first % width, Math.floor(first / width)];
  let x = startX, y = startY, heading = 0;
  do {
    const [dx, dy] = steps[heading];
    middles.push([x + dx / 2, y + dy / 2]);
    x += dx; y += dy;
    // The pixels ahead, left and right of the heading; those that touch at a corner belong together.
    const left = inside(x + (dx + dy - 1) / 2, y + (dy - dx - 1) / 2), right = inside(x + (dx - dy - 1) / 2, y + (dy + dx - 1) / 2);
    if (left) heading = (heading + 3) % 4;
    else if (!right) heading = (heading + 1) % 4;
  } while (x !== startX || y !== startY || heading !== 0);
  return middles.filter(([u, v], i) => {
    const [a, b] = middles.at(i - 1), [c, d] = middles[(i + 1) % middles.length];
    return (u - a) * (d - v) !== (v - b) * (c - u);
  }).flat();
}
