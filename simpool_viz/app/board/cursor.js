// One cursor for all cells of a photo: the pointer, or the arrow keys on a cell, mark the same point everywhere, and every
// row shows its token there and the token's weight.

let cursor = null; // { picture, x, y }: shares of the width and the height

const tokenAt = (row, x, y) => [Math.min(row.h - 1, Math.floor(y * row.h)), Math.min(row.w - 1, Math.floor(x * row.w))];

function weightText(row) {
  const [r, c] = tokenAt(row, cursor.x, cursor.y);
  return `token (${r}, ${c}): ${number(row.weights[r * row.w + c] * row.factor)} ${row.unit}`;
}

function moveCursor(picture, x, y) {
  cursor = { picture, x: Math.min(1, Math.max(0, x)), y: Math.min(1, Math.max(0, y)) };
  const rows = shownRows().filter((row) => row.picture === picture);
  rows.forEach(markToken);
  for (const mark of board.photos[picture].marks) if (rows.length) place(mark, rows[0]);
}

function markToken(row) {
  const text = weightText(row);
  for (const { mark } of row.spots) place(mark, row);
  for (const node of row.weightLines) node.textContent = text;
}

// A frame around the row's token at the cursor.
function place(mark, row) {
  const [r, c] = tokenAt(row, cursor.x, cursor.y);
  Object.assign(mark.style, { left: `${(100 * c) / row.w}%`, top: `${(100 * r) / row.h}%`, width: `${100 / row.w}%`, height: `${100 / row.h}%` });
  mark.hidden = false;
}

// A frame around the token that was asked for, on a map that answers.
function askedMark(row) {
  if (!row.asked) return [];
  const [r, c] = tokenAt(row, ...row.asked), frame = make("span", "chosen");
  Object.assign(frame.style, { left: `${(100 * c) / row.w}%`, top: `${(100 * r) / row.h}%`, width: `${100 / row.w}%`, height: `${100 / row.h}%` });
  return [frame];
}

function hideCursor() {
  cursor = null;
  for (const photo of board.photos) for (const mark of photo.marks) mark.hidden = true;
  for (const row of shownRows()) {
    for (const { mark } of row.spots) mark.hidden = true;
    for (const node of row.weightLines) node.textContent = "";
  }
}

function followPointer(node, picture) {
  const move = (event) => {
    const box = node.getBoundingClientRect();
    moveCursor(picture, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  node.addEventListener("pointermove", move);
  node.addEventListener("pointerdown", move);
  node.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hideCursor(); });
}

// Arrow keys move by one token of the row; its weight is also announced to screen readers.
function followKeys(node, row) {
  node.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const from = cursor?.picture === row.picture ? cursor : { x: 0.5, y: 0.5 }, [r, c] = tokenAt(row, from.x, from.y);
    moveCursor(row.picture, (c + step[0] + 0.5) / row.w, (r + step[1] + 0.5) / row.h);
    announce(`${row.title}, ${weightText(row)}`);
  });
}

function announce(text) {
  spoken.textContent = text;
}
