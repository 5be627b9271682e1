// Maps of Inspect that a visitor pins to the Compare board, where they stand among its rows until they are taken off again. They
// travel from one board of the page to the other; nothing is asked of the server.

const pins = []; // { photo, row }, as Python sent them

function buildPinButton(row) {
  const button = make("button", "plain", "Pin to the Compare board");
  button.type = "button";
  button.setAttribute("aria-label", `Pin ${row.title} to the Compare board`);
  button.addEventListener("click", () => {
    document.dispatchEvent(new CustomEvent("simpool-pin", { detail: { photo: board.value.photos[row.picture], row: row.raw } }));
    button.textContent = "Pinned to the Compare board";
    announce(`${row.title} is pinned to the Compare board.`);
  });
  return button;
}

function buildUnpinButton(row) {
  const button = make("button", "plain", "Unpin");
  button.type = "button";
  button.setAttribute("aria-label", `Take ${row.title} off the board`);
  button.addEventListener("click", () => {
    pins.splice(row.pinned, 1);
    load();
  });
  return button;
}

// What Python sent with the pinned rows behind its own, each with its photo.
function withPins(value) {
  if (!pins.length) return value;
  const whole = value?.photos ? value : { photos: [], rows: [], skipped: [], waiting: "" }, photos = [...whole.photos];
  const placeOf = (photo) => {
    const place = photos.findIndex((one) => one.key === photo.key);
    return place < 0 ? photos.push(photo) - 1 : place;
  };
  const rows = pins.map(({ photo, row }, n) => ({ ...row, picture: placeOf(photo), id: `board-pin-${n}`, name: `${row.name} ${row.title}`, pinned: n }));
  return { ...whole, photos, rows: [...whole.rows, ...rows] };
}

if (element.closest("#board"))
  document.addEventListener("simpool-pin", ({ detail: { photo, row } }) => {
    if (pins.some((pin) => pin.photo.key === photo.key && pin.row.title === row.title)) return;
    pins.push({ photo, row });
    load();
  });
