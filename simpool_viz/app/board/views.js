// The other views of a board: the matrix of a paper, the agreement of all masks, two maps against each other.
// The rules are those of comparison.py.

const VIEWS = { rows: "Rows", matrix: "Matrix", agreement: "Agreement", pair: "Two maps" };

function buildToolbar() {
  const bar = make("div", "toolbar"), views = make("fieldset", "views"), name = `view-${element.id || "board"}`;
  views.append(make("legend", "", "View"));
  for (const [key, text] of Object.entries(VIEWS)) {
    const label = make("label", ""), radio = make("input");
    Object.assign(radio, { type: "radio", name, value: key, checked: ui.view === key });
    radio.addEventListener("change", () => { Object.assign(ui, { view: key, chosen: true }); rebuild(); });
    label.append(radio, text);
    views.append(label);
  }
  bar.append(views, ...orderChoices());
  return bar;
}

function orderChoices() {
  if (ui.view === "matrix") return [choice("Cells", [["overlay", "map"], ["mask", "object mask"]], ui.cells, (v) => { ui.cells = v; rebuild(); })];
  if (ui.view !== "rows") return [];
  const ordered = (key) => (value) => { ui[key] = value; placeRows(); };
  const sorting = choice("Sort by", sortChoices(), ui.sort, ordered("sort"));
  board.sorting = sorting.querySelector("select");
  return [
    choice("Group", [["none", "as computed"], ["checkpoint", "by checkpoint"], ["map", "by map"]], ui.group, ordered("group")),
    sorting,
    choice("Order", [["", "highest first"], ["lowest", "lowest first"]], ui.lowest ? "lowest" : "", (v) => { ui.lowest = v === "lowest"; placeRows(); }),
  ];
}

const sortChoices = () => [["", "nothing"], ...Object.entries(props.figures).filter(([key]) => board.rows.some((row) => (row.figures[key] ?? null) !== null))];

// --- photos down, checkpoints and maps across ------------------------------------------------------------------------------

function buildMatrix() {
  const table = make("table", "matrix"), head = make("tr"), photos = make("th", "", "Photo");
  photos.scope = "col";
  head.append(photos);
  const lines = board.photos.map((photo, index) => {
    const line = make("tr"), name = make("th", "");
    name.scope = "row";
    name.append(buildPhoto(photo, index));
    line.append(name);
    return line;
  });
  table.append(head, ...lines);
  board.matrix = { head, lines, columns: [] };
  growMatrix(board.rows);
  return [scrolling(table, "Matrix of photos and checkpoints")];
}

function growMatrix(fresh) {
  const { head, lines, columns } = board.matrix;
  for (const row of fresh) {
    const key = JSON.stringify([row.checkpoint, row.name]);
    if (!columns.includes(key)) {
      const name = make("th", "", row.title);
      name.scope = "col";
      columns.push(key);
      for (const line of [head, ...lines]) line.append(line === head ? name : make("td"));
    }
    lines[row.picture].children[1 + columns.indexOf(key)].append(buildCell(row, ui.cells, "", drawing.small), buildWeightLine(row));
  }
}

// Wide tables scroll by themselves, also from the keyboard.
function scrolling(table, label) {
  const box = make("div", "scrolling");
  box.tabIndex = 0;
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", label);
  box.append(table);
  return box;
}

// --- IoU of all pairs of masks ---------------------------------------------------------------------------------------------

function agreementOf(rows) {
  const masks = rows.map((row) => pixelsOf(row, ...cellSize(photoOf(row), drawing.cell)).mask);
  const areas = masks.map((mask) => mask.reduce((sum, v) => sum + v, 0));
  const shared = (a, b) => { let sum = 0; for (let i = 0; i < a.length; i++) sum += a[i] & b[i]; return sum; };
  const values = rows.map(() => new Array(rows.length).fill(1));
  for (let i = 0; i < rows.length; i++)
    for (let j = 0; j < i; j++) {
      const common = shared(masks[i], masks[j]);
      values[i][j] = values[j][i] = common / (areas[i] + areas[j] - common);
    }
  return values;
}

