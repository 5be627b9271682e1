// Every block and head behind a question about a token or the class token: the blocks as a film, and all heads as thumbnails,
// one of which opens its map. All of it comes in one payload, when it is asked for.

const FRAME = 500; // milliseconds of a block in the film, as RATE of layer_film.py

function readBlocks(value) {
  const cells = (value.blocks?.cells ?? []).map((cell) => {
    const name = `block ${cell.block}, head ${cell.head}`;
    return readRow({ ...cell, picture: 0, title: name, map: name, file: name.replace(/\W+/g, "_"), figures: {}, levels: "", asked: value.asked });
  });
  if (!cells.length) return { cells, layers: [] };
  const layers = Array.from({ length: value.blocks.depth }, (_, block) => layerOf(cells.filter((cell) => cell.block === block), value.blocks.fusion));
  return { cells, layers };
}

// The heads of a block as one map, as `fused` of attention_map.py.
function layerOf(heads, fusion) {
  const one = heads[fusion], fuse = { max: (values) => Math.max(...values), min: (values) => Math.min(...values) }[fusion];
  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
  const weights = one ? one.weights : Float32Array.from(heads[0].weights, (_, i) => (fuse ?? mean)(heads.map((head) => head.weights[i])));
  const how = one ? `head ${fusion}` : `${fuse ? fusion : "mean"} of ${heads.length} heads`;
  const scale = one ? one.scale : [0, percentile(weights.map((v) => v * heads[0].factor), drawing.percentile) || 1];
  const title = `block ${heads[0].block}, ${how}`;
  return { ...heads[0], weights, scale, title, map: title, file: title.replace(/\W+/g, "_"), spots: [], weightLines: [] };
}

function buildBlocks() {
  const { blocks } = board.value;
  if (!blocks) return [];
  const details = make("details", "blocks"), summary = make("summary", "", `Every block and head: ${blocks.depth} blocks x ${blocks.heads} heads`);
  const shown = (ui.blocks = blocks.cells.length > 0);
  details.append(summary);
  details.open = shown;
  if (shown) details.append(buildFilm(), buildLattice());
  details.addEventListener("toggle", () => {
    if (details.open === ui.blocks) return;
    ui.blocks = details.open;
    if (details.open && !shown) details.append(make("p", "note", "Collecting ..."));
    trigger("blocks", { wanted: details.open });
  });
  return [details];
}

// --- the blocks one after another --------------------------------------------------------------------------------------------

function buildFilm() {
  const { layers } = board.blocks, { depth, block } = board.value.blocks;
  const figure = make("figure", "film"), frame = make("div", "stack"), bar = make("div", "bar"), { canvas, mark } = addSpot(layers[0], "overlay", drawing.cell);
  const slider = make("input"), play = make("button", "plain", "Play"), said = make("figcaption");
  const [spot] = layers[0].spots.slice(-1);
  frame.append(canvas, mark, ...askedMark(layers[0]));
  followPointer(canvas, 0);
  Object.assign(slider, { type: "range", min: 0, max: depth - 1, step: 1, value: block });
  slider.setAttribute("aria-label", "Block of the film");
  const show = (number_) => {
    for (const layer of layers) layer.spots = [];
    const layer = layers[number_];
    layer.spots = [Object.assign(spot, { drawn: "" })];
    layer.described = "";
    slider.value = number_;
    slider.setAttribute("aria-valuetext", layer.title);
    said.textContent = `${layer.title}, up to ${number(layer.scale[1], 2)} ${layer.unit}`;
    draw();
  };
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  let timer = 0;
  const pause = () => { clearInterval(timer); timer = 0; play.textContent = "Play"; };
  play.type = "button";
  play.addEventListener("click", () => {
    if (timer) return pause();
    play.textContent = "Pause";
    timer = setInterval(() => (canvas.isConnected ? show((Number(slider.value) + 1) % depth) : pause()), FRAME);
  });
  bar.append(play, slider, ...["webp", "mp4"].map((format) => {
    const save = make("button", "plain", `Save ${format === "webp" ? "WebP" : "MP4"}`);
    save.type = "button";
    save.setAttribute("aria-label", `Save the film of all blocks as ${format === "webp" ? "an animated WebP" : "an MP4 video"}`);
    save.addEventListener("click", () => trigger("film", { format }));
    return save;
  }));
  figure.append(make("h2", "", "Layers as a film"), frame, said, bar);
  show(block);
  return figure;
}

// --- all heads of all blocks -------------------------------------------------------------------------------------------------

function buildLattice() {
  const { cells } = board.blocks, { block: shownBlock, fusion } = board.value.blocks, table = make("table", "lattice"), head = make("tr"), buttons = [];
  const heads = Math.max(...cells.map((cell) => cell.head)) + 1;
  head.append(make("td"), ...Array.from({ length: heads }, (_, i) => { const cell = make("th", "", `head ${i}`); cell.scope = "col"; return cell; }));
  table.append(head);
  for (const block of new Set(cells.map((cell) => cell.block))) {
    const line = make("tr"), name = make("th", "", `block ${block}`), here = cells.filter((cell) => cell.block === block);
    name.scope = "row";
    line.append(name, ...here.map((cell) => {
      const place = make("td"), button = buildLatticeCell(cell, block === shownBlock && cell.head === fusion);
      buttons.push(button);
      place.append(button);
      return place;
    }));
    table.append(line);
  }
  const chosen = buttons.find((button) => button.ariaPressed === "true") ?? buttons[0];
  for (const button of buttons) button.tabIndex = button === chosen ? 0 : -1;
  table.addEventListener("keydown", (event) => stepLattice(event, buttons, heads));
  const section = make("section", "gallery"), note = make("p", "note", "A thumbnail opens its map above, where it can be pinned to the Compare board. Arrow keys step from one to the next.");
  section.append(make("h2", "", "Blocks down, heads across"), note, scrolling(table, "Maps of every block and head"));
  return section;
}

function buildLatticeCell(cell, pressed) {
  const button = make("button", "thumbnail"), { canvas, mark } = addSpot(cell, "overlay", drawing.small / 2);
  button.type = "button";
  button.ariaPressed = String(pressed);
  button.title = `${cell.title}, up to ${number(cell.scale[1], 2)} ${cell.unit}`;
  button.setAttribute("aria-label", `${button.title}. Open this map.`);
  button.append(canvas, mark, ...askedMark(cell));
  followPointer(canvas, 0);
  button.addEventListener("click", () => {
    ui.opened = true;
    trigger("cell", { block: cell.block, head: cell.head });
  });
  return button;
}

// One stop for the tabulator; the arrows lead through the grid.
function stepLattice(event, buttons, heads) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -heads, ArrowDown: heads }[event.key], from = buttons.indexOf(document.activeElement);
  if (!step || from < 0) return;
  event.preventDefault();
  const to = buttons[from + step];
  if (!to || (Math.abs(step) === 1 && Math.floor((from + step) / heads) !== Math.floor(from / heads))) return;
  buttons[from].tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
}

// A map that was opened from the grid comes into sight.
function showOpened() {
  if (!ui.opened) return;
  ui.opened = false;
  element.querySelector(".row")?.scrollIntoView({ block: "nearest" });
}
