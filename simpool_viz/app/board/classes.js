// Another class for a row of Compare whose map is that of a class: the most probable ones, and any by its name.

function buildClassChoice(row) {
  const box = make("div", "classes"), button = make("button", "plain", "Another class");
  button.type = "button";
  button.setAttribute("aria-label", `Another class for ${row.title}`);
  button.addEventListener("click", () => {
    button.disabled = true;
    askClasses(row);
  });
  box.append(button);
  row.classesBox = box;
  return box;
}

const askClasses = (row, chosen) => trigger("classes", { id: row.id, key: photoOf(row).key, checkpoint: row.checkpoint, map: row.name, ...(chosen === undefined ? {} : { chosen }) });

// What Python answers: the classes to choose from, or the row of the class that was chosen.
element.addEventListener("simpool-classes", ({ detail: found }) => {
  const index = found ? board?.rows.findIndex((one) => one.id === found.id) : -1;
  if (index === undefined || index < 0) return;
  const row = board.rows[index];
  if (!found.row) return offerClasses(row, found);
  const data = { ...found.row, id: row.id, picture: row.picture, of: { index: found.index, map: row.of?.map ?? row.name } };
  board.value.rows[index] = data;
  board.rows[index] = readRow(data);
  rebuild();
  if (!linked?.run) { // somebody has asked; a link leaves the page where it is
    element.querySelectorAll(".classes .plain")[board.rows.filter((one) => one.classesBox).indexOf(board.rows[index])]?.focus();
    announce(`${data.title} is shown.`);
  }
  followLink();
});

function offerClasses(row, { probable, names }) {
  const list = make("datalist"), search = make("input"), find = make("label", "choice", "or any other"), go = make("button", "plain", "Show");
  const select = choice("Class", [["", "choose one ..."], ...probable.map(([index, text]) => [String(index), text])], "", (index) => index && askClasses(row, Number(index)));
  list.id = `classes-of-${row.id}`;
  list.append(...names.map((name) => { const option = make("option"); option.value = name; return option; }));
  search.setAttribute("list", list.id);
  search.placeholder = "type a name";
  go.type = "button";
  go.setAttribute("aria-label", "Show the map of the class that is typed");
  const ask = () => search.value.trim() && askClasses(row, search.value.trim());
  search.addEventListener("change", () => names.includes(search.value) && ask());
  search.addEventListener("keydown", (event) => event.key === "Enter" && ask());
  go.addEventListener("click", ask);
  find.append(search);
  row.classesBox.replaceChildren(select, find, go, list);
  select.querySelector("select").focus();
}