function buildAgreement() {
  const intro = make("p", "note", "IoU between the object masks as they are drawn now; 1 is the same mask. A cell opens its two maps.");
  return [intro, ...board.photos.map((_, index) => buildAgreementOn(index))];
}

function buildAgreementOn(index) {
  const rows = board.rows.filter((row) => row.picture === index), table = make("table", "agreement"), head = make("tr"), { title } = board.photos[index];
  table.append(make("caption", "", title), head);
  head.append(make("td"), ...rows.map((row, i) => { const cell = make("th", "", String(i + 1)); cell.scope = "col"; cell.title = row.title; return cell; }));
  rows.forEach((row, i) => {
    const line = make("tr"), name = make("th", "", `${i + 1}  ${row.title}`);
    name.scope = "row";
    line.append(name, ...rows.map((other) => buildAgreementCell(row, other)));
    table.append(line);
  });
  const node = scrolling(table, `Agreement of the masks on ${title}`);
  board.parts.push({ node, index, state: () => rows.map(maskState).join(), draw: () => drawAgreement(rows, node) });
  watched.observe(node);
  return node;
}

// The tables of the photos that have new rows, anew.
function growAgreement(fresh) {
  const held = element.contains(document.activeElement) && document.activeElement.dataset.pair;
  for (const index of new Set(fresh.map((row) => row.picture))) {
    const before = board.parts.find((part) => part.index === index);
    board.parts = board.parts.filter((part) => part !== before);
    watched.unobserve(before.node);
    before.node.replaceWith(buildAgreementOn(index));
  }
  if (held) element.querySelector(`[data-pair="${held}"]`).focus();
}

function buildAgreementCell(row, other) {
  const cell = make("td"), button = make("button", "");
  button.type = "button";
  button.dataset.pair = `${board.rows.indexOf(row)} ${board.rows.indexOf(other)}`;
  button.setAttribute("aria-label", `${row.title} and ${other.title}`); // with their IoU once it is drawn
  button.addEventListener("click", () => { ui.view = "pair"; [ui.first, ui.second] = button.dataset.pair.split(" ").map(Number); rebuild(); });
  cell.append(button);
  return cell;
}

function drawAgreement(rows, node) {
  const values = agreementOf(rows), buttons = node.querySelectorAll("button");
  rows.forEach((row, i) => rows.forEach((other, j) => {
    const button = buttons[i * rows.length + j], v = values[i][j];
    const c = 3 * Math.round(255 * v), ground = tables[drawing.agreement].slice(c, c + 3);
    button.textContent = v.toFixed(2);
    button.setAttribute("aria-label", `${row.title} and ${other.title}: IoU ${v.toFixed(2)}`);
    button.style.background = `rgb(${ground.join(", ")})`;
    button.style.color = luminance(ground) > 0.179 ? "#000" : "#fff"; // where black and white stand out alike
  }));
}

