// The list of checkpoints (checkpoint_list.py): what is chosen, each with its size, a search, and groups of lines.
//
// Gradio runs this once, behind board/dom.js, with `element`, `props`, `trigger`, `watch` and `server`. `props.value` is the names chosen.

const OWN = "My own";
let state = null; // of the hub: { reached, cached }, null where it has not been asked
let asked = 0; // when, in milliseconds
let query = "";
const groups = props.listing;
const opened = new Set(groups.filter((group) => group.open).map((group) => group.title));

const root = () => element.querySelector(".simpool-list");
const plain = (name) => name.split("?size=")[0];
const sizeOf = (name) => Number(name.split("?size=")[1] ?? 0);
const sections = () => [...groups, { title: OWN, lines: props.own ?? [], hub: false, most: 0 }].filter((group) => group.lines.length || group.later);
const lineOf = (name) => sections().flatMap((group) => group.lines).find((line) => line.name === plain(name));

// The sizes of a checkpoint: multiples of its stride near its own size times each factor.
function sizesOf(line) {
  const sizes = props.factors.map((factor) => (factor === 1 ? line.size : Math.max(1, Math.round((line.size * factor) / line.stride)) * line.stride));
  return [...new Set(sizes)].filter((size) => size <= props.largest);
}

// Names in the order of the list, so that a board does not depend on the order of clicks.
function choose(names) {
  const place = new Map(sections().flatMap((group) => group.lines).map((line, index) => [line.name, index]));
  props.value = [...names].sort((one, other) => (place.get(plain(one)) ?? 1e9) - (place.get(plain(other)) ?? 1e9));
  build();
  trigger("change");
}

const chosen = (name) => props.value.find((one) => plain(one) === name);
const toggle = (name) => choose(chosen(name) ? props.value.filter((one) => plain(one) !== name) : [...props.value, name]);
const named = (line, size) => (size === line.size ? line.name : `${line.name}?size=${size}`);

function resize(name, size) {
  choose(props.value.map((one) => (one === name ? named(lineOf(name), size) : one)));
}

// Every chosen checkpoint one step finer or coarser.
function step(by) {
  choose(props.value.map((name) => {
    const line = lineOf(name);
    if (!line) return name;
    const sizes = [...new Set([...sizesOf(line), sizeOf(name) || line.size])].sort((one, other) => one - other);
    const at = sizes.indexOf(sizeOf(name) || line.size);
    return named(line, sizes[Math.min(sizes.length - 1, Math.max(0, at + by))]);
  }));
}

function button(text, label, pressed) {
  const node = make("button", "plain", text);
  node.type = "button";
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", pressed);
  return node;
}

function buildChosen() {
  const box = make("div", "chosen");
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Chosen checkpoints");
  for (const name of props.value) {
    const line = lineOf(name) ?? { name, title: name, size: 224, stride: 16 };
    const one = make("div", "one"), select = make("select"), now = sizeOf(name) || line.size;
    select.setAttribute("aria-label", `Size of ${line.title}`);
    for (const size of [...new Set([...sizesOf(line), now])].sort((a, b) => a - b)) {
      const option = make("option", "", `${size} px = ${Math.round((10 * size) / line.stride) / 10} × ${line.stride}${size === line.size ? ", its own" : ""}`);
      option.value = size;
      select.append(option);
    }
    select.value = now;
    select.addEventListener("change", () => resize(name, Number(select.value)));
    one.append(make("span", "", line.title), select, button("×", `Remove ${line.title}`, () => toggle(line.name)));
    box.append(one);
  }
  if (!props.value.length) box.append(make("p", "hint", "None is chosen."));
  else {
    const finer = make("div", "finer");
    finer.append(button("Coarser", "Coarser: smaller inputs, fewer tokens", () => step(-1)), button("Finer", "Finer: larger inputs, more tokens", () => step(1)));
    box.append(finer);
  }
  return box;
}

