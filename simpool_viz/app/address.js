// Keeps what is chosen and how the board is drawn in the page's address (address.py). `first` says how a page is that has just
// been opened: only what differs from it is written, and what is not ours in the address stays.

const around = document.querySelector("#board");
let due = null;

function written() {
  const query = new URLSearchParams(location.search), [photo, checkpoints, maps, , further] = window.simpoolChoice, shown = {};
  around.querySelector(".simpool-board").dispatchEvent(new CustomEvent("simpool-ask", { bubbles: true, detail: shown }));
  const photos = [photo, ...(further ?? [])].filter(Boolean).map((file) => first.photos[file.path.split(/[\\/]/).at(-2)] ?? first.own);
  const parts = { photo: photos.length ? photos : [first.own], model: checkpoints, map: maps }, look = { ...shown.style, ...shown };
  for (const [key, names] of Object.entries(parts)) {
    query.delete(key);
    if (JSON.stringify(names) !== JSON.stringify(first.parts[key])) for (const name of new Set(names)) query.append(key, name);
  }
  for (const [key, usual] of Object.entries(first.look)) {
    query.delete(key);
    if (look[key] !== usual) query.set(key, typeof usual === "boolean" ? Number(look[key]) : look[key]);
  }
  const { classes, boxes, mask } = shown.rows;
  for (const [key, given] of Object.entries({ class: classes, box: boxes, mask: mask ? [[first.own]] : [] })) {
    query.delete(key);
    for (const one of given) query.append(key, one.join(","));
  }
  return query.toString();
}

function write() {
  clearTimeout(due);
  const query = written();
  if (query.length <= first.longest) history.replaceState(history.state, "", `${location.pathname}${query ? `?${query}` : ""}${location.hash}`);
}

// A moment later, since browsers take only so many changes of the address at a time.
function writeSoon() {
  clearTimeout(due);
  due = setTimeout(write, 250);
}

for (const event of ["simpool-look", "simpool-baselines", "simpool-shown", "change", "click"]) around.addEventListener(event, writeSoon);
document.addEventListener("simpool-choice", writeSoon);
document.addEventListener("simpool-link", write);
writeSoon();