// Relative luminance as WCAG defines it, of (r, g, b) in [0, 255].
function luminance(rgb) {
  const [r, g, b] = Array.from(rgb, (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// --- two maps: one slider over both, and their difference --------------------------------------------------------------------

function buildPair() {
  const last = board.rows.length - 1;
  if (ui.first < 0) [ui.first, ui.second] = comparablePair();
  const first = (ui.first = Math.min(ui.first, last));
  const { choices, same } = pairChoices(first);
  if (!same.some(([i]) => Number(i) === ui.second) || (ui.second === first && same.length > 1)) ui.second = Number(same.find(([i]) => Number(i) !== first)?.[0] ?? first);
  const bar = make("div", "toolbar pairing");
  bar.append(
    choice("Left", choices, String(first), (v) => { ui.first = Number(v); rebuild(); }),
    choice("Right", same, String(ui.second), (v) => { ui.second = Number(v); rebuild(); }),
  );
  board.pairing = [...bar.querySelectorAll("select")];
  const both = make("div", "pair");
  both.append(buildSwipe(board.rows[first], board.rows[ui.second]), buildDifference(board.rows[first], board.rows[ui.second]));
  return [bar, both];
}

function pairChoices(first) {
  const choices = board.rows.map((row, i) => [String(i), board.photos.length > 1 ? `${photoOf(row).title}: ${row.title}` : row.title]);
  return { choices, same: choices.filter(([i]) => board.rows[i].picture === board.rows[first].picture) };
}

// The two maps stay; a map that stood beside itself has another to be compared with now.
function growPair() {
  const { choices, same } = pairChoices(ui.first), [left, right] = board.pairing;
  if (ui.second === ui.first && same.length > 1) return rebuild();
  offer(left, choices, String(ui.first));
  offer(right, same, String(ui.second));
}

// The first two maps of a photo that have a difference, else the first two.
function comparablePair() {
  for (const [i, one] of board.rows.entries())
    for (const [j, other] of board.rows.entries())
      if (j > i && one.picture === other.picture && !whyNoDifference(one, other)) return [i, j];
  return [0, Math.min(1, board.rows.length - 1)];
}

function buildSwipe(left, right) {
  const box = make("figure", "swipe"), stack = make("div", "stack"), slider = make("input"), line = make("span", "line");
  for (const row of [right, left]) {
    const { canvas, mark } = addSpot(row, "overlay", drawing.cell);
    stack.append(canvas, mark);
  }
  stack.append(line);
  followPointer(stack, left.picture);
  Object.assign(slider, { type: "range", min: 0, max: 100, value: 50 });
  slider.setAttribute("aria-label", "Where the left map ends and the right one begins");
  const set = () => stack.style.setProperty("--cut", `${slider.value}%`);
  slider.addEventListener("input", set);
  set();
  const names = make("figcaption", "sides");
  for (const row of [left, right]) { const side = make("div"); side.append(make("strong", "", row.title), buildWeightLine(row)); names.append(side); }
  box.append(stack, slider, names);
  return box;
}

function whyNoDifference(one, other) {
  if (one.unit !== other.unit) return `One map is drawn in ${one.unit} and the other in ${other.unit}, so they have no difference.`;
  if (one.signed && (one.h !== other.h || one.w !== other.w)) return "Logits per token of different grids are not comparable, so they have no difference.";
  return "";
}

function differenceOf(one, other, width, height) {
  const a = pixelsOf(one, width, height).values, b = pixelsOf(other, width, height).values;
  return Float64Array.from(a, (value, i) => value * one.factor - b[i] * other.factor);
}

function percentile(values, share) { // as numpy's: linear between neighbours
  const sorted = Float64Array.from(values).sort(), place = share * (sorted.length - 1), i = Math.floor(place);
  return sorted[i] + (place - i) * ((sorted[i + 1] ?? sorted[i]) - sorted[i]);
}

function buildDifference(one, other) {
  const figure = make("figure", "difference"), why = whyNoDifference(one, other);
  if (why) { figure.append(make("p", "note", why)); return figure; }
  const canvas = make("canvas"), bar = buildBar(one.unit);
  canvas.setAttribute("role", "img");
  figure.append(canvas, make("figcaption", "", "Left minus right: red where the left map is stronger, blue where the right one is"), bar.node);
  [canvas.width, canvas.height] = cellSize(photoOf(one), drawing.cell);
  board.difference = { one, other, canvas, bar };
  board.parts.push({ node: canvas, state: () => `${style.smooth} ${style.opacity}`, draw: drawDifference });
  watched.observe(canvas);
  return figure;
}

function drawDifference() {
  const { one, other, canvas, bar } = board.difference, { width, height } = canvas;
  const values = differenceOf(one, other, width, height), high = percentile(values.map(Math.abs), drawing.percentile) || 1;
  drawColours(canvas, values, 1, [-high, high], tables[drawing.diverging], sourceOf(photoOf(one), width, height));
  drawBar(bar, [-high, high], tables[drawing.diverging], one.unit);
  canvas.setAttribute("aria-label", `${one.title} minus ${other.title}, between ${number(-high, 2)} and ${number(high, 2)} ${one.unit}.`);
}
