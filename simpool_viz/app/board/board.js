// The board as a whole: loading, rebuilding, drawing, and the events that the page's controls send.

const STOPPING = "Stopping: what is being computed is finished first.";
let stopping = false; // Cancel was pressed, and the run has not ended
let failed = 0; // the load after which the run failed, so that nothing is waited for
let drawn = 0; // counts loads, so that a late photo of an earlier board is ignored
let waited = false; // whether the board shown was told to grow further
const MATRIX = 3; // photos from which on a board is first shown as a matrix
const root = () => element.querySelector(".simpool-board");
const spoken = make("p", "said"); // what screen readers announce: one node for all boards, which they know
spoken.setAttribute("aria-live", "polite");

function show(...nodes) {
  if (spoken.parentElement !== root()) root().append(spoken);
  for (const node of [...root().children]) if (node !== spoken) node.remove();
  spoken.before(...nodes);
}

const empty = (text) => show(make("p", "empty", text));

// The DOM of the chosen view, anew.
function rebuild() {
  watched.disconnect();
  for (const row of shownRows()) Object.assign(row, { spots: [], weightLines: [], bar: null, coverage: null, scoreNode: null, curvesBox: null, described: "" });
  for (const photo of board.photos) photo.marks = [];
  Object.assign(board, { baselines: [], parts: [], lists: [], matrix: null, sorting: null, pairing: null, difference: null, segmentation: null });
  cursor = null;
  const controls = () => [...root().querySelectorAll("input, select, .ask, .blocks summary, .thumbnail")], held = controls().indexOf(document.activeElement);
  const views = { rows: buildRows, matrix: buildMatrix, agreement: buildAgreement, pair: buildPair };
  const first = () => (ui.view === "matrix" ? buildMatrix() : buildRows()); // before there is a row
  show(...(props.kind === "inspect" ? buildInspection() : board.rows.length ? [buildToolbar(), ...views[ui.view]()] : first()), ...buildNotes());
  draw();
  placeRows();
  controls()[held]?.focus({ preventScroll: ui.opened }); // a control that was just used keeps the focus
  showOpened();
}

// What came since is added to the view; rows that stand keep their nodes, and what is open stays open.
function grow(value) {
  const fresh = value.rows.slice(board.rows.length).map(readRow), first = !board.rows.length;
  board.value = { ...value };
  board.rows.push(...fresh);
  if (first && fresh.length) return rebuild();
  for (const node of root().querySelectorAll(":scope > :is(.waiting, .skipped)")) node.remove();
  spoken.before(...buildNotes());
  if (!fresh.length) return;
  const views = { rows: growRows, matrix: growMatrix, agreement: growAgreement, pair: growPair };
  views[ui.view](fresh);
  draw();
  placeRows();
  if (cursor) moveCursor(cursor.picture, cursor.x, cursor.y);
}

function buildNotes() {
  const notes = board.value.skipped.map((sentence) => make("p", "note skipped", sentence));
  if (!board.value.waiting || failed === drawn) return notes;
  return [make("p", "waiting", stopping ? STOPPING : board.value.waiting), ...notes];
}

// Photos that are here already, or on their way, stay, so that a new map appears without a flicker.
let images = new Map();

async function loadPhotos(photos) {
  images = new Map(photos.map(({ photo: { url } }) => [url, images.get(url) ?? loadImage(url)]));
  const here = images;
  return Promise.all(photos.map(async (photo) => ({ ...photo, image: await here.get(photo.photo.url) })));
}

async function loadImage(url) {
  const image = new Image();
  image.crossOrigin = "anonymous";
  image.src = url;
  await image.decode();
  return image;
}

const NOTHING_YET = {
  compare: "Drop a photo, choose checkpoints and maps, and press Run.",
  inspect: "Choose a photo and a checkpoint, and press Run.",
  evidence: "Choose one of the photos above; its maps by the checkpoints of the table stand here.",
};

// Rows that come as text (component.py), most of them those of the state before.
let unpackedRows = new Map();

function unpacked(value) {
  if (!value?.rows) return value;
  const rows = value.rows.map((row) => (typeof row === "string" ? [row, unpackedRows.get(row) ?? JSON.parse(row)] : [row, row]));
  unpackedRows = new Map(rows);
  return { ...value, rows: rows.map(([, row]) => row) };
}

// Of two runs beside each other the one that began later stays, whichever ends last.
let newest = null;

