// The Inspect page: a photo whose tokens can be clicked, the answer's rows, the heads behind the first of them, gates and exponents.

function buildInspection() {
  const block = make("div", "block inspection"), side = make("div", "side"), list = make("div", "rows"), { value } = board;
  const { sections, gates, exponents, segmentation } = board.facts;
  side.append(value.point ? buildTokenPicker() : buildPhoto(board.photos[0], 0), ...(segmentation ? [buildSegmentation(segmentation, value.chosen)] : []), ...sections.map(buildFact));
  const checkpoints = [...new Set(board.rows.map((row) => row.checkpoint))];
  list.append(...(checkpoints.length > 1 ? [buildSides(checkpoints)] : board.rows.map(buildRow)), ...buildGallery(), ...buildBlocks());
  if (gates.length) list.append(buildGates(gates));
  if (exponents.length) list.append(buildExponents(exponents));
  block.append(side, list);
  return [block];
}

// The answers of several checkpoints, a column each.
function buildSides(checkpoints) {
  const columns = make("div", "columns");
  columns.append(...checkpoints.map((checkpoint) => {
    const column = make("div", "rows");
    column.append(...board.rows.filter((row) => row.checkpoint === checkpoint).map(buildRow));
    for (const row of column.children) row.classList.add("stacked");
    return column;
  }));
  return columns;
}

// What is known of a recording beside its maps comes with its first answer alone, and is kept here for those that follow.
let facts = { recording: null };

function keepFacts(value) {
  if (value.facts) facts = { recording: value.recording, ...value.facts };
  return facts.recording === value.recording ? facts : { sections: [], gates: [], exponents: [], segmentation: null };
}

function buildFact({ title, lines }) {
  const box = make("section", "fact");
  box.append(make("h2", "", title), ...lines.map((line) => make("p", "", line)));
  return box;
}

// --- choosing a token ---------------------------------------------------------------------------------------------------------

function buildTokenPicker() {
  const photo = board.photos[0], { row, column, grid } = board.value.point, [h, w] = grid;
  const button = make("button", "ask"), figure = buildPhoto(photo, 0, button), chosen = make("span", "chosen");
  button.type = "button";
  button.setAttribute("aria-label", `The photo ${photo.title}. Arrow keys move a point, Enter shows what the token there attends to.`);
  Object.assign(chosen.style, { left: `${(100 * column) / w}%`, top: `${(100 * row) / h}%`, width: `${100 / w}%`, height: `${100 / h}%` });
  button.append(chosen);
  followKeys(button, { ...board.rows[0], picture: 0, title: "photo" });
  button.addEventListener("click", (event) => {
    const box = button.getBoundingClientRect(), byKey = event.detail === 0;
    const at = byKey ? cursor ?? { x: (column + 0.5) / w, y: (row + 0.5) / h } : { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    const inside = (share, size) => Math.floor(Math.min(1, Math.max(0, share)) * size * 10) / 10;
    trigger("point", { x: inside(at.x, photo.size[0]), y: inside(at.y, photo.size[1]) });
  });
  figure.append(make("figcaption", "", "Click a token to see what it attends to. The frame marks the token chosen last."));
  return figure;
}

// --- the classes that a dense head finds ----------------------------------------------------------------------------------------

// A picture of classes to click, and a button for each class, which the keyboard reaches.
function buildSegmentation({ size: [width, height], runs, classes }, chosen) {
  const figure = make("figure", "segmentation"), canvas = make("canvas"), legend = make("div", "legend");
  const of = fromRuns(new Uint32Array(bytes(runs).buffer), width * height), colours = new Map(classes.map((one) => [one.index, one.colour]));
  const choose = (index) => trigger("choose", { index });
  Object.assign(canvas, { width, height });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `The segmentation: ${classes.map((one) => `${one.name} ${one.share}`).join(", ")}.`);
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect(), place = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    const x = place((event.clientX - box.left) / box.width, width), y = place((event.clientY - box.top) / box.height, height);
    choose(of[y * width + x]);
  });
  for (const { index, name, colour, share } of classes) {
    const button = make("button", "", `${name} ${share}`), swatch = make("span", "swatch");
    button.type = "button";
    button.setAttribute("aria-pressed", String(index === chosen));
    swatch.style.background = `rgb(${colour.join(", ")})`;
    button.prepend(swatch);
    button.addEventListener("click", () => choose(index));
    legend.append(button);
  }
  board.segmentation = { canvas, of, colours };
  board.parts.push({ node: canvas, state: () => style.opacity, draw: drawSegmentation });
  watched.observe(canvas);
  figure.append(canvas, make("figcaption", "", "The classes that the head finds. Click one to see its maps."), legend);
  return figure;
}

