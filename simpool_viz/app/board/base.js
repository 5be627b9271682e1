// The board in the browser. Python sends each photo once and per row the raw grid of weights with its levels; everything that
// a visitor changes about the drawing is computed here, without a request. The files of this folder are concatenated in one
// scope, in the order of SCRIPTS in component.py.
//
// Gradio runs them once per board, with `element`, `props`, `trigger` and `watch`. Nothing of the data enters a template.

const style = { ...props.style };
const ui = { view: "rows", group: "none", sort: "", lowest: false, cells: "overlay", first: -1, second: -1, open: new Set(), chosen: false };
const tables = Object.fromEntries(Object.entries(props.tables).map(([name, text]) => [name, bytes(text)]));
const { drawing, refinements } = props; // the colours and sizes by which Python draws (component.py)
const levelPlaces = Object.entries(drawing.levels), levelCount = levelPlaces.reduce((sum, [, [, count]]) => sum + count, 0); // of one smoothing
let board = null; // { photos, rows, baselines, gallery, blocks, references, facts, value, parts }, decoded

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}
const floats = (text) => new Float32Array(bytes(text).buffer);

const number = (value, digits = 3) => String(Number(value.toPrecision(digits)));
const shownRows = () => [...board.rows, ...board.baselines, ...board.gallery, ...board.blocks.cells, ...board.blocks.layers];
const photoOf = (row) => board.photos[row.picture];

// A labelled <select>; choices are [value, text].
function choice(label, choices, value, changed) {
  const box = make("label", "choice", label), select = make("select");
  offer(select, choices, value);
  select.addEventListener("change", () => changed(select.value));
  box.append(select);
  return box;
}

// Options in the order of the choices. Those that stand are not made anew, so that an open list stays open.
function offer(select, choices, value) {
  const here = new Map([...select.options].map((option) => [option.value, option]));
  choices.forEach(([key, text], i) => {
    if (select.options[i]?.value === key) return;
    const option = here.get(key) ?? make("option", "", text);
    option.value = key;
    select.insertBefore(option, select.options[i] ?? null);
  });
  select.value = value;
}

// A row as Python sends it, decoded. `spots` are the canvases it is drawn on at the moment.
function readRow(data) {
  const [h, w] = data.grid;
  const all = floats(data.levels);
  const table = (from) => Object.fromEntries(levelPlaces.map(([rule, [start, count]]) => [rule, all.subarray(from + start, from + start + count)]));
  const levels = Array.from({ length: all.length / levelCount }, (_, i) => table(i * levelCount));
  return { ...data, raw: data, h, w, weights: floats(data.weights), levels, spots: [], weightLines: [] };
}
