// Rows: overlay, mask and caption beside the photo; cells, which also stand in the matrix and in galleries; enlarging.

const PANORAMA = 2; // a photo wider than this many of its heights has its mask below its map, so that both stay large

function buildCell(row, kind, label, longest = drawing.cell) {
  const figure = make("figure", "cell"), button = make("button", "enlarge"), { canvas, mark } = addSpot(row, kind, longest);
  button.type = "button";
  button.title = "Enlarge";
  button.append(canvas, mark, ...askedMark(row));
  button.addEventListener("click", () => enlarge(row, kind));
  followPointer(canvas, row.picture);
  followKeys(button, row);
  figure.append(button);
  if (label) figure.append(make("figcaption", "", label));
  return figure;
}

function buildWeightLine(row) {
  const node = make("p", "reading");
  row.weightLines.push(node);
  return node;
}

function buildRow(row) {
  const section = make("section", "row"), caption = make("div", "caption"), title = make("h2", "", row.title);
  title.id = row.id;
  section.setAttribute("aria-labelledby", row.id);
  row.coverage = make("p", "live");
  row.scoreNode = make("div", "scores");
  row.bar = buildBar(row.unit);
  const more = make("div", "more");
  if (row.lines.length || row.baseline) more.append(buildFigures(row));
  if (row.about.length) more.append(buildAbout(row));
  if (props.kind === "compare" && row.classifies && row.pinned === undefined) more.append(buildCurvesButton(row));
  if (props.kind !== "inspect" && !row.baseline && row.pinned === undefined) more.append(buildInspectButton(row));
  if (element.closest("#board") && row.of_class && row.pinned === undefined) more.append(buildClassChoice(row));
  if (props.kind === "inspect") more.append(buildPinButton(row));
  if (row.pinned !== undefined) more.append(buildUnpinButton(row));
  caption.append(row.coverage, row.bar.node, buildWeightLine(row), more);
  section.append(title, buildCell(row, "overlay", row.map), buildCell(row, "mask", "Object mask"), caption);
  const [width, height] = photoOf(row).size;
  if (width > PANORAMA * height) section.classList.add("stacked");
  row.section = section;
  return section;
}

// What a specialist wants of a row: everything that is measured, behind one word.
function buildFigures(row) {
  const details = make("details", "figures");
  details.append(make("summary", "", "Figures"), ...row.lines.map((line) => make("p", "", line)), row.scoreNode);
  return keepOpen(details, row);
}

// What a visitor opened stays open when the board is built anew.
function keepOpen(details, row) {
  const key = `${details.className} ${row.picture} ${row.checkpoint} ${row.name}`;
  details.open = ui.open.has(key);
  details.addEventListener("toggle", () => ui.open[details.open ? "add" : "delete"](key));
  return details;
}

// What the map and the pooling are: two sentences, the formula and the paper of each.
function buildAbout(row) {
  const details = make("details", "about");
  details.append(make("summary", "", "What this shows"));
  for (const { title, summary, formula, paper } of row.about) {
    const text = make("p", "");
    text.append(make("strong", "", `${title}. `), summary);
    details.append(text);
    if (formula) details.append(make("p", "formula", formula));
    if (paper) details.append(make("p", "paper", paper));
  }
  return keepOpen(details, row);
}

function buildPhoto(photo, index, frame = make("div"), marks = false) {
  const aside = make("figure", "photo"), picture = photo.image, mark = make("span", "mark");
  picture.alt = `The photo ${photo.title}`;
  mark.hidden = true;
  photo.marks.push(mark);
  frame.classList.add("frame");
  frame.append(picture, mark);
  followPointer(frame, index);
  const beside = make("div", "beside");
  beside.append(make("figcaption", "", photo.title));
  aside.append(frame, beside);
  if (!marks) return aside;
  const reference = board.references.get(photo.key);
  beside.append(make("p", "origin", reference ? `Scores: against ${reference.origin}` : "No scores: nothing says where the object is."));
  beside.append(buildBoxButton(frame, photo, index));
  return aside;
}

function buildInspectButton(row) {
  const button = make("button", "look-into", "Inspect");
  button.type = "button";
  button.setAttribute("aria-label", `Inspect ${row.title}`);
  button.addEventListener("click", () => trigger("inspect", { picture: row.picture, checkpoint: row.checkpoint, map: row.name }));
  return button;
}

// One block per photo: the photo, and its rows in the order asked for.
function buildRows() {
  return board.photos.map((photo, index) => {
    const block = make("div", "block"), list = make("div", "rows");
    const plain = baselineRows(index);
    board.baselines.push(...plain);
    list.append(...[...board.rows.filter((row) => row.picture === index), ...plain].map(buildRow));
    block.append(buildPhoto(photo, index, make("div"), props.kind === "compare"), list);
    board.lists[index] = list;
    return block;
  });
}

// Rows that came: `placeRows` puts them in their places, before the baselines.
function growRows(fresh) {
  for (const row of fresh) board.lists[row.picture].append(buildRow(row));
  offer(board.sorting, sortChoices(), ui.sort);
}