// The class of every pixel from (class, length) pairs.
function fromRuns(runs, count) {
  const of = new Uint16Array(count);
  for (let i = 0, start = 0; i < runs.length; start += runs[i + 1], i += 2) of.fill(runs[i], start, start + runs[i + 1]);
  return of;
}

function drawSegmentation() {
  const { canvas, of, colours } = board.segmentation, context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const source = photoPixels(board.photos[0], canvas.width, canvas.height), a = style.opacity;
  of.forEach((index, i) => {
    const colour = colours.get(index) ?? [128, 128, 128]; // of pixels between tokens, which no token has
    for (let k = 0; k < 3; k++) image.data[4 * i + k] = a * colour[k] + (1 - a) * source[4 * i + k];
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

// --- the maps behind the first row --------------------------------------------------------------------------------------------

function buildGallery() {
  const groups = [...new Set(board.gallery.map((part) => part.group))], box = make("div", groups.length > 1 ? "galleries" : "");
  box.append(...groups.map((group) => {
    const section = make("section", "gallery"), cells = make("div", "cells"), parts = board.gallery.filter((part) => part.group === group);
    section.append(make("h2", "", `${parts.length} ${parts.length === 1 ? "map" : "maps"}${group ? `, ${group}` : " of the first row"}`), cells);
    for (const part of parts) {
      const cell = buildCell(part, "overlay", `${part.title}, up to ${number(Math.max(...part.weights) * part.factor, 2)} ${part.unit}`, drawing.small);
      cell.append(buildWeightLine(part));
      cells.append(cell);
    }
    return section;
  }));
  return groups.length ? [box] : [];
}

// --- gates by depth, exponents by group -----------------------------------------------------------------------------------------

function buildGates(gates) {
  const top = Math.max(1e-9, ...gates.map((gate) => gate.quantiles[4]));
  const section = make("section", "chart");
  section.append(make("h2", "", "Channel gates by depth"), make("p", "note", `What each gate multiplies its channels by, from 0 to ${number(top, 2)}: the line spans all channels, the bar the middle half, the tick is the median.`));
  if (gates.some((gate) => gate.share !== null)) section.append(make("p", "note", "These gates see the maximum and the minimum of each channel; beside each, how much of that is the maximum."));
  for (const { name, channels, quantiles, share } of gates) {
    const line = make("div", "line"), track = make("div", "track"), at = (v) => `${(100 * v) / top}%`;
    const span = (className, from, to) => { const part = make("span", className); Object.assign(part.style, { left: at(from), width: at(to - from) }); return part; };
    track.append(span("range", quantiles[0], quantiles[4]), span("half", quantiles[1], quantiles[3]), span("tick", quantiles[2], quantiles[2]));
    track.setAttribute("role", "img");
    track.setAttribute("aria-label", `${name}: from ${number(quantiles[0], 2)} to ${number(quantiles[4], 2)}, median ${number(quantiles[2], 2)}.`);
    const squeezed = share === null ? "" : `, ${Math.round(100 * share)} % max`;
    line.append(make("span", "name", name), track, make("span", "value", `${number(quantiles[2], 2)} of ${channels}${squeezed}`));
    section.append(line);
  }
  return section;
}

function buildExponents(exponents) {
  const section = make("section", "chart"), top = Math.max(...exponents);
  section.append(make("h2", "", exponents.length > 1 ? "Exponent p of each group of channels" : "Exponent p"), make("p", "note", "1 averages; the larger p is, the nearer the mean comes to the maximum."));
  exponents.forEach((p, i) => {
    const line = make("div", "line"), track = make("div", "track"), bar = make("span", "half");
    Object.assign(bar.style, { left: 0, width: `${(100 * p) / top}%` });
    track.append(bar);
    track.setAttribute("role", "img");
    track.setAttribute("aria-label", `Group ${i}: p ${number(p)}.`);
    line.append(make("span", "name", exponents.length > 1 ? `group ${i}` : "all channels"), track, make("span", "value", number(p)));
    section.append(line);
  });
  return section;
}