async function load() {
  const begun = props.value?.begun; // 0 for a board that no run made
  if (!(begun && begun < newest?.begun)) newest = props.value;
  const value = withPins(unpacked(newest)), mine = ++drawn, known = keepFacts(value ?? {});
  if (!value || !value.photos) {
    board = null;
    return empty(NOTHING_YET[props.kind] ?? NOTHING_YET.compare);
  }
  if (board && value.run === board.value.run && !pins.length && !board.pinned) grow(value);
  else if (!(await begin(value, mine, known))) return;
  if (waited && !value.waiting && value.said) announce(value.said); // once for each run
  waited = Boolean(value.waiting);
  stopping &&= waited;
  if (!waited) followLink();
}

// The board of another run; whether it is the one that is shown now.
async function begin(value, mine, known) {
  let photos;
  try {
    photos = await loadPhotos(value.photos);
  } catch {
    images = new Map();
    if (mine === drawn) empty("The photo could not be loaded from the server; press Run again.");
    return false;
  }
  if (mine !== drawn) return false; // a newer board has arrived meanwhile
  const references = new Map(Object.entries(value.references ?? {}).map(([key, data]) => [key, readReference(data)]));
  const gallery = (value.gallery ?? []).map((part) => readRow({ ...part, asked: value.asked }));
  const rows = value.rows.map(readRow), before = new Map((board && value.run === board.value.run ? board.rows : []).map((row) => [curvesKey(row), row.curves]));
  for (const row of rows) row.curves = before.get(curvesKey(row)); // of a board on which maps are pinned
  board = { value: { ...value }, photos, references, facts: known, rows, baselines: [], gallery, blocks: readBlocks(value), parts: [], pinned: pins.length };
  if (ui.sort && !value.waiting && !board.rows.some((row) => ui.sort in row.figures)) ui.sort = "";
  if (!ui.chosen) ui.view = photos.length >= MATRIX ? "matrix" : "rows";
  rebuild();
  return true;
}

// Controls beside the board send it what changed by this event.
element.addEventListener("simpool-look", (event) => {
  Object.assign(style, event.detail);
  draw();
});

// How the board is drawn at the moment, for what leaves the page: the answer is written into the question.
element.addEventListener("simpool-ask", (event) => {
  Object.assign(event.detail, { style: { ...style }, view: ui.chosen ? ui.view : "", group: ui.group, sort: ui.sort, lowest: ui.lowest, cells: ui.cells });
  if (board?.value.ran) event.detail.ran = board.value.ran;
  event.detail.rows = saidOfRows();
});

// How a link wants it drawn and arranged; a view that it does not name is the one that suits the number of photos.
element.addEventListener("simpool-arrange", (event) => {
  const { view, ...order } = event.detail.view;
  Object.assign(style, event.detail.style);
  Object.assign(ui, order, view ? { view, chosen: true } : {});
  if (board) rebuild();
  takeLink(event.detail);
});

// References that came, changed or went, by the photo's key; null for one that is gone.
element.addEventListener("simpool-references", (event) => {
  if (!board || !event.detail) return;
  for (const [key, data] of Object.entries(event.detail)) data ? board.references.set(key, readReference(data)) : board.references.delete(key);
  rebuild();
  followLink();
});

// Whether the baselines stand as rows of their own.
element.addEventListener("simpool-baselines", (event) => {
  style.baselines = event.detail.shown;
  if (board) rebuild();
});

// A mask that was moved to the edges of its photo, if it is still the one that is asked for.
element.addEventListener("simpool-refined", (event) => {
  const [id, turn] = event.detail?.asked ?? [], row = board?.rows.find((one) => one.id === id);
  if (row?.turn === turn) row.refining?.(event.detail);
});

const curvesKey = (row) => JSON.stringify([row.picture, row.checkpoint, row.name]);

// Insertion and deletion of a row, so far.
element.addEventListener("simpool-curves", (event) => {
  const row = board?.rows.find((one) => event.detail && curvesKey(one) === curvesKey(event.detail));
  if (!row) return;
  row.curves = event.detail;
  if (row.curvesBox) drawCurves(row);
});

// Cancel: the rows shown stay. Run does nothing until the run has ended, so that is told apart.
const tellInLine = (text) => {
  const line = element.querySelector(".waiting:not(.stopped)");
  if (!line) return null;
  line.textContent = text;
  announce(text);
  return line;
};
element.addEventListener("simpool-stopping", () => {
  stopping = tellInLine(STOPPING) !== null;
});

// A failure: the page shows why, the rows shown stay, and nothing more will come. A run that was stopped ends like this too.
element.addEventListener("simpool-failed", () => {
  failed = drawn;
  if (stopping) tellInLine("Stopped. Press Run to start again.")?.classList.add("stopped");
  stopping = false;
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