// Rows in the order of comparison.py's `arrange`; those without the figure come last.
function orderedRows(picture) {
  const rows = board.rows.filter((row) => row.picture === picture);
  const key = { none: () => "", checkpoint: (row) => row.checkpoint, map: (row) => row.name }[ui.group];
  const place = new Map([...new Set(rows.map(key))].map((name, i) => [name, i]));
  const rank = (row) => { const value = row.figures[ui.sort] ?? null; return value === null ? Infinity : ui.lowest ? value : -value; };
  const by = (a, b) => place.get(key(a)) - place.get(key(b)) || (ui.sort && rank(a) !== rank(b) ? rank(a) - rank(b) : 0);
  return rows.sort(by); // stable, so that equals keep the order of the board
}

function placeRows() {
  if (ui.view !== "rows" || props.kind === "inspect") return;
  for (const index of board.photos.keys())
    orderedRows(index).forEach((row, i, rows) => {
      const before = i ? rows[i - 1].section : null, list = row.section.parentElement;
      if (row.section.previousElementSibling !== before) before ? before.after(row.section) : list.prepend(row.section);
    });
}

function enlarge(row, kind) {
  describe(row);
  const dialog = make("dialog", "large"), bar = make("div", "bar"), canvas = make("canvas");
  const close = make("button", "", "Close"), save = make("button", "", "Save PNG");
  const savers = kind === "mask" && row.levels.length ? buildMaskSavers(row, canvas) : [];
  dialog.setAttribute("aria-label", `${row.title}, ${kind === "mask" ? "object mask" : "overlay"}`);
  [canvas.width, canvas.height] = cellSize(photoOf(row), drawing.large);
  const source = photoPixels(photoOf(row), canvas.width, canvas.height), pixels = pixelsOf(row, canvas.width, canvas.height);
  (kind === "mask" ? drawMask : drawOverlay)(canvas, row, pixels, source);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", row.spots.find((spot) => spot.kind === kind).canvas.getAttribute("aria-label"));
  close.addEventListener("click", () => dialog.close());
  save.addEventListener("click", () => {
    download(canvas.toDataURL("image/png"), `${row.file}.${kind}.png`);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => dialog.remove());
  bar.append(make("strong", "", row.title), save, ...savers, close);
  const frame = make("div", "enlarged");
  frame.append(canvas, ...askedMark(row));
  dialog.append(bar, frame);
  element.append(dialog);
  dialog.showModal();
}

function download(address, name) {
  const link = make("a");
  Object.assign(link, { href: address, download: name });
  link.click();
}

// The mask as other tools read it, at the photo's own size: a binary PNG, COCO's run lengths and polygons; and a choice of
// edges.
function buildMaskSavers(row, canvas) {
  const [width, height] = photoOf(row).size;
  let refined = null; // { mask, width, height }, of the edges that are chosen
  const enlarged = (w, h) => Uint8Array.from(upsample(refined.mask, refined.height, refined.width, w, h), (v) => (v >= 0.5 ? 1 : 0));
  const pixels = () => (refined ? enlarged(width, height) : pixelsOf(row, width, height, "").mask);
  const redraw = () => {
    const own = pixelsOf(row, canvas.width, canvas.height, ""), source = photoPixels(photoOf(row), canvas.width, canvas.height);
    drawMask(canvas, row, refined ? { ...own, mask: enlarged(canvas.width, canvas.height) } : own, source);
  };
  const said = make("span", "edges-said");
  said.setAttribute("role", "status");
  const edges = choice("Edges", [["", "of the map"], ...Object.entries(refinements)], "", (method) => {
    refined = null;
    row.turn = (row.turn ?? 0) + 1;
    said.textContent = method ? "Refining ..." : "";
    redraw();
    if (!method) return;
    const factor = Math.min(1, drawing.refined / Math.max(width, height)), [w, h] = [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
    row.refining = (found) => {
      refined = { mask: maskOfRuns(found), width: found.size[1], height: found.size[0] };
      said.textContent = "To the photo's edges; scores are of the map's own mask.";
      redraw();
    };
    trigger("refine", { key: photoOf(row).key, method, asked: [row.id, row.turn], ...runLengths(pixelsOf(row, w, h, "").mask, w, h) });
  });
  const png = make("button", "", "Save mask (0, 255)"), rle = make("button", "", "Save mask (COCO RLE)"), outlines = make("button", "", "Save mask (COCO polygons)");
  png.addEventListener("click", () => {
    const canvas = make("canvas"), mask = pixels();
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    mask.forEach((mine, i) => image.data.set([255 * mine, 255 * mine, 255 * mine, 255], 4 * i));
    context.putImageData(image, 0, 0);
    download(canvas.toDataURL("image/png"), `${row.file}.binary.png`);
  });
  for (const [button, kind, of] of [[rle, "rle", runLengths], [outlines, "polygons", polygons]])
    button.addEventListener("click", () => {
      const text = JSON.stringify(of(pixels(), width, height));
      download(`data:application/json,${encodeURIComponent(text)}`, `${row.file}.${kind}.json`);
    });
  const savers = [png, rle, outlines];
  return props.kind === "compare" ? [said, edges, ...savers] : savers;
}