function buildLine(line, group) {
  const label = make("label", "line"), input = make("input"), text = make("span");
  input.type = "checkbox";
  input.checked = Boolean(chosen(line.name));
  input.setAttribute("aria-label", line.title);
  input.disabled = group.hub && state !== null && !state.reached && !state.cached.includes(line.name) && !input.checked;
  input.addEventListener("change", () => toggle(line.name));
  text.append(make("span", "title", line.title));
  if (line.about) text.append(make("span", "about", line.about));
  label.append(input, text);
  return label;
}

const fits = (line, group) => query.toLowerCase().split(/\s+/).every((word) => `${group.title} ${line.title} ${line.name}`.toLowerCase().includes(word));

// What stands under a group's heading before its lines.
function hintOf(group, found, shown) {
  if (group.hub && state !== null && !state.reached) return "The hub cannot be reached from here: only what is in its cache can be chosen.";
  if (group.hub && (state === null || group.later)) return "Asking ...";
  return found > shown ? `${shown} of ${found}: search by name for the others.` : "";
}

function buildGroup(group) {
  const lines = query ? group.lines.filter((line) => fits(line, group)) : group.lines;
  if (!lines.length && (query || !group.later)) return null;
  const details = make("details"), summary = make("summary", "", group.title), shown = group.most ? lines.slice(0, group.most) : lines;
  if (lines.length) summary.append(make("span", "count", ` ${lines.length}`));
  details.open = opened.has(group.title) || Boolean(query);
  const fill = () => {
    const hint = hintOf(group, lines.length, shown.length);
    details.replaceChildren(summary, ...(hint ? [make("p", "hint", hint)] : []), ...shown.map((line) => buildLine(line, group)));
  };
  const show = () => {
    fill();
    if (group.hub) ask();
    if (group.later) fetchLines(group);
  };
  if (details.open) show();
  else details.append(summary);
  details.addEventListener("toggle", () => {
    if (query || details.open === opened.has(group.title)) return; // it was drawn so
    details.open ? opened.add(group.title) : opened.delete(group.title);
    if (details.open) show();
  });
  return details;
}

// Brings the lines of a group that has many, once.
async function fetchLines(group) {
  if (group.asked) return;
  group.asked = true;
  try {
    group.lines = await server.timm_lines();
    group.later = false;
  } catch {
    group.asked = false;
  }
  buildGroups();
}

// Asks the server whether the hub answers, at most once a minute, when weights of the hub come into view.
async function ask() {
  if (Date.now() - asked < 60_000) return;
  asked = Date.now();
  try {
    state = await server.hub_state();
  } catch {
    state = { reached: false, cached: [] };
  }
  buildGroups();
}

function buildGroups() {
  const box = root().querySelector(".groups"), held = document.activeElement?.getAttribute("aria-label"), inside = box.contains(document.activeElement);
  const found = sections().map(buildGroup).filter(Boolean);
  box.replaceChildren(...(found.length ? found : [make("p", "hint", "Nothing is called so. A file or an address can be added under 'Your own checkpoint'.")]));
  root().querySelector(".found").textContent = query ? `${box.querySelectorAll(".line").length} found` : "";
  if (inside && held) [...box.querySelectorAll("input")].find((input) => input.getAttribute("aria-label") === held)?.focus();
}

function build() {
  let search = root().querySelector("input[type=search]");
  if (!search) {
    search = make("input");
    search.type = "search";
    search.value = query;
    search.placeholder = "Search checkpoints";
    search.setAttribute("aria-label", "Search checkpoints");
    search.addEventListener("input", () => {
      query = search.value.trim();
      groups.filter((group) => group.later).forEach(fetchLines);
      buildGroups();
    });
    const found = make("p", "found");
    found.setAttribute("role", "status");
    root().replaceChildren(make("div", "chosen"), search, found, make("div", "groups"));
  }
  const held = root().contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  const scrolled = root().querySelector(".groups").scrollTop; // a line that is chosen stays where it is
  root().querySelector(".chosen").replaceWith(buildChosen());
  buildGroups();
  root().querySelector(".groups").scrollTop = scrolled;
  if (held) [...root().querySelectorAll("input, select, button")].find((node) => node.getAttribute("aria-label") === held)?.focus({ preventScroll: true });
}

watch(["value", "own"], build);
build();
