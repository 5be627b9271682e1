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
  if (["coverage", "components"].includes(ui.sort)) placeRows();
}

// The DOM of the chosen view, anew.
function rebuild() {
  for (const row of shownRows()) Object.assign(row, { spots: [], weightLines: [], bar: null, coverage: null });
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
  board = { value, photos, facts: known, rows: value.rows.map(readRow), gallery: (value.gallery ?? []).map(readRow) };
  if (ui.sort && !board.rows.some((row) => ui.sort in row.figures)) ui.sort = "";
  rebuild();
}

// Controls beside the board send it what changed by this event.
element.addEventListener("simpool-look", (event) => {
  Object.assign(style, event.detail);
  draw();
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
element.readWeights = () => shownRows().map((row) => ({ title: row.title, weights: Array.from(row.weights) }));
element.readDifference = () => {
  const { one, other, canvas } = board.difference;
  return { width: canvas.width, height: canvas.height, values: Array.from(differenceOf(one, other, canvas.width, canvas.height)) };
};

watch("value", load);
load();
