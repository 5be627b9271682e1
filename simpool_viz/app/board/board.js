// The board as a whole: loading, rebuilding, drawing, and the events that the page's controls send.

let failed = 0; // the load after which the run failed, so that nothing is waited for
let drawn = 0; // counts loads, so that a late photo of an earlier board is ignored
const root = () => element.querySelector(".simpool-board");
const empty = (text) => root().replaceChildren(make("p", "empty", text));

function draw() {
  if (!board) return;
  for (const row of shownRows()) drawRow(row);
  if (board.segmentation) drawSegmentation();
  if (ui.view === "agreement") drawAgreement();
  if (ui.view === "pair") drawDifference();
  if (["coverage", "components", "iou"].includes(ui.sort)) placeRows();
}

// The DOM of the chosen view, anew.
function rebuild() {
  for (const row of shownRows()) Object.assign(row, { spots: [], weightLines: [], bar: null, coverage: null, scoreNode: null, curvesBox: null });
  board.baselines = [];
  for (const photo of board.photos) photo.marks = [];
  board.difference = board.segmentation = null;
  cursor = null;
  const controls = () => [...root().querySelectorAll("input, select, .ask")], held = controls().indexOf(document.activeElement);
  const spoken = make("p", "said"); // what screen readers announce
  spoken.setAttribute("aria-live", "polite");
  const views = { rows: buildRows, matrix: buildMatrix, agreement: buildAgreement, pair: buildPair };
  const body = props.kind === "inspect" ? buildInspection() : board.rows.length ? [buildToolbar(), ...views[ui.view]()] : buildRows();
  root().replaceChildren(...body, ...buildNotes(), spoken);
  draw();
  placeRows();
  controls()[held]?.focus(); // a control that was just used keeps the focus
}

function buildNotes() {
  const notes = board.value.skipped.map((sentence) => make("p", "note", sentence));
  if (!board.value.waiting || failed === drawn) return notes;
  const line = make("p", "waiting", board.value.waiting);
  line.setAttribute("role", "status");
  return [line, ...notes];
}

// Photos that are here already stay, so that a new map appears without a flicker.
async function loadPhotos(photos) {
  const here = new Map((board?.photos ?? []).map((photo) => [photo.photo.url, photo.image]));
  return Promise.all(photos.map(async (photo) => {
    const image = here.get(photo.photo.url) ?? new Image();
    if (!here.has(photo.photo.url)) {
      image.crossOrigin = "anonymous";
      image.src = photo.photo.url;
      await image.decode();
    }
    return { ...photo, image };
  }));
}

async function load() {
  const value = props.value, mine = ++drawn, known = keepFacts(value ?? {});
  if (!value || !value.photos) {
    board = null;
    return empty(props.kind === "inspect" ? "Choose a photo and a checkpoint, and press Run." : "Drop a photo, choose checkpoints and maps, and press Run.");
  }
  let photos;
  try {
    photos = await loadPhotos(value.photos);
  } catch {
    if (mine === drawn) empty("The photo could not be loaded from the server; press Run again.");
    return;
  }
  if (mine !== drawn) return; // a newer board has arrived meanwhile
  const references = new Map(Object.entries(value.references ?? {}).map(([key, data]) => [key, readReference(data)]));
  const rows = value.rows.map(readRow), before = new Map((board?.rows ?? []).map((row) => [curvesKey(row), row.curves]));
  if (value.waiting || board?.value.waiting) for (const row of rows) row.curves = before.get(curvesKey(row)); // a growing board
  board = { value, photos, references, facts: known, rows, baselines: [], gallery: (value.gallery ?? []).map(readRow) };
  if (ui.sort && !board.rows.some((row) => ui.sort in row.figures)) ui.sort = "";
  rebuild();
}

// Controls beside the board send it what changed by this event.
element.addEventListener("simpool-look", (event) => {
  Object.assign(style, event.detail);
  draw();
});

// How the board is drawn at the moment, for what leaves the page: the answer is written into the question.
element.addEventListener("simpool-ask", (event) => {
  Object.assign(event.detail, { style: { ...style }, group: ui.group, sort: ui.sort, lowest: ui.lowest });
});

// References that came, changed or went, by the photo's key; null for one that is gone.
element.addEventListener("simpool-references", (event) => {
  if (!board || !event.detail) return;
  for (const [key, data] of Object.entries(event.detail)) data ? board.references.set(key, readReference(data)) : board.references.delete(key);
  rebuild();
});

// Whether the baselines stand as rows of their own.
element.addEventListener("simpool-baselines", (event) => {
  style.baselines = event.detail.shown;
  if (board) rebuild();
});

// A mask that was moved to the edges of its photo, if it is still the one that is asked for.
element.addEventListener("simpool-refined", (event) => {
  const [id, asked] = event.detail?.asked ?? [], row = board?.rows.find((one) => one.id === id);
  if (row?.asked === asked) row.refining?.(event.detail);
});

const curvesKey = (row) => JSON.stringify([row.picture, row.checkpoint, row.name]);

// Insertion and deletion of a row, so far.
element.addEventListener("simpool-curves", (event) => {
  const row = board?.rows.find((one) => event.detail && curvesKey(one) === curvesKey(event.detail));
  if (!row) return;
  row.curves = event.detail;
  if (row.curvesBox) drawCurves(row);
});

// Cancel: the rows shown stay, and nothing more will come.
element.addEventListener("simpool-stopped", () => {
  for (const line of element.querySelectorAll(".waiting")) {
    line.textContent = "Stopped. Press Run to start again.";
    line.classList.add("stopped");
  }
});

// A failure: the page shows why, the rows shown stay, and nothing more will come. A run that was stopped ends like this too.
element.addEventListener("simpool-failed", () => {
  failed = drawn;
  for (const line of element.querySelectorAll(".waiting:not(.stopped)")) line.remove();
});

// For tests: the masks as drawn, on the grid and, on request, in the pixels of the cells.
element.readMasks = (inPixels) =>
  board.rows.map((row) => {
    const [width, height] = cellSize(photoOf(row), drawing.cell);
    const grid = Array.from(levelSet(thresholded(row), levelOf(row), row.h, row.w));
    return { title: row.title, grid, width, height, pixels: inPixels ? Array.from(pixelsOf(row, width, height).mask).join("") : null };
  });
element.readReference = (picture) => {
  const reference = board.references.get(board.photos[picture].key);
  return reference && { origin: reference.origin, width: reference.width, height: reference.height, kinds: reference.kinds.join("") };
};
element.readScores = () => board.rows.map((row) => ({ title: row.title, ...scoresOf(row) }));
element.readWeights = () => shownRows().map((row) => ({ title: row.title, weights: Array.from(row.weights) }));
element.readDifference = () => {
  const { one, other, canvas } = board.difference;
  return { width: canvas.width, height: canvas.height, values: Array.from(differenceOf(one, other, canvas.width, canvas.height)) };
};

watch("value", load);
load();
