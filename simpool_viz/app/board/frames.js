// When a board is drawn: what is near the window at the next frame, the words of all other rows when the browser has time.
// What stands already as it should is left, so that a slider costs what it changes and no more.

const MARGIN = 300; // pixels around the window that are painted ahead of scrolling
const SLICE = 8; // milliseconds after which work on words lets the page answer
let frame = 0, pause = 0; // what is asked for of the browser, 0 where nothing is
const whenIdle = window.requestIdleCallback ? (work) => requestIdleCallback(work, { timeout: 500 }) : (work) => setTimeout(work, 30);
const watched = new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) draw(); }, { rootMargin: `${MARGIN}px` });

function near(node) {
  const { top, bottom, left, right, width } = node.getBoundingClientRect();
  return width > 0 && bottom > -MARGIN && top < innerHeight + MARGIN && right > -MARGIN && left < innerWidth + MARGIN;
}

function draw() {
  frame ||= requestAnimationFrame(() => { frame = 0; drawNow(near); });
}

function drawNow(isDue) {
  if (!board) return;
  const due = shownRows().map((row) => [row, row.spots.filter(({ canvas }) => isDue(canvas))]).filter(([, spots]) => spots.length);
  const parts = board.parts.filter(({ node }) => isDue(node));
  for (const [row, spots] of due) { drawRow(row, spots); describe(row); }
  parts.forEach(drawPart);
  pause ||= whenIdle(describeRest);
}

// A part of a view beside its rows: { node, state, draw }; it is drawn where what it depends on has changed.
function drawPart(part) {
  const state = part.state();
  if (part.drawn === state) return;
  part.draw();
  part.drawn = state;
}

function describeRest() {
  pause = 0;
  if (!board) return;
  const end = performance.now() + SLICE;
  for (const [work, what] of [[describe, shownRows()], [drawPart, board.parts]])
    for (const one of what) {
      if (performance.now() > end) { pause = whenIdle(describeRest); return; }
      work(one);
    }
  if (board.sorting) offer(board.sorting, sortChoices(), ui.sort);
  if (["coverage", "components", "iou"].includes(ui.sort)) placeRows(); // figures that follow the sliders
}

// On paper everything is seen.
window.addEventListener("beforeprint", () => { if (element.getClientRects().length) drawNow(() => true); });

// For tests: when everything due is drawn and said.
element.settled = () => new Promise((done) => { const look = () => (frame || pause ? requestAnimationFrame(look) : done()); look(); });
